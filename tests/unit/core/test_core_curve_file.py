"""Curves in a file: what goes in comes out, and nothing else is taken for it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from gacfx.core.curve_file import Curves, digest, load_curves, save_curves
from gacfx.core.provenance import Provenance, Trial
from gacfx.core.search import Search
from gacfx.errors import CheckpointError, PlanError
from tests.unit import made_curves

Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_curves(tmp_path / "made.safetensors", made_curves.curves())
    return tmp_path / "made.safetensors"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["gacfx"]), arrays


def change(path: Path, how: Change, *, sign: bool = True) -> None:
    """Rewrite a file; signed, it looks as if gacfx had written it."""
    head, arrays = read(path)
    how(head, arrays)
    if sign:
        head["digest"] = digest(head["facts"], arrays)
    save_file(arrays, path, metadata={"gacfx": json.dumps(head)})


def same(one: Curves, two: Curves) -> bool:
    equal = one.facts == two.facts and one.losses.keys() == two.losses.keys()
    return equal and all(np.array_equal(one.losses[m], two.losses[m]) for m in one.losses)


# -- what goes in comes out ----------------------------------------------------------------------


def test_everything_comes_back(path: Path) -> None:
    again = load_curves(path)
    assert same(again, made_curves.curves())
    assert [curve.break_even for curve in again.curves.values()] == [3, 3]
    assert not again.losses["layers.0.a"].flags.writeable


def test_provenance_comes_back_with_its_search_and_trials(tmp_path: Path) -> None:
    made = Provenance(
        "svd",
        "fisher",
        "h200",
        8,
        "bf16",
        versions={"torch": "2.13"},
        dense_nats_per_token=0.1 + 0.2,
        trials=(Trial("fisher", 3.25, True), Trial("relative", None, False)),
        search=Search(bounds=(("*.a", 8, None),), limits=("limit-latency{share=0.9}",)),  # type: ignore[arg-type]
    )
    save_curves(tmp_path / "c", made_curves.curves(provenance=made))
    assert load_curves(tmp_path / "c").facts.provenance == made


def test_a_failed_weight_has_a_reason_and_no_array(tmp_path: Path) -> None:
    facts = made_curves.facts()
    first = replace(facts.weights[0], failed="the weight is 0", value_model="paper")
    losses = {"layers.0.b": made_curves.curves().losses["layers.0.b"]}
    made = Curves(replace(facts, weights=(first, facts.weights[1])), losses)
    save_curves(tmp_path / "c", made)
    again = load_curves(tmp_path / "c")
    assert same(again, made)
    assert again.curves["layers.0.a"].failed == "the weight is 0"
    assert len(again.curves["layers.0.a"].loss_nats) == 0


def test_equal_curves_make_equal_bytes(path: Path, tmp_path: Path) -> None:
    save_curves(tmp_path / "folder" / "again", load_curves(path))
    assert (tmp_path / "folder" / "again").read_bytes() == path.read_bytes()


def test_a_file_is_replaced_whole_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(CheckpointError, match="cannot be written: disk full"):
        save_curves(path, made_curves.curves(), overwrite=True)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


# -- what is refused -----------------------------------------------------------------------------


def places(raw: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain JSON values, inner ones too."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list | tuple):
            yield from places(value, (*at, key))


PLACES = [
    place
    for place in places(asdict(made_curves.facts()))
    if place[0] not in ("shared", "unshared") and "groups" not in place  # not written without them
]


def put(raw: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        raw = raw[key]
    raw[place[-1]] = value


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_field_has_its_type(place: tuple[Any, ...], path: Path) -> None:
    change(path, lambda head, _: put(head["facts"], place, {"no": ["such", "value"]}))
    with pytest.raises((CheckpointError, PlanError), match=str(path)):
        load_curves(path)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_field_is_held_by_the_digest(place: tuple[Any, ...], path: Path) -> None:
    def without(head: dict[str, Any], _: object) -> None:
        raw = head["facts"]
        for key in place[:-1]:
            raw = raw[key]
        del raw[place[-1]]

    change(path, without, sign=False)
    with pytest.raises(CheckpointError, match="changed after it was written|Field required"):
        load_curves(path)


@pytest.mark.parametrize("key", ["layers.0.a", "layers.0.b"])
def test_every_loss_is_held_by_the_digest(key: str, path: Path) -> None:
    for rank in range(9):
        before = path.read_bytes()
        change(path, lambda _, arrays, r=rank: put(arrays[key], (r,), 0.3), sign=False)  # type: ignore[misc]
        with pytest.raises(CheckpointError, match="changed after it was written"):
            load_curves(path)
        path.write_bytes(before)


@pytest.mark.parametrize(
    "inside",
    [(), ("weights", 0), ("weights", 0, "m"), ("provenance",), ("provenance", "search")],
    ids=str,
)
def test_unknown_fields_are_refused(inside: tuple[Any, ...], path: Path) -> None:
    change(path, lambda head, _: put(head["facts"], (*inside, "colour"), "red"))
    with pytest.raises(CheckpointError, match="colour"):
        load_curves(path)


def set_head(**values: Any) -> Change:
    return lambda head, _: head.update(values)


def set_facts(**values: Any) -> Change:
    return lambda head, _: head["facts"].update(values)


def set_weight(**values: Any) -> Change:
    return lambda head, _: head["facts"]["weights"][0].update(values)


def set_loss(loss: Any) -> Change:
    return lambda _, arrays: arrays.update({"layers.0.a": np.array(loss)})


HALVES = [2.0**-rank for rank in range(9)]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (set_head(format="gacfx-factors-1"), CheckpointError, "says 'gacfx-curves'"),
        (set_head(version=4), CheckpointError, "version 4; this gacfx reads 1 and 2 and 3"),
        (set_head(version=True), CheckpointError, "curves version True"),
        (set_head(version=None), CheckpointError, "curves version None"),
        (set_head(facts=None), CheckpointError, "facts"),
        (set_facts(targeted_params=127), PlanError, "the weights have 128 parameters"),
        (set_facts(model_params=301), PlanError, "targeted_params and others come to 300"),
        (set_facts(others={"bf16": -1}), PlanError, "model_params is 300"),
        (set_facts(weights=[]), PlanError, "no weight at all"),
        (set_weight(module="layers.0.b"), PlanError, "layers.0.b: has two curves"),
        (set_weight(module="layers..a"), PlanError, "is no name of a module"),
        (set_weight(rows=0), PlanError, "must be positive"),
        (set_weight(rows=9), PlanError, "the weights have 136 parameters"),
        (set_weight(value_model="two-sided"), PlanError, "fisher and two-sided"),
        (set_weight(layout="sideways"), CheckpointError, "weights.0.layout"),
        (set_weight(failed="it broke"), PlanError, "layers.0.a: has losses but is no such"),
        (set_loss(HALVES[:8]), PlanError, "a weight of 8 x 8 has 9, one for each rank"),
        (set_loss([HALVES]), PlanError, "losses of shape (1, 9)"),
        (set_loss([*HALVES[:8], np.nan]), PlanError, "the loss at rank 8 is nan"),
        (set_loss([np.inf, *HALVES[1:]]), PlanError, "the loss at rank 0 is inf"),
        (set_loss([*HALVES[:5], 0.3, *HALVES[6:]]), PlanError, "rises from .* at rank 4"),
        (set_loss([*HALVES[:8], -1e-9]), PlanError, "at full rank is .*, below 0"),
        (set_loss(np.array(HALVES, np.float32)), CheckpointError, "losses are float32"),
        (lambda _, arrays: arrays.pop("layers.0.a"), PlanError, "layers.0.a: has no losses"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    how: Change, error: type[Exception], message: str, path: Path
) -> None:
    change(path, how)
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        load_curves(path)


def test_a_search_that_cannot_be_is_refused(path: Path) -> None:
    change(path, lambda head, _: put(head["facts"], ("provenance", "search", "tp"), 0))
    with pytest.raises(CheckpointError, match="provenance.search: tp 0"):
        load_curves(path)


def test_what_is_no_file_of_curves_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_curves(other)
    other.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_curves(other)
    other.write_text("not a file of tensors", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_curves(other)
    for metadata in ({}, {"gacfx": "{"}, {"gacfx": "[]"}, {"gacfx": "3"}):
        save_file({"x": np.zeros(2)}, other, metadata=metadata)
        with pytest.raises(CheckpointError, match="cannot be read as curves|format None"):
            load_curves(other)


def test_what_holds_nan_is_not_written(tmp_path: Path) -> None:
    wrong = replace(made_curves.facts().provenance, dense_nats_per_token=float("nan"))
    with pytest.raises(PlanError, match="NaN or infinity"):
        save_curves(tmp_path / "c", made_curves.curves(provenance=wrong))
    assert list(tmp_path.iterdir()) == []
