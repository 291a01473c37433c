"""RoutingStudy end to end: two kinds of text, a plan, its pools, a router, a checkpoint."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gacfx
from gacfx.calibration.text import Corpus, split
from gacfx.checkpoint.checksums import verify_checksums
from gacfx.checkpoint.save import save_checkpoint
from gacfx.core.decision import LowRank
from gacfx.core.locks import fingerprint
from gacfx.core.plan import Plan
from gacfx.core.planned import Planned
from gacfx.core.routed import Routed, own_blocks
from gacfx.errors import CalibrationError, InfeasibleBudget, PlanMismatch
from gacfx.modules.dense import dense_weight
from gacfx.modules.install import compressed_modules
from gacfx.modules.routing_hooks import attach_, means_of, pick_for, picked, pools, router_of
from gacfx.passes.rewrite.route_ranks import RouteRanks, set_pick
from gacfx.routing.bases import own_losses, prefix_losses
from gacfx.routing.planning import active_share
from gacfx.routing.prompts import Prompts, prompts_in
from gacfx.routing.study import RoutingStudy, is_static
from tests import tiny
from tests.unit.modules.routed_models import HALVES, plain_llama

SIZES = {"hidden": 32, "width": 48}
BLOCK = 4
LOST = "model.layers.1.self_attn"
"""Its output is zero, so that nothing it computes has a gradient."""


def corpus(kind: int, windows: int = 16, seed: int = 0) -> Corpus:
    draw = torch.Generator().manual_seed(10 * seed + kind)
    first, end = HALVES[kind]
    return Corpus(
        tuple(torch.randint(first, end, (36 + at % 3,), generator=draw) for at in range(windows))
    )


@cache
def model_of() -> Any:
    """Not to be changed."""
    model = plain_llama(dtype=torch.float32, **SIZES)
    with torch.no_grad():
        model.get_submodule(f"{LOST}.o_proj").weight.zero_()
    return model


@cache
def study_of() -> RoutingStudy:
    return RoutingStudy.make(model_of(), {"low": corpus(1), "high": corpus(2)})


@cache
def plan_of() -> Plan:
    return study_of().plan(removed="0.45", stored="1.0", block=BLOCK)


@cache
def planned_of() -> Planned:
    return study_of().planned(plan_of())


def routed_model() -> Any:
    model = copy.deepcopy(model_of())
    gacfx.apply_(model, planned_of())
    router = study_of().router(plan_of())
    assert router is not None
    attach_(model, router)
    return model


def prompt(kind: int, length: int = 60) -> Tensor:
    first, end = HALVES[kind]
    return torch.randint(first, end, (1, length))


def test_a_study_knows_its_kinds_on_two_parts_of_their_text() -> None:
    study = study_of()
    assert study.names == ("low", "high")
    assert [each.windows for each in (*study.fit, *study.held)] == [12, 12, 4, 4]
    for fit, held, whole, kind in zip(study.fit, study.held, study.full, (1, 2), strict=True):
        assert fit.tokens + held.tokens == whole.tokens == corpus(kind).tokens
        for module, moments in whole.moments.items():
            want = (
                fit.moments[module].projected_moment * fit.tokens
                + held.moments[module].projected_moment * held.tokens
            ) / whole.tokens
            torch.testing.assert_close(moments.projected_moment, want)
    assert study.fit_prompts is not None and [*study.prompts.by_length] == [96, 48, 24, 12]
    table = model_of().get_input_embeddings().weight.detach()
    for length, kinds in study.prompts.by_length.items():
        for kind, found_PF in enumerate(kinds, 1):
            parts = [prompts_in(each.documents, 96) for each in split(corpus(kind))]
            ids = [*parts[0], *parts[1]]
            want_PF = torch.stack([table[ids_T[:length]].mean(0) for ids_T in ids])
            torch.testing.assert_close(found_PF, want_PF)
            fit_PF = study.fit_prompts.by_length[length][kind - 1]
            assert torch.equal(fit_PF, found_PF[: len(parts[0])])


def test_windows_are_cut_into_prompts() -> None:
    draw = torch.Generator().manual_seed(3)
    lengths = {36: 1, 96: 1, 100: 1, 144: 2, 143: 1, 250: 3}
    for length, count in lengths.items():
        ids_T = torch.randint(2, 258, (length,), generator=draw)
        found = prompts_in((ids_T, ids_T), 96)
        assert len(found) == 2 * count
        for at in range(2 * count):
            assert torch.equal(found[at], ids_T[96 * (at % count) :][:96])
    assert len(prompts_in((ids_T,), 50)) == 5


def test_prompts_are_known_by_their_first_parts_as_well() -> None:
    ids = [torch.randint(2, 258, (length,)) for length in (10, 7, 3)]
    found = Prompts.of(model_of(), [ids[:2], ids[2:]], 10)
    assert [*found.by_length] == [10, 5, 2, 1] and found.whole is found.by_length[10]
    for length, (first_PF, second_PF) in found.by_length.items():
        for each_F, ids_T in zip((*first_PF, *second_PF), ids, strict=True):
            assert torch.equal(each_F, means_of(model_of(), ids_T[None, :length])[0])
    assert [*Prompts.of(model_of(), [ids], 2).by_length] == [2, 1]
    both = found.with_more(Prompts.of(model_of(), [ids[2:], ids[:1]], 10))
    for length, kinds in both.by_length.items():
        assert torch.equal(kinds[1], torch.cat([found.by_length[length][1], kinds[1][1:]]))
        assert [len(each) for each in kinds] == [3, 2]


def test_curves_are_the_losses_of_the_pools_of_the_first_part_on_the_second() -> None:
    study = study_of()
    module = "model.layers.0.mlp.up_proj"
    curve = study.curves(BLOCK)[module]
    assert study.curves(BLOCK) is study.curves(BLOCK)
    pool = study.pool(module, study.fit)
    fit, held = (
        [pool.seen(each.moments[module]) for each in part] for part in (study.fit, study.held)
    )
    for decision, loss in curve.losses.items():
        if isinstance(decision, Routed):
            rest = decision.active - decision.shared
            assert loss == own_losses(fit, held, decision.shared)[rest]
        else:
            assert decision.rank is not None
            assert loss == prefix_losses(held)[decision.rank]
    assert len(curve.losses) > 8 and (curve.rows, curve.columns) == (48, 32)


def test_the_plan_keeps_both_budgets_and_says_what_it_was_made_of() -> None:
    plan, study = plan_of(), study_of()
    total = sum(choice.dense_params for choice in plan.choices)
    assert plan.kept_params <= total
    assert active_share(plan) <= 0.55
    assert any(isinstance(each, Routed) for each in plan.decisions.values())
    assert plan.fingerprint == fingerprint(model_of())
    assert plan.digests.keys() >= plan.decisions.keys()
    said = plan.provenance
    assert (said.method, said.value_model, said.align) == ("gfwsvd", "pools:2", BLOCK)
    assert said.calibration_tokens == corpus(1).tokens + corpus(2).tokens
    assert Plan.from_json(plan.to_json()) == plan
    static = study.plan(removed="0.45", block=BLOCK, offered=is_static)
    assert all(isinstance(each, LowRank) for each in static.decisions.values())
    losses = [sum(choice.loss_nats for choice in each.choices) for each in (plan, static)]
    assert losses[0] < losses[1]
    assert study.router(static) is None
    with pytest.raises(InfeasibleBudget):
        study.plan(removed="0.98", block=BLOCK)


def test_a_weight_that_cannot_be_decomposed_stays_dense_with_the_reason() -> None:
    plan = plan_of()
    for name in ("q_proj", "k_proj", "v_proj"):
        choice = next(each for each in plan.choices if each.group == f"{LOST}.{name}")
        assert choice.decision.is_dense
        assert "it runs without gradient" in choice.reason
        assert study_of().curves(BLOCK)[choice.group].failed == choice.reason


def test_the_first_pattern_is_the_static_layer_and_the_others_are_of_their_kind() -> None:
    """On the text of each kind, its own ranks lose least."""
    plan, factors, study = plan_of(), planned_of().factors, study_of()
    assert factors.keys() == plan.decisions.keys()
    better = 0
    for module, decision in plan.decisions.items():
        if not isinstance(decision, Routed):
            continue
        assert decision.pool == 3 * decision.active - 2 * decision.shared
        weight = dense_weight(model_of().get_submodule(module)).detach().double()
        pool = study.pool(module, study.full)
        tensors = {name: each.double() for name, each in factors[module].tensors.items()}
        losses = []
        for pattern in range(3):
            blocks = own_blocks(decision, 2, pattern)
            ranks = [at * BLOCK + i for at in blocks for i in range(BLOCK)]
            product = tensors["up"][ranks].T @ tensors["down"][ranks]
            if pattern == 0:
                static = pool.up_MS[:, : decision.active] @ pool.down_SN[: decision.active]
                assert float((product - static).norm() / static.norm()) < 1e-5
            losses.append([nats(weight - product, each, module) for each in study.full])
        better += losses[1][0] <= losses[2][0] and losses[2][1] <= losses[1][1]
    assert better == sum(isinstance(each, Routed) for each in plan.decisions.values())


def nats(lost_MN: Tensor, statistics: Any, module: str) -> float:
    """Loss of a kind of text without a part of a weight."""
    study = study_of()
    pool = study.pool(module, study.full)
    # z of the lost part: what the pieces say of it.
    part_SS = torch.linalg.pinv(pool.up_MS) @ lost_MN @ torch.linalg.pinv(pool.down_SN)
    seen = pool.seen(statistics.moments[module])
    return float(((part_SS @ seen.energy_SS @ part_SS.T) * seen.grads_SS).sum())


def test_an_applied_model_routes_and_generates_and_comes_back(tmp_path: Path) -> None:
    model = routed_model()
    ids = torch.cat([prompt(1), prompt(2)])
    asked: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 5,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    with torch.no_grad():
        want, tokens = model(ids).logits, model.generate(ids, **asked)
        router = router_of(model)
        assert router is not None and router.installed is not None
        assert router.installed.classes == (1, 2)
        with picked(model, None):
            static = model(ids).logits
        assert float((static - want).norm()) > 0
        gacfx_folder = save_checkpoint(
            model,
            None,
            tmp_path / "made",
            plan=plan_of(),
            factors=planned_of().factors,
        )
        assert verify_checksums(gacfx_folder).whole
        again, _ = gacfx.load(gacfx_folder)
        assert torch.equal(again(ids).logits, want)
        assert torch.equal(again.generate(ids, **asked), tokens)
    assert compressed_modules(again).keys() == plan_of().decisions.keys()
    read = Planned.load(gacfx_folder / "plan")
    assert read.plan == plan_of()
    for name, made in read.factors.items():
        for part, tensor in made.tensors.items():
            assert torch.equal(tensor, planned_of().factors[name].tensors[part])


def test_text_that_was_not_seen_is_known_and_another_kind_is_not() -> None:
    model = routed_model()
    for kind in (1, 2):
        found = [*corpus(kind, 40, seed=1).documents]
        picks = [pick_for(model, ids_T[None]).classes[0] for ids_T in found]
        assert picks.count(kind) > 30 and picks.count(3 - kind) == 0
    mixed = [torch.cat([prompt(1), prompt(2)], 1) for _ in range(20)]
    assert {pick_for(model, ids).classes[0] for ids in mixed} == {0}


def test_the_graph_with_a_pick_is_the_model_with_it() -> None:
    model = routed_model()
    graph = gacfx.apply(study_of().graph, planned_of())
    RouteRanks(plan=plan_of())(graph)
    ids = torch.cat([prompt(kind, 17) for kind in (1, 2, 2)])
    pick = pick_for(model, prompt(2))
    assert pick.classes == (2,)
    set_pick(graph, {name: rows[0] for name, rows in pick.blocks.items()}, plan_of())
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        found = graph(*(ids if name == "input_ids" else torch.ones_like(ids) for name in names))
        with picked(model, pick):
            want = model(ids, use_cache=False).logits
    found = found if isinstance(found, Tensor) else found[0]
    assert float((found - want).norm() / want.norm()) < 1e-4


def test_another_method_makes_another_plan_of_the_same_text() -> None:
    study = study_of()
    texts = (study.names, study.fit, study.held, study.prompts)
    other = RoutingStudy(study.model, study.graph, "svd", *texts)
    module = "model.layers.0.mlp.up_proj"
    losses = [each.curves(BLOCK)[module].losses[LowRank(8)] for each in (study, other)]
    assert losses[0] != losses[1]
    plan = other.plan(removed="0.45", stored="1.0", block=BLOCK)
    model = copy.deepcopy(model_of())
    gacfx.apply_(model, other.planned(plan))
    assert pools(model).keys() == {
        name for name, each in plan.decisions.items() if isinstance(each, Routed)
    }


def test_half_precision_gets_factors_of_its_own_type() -> None:
    model = plain_llama(dtype=torch.bfloat16, **SIZES)
    texts = {"low": corpus(1, 8), "high": corpus(2, 8)}
    study = RoutingStudy.make(model, texts, skip=("*self_attn*",))
    plan = study.plan(removed="0.45", stored="1.0", block=BLOCK)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in plan.weights} == {"mlp"}
    gacfx.apply_(model, study.planned(plan))
    router = study.router(plan)
    assert router is not None
    attach_(model, router)
    with torch.no_grad():
        assert model(prompt(1)).logits.dtype == torch.bfloat16
    assert {each.down.dtype for each in pools(model).values()} == {torch.bfloat16}


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(PlanMismatch):
        gacfx.apply_(tiny.llama(**SIZES, seed=5), planned_of())


def test_too_little_text_is_refused() -> None:
    with pytest.raises(CalibrationError, match="1 window .* cannot be split"):
        RoutingStudy.make(model_of(), {"low": corpus(1), "high": corpus(2, 1)})
    assert bool(means_of(model_of(), prompt(1)).isfinite().all())
