"""LLM-Pruner through the doors: its own widths, the paper's knapsack around them, and ours."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gacfx
from gacfx.api import Compressed, apply, load_profile
from gacfx.calibration.text import Corpus
from gacfx.compressors.methods import METHODS
from gacfx.compressors.pruning.llm_pruner import LlmPruner
from gacfx.compressors.pruning.pruner import SCORES
from gacfx.core.curve_file import load_curves, save_curves
from gacfx.core.plan import Choice, Plan
from gacfx.core.planned import Planned
from gacfx.core.pruning import Heads, Width
from gacfx.core.search import Bound, Search
from gacfx.errors import GacError, InfeasibleBudget, PipelineError, PlanError
from gacfx.modules.dense import dense_weight
from gacfx.replan import plan_from_curves, problem_again
from gacfx.study import Study
from tests.few import few

PROFILE = load_profile("h200")
LAYERS, WIDTH, GROUPS, SHARE, SIZE = 5, 100, 4, 2, 8
RATIO = "0.15"
PLANTED = tuple(range(WIDTH - 6, WIDTH))
"""Channels of the last MLP with large weights."""
HEAD = 5
"""Query head of the last attention with large weights; Hugging Face gives it to group 2."""
MLP, ATTENTION = "model.layers.4.mlp", "model.layers.4.self_attn"
PAPER = Search.paper("only")


@cache
def study() -> Study:
    """A Qwen3 with norms inside its heads."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=80,
        hidden_size=48,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=GROUPS * SHARE,
        num_key_value_heads=GROUPS,
        head_dim=SIZE,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.get_submodule(f"{MLP}.down_proj").weight[:, PLANTED[0] :] *= 20
        rows = slice(HEAD * SIZE, (HEAD + 1) * SIZE)
        model.get_submodule(f"{ATTENTION}.o_proj").weight[:, rows] *= 20
    random = torch.Generator().manual_seed(0)
    text = Corpus(tuple(torch.randint(0, 80, (32,), generator=random) for _ in range(8)))
    return Study.make(model, text, method="llm-pruner", seq=32, force=True)


@pytest.fixture
def variant() -> Iterator[Any]:
    """A study under LLM-Pruner with other options."""
    made = list[str]()

    def make(**options: Any) -> Study:
        made.append(f"variant-{len(made)}")
        METHODS.register(LlmPruner(made[-1], **options))
        return study().with_method(made[-1])

    yield make
    for name in made:
        METHODS.forget(name)


def own(of: Study | None = None, ratio: str = RATIO) -> Planned:
    return (of or study()).upstream(ratio, profile=PROFILE)


def choice(plan: Plan, group: str) -> Choice:
    return next(each for each in plan.choices if each.group == group)


def kept(plan: Plan, group: str) -> tuple[int, ...]:
    decision = choice(plan, group).decision
    return decision.kept if isinstance(decision, Width) else decision.groups  # type: ignore[attr-defined]


def weight(module: str) -> Tensor:
    return dense_weight(study().model.get_submodule(module)).detach()


# -- its own widths -------------------------------------------------------------------------------


def test_first_layers_stay_and_the_budget_is_met() -> None:
    plan = own().plan
    pruned = {each.group for each in plan.choices if not each.decision.is_dense}
    assert pruned == {f"model.layers.{i}.{leaf}" for i in (3, 4) for leaf in ("mlp", "self_attn")}
    assert plan.kept_params <= plan.budget.limit_params
    assert plan.budget.limit_params - plan.kept_params < 3 * 48  # less than one channel
    assert plan.provenance.value_model == "paper:taylor-first"
    assert plan.provenance.method == "llm-pruner"


def test_every_structure_loses_the_same_share_and_no_size_is_aligned() -> None:
    plan = own().plan
    widths = [len(kept(plan, f"model.layers.{i}.mlp")) for i in (3, 4)]
    assert abs(widths[0] - widths[1]) <= 1 and any(width % 8 for width in widths)
    heads = [len(kept(plan, f"model.layers.{i}.self_attn")) for i in (3, 4)]
    share = 1 - min(widths) / WIDTH
    assert all(int(share * GROUPS) - 1 <= GROUPS - n <= int(share * GROUPS) for n in heads)
    assert choice(plan, MLP).wanted == len(kept(plan, MLP))


@pytest.mark.parametrize(("first", "end", "layers"), [(0, None, 5), (1, 4, 3), (4, None, 1)])
def test_layers_are_an_option(variant: Any, first: int, end: int | None, layers: int) -> None:
    plan = own(variant(first=first, end=end), "0.1").plan
    pruned = {each.group.split(".")[2] for each in plan.choices if not each.decision.is_dense}
    assert pruned == {str(i) for i in range(first, first + layers)}


@pytest.mark.parametrize("score", ["taylor-first", "taylor-second", "taylor-mix", "magnitude-l2"])
@pytest.mark.parametrize("scope", few(["local", "global"], "global"))
def test_planted_channels_and_heads_survive(variant: Any, score: str, scope: str) -> None:
    made = own(variant(score=score, scope=scope), "0.25")
    assert {*PLANTED} <= {*kept(made.plan, MLP)}
    assert 2 in kept(made.plan, ATTENTION)
    # Group 2 is key-value head 2 with query heads 4 and 5, never 2 and 6.
    order = made.factors[f"{ATTENTION}.q_proj"].order
    assert order is not None
    assert {*range(4 * SIZE, 6 * SIZE)} <= {*order.tolist()}


def test_query_heads_go_with_their_key_value_head() -> None:
    made = own(ratio="0.25")
    decision = choice(made.plan, ATTENTION).decision
    assert isinstance(decision, Heads) and 0 < len(decision.groups) < GROUPS
    assert decision.heads == ((0, 1),) * len(decision.groups)
    for leaf, per in (("q_proj", SHARE * SIZE), ("k_proj", SIZE), ("v_proj", SIZE)):
        rows = [row for unit in decision.groups for row in range(unit * per, (unit + 1) * per)]
        factors = made.factors[f"{ATTENTION}.{leaf}"]
        assert factors.order is not None and factors.order.tolist() == rows
        assert torch.equal(factors.tensors["weight"], weight(f"{ATTENTION}.{leaf}")[rows])


def test_every_score_orders_units_in_its_own_way(variant: Any) -> None:
    orders = {}
    for score in SCORES:
        curves = variant(score=score).curves("paper", structures=True)
        assert curves.value_model == f"paper:{score}"
        orders[score] = [each.facts.order for each in curves.structures]
    for one, other in combinations(orders, 2):
        assert orders[one] != orders[other], (one, other)


def test_a_threshold_gives_other_sizes_than_a_share(variant: Any) -> None:
    plans = [own(variant(first=0, scope=scope)).plan for scope in ("local", "global")]
    for plan in plans:
        assert plan.kept_params <= plan.budget.limit_params
    found = [[len(k.kept) for c in p.choices if isinstance(k := c.decision, Width)] for p in plans]
    assert len(found[0]) == LAYERS
    assert max(found[0]) - min(found[0]) <= 1 < max(found[1]) - min(found[1])


def test_nothing_takes_over_unless_asked(variant: Any) -> None:
    plain, refitted = own(), own(variant(compensates=True))
    assert kept(plain.plan, MLP) == kept(refitted.plan, MLP)
    columns = [*kept(plain.plan, MLP)]
    down, up = f"{MLP}.down_proj", f"{MLP}.up_proj"
    assert torch.equal(plain.factors[down].tensors["weight"], weight(down)[:, columns])
    assert not torch.allclose(refitted.factors[down].tensors["weight"], weight(down)[:, columns])
    assert torch.equal(refitted.factors[up].tensors["weight"], weight(up)[columns])


def test_too_much_for_its_layers_is_told() -> None:
    with pytest.raises(InfeasibleBudget, match="let it prune more layers"):
        own(ratio="0.5")


def test_nothing_to_remove_changes_nothing() -> None:
    assert not own(ratio="0").plan.decisions


# -- chosen again ---------------------------------------------------------------------------------


def test_the_paper_takes_aligned_sizes_in_a_window_around_its_own() -> None:
    own_plan = own().plan
    made = study().plan(RATIO, profile=PROFILE, search=replace(PAPER, align=8, window=4))
    plan = made.plan
    assert plan.proof is not None and (plan.proof.solver, plan.proof.status) == ("dp", "optimal")
    assert plan.sizes and all(size % 8 == 0 for size in plan.sizes)
    assert plan.kept_params <= plan.budget.limit_params
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.mlp"
        if layer < 3:
            assert all(each.group != name for each in plan.choices)
            continue
        at = next((c for c in plan.choices if c.group == name), None)
        size = WIDTH if at is None else len(kept(plan, name))
        assert abs(size - (choice(own_plan, name).wanted or 0)) <= 2 * 8 + 7
    # The same scores: of equal sizes the same units stay.
    curves = study().curves("paper", structures=True)
    order = next(each.facts.order for each in curves.structures if each.name == MLP)
    assert {*kept(own_plan, MLP)} == {*order[: len(kept(own_plan, MLP))]}


def test_losses_are_sums_of_the_scores_that_go() -> None:
    plan = own().plan
    curves = {each.name: each for each in study().curves("paper", structures=True).structures}
    assert choice(plan, MLP).loss_nats == curves[MLP].losses[0, len(kept(plan, MLP))]
    assert curves[ATTENTION].losses.shape == (1, GROUPS + 1)


def test_our_knapsack_counts_nats_and_refits() -> None:
    search = Search(prune="only", value="two-sided", bounds=(Bound("*", 1),))
    made = study().plan(RATIO, profile=PROFILE, search=search)
    assert made.plan.provenance.value_model == "two-sided"
    pruned = [each for each in made.plan.choices if isinstance(each.decision, Width | Heads)]
    assert pruned
    for each in pruned:
        first, closing = each.weights[0].module, each.weights[-1].module
        order = made.factors[first].order
        assert order is not None
        left = made.factors[closing].tensors["weight"]
        assert left.shape[1] == len(order)
        assert not torch.allclose(left, weight(closing)[:, order.tolist()])


def test_auto_tries_sizes_alone() -> None:
    plan = study().plan("0.1", profile=PROFILE, search=Search(prune="auto"), tried=True).plan
    assert plan.provenance.search.prune == "only"
    assert {trial.prune for trial in plan.provenance.trials} == {"only"}


def test_saved_curves_give_the_same_plans(tmp_path: Path) -> None:
    search = replace(PAPER, align=8, window=4)
    plan = study().plan(RATIO, profile=PROFILE, search=search).plan
    save_curves(tmp_path / "curves.safetensors", study().curves_of(plan))
    curves = load_curves(tmp_path / "curves.safetensors")
    again = plan_from_curves(curves, ratio=RATIO, search=search)
    assert again.choices == plan.choices
    problem, _ = problem_again(curves, plan)
    assert plan.proof is not None
    assert sum(len(group.costs) for group in problem.groups) == plan.proof.candidates


# -- on disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [False, True])
def test_it_comes_back_from_disk_with_the_planned_sizes(aligned: bool, tmp_path: Path) -> None:
    made = study().plan(RATIO, profile=PROFILE, search=PAPER) if aligned else own()
    model: Any = apply(study().model, made)
    summary: Any = type("Summary", (), {"to_dict": lambda _: {}})()
    folder = gacfx.save(Compressed(model, None, made, summary), tmp_path / "small")
    again, _ = gacfx.load(folder)
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.pt")]
    for name, part in made.plan.decisions.items():
        held = dense_weight(again.get_submodule(name))
        assert held.shape == (part.outputs, part.inputs)  # type: ignore[attr-defined]
    norms = [f"{ATTENTION}.{leaf}.weight" for leaf in ("q_norm", "k_norm")]
    for norm in norms:
        assert torch.equal(again.get_parameter(norm), study().model.get_parameter(norm))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(*(m(ids, use_cache=False).logits for m in (model, again)))


# -- what it cannot -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "search", "said"),
    [
        ("llm-pruner", Search(), "makes width, heads and no ranks; take prune 'only'"),
        ("llm-pruner", Search.paper(), "makes width, heads and no ranks"),
        ("llm-pruner", Search(prune="both"), "makes width, heads and no ranks"),
        ("gfwsvd", PAPER, "'gfwsvd' has no widths of its own"),
        ("gfwsvd", Search(prune="only", value="paper"), "'paper' says nothing of what pruning"),
        ("llm-pruner", Search(prune="only", value="relative"), "'relative' says nothing of what"),
    ],
)
def test_what_a_method_cannot_make_is_one_line_before_any_work(
    method: str, search: Search, said: str
) -> None:
    with pytest.raises(PipelineError, match=said) as caught:
        gacfx.Request(method=method, search=search)
    assert "\n" not in str(caught.value)
    with pytest.raises(GacError):
        study().with_method(method).plan(RATIO, profile=PROFILE, search=search)


def test_a_window_around_widths_needs_the_scores() -> None:
    with pytest.raises(PlanError, match="take candidates 'full', or prune 'only' and value"):
        Search(prune="only", candidates="window", value="two-sided")
    with pytest.raises(PlanError, match="start from a rank"):
        Search(prune="only", solver="greedy")


def test_a_study_without_gradients_says_so() -> None:
    bare = replace(study(), full=replace(study().full, gradients={}))
    with pytest.raises(PlanError, match="did not gather"):
        bare.with_method("llm-pruner")
    assert bare.with_method("svd").method == "svd"
    with pytest.raises(PlanError, match="did not gather"):
        replace(study(), structures=()).with_method("llm-pruner")


@pytest.mark.parametrize("options", [{"score": "gold"}, {"scope": "wide"}])
def test_an_option_that_there_is_not_is_told(options: dict[str, str]) -> None:
    with pytest.raises(PipelineError, match="known: "):
        LlmPruner(**options)  # type: ignore[arg-type]


def test_gradients_of_two_texts_are_those_of_both() -> None:
    from gacfx.calibration.taylor import taylor_sums

    random = torch.Generator().manual_seed(0)  # the same text as that of the study
    whole = Corpus(tuple(torch.randint(0, 80, (32,), generator=random) for _ in range(8)))
    module = f"{MLP}.gate_proj"
    found = study().full.gradients[module]
    expected = taylor_sums(study().model, whole, [module])[module]
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found.square_mean, expected.square_mean, rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(found.input_mean, expected.input_mean, rtol=1e-6, atol=1e-8)
    assert len(found.column_sums) == 8
