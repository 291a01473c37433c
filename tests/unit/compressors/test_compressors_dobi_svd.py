"""Dobi-SVD, light: gates, the penalty, training by gradients that are handed in, and the budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.compressors.dobi_svd import DOBI_SVD, PENALTY, gate, penalty, shares_of
from gacfx.compressors.methods import METHODS
from gacfx.compressors.protocol import AllocationInputs
from gacfx.errors import CalibrationError, InfeasibleBudget, PipelineError

SHAPES = {"a": (16, 16), "b": (8, 16), "c": (24, 16)}
TOTAL = sum(rows * columns for rows, columns in SHAPES.values())
NEEDED = {"a": 0.05, "b": 0.0, "c": 0.0}
"""Nats for each component of a weight that does not pass."""


def loss(gates: Mapping[str, Tensor], tokens: int, seed: int) -> tuple[float, dict[str, Tensor]]:
    """One that is linear in the gates."""
    del tokens, seed
    nats = sum(NEEDED[name] * float((1 - each).sum()) for name, each in gates.items())
    return nats, {name: torch.full_like(each, -NEEDED[name]) for name, each in gates.items()}


def inputs(limit: int, gated: Any = loss, able: Sequence[str] = tuple(SHAPES)) -> AllocationInputs:
    known: Any = dict.fromkeys(able)
    return AllocationInputs(known, lambda *_: 0.0, limit, gated=gated)


def ranks(ratio: str, gated: Any = loss, **more: Any) -> dict[str, int | None]:
    limit = int((1 - float(ratio)) * TOTAL)
    return METHODS.find("dobi-svd").allocate(SHAPES, ratio, inputs(limit, gated, **more))


def kept(found: Mapping[str, int | None]) -> int:
    return sum(
        SHAPES[n][0] * SHAPES[n][1] if rank is None else rank * sum(SHAPES[n])
        for n, rank in found.items()
    )


# -- gates ----------------------------------------------------------------------------------------


def test_gates_become_0_and_1_as_they_get_steeper() -> None:
    place = torch.tensor(0.5, dtype=torch.float64)
    hard = torch.tensor([1.0] * 5 + [0.0] * 5, dtype=torch.float64)
    off = [float((gate(place, 10, beta) - hard).abs().max()) for beta in (1.0, 10.0, 100.0, 1000.0)]
    assert off == sorted(off, reverse=True) and off[0] > 0.4 and off[-1] < 1e-12
    soft = gate(place, 10, 10.0)
    assert soft.equal(soft.sort(descending=True).values) and 0 < float(soft.min()) < 0.5
    assert float(soft.sum()) == pytest.approx(5.0)  # symmetric about its place


@pytest.mark.parametrize("place", [0.03, 0.5, 0.91])
def test_the_gradient_of_a_gate_is_that_of_finite_differences(place: float) -> None:
    at = torch.tensor(place, dtype=torch.float64, requires_grad=True)
    made: Callable[[Tensor], Tensor] = lambda one: gate(one, 12, 10.0)  # noqa: E731
    assert torch.autograd.gradcheck(made, (at,), eps=1e-6, atol=1e-7)


def test_the_penalty_counts_what_is_cheaper_and_is_least_at_the_limit() -> None:
    places = torch.tensor([0.25, 1.0, 0.25], dtype=torch.float64, requires_grad=True)
    # 4 x 32, the dense 8 x 16, 4 x 40
    assert float(penalty(places.detach(), SHAPES, 128 + 128 + 160)) == 0.0
    over = penalty(places, SHAPES, 400)
    assert float(over.detach()) == pytest.approx(PENALTY / 2 * (16 / TOTAL) ** 2)
    over.backward()
    assert places.grad is not None
    assert float(places.grad[0]) > 0 and float(places.grad[1]) == 0.0


def test_places_are_scaled_until_the_budget_is_met() -> None:
    places = {"a": 0.9, "b": 0.2, "c": 0.3}
    for limit in (120, 300, 500):
        shares = shares_of(SHAPES, places, limit)
        sizes = {n: rows * columns for n, (rows, columns) in SHAPES.items()}
        total = sum((1 - shares.get(n, 0.0)) * size for n, size in sizes.items())
        assert total == pytest.approx(limit, rel=1e-9)
        pairs = {
            n: (1 - s) * sizes[n] / (sum(SHAPES[n]) * min(SHAPES[n])) for n, s in shares.items()
        }
        scales = {n: pair / places[n] for n, pair in pairs.items() if pair < 1}
        assert max(scales.values()) == pytest.approx(min(scales.values()))
    assert "a" not in shares_of(SHAPES, places, 500)  # more than a pair would save


# -- its own ranks --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["0.2", "0.45", "0.8"])
def test_ranks_keep_the_budget_and_no_rank_more_would_fit(ratio: str) -> None:
    found = ranks(ratio)
    limit = int((1 - float(ratio)) * TOTAL)
    assert kept(found) <= limit
    for name, rank in found.items():
        if rank is not None and (rank + 1) * sum(SHAPES[name]) < SHAPES[name][0] * SHAPES[name][1]:
            assert kept(found) + sum(SHAPES[name]) > limit


def test_the_weight_that_the_loss_needs_keeps_more() -> None:
    even = ranks("0.4", lambda gates, *_: (0.0, {n: torch.zeros_like(g) for n, g in gates.items()}))
    found = ranks("0.4")
    share = {n: (16 if found[n] is None else found[n]) / (even[n] or 16) for n in SHAPES}  # type: ignore[operator]
    assert share["a"] > 1.2 and share["b"] < 1 and share["c"] < 1


def test_equal_settings_give_equal_ranks_and_seeds_go_with_steps() -> None:
    seeds: list[int] = []

    def seen(gates: Mapping[str, Tensor], tokens: int, seed: int) -> Any:
        seeds.append(seed)
        return loss(gates, tokens, seed)

    found = METHODS.find("dobi-svd:steps=3,seed=5")
    one, other = (found.allocate(SHAPES, "0.4", inputs(448, seen)) for _ in range(2))
    assert one == other and seeds == [5, 6, 7] * 2


def test_places_are_remembered_by_their_budget() -> None:
    known: dict[str, Sequence[float]] = {}

    def remember(name: str, make: Callable[[], Sequence[float]]) -> Sequence[float]:
        return known.setdefault(name, known.get(name) or make())

    def with_memory(limit: int, gated: Any) -> dict[str, int | None]:
        found: Any = dict.fromkeys(SHAPES)
        more = {"remember": remember, "gated": gated}
        given = AllocationInputs(found, lambda *_: 0.0, limit, **more)
        return DOBI_SVD.allocate(SHAPES, "0.4", given)

    def never(*_: object) -> Any:
        raise AssertionError("it was trained before")

    one = with_memory(448, loss)
    assert with_memory(448, never) == one and list(known) == ["places.448"]
    with pytest.raises(AssertionError, match="trained before"):
        with_memory(400, never)


def test_steps_without_a_loss_are_left_out_and_all_of_them_are_an_error() -> None:
    calls: list[int] = []

    def sometimes(gates: Mapping[str, Tensor], tokens: int, seed: int) -> Any:
        calls.append(seed)
        if seed % 2:
            nothing = {name: torch.full_like(each, torch.nan) for name, each in gates.items()}
            return float("inf"), nothing
        return loss(gates, tokens, seed)

    assert kept(ranks("0.4", sometimes)) <= 0.6 * TOTAL and len(calls) == DOBI_SVD.steps
    with pytest.raises(CalibrationError, match="not finite in any of 40 steps; give other text"):
        ranks("0.4", lambda gates, *_: (float("nan"), gates))


def test_what_has_no_decomposition_stays_dense_and_the_others_make_up_for_it() -> None:
    found = ranks("0.3", able=("a", "c"))
    assert found["b"] is None and kept(found) <= 0.7 * TOTAL
    assert ranks("0") == dict.fromkeys(SHAPES)


def test_what_cannot_be_removed_is_refused() -> None:
    with pytest.raises(InfeasibleBudget, match="rank 1 of every weight .* remove less"):
        ranks("0.95")
    with pytest.raises(InfeasibleBudget, match="0 parameters; remove less"):
        ranks("0.9", able=("a",))
    with pytest.raises(PipelineError, match="need a model and its statistics"):
        DOBI_SVD.allocate(SHAPES, "0.2")
    bare: Any = AllocationInputs(dict.fromkeys(SHAPES), lambda *_: 0.0, 448)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="gates of 3 weights: there is no model"):
        DOBI_SVD.allocate(SHAPES, "0.4", bare)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("steps=0", "steps 0: at least 1"),
        ("tokens=0", "tokens 0: at least 1"),
        ("seed=-1", "seed -1: at least 0"),
        ("beta=0", "beta 0.0 is not above 0"),
        ("rate=2", "rate 2.0 is not between 0 and 1"),
        ("rate=0", "rate 0.0 is not between"),
        ("beta=nan", "it is a number"),
    ],
)
def test_a_bad_setting_is_refused(said: str, match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        METHODS.find(f"dobi-svd:{said}")
