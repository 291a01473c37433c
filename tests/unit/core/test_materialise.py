"""Factors and plan folders: they come back as they were, and nothing broken passes for one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.materialise import Factors, FactorSet, check_factors
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.plan_folder import load_factors, load_plan, save_factors, save_plan
from gacfx.core.provenance import Provenance
from gacfx.core.pruning import GONE, Sliced
from gacfx.errors import CheckpointError, PlanError
from tests.svd import Svd


def factor_set() -> FactorSet:
    generator = torch.Generator().manual_seed(3)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    return {
        "layers.0.up": Factors.pair(random(3, 11), random(7, 3)),
        "layers.1.up": Factors.pair(random(2, 11).bfloat16(), random(7, 2).bfloat16()),
    }


def pivot_set() -> FactorSet:
    """A weight with pivots on its outputs, and one with pivots on its inputs."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"a.wide": (5, 9), "a.tall": (9, 5)}
    return {
        name: Svd.of(torch.randn(*shape, generator=generator)).factors(Pivot(3))
        for name, shape in shapes.items()
    }


def plan_of(factors: FactorSet) -> Plan:
    kept = tuple(
        Choice.single(name, made.rows, made.columns, made.decision, 3.3, 0.5)
        for name, made in factors.items()
    )
    dense = Choice.single("layers.2.up", 7, 11, DENSE, None, 0.0, "launch cost exceeds the saving")
    budget = Budget("0.2", "targeted", 231, 1000, 180)
    return Plan((*kept, dense), budget, None, Provenance("svd", "two-sided", "h200", 8, "float32"))


def assert_same(one: FactorSet, other: FactorSet) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].decision == other[name].decision
        tensors = (one[name].tensors, other[name].tensors)
        assert list(tensors[0]) == list(tensors[1])
        for a, b in zip(*(each.values() for each in tensors), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_factors_know_their_sizes() -> None:
    pair = factor_set()["layers.0.up"]
    assert (pair.rank, pair.rows, pair.columns, pair.finite) == (3, 7, 11, True)


def test_factors_of_other_kinds_come_back_bit_by_bit(tmp_path: Path) -> None:
    factors = {**factor_set(), **pivot_set()}
    save_factors(tmp_path / "f.safetensors", factors)
    back = load_factors(tmp_path / "f.safetensors")
    assert_same(back, dict(sorted(factors.items())))
    assert back["a.wide"].tensors["order"].dtype == torch.int32
    save_plan(tmp_path / "plan", plan_of(factors), factors)
    assert_same(load_plan(tmp_path / "plan")[1], dict(sorted(factors.items())))


def _no_order(tensors: dict[str, Tensor]) -> None:
    del tensors["order"]


def _a_tensor_more(tensors: dict[str, Tensor]) -> None:
    tensors["bias"] = torch.zeros(5)


def _twice_the_same(tensors: dict[str, Tensor]) -> None:
    tensors["order"] = torch.zeros(5, dtype=torch.int32)


def _beyond(tensors: dict[str, Tensor]) -> None:
    tensors["order"] = tensors["order"] + 1


def _long(tensors: dict[str, Tensor]) -> None:
    tensors["order"] = tensors["order"].long()


def _cut(tensors: dict[str, Tensor]) -> None:
    tensors["product"] = tensors["product"][:2]


def _whole_numbers(tensors: dict[str, Tensor]) -> None:
    tensors["coefficients"] = tensors["coefficients"].int()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_order, "order is missing"),
        (_a_tensor_more, "bias is no tensor of it"),
        (_twice_the_same, "order is no order of the features"),
        (_beyond, "order is no order of the features"),
        (_long, r"order is torch\.int64, it must be torch\.int32"),
        (_cut, r"product is \(2, 9\), and \(3, 9\) for a weight of 5 x 9"),
        (_whole_numbers, r"coefficients is torch\.int32, it must be floating"),
    ],
)
def test_tensors_that_are_not_those_of_their_decision(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    made = pivot_set()["a.wide"]
    tensors = dict(made.tensors)
    spoil(tensors)
    with pytest.raises(PlanError, match=f"^factors of pivot 3: {message}$"):
        Factors(made.decision, 5, 9, tensors)
    path = tmp_path / "f.safetensors"
    save_factors(path, {"m": made})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    named = {f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, path, metadata=metadata)
    with pytest.raises((PlanError, CheckpointError), match=r"f.safetensors: m[.:]"):
        load_factors(path)


def test_a_decision_that_the_weight_cannot_have() -> None:
    made = pivot_set()["a.wide"]
    with pytest.raises(PlanError, match="a weight of 3 x 9: pivot rank 3 is outside 1 .. 2"):
        Factors(made.decision, 3, 9, made.tensors)


PAIR = {"kind": "low-rank", "rank": 2}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "its metadata has no decisions: "),
        ("{", "its metadata has no decisions: "),
        ("[" * 100_000, "its metadata has no decisions: "),
        ([1], "no decisions by module"),
        ({"m": 3}, "m: its rows and columns are no sizes"),
        ({"m": {"rows": 3, "columns": True, "decision": PAIR}}, "m: its rows and columns"),
        ({"m": {"rows": 3, "columns": -4, "decision": PAIR}}, "m: its rows and columns"),
        ({"m": {"rows": 3, "columns": 4}}, "m: a decision is a table"),
        (
            {"m": {"rows": 3, "columns": 4, "decision": PAIR, "order": 1}},
            "m: order is no field of it",
        ),
        (
            {"m": {"rows": 3, "columns": 4, "decision": PAIR, "reordered": "yes"}},
            "m: reordered is true or is left out",
        ),
        ({"m": {"rows": 3, "columns": 4, "decision": {"kind": "x"}}}, "m: no kind of decision 'x'"),
        ({"m": {"rows": 1, "columns": 4, "decision": PAIR}}, "m: rank 2 is outside 1 .. 1"),
        ({"m": {"rows": 10**30, "columns": 4, "decision": PAIR}}, "m: factors of rank 2: up is"),
        ({"m ": {"rows": 3, "columns": 4, "decision": PAIR}}, "'m ' is no name of a module"),
        ({}, "m.down belongs to no decision of the file"),
        ({x: {"rows": 3, "columns": 4, "decision": PAIR} for x in "mn"}, "n.down is missing"),
    ],
)
def test_metadata_that_nobody_wrote(tmp_path: Path, said: object, message: str) -> None:
    path = tmp_path / "f.safetensors"
    text = said if isinstance(said, str) else json.dumps(said)
    metadata = {"format": "gacfx-factors-2"} | ({} if said is None else {"decisions": text})
    save_file({"m.down": torch.zeros(2, 4), "m.up": torch.zeros(3, 2)}, path, metadata=metadata)
    with pytest.raises((PlanError, CheckpointError), match=message) as caught:
        load_factors(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("down", "up", "message"),
    [
        (torch.zeros(3, 11), torch.zeros(7, 2), "do not fit"),
        (torch.zeros(11), torch.zeros(7, 11), "do not fit"),
        (torch.zeros(0, 11), torch.zeros(7, 0), "do not fit"),
        (torch.zeros(3, 11, dtype=torch.int8), torch.zeros(7, 3), "must be floating"),
    ],
)
def test_factors_that_cannot_be_multiplied(down: Tensor, up: Tensor, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Factors.pair(down, up)


def test_factors_come_back_bit_by_bit(tmp_path: Path) -> None:
    save_factors(tmp_path / "f.safetensors", factor_set())
    assert_same(load_factors(tmp_path / "f.safetensors"), factor_set())
    assert set(load_file(tmp_path / "f.safetensors")) == {
        f"layers.{layer}.up.{side}" for layer in "01" for side in ("down", "up")
    }


def test_strided_and_shared_factors_can_be_written(tmp_path: Path) -> None:
    base = torch.randn(11, 3)
    factors = {
        "a": Factors.pair(base.T, torch.randn(7, 6)[:, ::2]),
        "b": Factors.pair(base.T.contiguous(), torch.randn(7, 3)),
    }
    factors["c"] = Factors.pair(*factors["b"].tensors.values())
    save_factors(tmp_path / "f.safetensors", factors)
    assert_same(load_factors(tmp_path / "f.safetensors"), factors)


def test_no_factors_at_all(tmp_path: Path) -> None:
    save_factors(tmp_path / "f.safetensors", {})
    assert load_factors(tmp_path / "f.safetensors") == {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path = tmp_path / "f.safetensors"
    broken = {"m": Factors.pair(torch.full((2, 4), value), torch.zeros(3, 2))}
    with pytest.raises(PlanError, match="m: its factors are NaN or infinite"):
        save_factors(path, broken)
    assert not any(tmp_path.iterdir())
    tensors = {f"m.{name}": tensor for name, tensor in broken["m"].tensors.items()}
    save_file(tensors, path, metadata={"format": "gacfx-factors-1"})
    with pytest.raises(PlanError, match="m: NaN or infinite factors"):
        load_factors(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save_factors(path, factor_set())
    whole = path.read_bytes()
    for length in (len(whole) - 1, 20, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"f.safetensors: cannot be read"):
            load_factors(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"f.safetensors: cannot be read"):
        load_factors(tmp_path / "f.safetensors")


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"m.down": (2, 4)}, CheckpointError, "m.up: every module needs one .down and one .up"),
        ({"m.down": (2, 4), "m.up": (3, 2), "m.bias": (3,)}, CheckpointError, "m.bias"),
        ({"down": (2, 4), "up": (3, 2)}, CheckpointError, "every module needs"),
        ({"m.down": (2, 4), "m.up": (3, 5)}, PlanError, "m: factors down .* do not fit"),
    ],
)
def test_files_with_other_tensors(
    tmp_path: Path,
    tensors: dict[str, tuple[int, ...]],
    error: type[Exception],
    message: str,
) -> None:
    path = tmp_path / "f.safetensors"
    made = {name: torch.zeros(shape) for name, shape in tensors.items()}
    save_file(made, path, metadata={"format": "gacfx-factors-1"})
    with pytest.raises(error, match=message):
        load_factors(path)


def test_a_file_of_another_format(tmp_path: Path) -> None:
    save_file({"m.down": torch.zeros(2, 4)}, tmp_path / "f.safetensors")
    with pytest.raises(
        CheckpointError, match="format None; this gacfx reads .* and 'gacfx-factors-2'"
    ):
        load_factors(tmp_path / "f.safetensors")


def test_a_plan_folder_comes_back(tmp_path: Path) -> None:
    factors = factor_set()
    save_plan(tmp_path / "deep" / "plan", plan_of(factors), factors)
    plan, back = load_plan(tmp_path / "deep" / "plan")
    assert plan == plan_of(factors)
    assert_same(back, factors)
    names = sorted(path.name for path in (tmp_path / "deep" / "plan").iterdir())
    assert names == ["factors.safetensors", "plan.json"]


def _lost(factors: FactorSet) -> FactorSet:
    return {"layers.0.up": factors["layers.0.up"]}


def _extra(factors: FactorSet) -> FactorSet:
    return factors | {"layers.2.up": factors["layers.0.up"]}


def _other_rank(factors: FactorSet) -> FactorSet:
    return factors | {"layers.1.up": factors["layers.0.up"]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lost, "layers.1.up: is in the plan but not in the factors"),
        (_extra, "layers.2.up: is in the factors but not in the plan"),
        (
            _other_rank,
            "layers.1.up: the plan says rank 2 of 7 x 11, its factors are rank 3 of 7 x 11",
        ),
    ],
)
def test_factors_of_another_plan(
    tmp_path: Path, spoil: Callable[[FactorSet], FactorSet], message: str
) -> None:
    factors = factor_set()
    plan, bad = plan_of(factors), spoil(factors)
    with pytest.raises(PlanError, match=message):
        check_factors(plan, bad)
    with pytest.raises(PlanError, match=message):
        save_plan(tmp_path, plan, bad)
    assert not any(tmp_path.iterdir())
    save_plan(tmp_path, plan, factors)
    save_factors(tmp_path / "factors.safetensors", bad, overwrite=True)
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path)


def test_two_files_that_were_not_written_together(tmp_path: Path) -> None:
    factors = factor_set()
    save_plan(tmp_path, plan_of(factors), factors)
    other = replace(plan_of(factors), fingerprint="another")
    (tmp_path / "plan.json").write_text(other.to_json())
    with pytest.raises(PlanError, match="were not written together"):
        load_plan(tmp_path)


def test_a_plan_with_nan(tmp_path: Path) -> None:
    plan = plan_of(factor_set())
    bad = replace(plan, choices=(*plan.choices[:2], replace(plan.choices[2], loss_nats=torch.nan)))
    with pytest.raises(PlanError, match="the plan holds NaN"):
        save_plan(tmp_path, bad, factor_set())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["plan.json", "factors.safetensors"])
def test_a_folder_with_one_file_missing(tmp_path: Path, name: str) -> None:
    save_plan(tmp_path, plan_of(factor_set()), factor_set())
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read"):
        load_plan(tmp_path)


def test_a_plan_that_is_no_json(tmp_path: Path) -> None:
    save_plan(tmp_path, plan_of(factor_set()), factor_set())
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match=r"plan.json is not JSON"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_plan(tmp_path)


def test_a_failure_while_writing_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = factor_set()
    save_plan(tmp_path, plan_of(factors), factors)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_plan(tmp_path, replace(plan_of(factors), fingerprint="new"), factors, overwrite=True)
    assert load_plan(tmp_path)[0] == plan_of(factors)
    assert len(list(tmp_path.iterdir())) == 2


# -- slices --------------------------------------------------------------------------------------


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (None, "which 2 outputs stay is not said"),
        (int32(0), r"must be torch.int32 of shape \(2,\)"),
        (int32(0, 1, 2), r"must be torch.int32 of shape \(2,\)"),
        (int32(1, 1), "one of the 4, and be there once at most"),
        (int32(0, 4), "one of the 4"),
        (int32(-1, 2), "one of the 4"),
        (torch.tensor([0, 1]), "must be torch.int32"),
    ],
)
def test_which_outputs_stay_must_be_said_once_each(
    order: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        Factors(Sliced(2, 3), 4, 3, {"weight": torch.zeros(2, 3)}, order)


def test_a_slice_has_the_tensors_of_its_rest() -> None:
    pair = {"down": torch.zeros(2, 3), "up": torch.zeros(4, 2)}
    made = Factors(Sliced(4, 3, LowRank(2)), 6, 5, pair, int32(0, 5, 2, 3))
    assert (made.rank, made.outputs) == (2, 4)
    rest = made.rest
    assert (rest.rows, rest.columns, rest.order, rest.decision) == (4, 3, None, LowRank(2))
    bias = torch.nn.Parameter(torch.arange(6.0))
    assert made.reorder(bias).tolist() == [0, 5, 2, 3]
    with pytest.raises(PlanError, match="is gone, and has no outputs"):
        Factors(GONE, 6, 5, {}, int32(0, 1, 2, 3, 4, 5))


def test_slices_and_what_is_gone_come_back_from_a_file(tmp_path: Path) -> None:
    factors = {
        "a": Factors(Sliced(2, 3), 4, 3, {"weight": torch.randn(2, 3)}, int32(3, 1)),
        "b": Factors(Sliced(4, 2), 4, 3, {"weight": torch.randn(4, 2)}),
        "c": Factors(GONE, 4, 3, {}),
        "d": Factors(
            Sliced(3, 3, LowRank(1)),
            4,
            3,
            {"down": torch.randn(1, 3), "up": torch.randn(3, 1)},
            int32(0, 2, 3),
        ),
    }
    save_factors(tmp_path / "f.safetensors", factors)
    back = load_factors(tmp_path / "f.safetensors")
    assert [*back] == [*factors]
    for name, made in factors.items():
        found = back[name]
        assert (found.decision, found.rows, found.columns) == (made.decision, 4, 3)
        assert all(torch.equal(found.tensors[key], made.tensors[key]) for key in made.tensors)
        assert (found.order is None) == (made.order is None)
        assert found.order is None or torch.equal(found.order, made.order)  # type: ignore[arg-type]
