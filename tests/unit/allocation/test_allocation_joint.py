"""Joint candidates: every size and rank of a structure, and none that another one beats."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gacfx.allocation.allocate import allocate, keeps_limits, offer
from gacfx.allocation.joint import Joint, joint, unbeaten
from gacfx.allocation.offers import Offers
from gacfx.core.curve_file import Curves, load_curves, save_curves
from gacfx.core.decision import DENSE, Decision
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.pruning import Each, Heads, Skip, Sliced, Width
from gacfx.core.search import Bound, Prune, Search
from gacfx.core.structure_curves import Span, StructureCurve
from gacfx.errors import PassError, PlanError
from gacfx.hardware.profile import load_profile
from gacfx.passes.planning.limiting import bound_to, limiting_passes
from gacfx.replan import plan_from_curves
from tests.unit import made_structures

H200 = load_profile("h200")


def joints(curves: Curves, offers: Offers, *, limited: bool = False) -> dict[str, Joint]:
    case = offer(curves, offers, limited=limited)
    return {name: one for name, one in case.curves.items() if isinstance(one, Joint)}


def every(curves: Curves, name: str, offers: Offers) -> list[tuple[int, float]]:
    """(parameters, loss) of every candidate of one structure, by the definition."""
    curve = next(one for one in curves.structures if one.name == name)
    whole = (curve.facts.units, curve.facts.heads)
    found = [(0, curve.facts.skip_nats or 0.0)]
    for units, heads in product(range(1, whole[0] + 1), range(1, whole[1] + 1)):
        size = (units, heads)
        shapes = [member.at(size) for member in curve.facts.members]
        dense = [member.at(whole) for member in curve.facts.members]
        changed = [
            left for a, b in zip(shapes, dense, strict=True) for left, of in zip(a, b, strict=True)
            if left != of
        ]  # fmt: skip
        if any(left % offers.step for left in changed):
            continue
        losses: list[np.ndarray | None] = [None] * len(shapes)
        if size == whole and offers.prune != "only":
            losses = [curves.losses[member.module] for member in curve.facts.members]
        elif size in curve.ranks and offers.prune == "both":
            losses = list(curve.ranks[size])
        ways: list[list[tuple[int, float]]] = []
        for (rows, columns), own in zip(shapes, losses, strict=True):
            options = [(rows * columns, 0.0)]
            if own is not None:
                for kind in ("low-rank", "pivot"):
                    for rank in range(offers.step, min(rows, columns), offers.step):
                        params = rank * (rows + columns - (rank if kind == "pivot" else 0))
                        legal = kind == "low-rank" or min(rows, columns) % offers.step == 0
                        if params < rows * columns and legal:
                            options.append((params, float(own[rank])))
            ways.append(options)
        start = 0.0 if size == whole else curve.loss(size)
        for way in product(*ways):
            found.append((sum(p for p, _ in way), start + sum(x for _, x in way)))
    best: list[tuple[int, float]] = []
    for params, loss in sorted(found):
        if not best or loss < best[-1][1] - 1e-12:
            best.append((params, loss))
    return best


@pytest.mark.parametrize("prune", ["only", "either", "both"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_all_that_are_not_beaten(prune: Prune, seed: int) -> None:
    curves, offers = made_structures.curves(seed, layers=1), Offers(align=8, prune=prune)
    for name, one in joints(curves, offers).items():
        expected = every(curves, name, offers)
        assert one.params.tolist() == [params for params, _ in expected]
        assert np.allclose(one.losses, [loss for _, loss in expected], rtol=1e-12)


@pytest.mark.parametrize("limited", [False, True])
def test_a_candidate_costs_what_its_parts_cost_and_fits_its_weights(limited: bool) -> None:
    curves, offers = made_structures.curves(), Offers(align=8, prune="both")
    found = joints(curves, offers, limited=limited)
    kinds = set[type[Decision]]()
    for one in found.values():
        assert len({each.label for each in one.candidates}) == len(one.candidates)
        for each, params in zip(one.candidates, one.params.tolist(), strict=True):
            kinds.add(type(each))
            assert each.misfit(len(one.weights)) == ""
            parts = [(each.of(at), w.rows, w.columns) for at, w in enumerate(one.weights)]
            assert params == sum(part.params(*shape) for part, *shape in parts)
            assert not any(part.problem(*shape) for part, *shape in parts)
            assert all(size % 8 == 0 for part, *shape in parts for size in part.sizes(*shape))
    assert kinds == {Each, Width, Heads, Skip}


def test_under_a_second_budget_pairs_stand_beside_pivots() -> None:
    curves, offers = made_structures.curves(), Offers(align=8, prune="either")
    free, limited = (joints(curves, offers, limited=flag) for flag in (False, True))
    kinds = [
        {p.kind for one in found.values() for each in one.candidates for p in parts(each)}
        for found in (free, limited)
    ]
    assert kinds == [{"dense", "pivot"}, {"dense", "pivot", "low-rank"}]
    for name, one in free.items():
        assert {e.label for e in one.candidates} <= {e.label for e in limited[name].candidates}


def parts(decision: Decision) -> list[Decision]:
    if isinstance(decision, Skip):
        return []
    own = decision.parts  # type: ignore[attr-defined]
    return [part.rest if isinstance(part, Sliced) else part for part in own]


def groups(curves: Curves, offers: Offers) -> list[list[tuple[int, float]]]:
    """(parameters, value) of every candidate of each structure."""
    found = joints(curves, offers).values()
    return [list(zip(one.params.tolist(), (-one.losses).tolist(), strict=True)) for one in found]


def solve(curves: Curves, search: Search, ratio: str = "0.4") -> Plan:
    return plan_from_curves(curves, ratio=ratio, gpu="h200", search=search)


@pytest.mark.parametrize("prune", ["only", "either", "both"])
def test_a_plan_is_proven_and_says_what_it_did(prune: Prune, tmp_path: Path) -> None:
    curves = made_structures.curves(3, layers=1)
    plan = solve(curves, Search(prune=prune, align=8))
    assert plan.proof is not None and plan.proof.status == "optimal"
    best = max(
        sum(value for _, value in way)
        for way in product(*groups(curves, Offers(align=8, prune=prune)))
        if sum(params for params, _ in way) <= plan.budget.limit_params
    )
    assert plan.proof.value == pytest.approx(best, rel=1e-12)
    assert plan.kept_params <= plan.budget.limit_params
    assert sorted(plan.weights) == sorted(curves.curves)
    assert plan.loss_nats == pytest.approx(-plan.proof.value)
    assert Plan.from_json(plan.to_json()) == plan
    if prune == "only":
        assert not plan.ranks
    assert {type(choice.decision) for choice in plan.choices} & {Width, Heads, Skip}
    save_curves(tmp_path / "c.safetensors", curves)
    again = load_curves(tmp_path / "c.safetensors")
    assert solve(again, Search(prune=prune, align=8)).choices == plan.choices


def test_a_larger_menu_never_promises_more_loss() -> None:
    for seed in range(3):
        curves = made_structures.curves(seed)
        for ratio in ("0.2", "0.35"):
            loss = {
                prune: solve(curves, Search(prune=prune, align=8), ratio).loss_nats
                for prune in ("none", "only", "either", "both")
            }
            assert loss["both"] <= loss["either"] + 1e-12
            assert loss["either"] <= min(loss["none"], loss["only"]) + 1e-12


def test_weights_of_a_structure_that_keeps_all_units_are_choices_of_their_own() -> None:
    plan = solve(made_structures.curves(1), Search(prune="either", align=8), "0.05")
    single = [choice for choice in plan.choices if len(choice.weights) == 1]
    assert single and all(choice.group == choice.module for choice in single)
    assert not any(isinstance(choice.decision, Each) for choice in plan.choices)


def test_one_size_for_all_layers() -> None:
    plan = solve(made_structures.curves(2), Search(prune="only", align=8, uniform=True))
    labels: dict[str, set[str]] = {}
    for choice in plan.choices:
        kind = choice.group.replace(".0.", ".").replace(".1.", ".")
        labels.setdefault(kind, set()).add(str(choice.decision.label))
    assert all(len(found) == 1 for found in labels.values())
    assert any(isinstance(choice.decision, Width | Heads | Skip) for choice in plan.choices)


def test_bounds_speak_of_units_and_of_ranks() -> None:
    bounds = (Bound("*.mlp", 16, None), Bound("*.self_attn", 2, None))
    plan = solve(made_structures.curves(2), Search(prune="only", align=8, bounds=bounds), "0.3")
    for choice in plan.choices:
        if isinstance(choice.decision, Width):
            assert len(choice.decision.kept) >= 16
        if isinstance(choice.decision, Heads):
            assert len(choice.decision.groups) == 2
        assert not isinstance(choice.decision, Skip)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("prune", ["only", "either", "both", "cautious"])
def test_no_candidate_breaks_a_bound_on_units_or_on_the_rank_of_a_weight(
    prune: Prune, limited: bool
) -> None:
    """The whole, and what a size leaves dense, count as their full size."""
    bounds = (Bound("*.1.mlp", 1, 24), Bound("*.0.mlp.gate_proj", 1, 8), Bound("*.k_proj", 16))
    offers = Offers(align=8, prune=prune, bounds=bounds)
    found = joints(made_structures.curves(), offers, limited=limited)
    for name, one in found.items():
        assert one.candidates
        for each in one.candidates:
            assert not isinstance(each, Skip)
            if name.endswith("1.mlp"):
                assert isinstance(each, Width) and len(each.kept) <= 24
            for at, weight in enumerate(one.weights):
                part = each.of(at)
                shape = (weight.rows, weight.columns)
                if isinstance(part, Sliced):
                    shape = (part.outputs, part.inputs)
                rank = min(shape) if part.rank is None else part.rank
                assert all(bound.holds(rank) for bound in offers.bounds_on(weight.module))


def test_bounds_that_leave_nothing_of_a_structure_are_named() -> None:
    bounds = (Bound("*.mlp", 1, 4), Bound("*.self_attn", 64, None))
    with pytest.raises(PassError, match=r"0\.mlp: no candidate is left: neither .* in \*\.mlp=1:4"):
        joints(made_structures.curves(), Offers(align=8, prune="only", bounds=bounds))


def test_a_bound_holds_where_nothing_can_be_pruned() -> None:
    curves = made_structures.curves(0, layers=1)
    none = replace(curves.facts, structures=curves.facts.structures[:1], ranked={})
    keep = {k: v for k, v in curves.losses.items() if ":" not in k or k.endswith("attn:sizes")}
    offers = Offers(align=8, prune="only", bounds=(Bound("*.gate_proj", 1, 8),))
    with pytest.raises(PassError, match="gate_proj: no candidate is left"):
        joints(Curves(none, keep), offers)


def test_the_inputs_of_the_last_weight_are_aligned_too() -> None:
    """Rows of a fused weight are many for each channel, its reader has one column of each."""
    curves = made_structures.curves(0, layers=1)
    mlp = next(one for one in curves.structures if one.facts.kind == "width")
    wide = tuple(
        replace(m, outputs=Span(0, 8, 0)) if not m.module.endswith("down_proj") else m
        for m in mlp.facts.members
    )
    fused = StructureCurve(replace(mlp.facts, members=wide), mlp.losses)
    whole = [
        replace(curves.curves[m.module], rows=m.outputs.at((40, 1)), failed="dense") for m in wide
    ]
    made = joint(fused, whole, Offers(align=8, prune="only"), without={})
    sizes = {len(each.kept) for each in made.candidates if isinstance(each, Width)}
    assert sizes and all(size % 8 == 0 for size in sizes)


def test_cautious_counts_ranks_on_top_of_a_size_twice() -> None:
    curves = made_structures.curves()
    found = [joints(curves, Offers(align=8, prune=menu)) for menu in ("both", "cautious")]
    sizes = {one.name: one for one in curves.structures}
    seen = 0
    for name, plain in found[0].items():
        for each in plain.candidates:
            if not isinstance(each, Width | Heads) or not found[1][name].has(each):
                continue
            units = len(each.kept if isinstance(each, Width) else each.groups)
            heads = 1 if isinstance(each, Width) else len(each.heads[0])
            ranks = plain.loss(each) - sizes[name].loss((units, heads))
            assert found[1][name].loss(each) == pytest.approx(plain.loss(each) + ranks)
            seen += ranks > 0
    assert seen


def test_devices_share_whole_heads() -> None:
    found = joints(
        made_structures.curves(), Offers(align=8, tp=2, kinds=("low-rank",), prune="only")
    )
    for one in found.values():
        for each in one.candidates:
            if isinstance(each, Heads):
                assert len(each.groups) % 2 == 0
            if isinstance(each, Width):
                assert len(each.kept) % 16 == 0


def test_a_latency_limit_counts_every_weight_of_a_structure() -> None:
    curves = made_structures.curves(1)
    steps = ("limit-latency{share=0.9 seq=4096}",)
    search = Search(prune="both", align=8, limits=steps)
    limiters = bound_to(limiting_passes(steps), H200)
    plan = allocate(curves, Goal(ratio="0.2"), profile=H200, search=search, limiters=limiters)
    assert plan.limits[0].spent <= plan.limits[0].most
    assert keeps_limits(plan, curves, limiters)


def test_what_is_in_no_structure_stays_dense_where_only_sizes_are_offered() -> None:
    curves = made_structures.curves(0, layers=1)
    structures = tuple(one for one in curves.facts.structures if one.name.endswith("mlp"))
    keep = {key: loss for key, loss in curves.losses.items() if "self_attn:" not in key}
    ranked = {one.name: curves.facts.ranked[one.name] for one in structures}
    fewer = Curves(replace(curves.facts, structures=structures, ranked=ranked), keep)
    plan = solve(fewer, Search(prune="only", align=8), "0.2")
    for choice in plan.choices:
        if "self_attn" in choice.group:
            assert choice.decision is DENSE or choice.decision == DENSE
            assert choice.reason == "belongs to no structure that can be pruned"


@pytest.mark.parametrize(
    "asked",
    [
        {"prune": "both", "uniform": True},
        {"prune": "only", "solver": "greedy"},
        {"prune": "either", "candidates": "window"},
        {"prune": "some"},
    ],
)
def test_what_cannot_go_together_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="prune"):
        Search(**asked)  # type: ignore[arg-type]


def test_of_too_many_the_best_of_equal_steps_are_kept() -> None:
    random = np.random.default_rng(0)
    params = random.integers(0, 10**6, 20_000)
    losses = 1e6 - params + random.normal(size=20_000) * 1e4
    kept = unbeaten(params, losses, most=50)
    assert 2 <= len(kept) <= 52
    assert (np.diff(params[kept]) > 0).all() and (np.diff(losses[kept]) < 0).all()
    full = unbeaten(params, losses, most=10**6)
    assert set(kept) <= set(full) and kept[0] == full[0] and kept[-1] == full[-1]


def test_a_step_beyond_the_width_offers_no_size_and_says_so() -> None:
    bounds = (Bound("*.mlp", 1, None), Bound("*.self_attn", 1, None))
    search = Search(prune="either", align=24, bounds=bounds)
    plan = solve(made_structures.curves(2), search, "0.01")
    dense = {choice.module: choice.reason for choice in plan.choices if choice.decision.is_dense}
    said = "no size of its 2 key-value heads in steps of 24 in *.self_attn=1:"
    assert any(reason == said for reason in dense.values())


def test_saved_curves_know_no_text_to_choose_a_menu_by_and_the_plan_says_which_it_took() -> None:
    curves = made_structures.curves(1)
    auto, both = (solve(curves, Search(prune=menu, align=8)) for menu in ("auto", "both"))
    assert auto.choices == both.choices
    assert auto.provenance.search.prune == "both"
