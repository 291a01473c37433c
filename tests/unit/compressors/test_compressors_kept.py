"""Decompositions in a store are those that were made, and none is made twice."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.compressors.kept import KeptDecompositions
from gacfx.compressors.methods import METHODS, Method
from gacfx.compressors.protocol import Decomposition
from gacfx.core.statistics import Moments
from gacfx.core.store import MemoryStore

SHAPES = {"wide": (24, 16), "tall": (12, 20)}


def weight(name: str) -> Tensor:
    random = torch.Generator().manual_seed(len(name))
    return torch.randn(SHAPES[name], generator=random)


def moments() -> dict[str, Moments]:
    random = torch.Generator().manual_seed(0)
    found = {}
    for name, (rows, columns) in SHAPES.items():
        inputs, grads = (
            torch.randn(64, n, generator=random, dtype=torch.float64) for n in (columns, rows)
        )
        found[name] = Moments.from_samples(weight(name).double(), inputs, grads)
    return found


def kept(store: MemoryStore, method: str = "gfwsvd") -> KeptDecompositions:
    return KeptDecompositions(store, "fit", METHODS.find(method), weight, moments())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", ["svd", "asvd", "svd-llm", "gfwsvd"])
def test_a_restored_decomposition_is_the_one_that_was_made(name: str, method: str) -> None:
    store = MemoryStore()
    made = METHODS.find(method).decompose(weight(name), moments()[name], name)
    kept(store, method)[name] = made
    again = kept(store, method)[name]
    assert again is not made
    for tensor, other in zip(again.pair(5), made.pair(5), strict=True):
        assert torch.equal(tensor, other)
    assert (again.curve("two-sided").loss_nats == made.curve("two-sided").loss_nats).all()
    assert again.module == name


def test_none_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    count, decompose = [0], Method.decompose

    def counted(self: Method, *args: object, **kwargs: object) -> Decomposition:
        count[0] += 1
        return decompose(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Method, "decompose", counted)
    store = MemoryStore()
    first = kept(store)
    assert "wide" not in first
    assert first["wide"] is first["wide"]  # made when it is asked for
    assert "wide" in first
    assert "wide" in kept(store)
    assert kept(store)["wide"].module == "wide"
    assert count == [1]


def test_methods_and_texts_do_not_mix() -> None:
    store = MemoryStore()
    known = kept(store)
    assert known["wide"].module == "wide"
    other = known.by(METHODS.find("svd"))
    assert "wide" not in other
    assert "wide" not in KeptDecompositions(store, "full", known.method, weight, moments())
    assert not torch.equal(other["wide"].pair(3)[0], known["wide"].pair(3)[0])


def test_it_is_a_mapping_of_what_was_decomposed() -> None:
    known = kept(MemoryStore())
    assert known["tall"].module == "tall"
    assert list(known) == ["tall"]
    assert len(known) == 1
    del known["tall"]
    assert "tall" not in known
    with pytest.raises(KeyError):
        known["none of it"]


def test_the_last_one_is_in_memory_as_long_as_somebody_holds_it() -> None:
    known = kept(MemoryStore())
    held = known["wide"]
    assert known["wide"] is held
    gone = weakref.ref(held)
    del held
    assert gone() is None and "wide" in known


def test_one_that_nothing_can_refer_to_weakly_stays() -> None:
    class Slotted:
        __slots__ = ("components",)

        def __init__(self) -> None:
            self.components = None

    made: Any = Slotted()
    known = kept(MemoryStore())
    known["wide"] = made
    assert known["wide"] is made
