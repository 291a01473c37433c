"""The Python door of prompt-aware ranks: what it refuses, what it tries, and what it saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError, CheckpointError, PipelineError, PlanError, ProfileError
from gacfx.errors import InfeasibleBudget as TooLittle
from gacfx.modules.install import decisions_in
from gacfx.modules.routing_hooks import pick_for, pools, router_of
from gacfx.routing.kinds import kinds_of
from gacfx.routing.own_ranks import plans_to_try
from gacfx.routing.planning import Budgets, active_share, stored_share
from gacfx.routing.study import RoutingStudy
from gacfx.routing.train import LEAST_BLOCK, save, train
from gacfx.routing.trials import Trial
from tests import tiny, two_kinds
from tests.two_kinds import PROMPT

KINDS = ("low", "num")
BLOCK = 4


def corpora(count: int = 20) -> dict[str, Corpus]:
    return {kind: two_kinds.corpus(kind, count) for kind in KINDS}


def trained(**more: Any) -> Any:
    asked = {"texts": corpora(), "block": BLOCK, "prompt_tokens": PROMPT, **more}
    return train(two_kinds.model(), **asked)


def test_the_model_picks_and_comes_back(tmp_path: Path) -> None:
    made = trained()
    router = router_of(made.model)
    assert router is not None and {*router.routed} == {*pools(made.model)}
    assert decisions_in(made.model) == {
        name: one for name, one in made.planned.plan.decisions.items() if not one.is_dense
    }
    back = AutoModelForCausalLM.from_pretrained(save(made, tmp_path / "small"))
    for at, kind in enumerate(KINDS, 1):
        ids = two_kinds.corpus(kind, 1, seed=2).documents[0][None]
        assert pick_for(back, ids).classes == pick_for(made.model, ids).classes == (at,)
        torch.testing.assert_close(back(ids).logits, made.model(ids).logits)


def test_saving_refuses_what_is_there_and_what_is_nothing(tmp_path: Path) -> None:
    made = trained()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        save(made, tmp_path / "small")
    save(made, tmp_path / "small", overwrite=True)
    with pytest.raises(CheckpointError, match=r"is not what gacfx\.routing\.train returns"):
        save(made.model, tmp_path / "other")


def test_texts_may_be_lists_or_files_or_windows(tmp_path: Path) -> None:
    lists = {kind: two_kinds.texts(kind, 8) for kind in KINDS}
    files = {
        kind: two_kinds.text_file(tmp_path / f"{kind}.txt", found) for kind, found in lists.items()
    }
    found = [
        trained(texts=texts, tokenizer=tiny.tokenizer()).report
        for texts in (lists, {**files, "num": corpora(8)["num"]})
    ]
    assert found[0] == found[1]


def test_the_same_seed_finds_the_same_kinds() -> None:
    whole = Corpus(tuple(ids for each in corpora().values() for ids in each.documents))
    model = two_kinds.model()
    first, again = (kinds_of(model, None, whole, 2, None, 5) for _ in range(2))
    assert [*first] == ["kind 1", "kind 2"]
    for name, found in first.items():
        assert found.digest == again[name].digest
    digests = {each.digest for each in corpora().values()}
    assert {each.digest for each in first.values()} == digests


def test_plans_to_try_keep_both_budgets() -> None:
    study = RoutingStudy.make(two_kinds.model(), corpora(), prompt_tokens=PROMPT)
    for stored in ("0.9", 1.25, "5/4", 2, None):
        found = plans_to_try(study, Budgets("0.4", stored, BLOCK, BLOCK))
        assert {"static", "planned pools"} <= {*found}
        for plan in found.values():
            assert active_share(plan) <= 0.6
            most = {"0.9": 0.9, 2: 2.0, None: 9.0}.get(stored, 1.25)
            assert stored_share(plan) <= most
            assert plan.kept_params <= plan.budget.limit_params
        assert ("own ranks" in found) == (stored in (2, None))
        assert stored_share(found["static"]) == active_share(found["static"])


def test_everything_may_be_stored_whichever_plan_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(_: Any, candidates: Any, *__: Any) -> list[Trial]:
        names = sorted((each.name for each in candidates), key=lambda each: each != "own ranks")
        return [Trial(name, 0.0) for name in names]

    monkeypatch.setattr("gacfx.routing.own_ranks.judged", fixed)
    made = trained(stored=None, removed="0.5")
    assert made.report["routing"]["plan"] == "own ranks"
    assert {one.decision.shared for one in pools(made.model).values()} == {0}


def test_where_picking_does_not_pay_the_model_is_static(tmp_path: Path) -> None:
    made = trained(texts={name: two_kinds.corpus("low") for name in ("one", "other")})
    report = made.report["routing"]
    assert report["plan"] == "static" and report["decisions"].get("routed", 0) == 0
    assert report["trials"]["static"] == min(report["trials"].values())
    assert report["stored_share"] == report["active_share"] <= 0.6
    assert router_of(made.model) is None and not pools(made.model)
    back = AutoModelForCausalLM.from_pretrained(save(made, tmp_path / "small"))
    assert router_of(back) is None and decisions_in(back) == decisions_in(made.model)


def test_the_block_is_one_that_the_gpu_likes() -> None:
    made = train(
        two_kinds.model(hidden=64, width=96), texts=corpora(), prompt_tokens=PROMPT, stored=None
    )
    block = made.report["routing"]["block"]
    assert block % LEAST_BLOCK == 0
    ranks = [one.rank for one in made.planned.plan.decisions.values() if not one.is_dense]
    assert ranks and all(rank % block == 0 for rank in ranks)


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"texts": {"low": two_kinds.corpus("low")}}, CalibrationError, "one kind of text leaves"),
        ({"texts": {}}, CalibrationError, "one kind of text leaves nothing to route"),
        ({"clusters": 2}, CalibrationError, "clusters are found in one text"),
        ({"texts": two_kinds.corpus("low")}, CalibrationError, "clusters None: say how many"),
        (
            {"texts": two_kinds.corpus("low"), "clusters": 1},
            CalibrationError,
            "clusters 1: say how many kinds",
        ),
        (
            {"texts": two_kinds.corpus("low"), "clusters": 6},
            CalibrationError,
            "clusters 6: the text has 20 windows, and a kind needs 4",
        ),
        ({"texts": {"low": ["a"], "num": ["b"]}}, CalibrationError, "needs the model's tokenizer"),
        ({"calibration_tokens": 500}, CalibrationError, "a Corpus has its tokens already"),
        ({"prompt_tokens": 0}, PlanError, "prompt_tokens 0: a whole number, at least 1"),
        ({"prompt_tokens": 95}, CalibrationError, "low: plans are judged behind the 95 tokens"),
        ({"block": 0}, PlanError, "block 0: a whole number, at least 1"),
        ({"block": -4}, PlanError, "block -4: a whole number, at least 1"),
        ({"removed": 1.0}, PlanError, "must be below 1"),
        ({"removed": "much"}, PlanError, "ratio 'much': not a number"),
        ({"removed": 0.99}, TooLittle, "limit 'active parameters'"),
        ({"stored": 0.0}, PlanError, "stored 0.0: a share of the targeted weights"),
        ({"stored": "much"}, PlanError, "stored 'much': not a number such as 1.25"),
        ({"stored": 0.01}, TooLittle, "too few"),
        ({"skip": "*.q_proj"}, PlanError, "give a tuple of patterns"),
        ({"seed": 0.5}, PlanError, "seed 0.5: give a whole number"),
        ({"method": "qr"}, PipelineError, "no method 'qr'"),
        ({"method": "llm-pruner"}, PlanError, "method llm-pruner only prunes"),
        ({"gpu": "abacus"}, ProfileError, "no profile 'abacus'"),
    ],
    ids=lambda found: ", ".join(found) if isinstance(found, dict) else "",
)
def test_bad_input_leaves_the_model_as_it_was(
    more: dict[str, Any], error: type[Exception], says: str
) -> None:
    model = two_kinds.model()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    asked = {"texts": corpora(), "block": BLOCK, "prompt_tokens": PROMPT, **more}
    with pytest.raises(error, match=says):
        train(model, **asked)
    assert router_of(model) is None and not decisions_in(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())


def test_a_model_is_trained_once() -> None:
    made = trained()
    with pytest.raises(Exception, match="compressed by gacfx already"):
        train(made.model, texts=corpora(), block=BLOCK, prompt_tokens=PROMPT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_too_short_is_named(kind: str) -> None:
    texts = {each: two_kinds.texts(each, 8) for each in KINDS}
    for short in (["too short"], texts[kind][:1]):
        with pytest.raises(CalibrationError) as caught:
            trained(texts={**texts, kind: short}, tokenizer=tiny.tokenizer())
        assert caught.value.__notes__ == [f"this is the text of {kind}"]
