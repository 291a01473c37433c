"""Promised against measured: a result that would predict text too badly is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx import api
from gacfx.cli import main
from gacfx.core.plan import Plan
from gacfx.core.provenance import Trial
from gacfx.core.rise import MAX_LOSS_NATS, Rise, check_rise, rise_of, rise_text, worst_text
from gacfx.core.search import Search
from gacfx.errors import PoorQuality, UnsupportedModel
from tests import tiny
from tests.few import few

TOLD: dict[str, Any] = {"calibration": tiny.texts(), "ratio": "0.3"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return api.plan(tiny.llama(), tiny.tokenizer(), **TOLD).plan


def tried(plan: Plan, nats: float | None, promised: float | None) -> Plan:
    """The plan, as if its chosen trial had measured and promised that."""
    trial = Trial("fisher", nats, True, promised)
    return replace(
        plan, provenance=replace(plan.provenance, trials=(trial,), dense_nats_per_token=3.0)
    )


def rise(plan: Plan) -> Rise:
    found = rise_of(plan)
    assert found is not None
    return found


def test_the_rise_is_that_of_the_chosen_trial(plan: Plan) -> None:
    chosen = next(t for t in plan.provenance.trials if t.chosen)
    found = rise(plan)
    assert chosen.nats_per_token is not None and plan.provenance.dense_nats_per_token is not None
    assert found.measured == chosen.nats_per_token - plan.provenance.dense_nats_per_token
    assert found.promised == chosen.promised_nats


def test_trials_in_nats_promise_and_others_do_not(plan: Plan) -> None:
    promised = {t.value_model: t.promised_nats for t in plan.provenance.trials}
    assert promised["relative"] is None
    assert all(promised[name] is not None for name in ("two-sided", "fisher"))


@pytest.mark.parametrize(
    ("nats", "promised", "doubtful"),
    [(3.05, 0.04, False), (3.09, 0.04, True), (3.009, 0.001, False), (None, 0.04, True),
     (3.5, None, False),
     # The line is twice the promise, and a rise of 0.01 counts.
     (3.0799, 0.04, False), (3.0801, 0.04, True), (3.0099, 0.001, False), (3.0101, 0.001, True)],
)  # fmt: skip
def test_a_rise_above_twice_the_promise_is_doubtful(
    plan: Plan, nats: float | None, promised: float | None, doubtful: bool
) -> None:
    found = rise(tried(plan, nats, promised))
    assert found.doubtful is doubtful
    assert ("; costliest: model.layers." in rise_text(found)) is doubtful


def test_the_worst_weights_are_named_worst_first(plan: Plan) -> None:
    losses = [choice.loss_nats for choice in rise(plan).worst]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == max(choice.loss_nats for choice in plan.choices)
    said = worst_text(rise(plan))
    assert len(losses) == 3 and said.count(" -> ") == 3
    assert all(f" -> {choice.decision} (" in said for choice in rise(plan).worst)


def test_a_weight_that_costs_nothing_is_no_bad_one(plan: Plan) -> None:
    free = replace(plan, choices=tuple(replace(c, loss_nats=0.0) for c in plan.choices))
    assert rise(free).worst == ()
    assert "costliest: no single weight" in rise_text(rise(tried(free, None, 0.1)))


def test_the_most_that_a_loss_may_rise_is_one_nat_and_is_allowed_itself(plan: Plan) -> None:
    assert MAX_LOSS_NATS == 1.0
    check_rise(rise(tried(plan, 4.0, 0.1)), MAX_LOSS_NATS)
    with pytest.raises(PoorQuality, match="at most 1 is allowed"):
        check_rise(rise(tried(plan, 4.0001, 0.1)), MAX_LOSS_NATS)


@pytest.mark.parametrize("nats", [3.0 + 1.001, None])
def test_too_much_loss_is_refused_by_name(plan: Plan, nats: float | None) -> None:
    found = rise(tried(plan, nats, 0.1))
    with pytest.raises(PoorQuality, match=r"would rise .*worst: model\.layers\..*--force"):
        check_rise(found, 1.0)
    if nats is not None:
        check_rise(found, 1.01)


@pytest.mark.parametrize(
    "search", few([Search(), Search(value="two-sided"), Search.paper()], Search.paper())
)
def test_compress_refuses_and_leaves_the_model_as_it_was(search: Search) -> None:
    model = tiny.llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PoorQuality, match="at most -9 is allowed"):
        api.compress(model, tiny.tokenizer(), **TOLD, search=search, max_loss=-9.0)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not hasattr(model.config, "quantization_config")
    made = api.compress(model, tiny.tokenizer(), **TOLD, search=search, max_loss=-9.0, force=True)
    assert made.summary.rise is not None and made.summary.rise.measured is not None
    assert made.summary.to_dict()["rise"]["measured"] == made.summary.rise.measured


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    return tiny.checkpoint(folder / "dense"), tiny.text_file(folder / "text.txt")


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("more", [("--out", "small"), ("--dry-run",)])
def test_the_command_ends_with_4_and_writes_no_model(
    files: tuple[Path, Path],
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    dense, text = files
    words = ("compress", dense, "--calibration", text, "--max-loss", "1e-9", *more)
    assert run(*words) == 4
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["small.work"] if "--out" in more else [])
    assert ("--resume goes on from small.work" in printed.err) == bool(left)
    assert run(*words, "--force", *(["--resume"] if left else [])) == 0
    assert not (tmp_path / "small.work").exists()
    assert "nats/token on held-back text" in capsys.readouterr().out


def test_a_dry_run_tries_a_value_model_that_is_named(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compress", files[0], "--calibration", files[1], "--dry-run", "--value", "fisher")
    assert run(*words, "--max-loss", "1e-9") == 4
    assert "the loss would rise by" in capsys.readouterr().err


def test_a_dry_run_refuses_a_model_that_would_not_come_back_as_compress_does(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(model: Any) -> None:
        raise UnsupportedModel(f"{type(model).__name__} would not come back")

    monkeypatch.setattr(api, "check_saves", refused)
    assert run("compress", files[0], "--calibration", files[1], "--dry-run") == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "LlamaForCausalLM would not come back" in printed.err


def test_a_text_that_the_model_does_not_know_ends_with_4(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    model.save_pretrained(tmp_path / "wild")
    tiny.tokenizer().save_pretrained(tmp_path / "wild")
    words = ("plan", tmp_path / "wild", "--calibration", files[1])
    capsys.readouterr()
    assert run(*words) == 4
    assert "guessing costs 5.55" in capsys.readouterr().err
    assert run(*words, "--force") == 0
