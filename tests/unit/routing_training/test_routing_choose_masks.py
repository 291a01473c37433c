"""Picks inside one basis as they are served: what is trained, kept, stored and picked."""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from gacfx.calibration.text import Corpus, split
from gacfx.core.decision import LowRank
from gacfx.core.routed import Routed
from gacfx.errors import CalibrationError, CheckpointError, InfeasibleBudget, PlanError
from gacfx.modules.install import decisions_in
from gacfx.modules.routing_hooks import means_of, pick_for, pools, router_of
from gacfx.routing.classes import fit_classes
from gacfx.routing.one_basis.choose_masks import (
    Training,
    best_first,
    choose_masks,
    masked,
    of_one_basis,
    pairs_of,
    widest,
    windows_of,
)
from gacfx.routing.one_basis.mask_training import Tried
from gacfx.routing.one_basis.masks import TrainedMasks, first_parameters
from gacfx.routing.one_basis.singular import widened
from gacfx.routing.planning import Budgets
from gacfx.routing.study import RoutingStudy, static_plan
from gacfx.routing.train import RoutedModel, save, train
from gacfx.routing.trials import Trial
from tests import two_kinds
from tests.few import few
from tests.two_kinds import PROMPT

module = import_module("gacfx.routing.one_basis.choose_masks")
KINDS = ("low", "num")
BLOCK, ALIGN = 4, 8
BUDGETS = Budgets("0.5", "1.0", BLOCK, ALIGN)


def corpora(count: int = 20) -> dict[str, Corpus]:
    return {kind: two_kinds.corpus(kind, count) for kind in KINDS}


def model() -> Any:
    return two_kinds.model(hidden=64, width=96)


def asked(**more: Any) -> dict[str, Any]:
    """By the order of svd, which knows nothing of the text, so that masks have what to gain."""
    return {
        "texts": corpora(),
        "block": BLOCK,
        "prompt_tokens": PROMPT,
        "removed": "0.5",
        "stored": "1.0",
        "method": "svd",
        "steps": 20,
        **more,
    }


@cache
def trained(picks: Any) -> RoutedModel:
    return train(model(), picks=picks, **asked())


@cache
def study() -> RoutingStudy:
    return RoutingStudy.make(model(), corpora(), prompt_tokens=PROMPT, method="svd")


def prompts(kind: str, count: int = 6) -> Tensor:
    return torch.stack([*two_kinds.corpus(kind, count, seed=5).documents])


def pooled() -> tuple[Any, Any, Any]:
    """(static plan, pools, a static mask over them that nobody would train)."""
    static = static_plan(study(), BUDGETS)
    plan = widened(static, pool=2.0, shared=0.5, block=BLOCK)
    made = study().planned(plan, make=of_one_basis)
    routed = {n: d for n, d in sorted(plan.decisions.items()) if isinstance(d, Routed)}
    energies = {name: torch.rand(each.pool) for name, each in routed.items()}
    mask = first_parameters("static", energies, routed, 0, 0, 0)
    return static, made, TrainedMasks("static", routed, mask)


@pytest.mark.parametrize(
    ("picks", "names"),
    [
        ("static", {"static", "static mask"}),
        ("domain", {"static", "static mask", "domain masks"}),
        ("linear", {"static", "static mask", "linear router"}),
    ],
)
def test_what_loses_least_is_taken(picks: str, names: set[str]) -> None:
    made = trained(picks)
    said = made.report["routing"]
    assert said["picks"] == picks and {*said["trials"]} == names
    assert said["plan"] == min(said["trials"], key=lambda name: said["trials"][name])
    assert said["active_share"] <= 0.5 and said["stored_share"] <= 1.0
    for decision in made.planned.plan.decisions.values():
        assert decision.is_dense or (decision.rank or 0) % ALIGN == 0
    routes = said["plan"] in {"domain masks", "linear router"}
    assert (router_of(made.model) is not None) == routes


def test_a_static_mask_is_a_plain_pair(tmp_path: Path) -> None:
    made = trained("static")
    kinds = {type(each) for each in made.planned.plan.decisions.values() if not each.is_dense}
    assert kinds == {LowRank} and not pools(made.model)
    back = AutoModelForCausalLM.from_pretrained(save(made, tmp_path / "small"))
    ids = prompts("low")
    assert decisions_in(back) == decisions_in(made.model)
    torch.testing.assert_close(back(ids).logits, made.model(ids).logits)


@pytest.mark.parametrize("picks", ["domain", "linear"])
def test_what_picks_comes_back_and_picks_alike(
    picks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not it was better than the static mask."""
    last = "domain masks" if picks == "domain" else "linear router"

    def fixed(_: Any, candidates: Any, *__: Any) -> Any:
        names = [each.name for each in candidates]
        return tuple(Trial(name, float(name != last)) for name in sorted(names, key=rank))

    def rank(name: str) -> bool:
        return name != last

    monkeypatch.setattr(module, "judged", fixed)
    made = train(model(), picks=picks, **asked())
    routed = {n: d for n, d in made.planned.plan.decisions.items() if isinstance(d, Routed)}
    assert routed and {d.block for d in routed.values()} == {BLOCK}
    assert all(d.shared == d.active // 2 // BLOCK * BLOCK for d in routed.values())
    back = AutoModelForCausalLM.from_pretrained(save(made, tmp_path / "small"))
    seen = []
    for kind in KINDS:
        ids = prompts(kind)
        found, want = pick_for(back, ids), pick_for(made.model, ids)
        assert found.classes == want.classes
        assert all(torch.equal(found.blocks[name], want.blocks[name]) for name in routed)
        torch.testing.assert_close(back(ids).logits, made.model(ids).logits)
        seen.append(torch.cat([want.blocks[name][0] for name in sorted(routed)]))
    if picks == "domain":
        assert [pick_for(back, prompts(kind)).classes[0] for kind in KINDS] == [1, 2]
        assert not torch.equal(*seen)


def test_pools_begin_with_what_the_static_mask_picks() -> None:
    static, made, mask = pooled()
    moved, again = best_first(made, mask)
    picked, after = mask.pick().blocks, again.pick().blocks
    others = 0
    for name, decision in mask.routed.items():
        assert after[name].tolist() == [list(range(decision.picks))]
        ranks = [at * BLOCK + i for at in picked[name][0].tolist() for i in range(BLOCK)]
        others += ranks != list(range(decision.active))
        for part in ("down", "up"):
            old, new = (each.factors[name].tensors[part] for each in (made, moved))
            assert torch.equal(new[: decision.active], old[ranks])
            assert sorted(new.flatten().tolist()) == sorted(old.flatten().tolist())
        pair = pairs_of(moved, static).factors[name]
        old = made.factors[name].tensors
        want_MN = old["up"][ranks].T @ old["down"][ranks]
        torch.testing.assert_close(pair.tensors["up"] @ pair.tensors["down"], want_MN)
        assert pair.decision == static.decisions[name] == LowRank(decision.active)
    assert others > len(mask.routed) // 2
    twice = best_first(moved, again)[0].factors
    for name, found in moved.factors.items():
        assert all(torch.equal(one, twice[name].tensors[n]) for n, one in found.tensors.items())


def test_the_linear_router_picks_as_its_masks_do() -> None:
    static = static_plan(study(), BUDGETS)
    plan = widened(static, pool=2.0, shared=0.0, block=BLOCK)
    windows = windows_of(study(), corpora(), PROMPT)
    found = [*masked(Training(study(), windows, windows, PROMPT, 12, None), plan, static, "linear")]
    assert [each.name for each in found] == ["static mask", "linear router"]
    router = found[1].router
    assert router is not None and router.shape.head == "scores"
    kinds = [router.pick(means_of(study().model, prompts(kind)[:, :PROMPT])) for kind in KINDS]
    assert any(not torch.equal(kinds[0].blocks[n], kinds[1].blocks[n]) for n in router.routed)
    nothing = router.pick(torch.full((1, router.shape.features), torch.nan))
    assert all(rows[0].tolist() == list(range(len(rows[0]))) for rows in nothing.blocks.values())


@pytest.mark.parametrize("stored", few(["0.5", "0.75", "1.0", 3, None], "0.75", None))
def test_pools_are_as_wide_as_the_budget_has_room(stored: Any) -> None:
    static = static_plan(study(), Budgets("0.5", stored, BLOCK, ALIGN))
    plan = widened(static, pool=widest(static, stored), shared=0.5, block=BLOCK)
    total, routed = static.budget.targeted_params, dict[str, tuple[int, int]]()
    for name, decision in plan.decisions.items():
        if isinstance(decision, Routed):
            routed[name] = plan.weights[name].rows, plan.weights[name].columns
    most = sum(min(sides) * sum(sides) for sides in routed.values())
    dense = sum(each.params for each in static.choices if each.decision.is_dense)
    limit = most + dense if stored in (None, 3) else float(stored) * total
    assert plan.kept_params <= limit
    assert plan.kept_params > limit - sum(BLOCK * sum(sides) for sides in routed.values())
    assert plan.active_params == static.active_params


def parts() -> tuple[dict[str, Corpus], dict[str, Corpus]]:
    """Windows to fit, and windows that are held back."""
    pairs = {name: split(each) for name, each in corpora().items()}
    fit, held = ({name: pair[at] for name, pair in pairs.items()} for at in range(2))
    return fit, held


class Spy:
    """Stands in for trials and trainings, and keeps what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, best: str = "") -> None:
        self.best, self.candidates = best, dict[str, Any]()
        self.held: Any = None
        self.windows, self.starts, self.masks = list[Any](), list[Any](), list[Any]()
        monkeypatch.setattr(module, "judged", self.judged)
        monkeypatch.setattr(module, "best_learning_rate", self.trained)

    def judged(self, _: Any, candidates: Any, held: Any, *__: Any) -> tuple[Trial, ...]:
        self.held, self.candidates = held, {each.name: each for each in candidates}
        best = self.best or [*self.candidates][-1]
        names = sorted(self.candidates, key=lambda name: name != best)
        return tuple(Trial(name, float(at)) for at, name in enumerate(names))

    def trained(
        self,
        model: Any,
        windows: Any,
        prompt_tokens: int,
        dense: Any,
        features: Any,
        settings: Any,
        *,
        start: Any,
        **_: Any,
    ) -> Tried:
        routed = {n: d for n, d in sorted(decisions_in(model).items()) if isinstance(d, Routed)}
        energies = {name: torch.rand(each.pool) for name, each in routed.items()}
        count = 0 if features[0] is None else features[0].shape[1]
        made = first_parameters(settings.kind, energies, routed, count, 0, 0)
        made = {name: torch.randn_like(each) for name, each in made.items()}
        self.windows.append(windows)
        self.starts.append(start)
        self.masks.append(TrainedMasks(settings.kind, routed, made))
        return Tried(self.masks[-1], {})


@pytest.mark.parametrize("kind", ["static", "domain", "linear"])
def test_what_is_tried_knows_nothing_of_the_held_back_text(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, (fit, held) = Spy(monkeypatch), parts()
    made = RoutingStudy.make(model(), corpora(), prompt_tokens=PROMPT)  # by a method that looks
    choose_masks(made, fit, held, BUDGETS, PROMPT, kind=kind)
    assert spy.held is held
    given = spy.candidates["static"].planned
    want, other = (made.planned(given.plan, part) for part in (made.fit, made.full))
    for name, factors in want.factors.items():
        found = given.factors[name].tensors
        assert all(torch.equal(found[part], each) for part, each in factors.tensors.items())
        assert not torch.equal(found["up"], other.factors[name].tensors["up"])
    for fit_PT, held_PT in spy.windows:
        assert torch.equal(fit_PT, windows_of(study(), fit, PROMPT).ids_PT)
        assert torch.equal(held_PT, windows_of(study(), held, PROMPT).ids_PT)
    if kind == "domain":
        router = spy.candidates["domain masks"].router
        limits = fit_classes(study().known_prompts(fit_only=True)).limits
        assert not torch.equal(limits, fit_classes(study().prompts).limits)
        torch.testing.assert_close(router.floats("limits"), limits)


@pytest.mark.parametrize("kind", ["domain", "linear"])
def test_others_start_from_the_static_mask_and_are_served_as_they_were_trained(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    found = choose_masks(study(), *parts(), BUDGETS, PROMPT, kind=kind).candidate
    first, start = spy.starts
    assert first is None and start.kind == "static"
    for name, blocks in start.pick().blocks.items():
        assert blocks.tolist() == [list(range(start.routed[name].picks))]
    assert found.router is not None
    if kind == "linear":
        assert found.router is spy.candidates["linear router"].router
        return
    want, rows = spy.masks[-1].pick(torch.eye(2)).blocks, found.router.patterns().blocks
    for name, each in want.items():
        assert torch.equal(rows[name][1:], each)
        assert rows[name][0].tolist() == list(range(len(rows[name][0])))
    assert not all(torch.equal(*each) for each in want.values())
    # The trial knew a part of the prompts, and what is served knows all of them.
    limits = fit_classes(study().prompts).limits
    torch.testing.assert_close(found.router.floats("limits"), limits)


def test_what_may_be_stored_is_what_is_stored_where_there_is_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Spy(monkeypatch)
    budgets = Budgets("0.5", None, BLOCK, ALIGN)
    plan = choose_masks(study(), *parts(), budgets, PROMPT, kind="linear").candidate.planned.plan
    assert plan.kept_params == plan.budget.limit_params > plan.active_params
    assert plan.proof is None and plan.provenance.align == BLOCK


def test_static_pairs_are_served_with_all_text(monkeypatch: pytest.MonkeyPatch) -> None:
    Spy(monkeypatch, best="static")
    found = choose_masks(study(), *parts(), BUDGETS, PROMPT, kind="static").candidate
    want = study().planned(found.planned.plan).factors
    for name, each in found.planned.factors.items():
        assert all(torch.equal(each.tensors[part], t) for part, t in want[name].tensors.items())


def test_where_there_is_no_room_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "best_learning_rate", lambda *_, **__: pytest.fail("trained"))
    said = train(model(), picks="linear", **asked(stored="0.5")).report["routing"]
    assert {*said["trials"]} == {"static"} and said["plan"] == "static"


def test_windows_are_prompts_and_as_much_behind_them() -> None:
    parts = corpora(3) | {"num": two_kinds.corpus("num", 5, size=70)}
    found = windows_of(study(), parts, PROMPT)
    assert found.ids_PT.shape == (8, 2 * PROMPT)
    assert found.kinds_PC.tolist() == [[1, 0]] * 3 + [[0, 1]] * 5
    assert torch.equal(found.ids_PT[0], parts["low"].documents[0][: 2 * PROMPT])
    means_PF = means_of(study().model, found.ids_PT[:, :PROMPT])
    torch.testing.assert_close(found.means_PF, means_PF)
    assert windows_of(study(), parts, 40).ids_PT.shape[1] == 71  # as much as all kinds have
    assert windows_of(study(), parts, 10).ids_PT.shape == (3 * 4 + 5 * 3, 20)


def test_one_text_needs_no_kinds() -> None:
    said = train(model(), picks="linear", **asked(texts=two_kinds.corpus("low"), block=1, steps=4))
    assert said.report["routing"]["kinds"] == ["text"]
    assert said.report["routing"]["plan"] in {"static", "static mask", "linear router"}
    one = train(model(), picks="static", **asked(texts={"low": two_kinds.corpus("low")}, steps=4))
    assert one.report["routing"]["kinds"] == ["low"]


def test_everything_may_be_stored() -> None:
    made = train(model(), picks="linear", **asked(stored=None, steps=4))
    plan = made.planned.plan
    assert plan.kept_params <= plan.budget.limit_params
    if any(isinstance(each, Routed) for each in plan.decisions.values()):
        assert plan.kept_params == plan.budget.limit_params and plan.proof is None


def test_a_training_goes_on_from_its_folder(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def run(**more: Any) -> dict[str, Any]:
        seen.append([])
        made = train(
            two_kinds.model(hidden=64, width=96, layers=2),
            picks="linear",
            work=tmp_path / "work",
            progress=lambda what, *_: seen[-1].append(what),
            **asked(steps=6, **more),
        )
        return dict(made.report["routing"])

    first, again = run(), run()
    assert first == again
    assert seen[0].count("train masks") == 12 and "train masks" not in seen[1]
    states = sorted((tmp_path / "work").rglob("masks-1.safetensors"))
    assert len(states) == 2
    run(removed="0.4")  # another plan has trainings of its own
    assert seen[2].count("train masks") == 12
    states[0].write_bytes(b"harmed")
    with pytest.raises(CheckpointError, match="remove it to begin anew"):
        run()


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"picks": "oracle"}, PlanError, "picks 'oracle': one of own, static, domain, linear"),
        ({"picks": "linear", "steps": 2.5}, PlanError, "steps 2.5: a whole number"),
        (
            {"picks": "domain", "texts": {**corpora(), "num": two_kinds.corpus("num", 2)}},
            CalibrationError,
            "num: 3 prompts of 32 tokens to learn from, and 4 are needed",
        ),
        ({"picks": "linear", "steps": 0}, PlanError, "steps 0: a whole number, at least 1"),
        ({"picks": "domain", "texts": two_kinds.corpus("low")}, CalibrationError, "clusters None"),
        (
            {"picks": "domain", "texts": {"low": two_kinds.corpus("low")}},
            CalibrationError,
            "one kind of text leaves nothing to route",
        ),
        ({"picks": "static", "texts": {}}, CalibrationError, "one kind of text leaves nothing"),
        ({"picks": "linear", "removed": 0.99}, InfeasibleBudget, "limit 'active parameters'"),
        (
            {"picks": "static", "texts": two_kinds.corpus("low"), "clusters": 1},
            CalibrationError,
            "say how",
        ),
    ],
)
def test_bad_input(more: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        train(model(), **asked(**more))
