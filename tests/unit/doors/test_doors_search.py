"""A search through the study: what was asked for is what the rewritten weights are.

Sizes, parameters and bytes are counted in the weights of a rewritten copy of the graph, never read
from the plan.
"""

import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule

import gacfx
from gacfx.api import apply_to_graph, load_profile, plan_synthetic, read_calibration, verify
from gacfx.compressors.values import TRIED
from gacfx.core.goal import Goal
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.search import Bound, Quant, Search, Solver
from gacfx.core.sites import Workload
from gacfx.errors import GacError, InfeasibleBudget, PassError, PlanError
from gacfx.hardware.contracts import CONTRACTS
from gacfx.study import Study
from tests import tiny

PROFILE = load_profile("h200")
FISHER: dict[str, Any] = {"value": "fisher", "form": "pair"}
"""One value model is enough to see what a search does, and pairs have sizes to look at."""


@cache
def study() -> Study:
    """Two layers at sizes with room for ranks in steps of 64; 704 is no multiple of 128."""
    model = tiny.llama(hidden=256, width=704, layers=2)
    corpus = read_calibration(tiny.texts(), model, tiny.tokenizer())
    return Study.make(model, corpus, method="asvd")


def planned(goal: Goal | str = "0.3", **search: Any) -> Planned:
    return study().plan(goal, profile=PROFILE, search=Search(**{**FISHER, **search}))


def plan_of(goal: Goal | str = "0.3", **search: Any) -> Plan:
    return planned(goal, **search).plan


def rewritten(made: Planned) -> GraphModule:
    return apply_to_graph(study().graph, made)


def pairs(made: Planned, gm: GraphModule) -> dict[str, tuple[int, int, int]]:
    """Module -> (K, rank, N) of its two weights in the rewritten graph."""
    found = {}
    for module in made.plan.ranks:
        down = gm.get_parameter(f"{module}.down.weight")
        up = gm.get_parameter(f"{module}.up.weight")
        assert down.shape[0] == up.shape[1]
        found[module] = (down.shape[1], down.shape[0], up.shape[0])
    return found


# -- how much may remain -------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [Goal(ratio=0.3), Goal(ratio="0.25", of="model")], ids=str)
def test_a_share_is_removed_of_what_it_is_a_share_of(goal: Goal) -> None:
    made = planned(goal)
    gone = study().graph, rewritten(made)
    before, after = (sum(p.numel() for p in gm.parameters()) for gm in gone)
    whole = before if goal.of == "model" else made.plan.budget.targeted_params
    assert before - after >= float(goal.ratio or 0) * whole


@pytest.mark.parametrize("params", [1_400_000, "1.2M", "1e6"])
def test_the_whole_model_keeps_so_many_parameters(params: int | str) -> None:
    goal = Goal(params=params)
    made = planned(goal)
    kept = sum(p.numel() for p in rewritten(made).parameters())
    assert 0.99 * goal.count < kept <= goal.count
    budget = made.plan.budget
    assert (budget.unit, budget.amount, budget.ratio_of) == ("params", str(params), "model")


@pytest.mark.parametrize("nbytes", [5_000_000, "4.5MB", "4MiB"])
def test_all_weights_together_have_so_many_bytes(nbytes: int | str) -> None:
    goal = Goal(nbytes=nbytes)
    made = planned(goal)
    held = sum(p.numel() * p.element_size() for p in rewritten(made).parameters())
    assert 0.99 * goal.count < held <= goal.count


def test_more_than_there_is_keeps_everything_dense() -> None:
    plan = plan_of(Goal(params="1G"))
    assert plan.ranks == {}
    assert plan.budget.limit_params == plan.budget.targeted_params


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal(params=1000), "1000 parameters of the model asks to remove .* more than the"),
        (Goal(nbytes="1kB"), "1kB of weights of the model asks to remove"),
        (Goal(params=200_000), "The smallest reachable is .* parameters, a ratio of"),
        (Goal(ratio="0.9", of="model"), "ratio 0.9 of the model weights"),
    ],
)
def test_less_than_can_be_is_refused_with_what_can_be(goal: Goal, message: str) -> None:
    with pytest.raises(InfeasibleBudget, match=message):
        plan_of(goal)


def test_the_smallest_that_is_named_can_be_reached() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        plan_of(Goal(params=200_000))
    smallest = str(caught.value).split("smallest reachable is ")[1].split(" ")[0]
    assert plan_of(Goal(params=smallest.replace(",", ""))).ranks


# -- which sizes ---------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    st.sampled_from([None, *CONTRACTS]),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 4, 8, 16]),
    st.integers(100, 500),
)
def test_every_part_of_every_pair_is_legal_and_the_budget_kept(
    quant: Quant | None, tp: int, align: int | None, thousandths: int
) -> None:
    try:
        made = planned(f"0.{thousandths}", quant=quant, tp=tp, align=align)
    except InfeasibleBudget:
        return
    plan, gm = made.plan, rewritten(made)
    for columns, rank, rows in pairs(made, gm).values():
        assert rank % tp == rank // tp % (align or 8) == 0
        if quant is not None:
            k, n = CONTRACTS[quant].k, CONTRACTS[quant].n
            assert columns % k == rank // tp % n == rank // tp % k == rows % n == 0
    kept = sum(
        gm.get_parameter(f"{choice.group}{side}.weight").numel()
        for choice in plan.choices
        for side in ([""] if choice.rank is None else [".down", ".up"])
    )
    assert kept <= (1000 - thousandths) * plan.budget.targeted_params // 1000
    assert plan.provenance.align % tp == 0


def test_a_weight_that_the_format_cannot_store_stays_dense_and_says_why() -> None:
    plan = plan_of("0.1", quant="int4-g128")
    reasons = {c.group.split(".")[-1]: c.reason for c in plan.choices if c.reason}
    assert reasons["down_proj"] == "int4-g128 cannot store it: K=704 %128==64"
    assert plan.ranks and not any("down_proj" in module for module in plan.ranks)


def test_bounds_hold_for_the_ranks_they_match() -> None:
    made = planned(bounds=(("*.up_proj", 64, 96), ("model.layers.0.*", 1, 127)))
    found = pairs(made, rewritten(made))
    for layer in (0, 1):
        assert 64 <= found[f"model.layers.{layer}.mlp.up_proj"][1] <= 96
    assert sum(module.startswith("model.layers.0.") for module in found) == 7


def test_bounds_that_leave_nothing_name_the_weight() -> None:
    with pytest.raises(PassError, match="up_proj: no candidate is left: no rank from 8 to 184"):
        plan_of(bounds=(("*.up_proj", 3, 7),))


@pytest.mark.parametrize("solver", ["core", "dp", "ilp"])
def test_uniform_gives_all_layers_of_a_kind_one_size(solver: Solver) -> None:
    plan = plan_of(uniform=True, solver=solver)
    sizes: dict[str, set[int | None]] = {}
    for choice in plan.choices:
        sizes.setdefault(choice.group.split(".", 3)[3], set()).add(choice.rank)
    assert len(sizes) == 7 and all(len(found) == 1 for found in sizes.values())
    assert plan.rules == 7
    free = plan_of(solver=solver)
    assert free.loss_nats <= plan.loss_nats + 1e-12


def test_a_window_offers_few_ranks_near_the_wanted_one() -> None:
    made = planned(candidates="window", window=4, value="paper", solver="dp")
    assert made.plan.proof is not None
    assert made.plan.proof.candidates <= 4 * 14
    for choice in made.plan.choices:
        assert choice.rank is not None and choice.wanted is not None
        assert abs(choice.rank - choice.wanted) <= 4 * 8


# -- who chooses, and what it is worth -----------------------------------------------------------


def test_exact_solvers_find_equally_good_plans() -> None:
    plans = {name: plan_of(align=16, solver=name) for name in ("core", "dp", "ilp")}
    for name, plan in plans.items():
        assert plan.proof is not None and plan.provenance.search.solver == name
        assert (plan.proof.solver, plan.proof.status) == (name, "optimal")
        assert plan.loss_nats == pytest.approx(plans["core"].loss_nats, rel=1e-6)


@pytest.mark.parametrize("solver", ["greedy", "round"])
def test_rules_of_thumb_are_within_the_gap_that_they_state(solver: Solver) -> None:
    plan, best = plan_of(solver=solver), plan_of()
    assert plan.proof is not None and plan.proof.status == "bounded"
    assert 0 < plan.loss_nats - best.loss_nats <= plan.proof.gap


def test_the_paper_is_equation_4_in_a_window_by_its_dynamic_program() -> None:
    made = study().plan("0.3", profile=PROFILE, search=Search.paper())
    plan = made.plan
    assert plan.provenance.value_model == "paper:activation"
    assert plan.proof is not None
    assert (plan.proof.solver, plan.proof.status) == ("dp", "optimal")
    # Equal shapes, so the more important of two weights never gets the smaller rank.
    moments = study().full.statistics.moments
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        two = [f"model.layers.{layer}.{name}" for layer in (0, 1)]
        low, high = sorted(two, key=lambda m: float(moments[m].input_square_mean.mean()))
        assert plan.ranks[low] <= plan.ranks[high]
    verify(study(), made, PROFILE, Workload(seq=64))


def test_trials_of_value_models_are_made_with_the_same_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[Plan] = []

    def losses(_study: Study, made: Planned, _text: object) -> Tensor:
        tried.append(made.plan)
        return torch.tensor([float(len(tried))])

    monkeypatch.setattr(Study, "token_losses", losses)
    search = Search(bounds=(Bound("*.up_proj", 64, 96),), solver="greedy")
    plan = study().plan("0.3", profile=PROFILE, search=search).plan
    assert [trial.value_model for trial in plan.provenance.trials if trial.chosen] == ["two-sided"]
    assert [made.provenance.value_model for made in tried] == list(TRIED)
    for made in (*tried, plan):
        assert made.provenance.search == search
        assert made.proof is not None and made.proof.solver == "greedy"
        assert all(64 <= rank <= 96 for m, rank in made.ranks.items() if "up_proj" in m)


# -- a second budget -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["core", "ilp"])
def test_a_latency_share_is_kept_and_costs_loss(solver: Solver) -> None:
    free = plan_of(limits=("limit-latency{share=9 batch=8 seq=512}",))
    step = "limit-latency{share=0.7 batch=8 seq=512}"
    plan = plan_of(limits=(step,), solver=solver)
    assert free.limits[0].spent > plan.limits[0].most  # or the limit would change nothing
    (kept,) = plan.limits
    assert kept.dense is not None
    assert kept.spent <= kept.most == kept.dense * 7 // 10
    assert kept.source == "rule-based, prefill, 8 x 512 tokens, h200"
    assert plan.loss_nats > free.loss_nats
    assert plan.provenance.search.limits == (step,)


def test_an_infeasible_share_names_the_smallest_that_can_be_kept() -> None:
    with pytest.raises(InfeasibleBudget, match="smallest reachable share is") as caught:
        plan_of(limits=("limit-latency{share=0.5}",))
    found = re.search(r"share is (\d\.\d{4})", str(caught.value))
    assert found is not None
    share = found[1]
    kept = plan_of(limits=(f"limit-latency{{share={share}}}",)).limits[0]
    assert kept.spent <= kept.most
    with pytest.raises(InfeasibleBudget, match="smallest reachable share is"):
        plan_of(limits=(f"limit-latency{{share={float(share) - 0.0002:.4f}}}",))


def test_what_a_plan_keeps_survives_its_file() -> None:
    plan = plan_of(limits=("limit-latency{share=1.9}",), uniform=True, tp=2)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.limits and again.rules == 7 and again.provenance.search.tp == 2


def test_a_verified_plan_passes_the_checks_of_the_rewritten_graph() -> None:
    made = planned(tp=2, quant="fp8", limits=("limit-latency{share=1.9}",))
    seen = verify(study(), made, PROFILE, Workload(seq=64))
    assert sum(row.name.endswith(".down") for row in seen.rows) == len(made.plan.ranks) > 0


# -- the other doors -----------------------------------------------------------------------------


def test_compress_takes_a_goal_and_a_search() -> None:
    made = gacfx.compress(
        tiny.llama(),
        tiny.tokenizer(),
        calibration=tiny.texts(),
        goal=Goal(params=90_000),
        search=Search(value="fisher", tp=2, align=4),
    )
    assert sum(p.numel() for p in made.model.parameters()) <= 90_000
    assert made.planned.plan.ranks
    assert all(rank % 8 == 0 for rank in made.planned.plan.ranks.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("dense"), hidden=256, width=704))


@pytest.mark.parametrize(
    "search",
    [
        Search(),
        Search.paper(),
        Search(tp=2, quant="fp8"),
        Search(uniform=True),
        Search(solver="greedy"),
        Search(solver="round", candidates="window"),
        Search(bounds=(Bound("*.q_proj", 8, 64),)),
        Search(limits=("limit-latency{share=1.5}",)),
    ],
    ids=str,
)
def test_made_up_curves_go_every_way(search: Search, folder: str) -> None:
    plan = plan_synthetic(folder, goal="0.3", search=search)
    assert plan.kept_params <= plan.budget.limit_params
    assert plan.ranks and plan.proof is not None
    assert plan.provenance.search == search
    assert all(rank % plan.provenance.align == 0 for rank in plan.ranks.values())


def test_made_up_curves_have_no_value_models(folder: str) -> None:
    with pytest.raises(PlanError, match="no value model 'fisher'; auto or paper"):
        plan_synthetic(folder, search=Search(value="fisher"))


def test_every_refusal_is_an_error_of_gacfx() -> None:
    for wrong in ({"tp": 0}, {"quant": "fp6"}, {"bounds": (("*", 9, 8),)}):
        with pytest.raises(GacError):
            plan_of(**wrong)
