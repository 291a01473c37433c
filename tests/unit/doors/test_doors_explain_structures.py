"""Explanations of coupled structures: whole blocks, their weights, and why some are left alone."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gacfx.cli import main
from gacfx.core.curve_file import Curves, save_curves
from gacfx.core.plan import Plan
from gacfx.core.pruning import Each, Heads, Skip, Width
from gacfx.core.search import Search
from gacfx.errors import PlanError, PlanMismatch
from gacfx.explain import Explanation, explain
from gacfx.replan import plan_from_curves, problem_again
from gacfx.report.explain_view import explain_view
from tests.unit import made_structures

MLP, ATTENTION = "model.layers.0.mlp", "model.layers.0.self_attn"
CURVES = made_structures.curves(layers=3)


def plan(ratio: str = "0.4", prune: Any = "both", **search: Any) -> Plan:
    return plan_from_curves(CURVES, ratio=ratio, search=Search(prune=prune, **search))


def text(found: Explanation) -> str:
    out = StringIO()
    Console(width=80, file=out, highlight=False, markup=False).print(explain_view(found))
    return out.getvalue()


def names(curves: Curves = CURVES) -> list[str]:
    return [each.name for each in curves.structures]


@pytest.mark.parametrize("limits", [(), ("limit-latency{share=0.98}",)])
@pytest.mark.parametrize("menu", ["only", "either", "both"])
def test_a_structure_is_priced_as_the_planner_prices_it(menu: Any, limits: tuple[str, ...]) -> None:
    made = plan(prune=menu, limits=limits)
    assert made.proof is not None
    problem, case = problem_again(CURVES, made)
    groups = {group.name: group for group in problem.groups}
    multipliers = [limit.multiplier or 0.0 for limit in made.limits]
    for name in names():
        seen = explain(made, CURVES, name)
        candidates = (case.offered.candidates or {})[name]
        at = {each.label: number for number, each in enumerate(candidates)}
        group = groups[name]

        def worth(number: int, group: Any = group, name: str = name) -> float:
            paid = made.proof.multiplier * group.costs[number]  # type: ignore[union-attr]
            for price, limit in zip(multipliers, problem.limits, strict=True):
                paid += price * limit.costs[name][number]
            return float(group.values[number] - paid)

        own = at[seen.decision.label]
        assert seen.params == group.costs[own]
        assert seen.loss_nats == pytest.approx(-float(group.values[own]))
        assert len(seen.weights) in (3, 4) and (seen.below or seen.above)
        for other in (*seen.below, *seen.above):
            there = at[other.decision.label]
            assert other.params_change == group.costs[there] - group.costs[own]
            assert other.reduced_cost_nats == pytest.approx(worth(own) - worth(there), abs=1e-12)


def test_neighbours_are_other_sizes_each_in_its_best_way() -> None:
    made = plan("0.4")
    for name in names():
        seen = explain(made, CURVES, name)
        around = [other.decision for other in (*seen.below, *seen.above)]
        sizes = [getattr(each, "size", each.kind) for each in around]
        assert len(sizes) == len(set(sizes))


def test_a_weight_names_the_structure_that_it_is_decided_with() -> None:
    made = plan()
    pruned = next(c for c in made.choices if isinstance(c.decision, Width))
    member = pruned.weights[0].module
    seen = explain(made, CURVES, member)
    assert (seen.module, seen.decision) == (pruned.group, pruned.decision)
    part = pruned.decisions[member]
    note = f"{member} is decided with its structure {pruned.group}, and becomes {part}"
    assert seen.notes == (note,)
    assert replace(seen, notes=()) == explain(made, CURVES, pruned.group)


def test_a_structure_that_stays_whole_is_explained_with_its_weights() -> None:
    made = plan("0.05")
    whole = next(name for name in names() if name not in {c.group for c in made.choices})
    seen = explain(made, CURVES, whole)
    assert isinstance(seen.decision, Each)
    parts = dict(zip((w.module for w in seen.weights), seen.decision.parts, strict=True))
    taken = {module: part for c in made.choices for module, part in c.decisions.items()}
    assert parts == {module: taken[module] for module in parts}
    assert seen.loss_nats == sum(c.loss_nats for c in made.choices if c.group in parts)
    assert any(isinstance(other.decision, Width | Heads) for other in seen.below)
    shown = text(seen)
    assert ("3 weights" in shown or "4 weights" in shown) and "…" not in shown


def test_the_whole_block_is_a_size_like_any_other() -> None:
    seen = explain(plan("0.55"), CURVES, ATTENTION)
    assert Skip() in [other.decision for other in seen.below]


def test_a_bound_on_a_structure_holds_it() -> None:
    bound = ((MLP, 32, None),)
    made = plan("0.5", prune="only", bounds=bound)
    seen = explain(made, CURVES, MLP)
    assert isinstance(seen.decision, Width) and len(seen.decision.kept) == 32
    held = {hold.by: hold for hold in seen.held_by}
    assert held["bound"].why == f"{MLP}=32:" and (held["bound"].gain_nats or 0) > 0


def test_rules_tie_structures_of_all_layers() -> None:
    made = plan("0.4", prune="only", uniform=True)
    seen = explain(made, CURVES, MLP)
    (tie,) = seen.tied
    assert tie.how == "same size" and tie.modules == ("model.layers.1.mlp", "model.layers.2.mlp")
    # Their kept channels differ; a decision is that of the structure that was asked for.
    assert isinstance(seen.decision, Width)
    own = next(each for each in CURVES.structures if each.name == MLP)
    for other in (*seen.below, *seen.above):
        if isinstance(other.decision, Width):
            assert other.decision.kept == own.kept((len(other.decision.kept), 1))[0]


def test_what_is_refused_says_why() -> None:
    refused = tuple(
        replace(
            each,
            refused="experts in one tensor, planned one by one",
            order=(),
            members=(),
        )
        if each.name == MLP
        else each
        for each in CURVES.facts.structures
    )
    ranked = {name: sizes for name, sizes in CURVES.facts.ranked.items() if name != MLP}
    losses = {key: loss for key, loss in CURVES.losses.items() if not key.startswith(f"{MLP}:")}
    curves = Curves(replace(CURVES.facts, structures=refused, ranked=ranked), losses)
    made = plan_from_curves(curves, ratio="0.4", search=Search(prune="both"))
    assert made.unpruned == {MLP: "experts in one tensor, planned one by one"}
    with pytest.raises(
        PlanError, match=f"^{MLP}: nothing of it was offered: experts in one tensor"
    ):
        explain(made, curves, MLP)
    assert explain(made, curves, f"{MLP}.up_proj").module == f"{MLP}.up_proj"
    with pytest.raises(PlanMismatch):
        explain(made, CURVES, MLP)


def test_other_losses_of_a_structure_are_refused() -> None:
    made = plan()
    pruned = next(c for c in made.choices if isinstance(c.decision, Width))
    losses = dict(CURVES.losses)
    losses[f"{pruned.group}:sizes"] = losses[f"{pruned.group}:sizes"] * 1.01
    with pytest.raises(PlanMismatch, match="made of other losses"):
        explain(made, replace(CURVES, losses=losses), pruned.group)


def test_the_command_takes_a_structure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, file = plan(), tmp_path / "curves.safetensors"
    save_curves(file, CURVES)
    (tmp_path / "plan.json").write_text(made.to_json())
    ask = ["explain", str(tmp_path / "plan.json"), MLP, "--curves", str(file)]
    assert main(ask) == 0
    assert capsys.readouterr().out.startswith(f"{MLP}  3 weights  ")
    assert main([*ask, "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["module"] == MLP and len(raw["weights"]) == 3
