"""Files that the commands write and read: checked before any work, never overwritten silently."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from gacfx import api, cli
from gacfx.checkpoint.checksums import FILES, write_checksums
from gacfx.cli import demo_folder
from gacfx.core.curve_file import save_curves
from gacfx.core.files.leftovers import LeftBehind, beside
from gacfx.core.planned import Planned
from gacfx.errors import CheckpointError
from tests import tiny
from tests.unit import made_curves

ROOT = Path(__file__).parents[3]


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that must fail with 1, and print nothing else."""
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.isascii()
    assert printed.err.rstrip("\n").isprintable() and len(printed.err) < 1200
    return printed.err


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading is what would take minutes: it must not have begun."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(api, "load", load)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return tiny.text_file(tmp_path / "stories.txt")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("models") / "dense", layers=1)


# -- before the model is loaded ------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "there").symlink_to(tmp_path / "full")
    return tmp_path


OUTS = [
    ("full", "exists and is not empty; allow overwrite (--overwrite)"),
    ("there", "full: exists and is not empty"),
    ("file", "is a file; name a folder"),
    ("file/below", "file is no folder"),
    ("nowhere", "is a link that leads nowhere"),
    ("/proc/new", "cannot be written: "),
    ("/sys/new", "cannot be written: "),
    ("n" * 240, "File name too long"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", ["plan", "compress"])
@pytest.mark.parametrize(("out", "says"), OUTS)
def test_a_target_is_refused_before_the_model_is_loaded(
    command: str,
    out: str,
    says: str,
    places: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (command, "/no/such/model", "--calibration", text, "--out", places / out)
    assert says in refused(capsys, *words)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", ["plan", "compress"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.txt", "no such file"),
        ("folder.txt", "folder.txt"),
        ("words.pdf", "unknown suffix '.pdf'"),
        ("empty.txt", "no text"),
        ("bad.jsonl", "bad.jsonl:1: not JSON"),
        ("pipe.txt", "no such file"),
    ],
)
def test_calibration_text_is_refused_before_the_model_is_loaded(
    command: str, name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.jsonl").write_text("{\n")
    os.mkfifo(tmp_path / "pipe.txt")
    words = (command, "/no/such/model", "--calibration", tmp_path / name, "--out", tmp_path / "o")
    assert says in refused(capsys, *words)
    assert not (tmp_path / "o").exists()


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", ["plan", "compress"])
def test_too_little_space_is_refused_before_the_model_is_loaded(
    command: str,
    dense: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**6, 0, 123_000))
    size = (dense / "model.safetensors").stat().st_size
    words = (command, dense, "--calibration", text, "--out", text.parent / "out")
    message = refused(capsys, *words)
    assert "0.1 MB are free there, and about " in message and f"{size / 1e6:,.1f} MB" in message


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", ["plan", "compress"])
def test_the_model_that_is_read_is_not_overwritten(
    command: str, dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (command, dense, "--calibration", text, "--out", dense, "--overwrite")
    assert "holds the model that is read" in refused(capsys, *words)


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_the_model_lies_in_is_not_replaced(
    dense: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dense.parent / "config.json").write_text("{}")  # as if it were a checkpoint itself
    words = ("compress", dense, "--calibration", text, "--out", dense.parent, "--overwrite")
    assert "holds the model that is read" in refused(capsys, *words)


@pytest.mark.usefixtures("no_model")
def test_what_may_be_written_goes_on_to_the_model(places: Path, text: Path) -> None:
    (places / "empty").mkdir()
    for out in ("new", "deep/er/new", "empty"):
        for command in ("plan", "compress"):
            with pytest.raises(AssertionError, match="the model was loaded"):
                run(command, "/no/model/here", "--calibration", text, "--out", places / out)


# -- nothing is overwritten silently -------------------------------------------------------------


def test_a_plan_is_not_overwritten_silently(
    dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan"
    words = ("plan", dense, "--calibration", text, "--value", "fisher", "--out", out)
    assert run(*words, "--save-curves", tmp_path / "c") == 0
    (out / "mine.txt").touch()
    before = (out / "plan.json").read_bytes()
    capsys.readouterr()
    assert "plan: exists and is not empty" in refused(capsys, *words)
    assert run(*words, "--overwrite", "--ratio", "0.4") == 0
    assert (out / "plan.json").read_bytes() != before
    assert {path.name for path in out.iterdir()} == {"factors.safetensors", "mine.txt", "plan.json"}
    with pytest.raises(CheckpointError, match=r"plan\.json: exists; allow overwrite"):
        Planned.load(out).save(out)
    Planned.load(out).save(out, overwrite=True)


def test_curves_may_go_into_the_folder_of_the_plan(dense: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    out.mkdir()
    words = ("plan", dense, "--calibration", text, "--value", "fisher", "--out", out)
    assert run(*words, "--save-curves", out / "c") == 0
    assert {path.name for path in out.iterdir()} == {"c", "factors.safetensors", "plan.json"}


@pytest.mark.parametrize("option", ["--save-curves", "--sweep", "--sweep plot"])
def test_curves_and_sweeps_are_not_overwritten_silently(
    option: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.csv"
    mine = target.with_suffix(".svg") if "plot" in option else target
    mine.write_text("mine")
    words = ("plan", dense, "--synthetic", "0.5", option.split()[0], target)
    assert f"{mine.name}: exists; allow overwrite (--overwrite)" in refused(capsys, *words)
    assert mine.read_text() == "mine"


def test_overwriting_on_request_replaces_curves_and_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # drawing takes seconds
    save_curves(tmp_path / "c", made_curves.curves())
    table = tmp_path / "rows.csv"
    words = ("plan", "--curves", tmp_path / "c", "--align", 1, "--ratio", "0.5", "--sweep", table)
    assert run(*words, "--points", 3) == 0
    before = table.read_bytes()
    assert run(*words, "--points", 5, "--overwrite") == 0
    assert table.read_bytes() != before


def demo_like(folder: Path, *sides: str) -> None:
    folder.mkdir(parents=True)
    report = {"sides": [{"name": name} for name in sides]}
    (folder / "gacfx_report.json").write_text(json.dumps(report))


def test_the_demo_overwrites_its_own_folder_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    for name in demo_folder.NAMES:
        demo_like(own / name, "dense", "upstream", "gacfx")
    demo_folder.check(own)
    demo_folder.check(tmp_path / "new")
    (own / "mine.txt").touch()
    assert "own: is not the folder of an earlier demo (it holds mine.txt)" in refused(
        capsys, "demo", "--out", own
    )
    other = tmp_path / "other"
    demo_like(other / "gacfx", "dense", "gacfx")  # what gacfx compress writes
    assert "it holds gacfx" in refused(capsys, "demo", "--out", other)
    assert "is a file" in refused(capsys, "demo", "--out", own / "mine.txt")


def test_what_a_killed_writer_left_is_said_in_one_line(dense: Path, tmp_path: Path) -> None:
    name = beside(tmp_path / "c", "partial").name.replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / name).touch()
    words = ("plan", dense, "--synthetic", "0.5", "--save-curves", tmp_path / "c")
    with pytest.warns(LeftBehind, match="removed what a killed writer had left") as caught:
        run(*words)
    assert not (tmp_path / name).exists() and len(caught) == 1
    with cli._short_warnings("plan"):
        shown = warnings.formatwarning(caught[0].message, LeftBehind, "f", 1)
    assert shown.startswith("gacfx plan: warning: ") and shown.count("\n") == 1


# -- verify --------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "plan").mkdir(parents=True)
    for name in ("a", "b", "plan/c"):
        (folder / name).write_text(name)
    write_checksums(folder)
    return folder


def test_verify_says_that_all_files_are_as_they_were_written(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", small) == 0
    assert capsys.readouterr().out == f"{small}: all 3 files are as they were written\n"
    (small / "mine\x1b.txt").touch()
    assert run("verify", small) == 0
    assert capsys.readouterr().out.startswith("mine\\x1b.txt: added, no fault\n")


def test_verify_lists_what_is_changed_missing_or_added(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "a").write_text("b")
    (small / "b").unlink()
    (small / "mine").touch()
    (small / "plan" / "c").unlink()
    (small / "plan" / "c").symlink_to("/etc/hostname")
    assert run("verify", small) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a: changed",
        "b: missing",
        "plan/c: leads out of the folder, not followed",
        "mine: added, no fault",
        f"{small}: 3 of 3 files are not as they were written",
    ]
    assert run("verify", small, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "whole": False,
        "files": 3,
        "changed": ["a"],
        "missing": ["b"],
        "links": ["plan/c"],
        "added": ["mine"],
        "taken": [],
    }


def test_verify_of_a_folder_without_checksums(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"has no {FILES}; it was written by an older gacfx or not" in refused(
        capsys, "verify", dense
    )


# -- names and files that somebody else made -----------------------------------------------------


def plan_json(**changes: Any) -> str:
    choice = {"module": "layer", "rows": 8, "columns": 8, "rank": 2, "wanted": None}
    return json.dumps(
        {
            "choices": [{**choice, "loss_nats": 0.0, "reason": "", **changes.pop("choice", {})}],
            "budget": {
                "amount": "0.5",
                "ratio_of": "targeted",
                "targeted_params": 64,
                "model_params": 64,
                "limit_params": 32,
            },
            "proof": None,
            "provenance": {
                "method": "svd",
                "value_model": "fisher",
                "gpu": "h200",
                "align": 1,
                "dtype": "fp32",
            },
            "version": 2,
            **changes,
        }
    )


HOSTILE = ["../x", "\x1b[31mred", "x" * 10_000, "a b", "a\nb", "a\u202eb"]


@pytest.mark.parametrize(
    "make",
    [
        lambda name: {"choice": {"module": name}},
        lambda name: {"digests": {name: "0"}},
        lambda name: {"refusals": {name: "skipped"}},
    ],
    ids=["choices", "digests", "refusals"],
)
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_plan_with_such_a_name_is_refused_by_every_reader(
    make: Callable[[str], dict[str, Any]],
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plan.json").write_text(plan_json(**make(name)))
    (tmp_path / "good.json").write_text(plan_json())
    save_curves(tmp_path / "c", made_curves.curves())
    readers = (
        ("diff", tmp_path / "good.json", tmp_path),
        ("explain", tmp_path, "layer", "--curves", tmp_path / "c"),
    )
    for words in readers:
        message = refused(capsys, *words)
        assert "is no name of a module" in message or " characters" in message
    with pytest.raises(Exception, match="is no name of a module| characters"):
        api.apply_(tiny.llama(layers=1), tmp_path)


def test_the_plan_that_these_are_made_of_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.json").write_text(plan_json())
    assert run("diff", tmp_path / "good.json", tmp_path / "good.json") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": {"reason": "\x1b[2J"}},
        {"fingerprint": "\x9b2J"},
        {"version": "\x1b" * 5000},
        {"\x1b[2J": 1},
        {"y" * 10_000: 1},
    ],
    ids=["reason", "fingerprint", "version", "key", "long key"],
)
def test_escapes_of_a_plan_never_reach_the_terminal(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(plan_json(**changes))
    (tmp_path / "good.json").write_text(plan_json())
    refused(capsys, "diff", tmp_path / "good.json", tmp_path / "plan.json")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_table_of_ranks_with_such_a_name_is_refused(
    name: str, dense: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gacfx", "ranks": {name: 3}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "is no module" in refused(capsys, "inspect", folder, "--seq", 8)
    assert "is no module name" in refused(capsys, "eval", folder, "--text", text)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_curves_with_such_a_name_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c"
    head = {"format": "gacfx-curves", "version": 1, "digest": "", "facts": {}}
    save_file({name: np.zeros(3)}, file, metadata={"gacfx": json.dumps(head)})
    refused(capsys, "plan", "--curves", file)
    head["facts"] = {"refusals": {name: name}}
    save_file({}, file, metadata={"gacfx": json.dumps(head)})
    refused(capsys, "plan", "--curves", file)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/proc/self/environ", "empty", "huge"])
def test_what_is_no_plan_is_not_read(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(kind) if kind.startswith("/") else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(file)
    elif kind in ("empty", "huge"):
        with file.open("wb") as made:
            made.truncate((1 << 40) * (kind == "huge"))
    good = tmp_path / "good.json"
    good.write_text(plan_json())
    assert f"{file}: cannot be read: " in refused(capsys, "diff", file, good)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "plan.json").symlink_to(file)
    assert "plan.json: cannot be read: " in refused(capsys, "diff", folder, good)
    if kind != "huge":
        assert "cannot be read" in refused(capsys, "plan", "--curves", file)
        assert "cannot be read" in refused(capsys, "explain", good, "m", "--curves", file)
    profile = tmp_path / "profile.json"
    profile.symlink_to(file)
    words = ("inspect", "llama-3-8b", "--gpu", profile)
    assert "cannot be read" in refused(capsys, *words)


def test_a_plan_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "plan.json").write_text(plan_json())
    (tmp_path / "plan").symlink_to("real")
    assert run("diff", tmp_path / "plan", tmp_path / "real") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_the_output_is_one_line(small: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "gacfx", "verify", str(small)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "gacfx verify: [Errno 28] No space left on device\n"
