"""``gacfx route`` from two text files to a folder that plain transformers loads, and its tables."""

import json
import shutil
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gacfx.cli import main
from gacfx.modules.routing_hooks import pick_for, pools, router_of
from gacfx.routing.timing import AGGREGATED, GATHERED, WHOLE
from tests import two_kinds
from tests.few import few

KINDS = ("low", "num")
BLOCK = ("--block", "4")
PROMPT = ("--prompt-tokens", str(two_kinds.PROMPT))

Printed = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    return main(["route", *(str(word) for word in words)])


def printed_json(capsys: Printed, *words: object) -> Any:
    assert run(*words, "--json") == 0
    found = capsys.readouterr()
    assert found.err == ""
    return json.loads(found.out)


def lines_of(capsys: Printed) -> list[str]:
    found = capsys.readouterr()
    assert found.err == ""
    return [line.rstrip() for line in found.out.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With texts to train on and others to judge on."""
    made = tmp_path_factory.mktemp("texts")
    for kind in KINDS:
        two_kinds.text_file(made / f"{kind}.txt", two_kinds.texts(kind))
        two_kinds.text_file(made / f"{kind}_other.txt", two_kinds.texts(kind, 12, seed=1))
    both = [text for kind in KINDS for text in two_kinds.texts(kind)]
    two_kinds.text_file(made / "both.txt", both)
    return made


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_kinds.checkpoint(tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="module")
def kinds(folder: Path) -> list[str]:
    return [word for kind in KINDS for word in ("--text", f"{kind}={folder / kind}.txt")]


@pytest.fixture(scope="module")
def others(folder: Path) -> list[str]:
    return [word for kind in KINDS for word in ("--text", f"{kind}={folder / kind}_other.txt")]


@pytest.fixture(scope="module")
def routed(dense: Path, kinds: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``gacfx route train`` writes; not to be changed."""
    out = tmp_path_factory.mktemp("models") / "routed"
    assert run("train", dense, *kinds, *BLOCK, *PROMPT, "--out", out) == 0
    return out


def test_plain_transformers_loads_it_and_prompts_pick_their_kind(routed: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(routed)
    tokenizer = AutoTokenizer.from_pretrained(routed)
    router = router_of(model)
    assert router is not None and pools(model)
    given = []
    for number, kind in enumerate(KINDS, 1):
        for text in two_kinds.texts(kind, 12, seed=1):
            ids = tokenizer(text[:60], return_tensors="pt").input_ids
            (found,) = pick_for(model, ids).classes
            assert found in (0, number)
            given.append(found)
        made = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=1)
        assert made.shape == (1, ids.shape[1] + 4)
        assert int(model(ids).logits[0, -1].argmax()) == int(made[0, ids.shape[1]])
        assert router.installed is not None
        assert router.installed.classes == pick_for(model, ids).classes
    assert sum(found > 0 for found in given) > 16


def test_the_folder_says_what_it_was_made_of(routed: Path) -> None:
    report = json.loads((routed / "gacfx_report.json").read_text())["routing"]
    assert report["kinds"] == [*KINDS]
    assert report["prompts"] == [60, 60] and report["prompt_tokens"] == two_kinds.PROMPT
    assert report["block"] == 4 and report["method"] == "gfwsvd"
    assert report["active_share"] <= 0.6 < report["stored_share"] <= 1.25
    assert report["plan"] == min(report["trials"], key=report["trials"].get) != "static"
    model = AutoModelForCausalLM.from_pretrained(routed)
    assert report["decisions"]["routed"] == len(pools(model))


@pytest.mark.parametrize(
    "words",
    [("verify", "ROUTED"), ("inspect", "ROUTED"), ("eval", "ROUTED", "--text", "TEXT")],
    ids=["verify", "inspect", "eval"],
)
def test_other_commands_take_it(
    words: tuple[str, ...], routed: Path, folder: Path, capsys: Printed
) -> None:
    places = {"ROUTED": str(routed), "TEXT": str(folder / "low_other.txt")}
    assert main([places.get(word, word) for word in words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    wanted = {"verify": "are as they were written", "inspect": "q_proj.down", "eval": "nats/token"}
    assert wanted[words[0]] in said.out


def test_the_table_says_what_was_taken(
    dense: Path, kinds: list[str], tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "small"
    assert run("train", dense, *kinds, *BLOCK, *PROMPT, "--out", out) == 0
    lines = lines_of(capsys)
    assert lines[:2] == ["prompt-aware ranks", "kinds of text: low (60 prompts), num (60 prompts)"]
    assert any(line.startswith("planned pools") and line.endswith("taken") for line in lines)
    assert lines[-1] == f"wrote {out}; load it with plain transformers after: import gacfx"
    assert max(map(len, lines[:-1])) <= 80


def test_picks_are_nearer_to_the_dense_model(
    routed: Path, dense: Path, others: list[str], capsys: Printed
) -> None:
    rows = printed_json(capsys, "eval", routed, "--against", dense, *others, *PROMPT)
    assert [row["text"] for row in rows] == [*KINDS]
    for row, kind in zip(rows, KINDS, strict=True):
        assert row["prompts"] == 12 == sum(row["kinds"].values())
        assert row["kinds"][kind] >= 8 and {*row["kinds"]} <= {kind, "static prefix"}
        assert row["tokens"] == 12 * two_kinds.PROMPT
        assert 0 < row["routed_kl"] < row["static_kl"]
        assert all(isfinite(row[f"{way}_nats"]) for way in ("static", "routed", "dense"))
    alone = printed_json(capsys, "eval", routed, *others, *PROMPT)
    for row, other in zip(rows, alone, strict=True):
        without = {"dense_nats": None, "static_kl": None, "routed_kl": None}
        assert other == {**row, **without}


@pytest.mark.parametrize("against", few([True, False], True), ids=["against dense", "alone"])
def test_the_table_of_picks_fits(
    against: bool,
    routed: Path,
    dense: Path,
    others: list[str],
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    more = ("--against", dense) if against else ()
    assert run("eval", routed, *more, *others, *PROMPT) == 0
    lines = lines_of(capsys)
    assert lines[0] == "loss behind prompts of 32 tokens, nats per token"
    heading = ["text", "prompts", "dense", "static", "picked"]
    assert lines[1].split() == [each for each in heading if against or each != "dense"]
    assert any(line.startswith("distance from the dense") for line in lines) == against
    assert max(map(len, lines)) <= 80


def test_tokens_bound_the_text(routed: Path, others: list[str], capsys: Printed) -> None:
    words = ("eval", routed, *others, *PROMPT)
    assert [row["prompts"] for row in printed_json(capsys, *words, "--tokens", "200")] == [3, 3]


def test_prompts_shorter_than_half_a_window_are_judged(
    routed: Path, others: list[str], capsys: Printed
) -> None:
    words = ("eval", routed, *others, "--prompt-tokens", "5")
    (low, _) = printed_json(capsys, *words)
    assert low["tokens"] == low["prompts"] * (33 - 5)


@pytest.mark.parametrize("against", few([True, False], True), ids=["against dense", "alone"])
def test_every_way_is_timed(against: bool, routed: Path, dense: Path, capsys: Printed) -> None:
    more = ("--against", dense) if against else ()
    cells = printed_json(
        capsys, "bench", routed, *more, "--runs", "2", "--seq", "8", "--device", "cpu"
    )
    assert [(cell["mode"], cell["batch"], cell["seq"]) for cell in cells] == [
        ("prefill", 1, 8),
        ("decode", 1, 8),
    ]
    ways = {"static", AGGREGATED, GATHERED, WHOLE} | ({"dense"} if against else set())
    for cell in cells:
        assert {*cell["us"]} == ways
        for interval in (*cell["us"].values(), cell["router_us"], cell["install_us"]):
            assert 0 < interval["median"] < float("inf")


def test_the_table_of_times_fits(
    routed: Path, dense: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = ("--against", dense, "--mode", "decode", "--batch", "2", "--threads", "1")
    more = ("--runs", "2", "--seq", "8", "--device", "cpu")
    assert run("bench", routed, *asked, *more) == 0
    lines = lines_of(capsys)
    assert lines[0].startswith("milliseconds of a step on ") and "1 thread" in lines[0]
    assert lines[1].split() == ["decode"]
    assert lines[2].split() == ["sequences", "x", "tokens", "2", "x", "8"]
    assert max(map(len, lines)) <= 80


def test_kinds_of_one_text_are_found(
    dense: Path, folder: Path, others: list[str], tmp_path: Path, capsys: Printed
) -> None:
    out = tmp_path / "found"
    words = ("--calibration", folder / "both.txt", "--clusters", "2")
    report = printed_json(capsys, "train", dense, *words, *BLOCK, *PROMPT, "--out", out)
    assert report == json.loads((out / "gacfx_report.json").read_text())
    assert report["routing"]["kinds"] == ["kind 1", "kind 2"]
    assert report["routing"]["prompts"] == [60, 60]
    low, num = printed_json(capsys, "eval", out, *others, *PROMPT)
    taken = [{*row["kinds"]} - {"static prefix"} for row in (low, num)]
    assert sorted(map(sorted, taken)) == [["kind 1"], ["kind 2"]]


def test_everything_may_be_stored(
    dense: Path, kinds: list[str], tmp_path: Path, capsys: Printed
) -> None:
    words = ("train", dense, *kinds, *BLOCK, *PROMPT, "--stored")
    found = [
        printed_json(capsys, *words, stored, "--out", tmp_path / str(at))["routing"]
        for at, stored in enumerate(("all", "5/4"))
    ]
    assert found[0]["stored_share"] > 1.25 >= found[1]["stored_share"]
    assert found[0]["active_share"] <= 0.6
    assert {*found[0]["trials"]} == {
        "static",
        "planned pools",
        "own ranks",
        "own ranks, half shared",
    }


@pytest.mark.parametrize(
    "method",
    few(["svd", "svd-llm", "asvd", "gfwsvd"], "svd-llm"),
)
def test_every_method_makes_a_checkpoint_that_loads(
    method: str, dense: Path, kinds: list[str], tmp_path: Path, capsys: Printed
) -> None:
    out = tmp_path / method
    words = ("--method", method, "--ratio", "0.5", "--stored", "all", "--out", out)
    found = printed_json(capsys, "train", dense, *kinds, *BLOCK, *PROMPT, *words)["routing"]
    assert found["method"] == method and found["active_share"] <= 0.5
    model = AutoModelForCausalLM.from_pretrained(out)
    assert len(pools(model)) == found["decisions"].get("routed", 0) > 0
    ids = torch.arange(40, 80)[None]
    assert bool(model(ids).logits.isfinite().all())


@pytest.mark.parametrize(
    ("picks", "tried"),
    few(
        [("static", "static mask"), ("domain", "domain masks"), ("linear", "linear router")],
        ("linear", "linear router"),
    ),
)
def test_picks_inside_one_basis_are_trained_and_told(
    picks: str,
    tried: str,
    kinds: list[str],
    tmp_path: Path,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    dense, out = two_kinds.checkpoint(tmp_path / "dense", hidden=64, width=96), tmp_path / "small"
    masks = ("--picks", picks, "--steps", "4", "--method", "svd", "--ratio", "0.5")
    assert run("train", dense, *kinds, *BLOCK, *PROMPT, *masks, "--out", out) == 0
    lines = lines_of(capsys)
    shown = [line.split("  ")[0] for line in lines]
    assert {"static", "static mask", tried} <= {*shown}
    assert sum(line.endswith("taken") for line in lines) == 1
    assert max(map(len, lines[:-1])) <= 80
    report = json.loads((out / "gacfx_report.json").read_text())["routing"]
    assert report["picks"] == picks and tried in report["trials"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert len(pools(model)) == report["decisions"].get("routed", 0)
    assert main(["verify", str(out)]) == 0


def test_a_work_folder_is_gone_on_from(
    kinds: list[str], tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, stages = two_kinds.checkpoint(tmp_path / "dense", layers=2), list[str]()
    monkeypatch.setattr("gacfx.cli.screen.progress", lambda: _Noting(stages))
    words = ("train", dense, *kinds, *BLOCK, *PROMPT, "--work", tmp_path / "work", "--out")
    first = printed_json(capsys, *words, tmp_path / "first")
    assert stages.count("calibrate") > 0 and {"pools", "trials", "factors"} < {*stages}
    stages.clear()
    second = printed_json(capsys, *words, tmp_path / "second")
    assert "calibrate" not in stages and "trials" in stages
    assert first == second
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


class _Noting:
    """A progress bar that keeps the names of the stages."""

    def __init__(self, stages: list[str]) -> None:
        self.stages = stages

    def __enter__(self) -> Callable[[str, int, int], None]:
        return lambda stage, done, total: self.stages.append(stage)

    def __exit__(self, *_: object) -> None:
        pass


def test_a_folder_is_replaced_when_told(dense: Path, kinds: list[str], tmp_path: Path) -> None:
    model = Path(shutil.copytree(dense, tmp_path / "model"))
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    inside = model / "small"  # beside its files, of which none is touched
    for more in ((), ("--overwrite",)):
        assert run("train", model, *kinds, *BLOCK, *PROMPT, "--out", inside, *more) == 0
    assert {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()} == before
    assert router_of(AutoModelForCausalLM.from_pretrained(inside)) is not None
