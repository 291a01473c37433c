"""Decompositions by an executor are those of this process, to the last bit."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.compressors import parallel
from gacfx.compressors.lowrank import WeightedSvd
from gacfx.compressors.methods import METHODS, Method
from gacfx.compressors.parallel import WeightTask, decompose_task, decomposed
from gacfx.compressors.protocol import Compressor, Decomposition
from gacfx.core.statistics import Moments
from gacfx.errors import DecompositionFailed

SHAPES = {"wide": (24, 10), "narrow": (10, 24), "square": (12, 12), "turned": (10, 24)}


class Counted(ThreadPoolExecutor):
    """Counts tasks."""

    sent = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.sent += 1
        return super().submit(fn, *args, **kwargs)


def weights() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    return {**made, "turned": made["turned"].T.contiguous().T}  # as that of a Conv1D


def moments_of(weight: Tensor) -> Moments:
    random = torch.Generator().manual_seed(1)
    inputs, grads = (
        torch.randn(40, size, generator=random, dtype=torch.float64)
        for size in reversed(weight.shape)
    )
    return Moments.from_samples(weight.double(), inputs, grads, both_sides=True)


@dataclass(frozen=True)
class Own(Compressor):
    """A method of another package."""

    name: str = "own"
    source: str = "nowhere"
    components: bool = True

    def decompose(self, weight_MN: Tensor, moments: Moments, module: str = "") -> Decomposition:
        made = METHODS.find("svd").decompose(weight_MN, moments, module)
        if self.components:
            return made
        assert isinstance(made, WeightedSvd)
        return Plain(**vars(made))


class Plain(WeightedSvd):
    """It does not tell its components."""

    @property
    def components(self) -> Any:
        return None


class Restoring(Own):
    """Made again from components."""

    def restored(
        self, weight_MN: Tensor, moments: Moments, module: str, components: tuple[Tensor, Tensor]
    ) -> Decomposition:
        return WeightedSvd(module, self, weight_MN, moments, *components)


@pytest.mark.parametrize("method", ["svd", "asvd", "svd-llm", "gfwsvd"])
def test_components_are_the_same_bits(method: str) -> None:
    known, found = METHODS.find(method), weights()
    moments = {name: moments_of(weight) for name, weight in found.items()}
    with Counted(2) as pool:
        made = list(decomposed(pool, known, list(found), found.__getitem__, moments))
        assert pool.sent == len(found)
    for name, one in zip(found, made, strict=True):
        here = known.decompose(found[name], moments[name], name)
        assert isinstance(one, WeightedSvd) and isinstance(here, WeightedSvd)
        assert torch.equal(one.inner_SS, here.inner_SS)
        assert torch.equal(one.outer_SS, here.outer_SS)
        assert one.weight_MN.data_ptr() == found[name].data_ptr()
        assert one.moments is moments[name]
        assert one.method == known and one.module == name


def test_the_long_side_is_not_sent_to_a_method_that_never_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, seen = weights(), list[bool]()
    moments = {name: moments_of(weight) for name, weight in found.items()}

    def look(self: Method, weight_MN: Tensor, moments: Moments, module: str = "") -> Any:
        seen.append(moments.long_moment is None)
        raise DecompositionFailed(module, "seen")

    monkeypatch.setattr(Method, "decompose", look)
    with Counted(1) as pool:
        list(decomposed(pool, METHODS.find("svd"), ["wide"], found.__getitem__, moments))
    assert seen == [True]


def test_failures_come_back_in_their_place() -> None:
    found = weights()
    moments = {name: moments_of(weight) for name, weight in found.items()}
    found["narrow"] = found["narrow"] * torch.nan
    del moments["square"]
    moments["turned"] = replace(
        moments["turned"], projected_moment=moments["turned"].projected_moment * torch.nan
    )
    with Counted(2) as pool:
        wide, narrow, square, turned = decomposed(
            pool, METHODS.find("svd"), list(found), found.__getitem__, moments
        )
        assert pool.sent == 2
    assert isinstance(wide, WeightedSvd)
    assert isinstance(narrow, DecompositionFailed)
    assert (narrow.module, narrow.reason) == ("narrow", "NaN or infinite weight")
    assert square is None and turned is None  # whoever asked finds the reason itself


@pytest.mark.parametrize(
    ("method", "known", "sent"),
    [
        (Own(), True, 0),  # would be decomposed again from nothing
        (Restoring(), True, 12),
        (Restoring(), False, 1),  # one came back, and no other is sent
        (Restoring(components=False), True, 1),
    ],
)
def test_methods_of_others(
    method: Own, known: bool, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(at) for at in range(12)]
    found = {name: torch.randn(6, 5) for name in names}
    moments = {name: moments_of(weight) for name, weight in found.items()}
    find = METHODS.find
    if known:
        monkeypatch.setattr(METHODS, "find", lambda name: method if name == "own" else find(name))
    monkeypatch.setattr(parallel, "AHEAD", 1)
    with Counted(1) as pool:
        made = list(decomposed(pool, method, names, found.__getitem__, moments))
        assert pool.sent == sent
    assert [one is None for one in made] == [sent < 12] * 12


def test_a_process_that_does_not_know_a_method_says_so() -> None:
    from gacfx.core.tensor_bytes import TensorBytes

    assert decompose_task(WeightTask("up", "nobody's", TensorBytes(b"", {}), False)) is None
