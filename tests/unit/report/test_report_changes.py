"""Rows of the table of a plan: experts of a layer share one, everything else has its own."""

from dataclasses import replace

import pytest

from gacfx.core.decision import DENSE, Decision, LowRank, Pivot
from gacfx.core.plan import Choice
from gacfx.report.changes import changes_of, kept_dense

HOME = "model.layers.{}.mlp.experts.{}.fc1"


def choice(name: str, decision: Decision = DENSE, loss: float = 0.0, reason: str = "") -> Choice:
    made = Choice.single(name, 96, 64, decision, 30.5, loss)
    return replace(made, reason=reason)


@pytest.fixture
def choices() -> tuple[Choice, ...]:
    return (
        choice("model.layers.0.self_attn.q_proj", LowRank(16), 0.5),
        choice(HOME.format(0, 0), Pivot(8), 0.25),
        choice(HOME.format(0, 1)),
        choice(HOME.format(0, 2), Pivot(24), 0.5),
        choice(HOME.format(0, 3), LowRank(16), 0.25),
        choice(HOME.format(1, 0)),
        choice(HOME.format(1, 1), reason="no calibration token reached this weight"),
        choice("model.layers.1.self_attn.q_proj"),
        choice("model.layers.1.mlp.0", LowRank(8)),
        choice("model.layers.1.mlp.2", LowRank(24)),
    )


def test_experts_of_a_layer_share_a_row(choices: tuple[Choice, ...]) -> None:
    rows = {(row.layer, row.weight): row for row in changes_of(choices)}
    row = rows["0", "mlp.experts.*.fc1"]
    assert row.chosen == "3 of 4: pivot 8-24, 16"
    assert row.dense == "96 x 64" and row.wanted == "30.5" and row.loss == 1.0
    pivots = sum(r * (96 + 64 - r) for r in (8, 24))
    assert row.params == pivots + 16 * (96 + 64) - 3 * 96 * 64


def test_all_others_have_their_own_and_a_layer_without_changes_none(
    choices: tuple[Choice, ...],
) -> None:
    rows = [(row.layer, row.weight, row.chosen) for row in changes_of(choices)]
    assert rows == [
        ("0", "self_attn.q_proj", "16"),
        ("0", "mlp.experts.*.fc1", "3 of 4: pivot 8-24, 16"),
        ("1", "mlp.0", "8"),
        ("1", "mlp.2", "24"),
    ]


def test_experts_that_stay_dense_are_counted_by_reason(choices: tuple[Choice, ...]) -> None:
    assert list(kept_dense(choices)) == [
        ("self_attn.q_proj 1, mlp.experts.*.fc1 (2 of 6)", ""),
        ("mlp.experts.*.fc1 (1 of 6)", "no calibration token reached this weight"),
    ]


def test_one_size_is_told_once() -> None:
    names = [HOME.format(0, number) for number in range(3)]
    (row,) = changes_of([choice(name, LowRank(8)) for name in names])
    assert row.chosen == "3 of 3: 8"
