"""Shards on the command line: gathered apart, merged, and planned from."""

from pathlib import Path

import pytest

from gacfx.cli import main
from gacfx.core.plan import Plan


def run(command: str, narrow: Path, text: Path, work: Path, *words: str) -> int:
    road = [str(narrow), "--calibration", str(text), "--work", str(work)]
    return main([command, *road, "--force", *words])


def planned(narrow: Path, text: Path, work: Path, out: Path) -> Plan:
    words = ("--ratio", "0.3", "--align", "8", "--out", str(out))
    assert run("plan", narrow, text, work, *words) == 0
    return Plan.from_json((out / "plan.json").read_text())


def test_shards_are_merged_and_planned_from(
    narrow: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = [tmp_path / "one", tmp_path / "two"]
    for number, shard in enumerate(shards, start=1):
        assert run("statistics", narrow, text, shard, "--shard", f"{number}/2", "--prune") == 0
        said = capsys.readouterr().out.splitlines()
        assert said[1].startswith(f"{shard}: shard {number}/2 of the statistics of 14 weights, ")
        assert said[2].endswith("--merge SHARD_1 ... SHARD_N")
    work = tmp_path / "work"
    assert run("statistics", narrow, text, work, "--merge", *map(str, shards)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith(f"{work}: statistics of 14 weights, ")
    assert said[2].startswith(f"plan with: gacfx plan {narrow} ")

    def never(*_: object) -> None:
        raise AssertionError("statistics were gathered again")

    with monkeypatch.context() as patch:
        patch.setattr("gacfx.calibration.by_layer.LinearSums", never)
        found = planned(narrow, text, work, tmp_path / "plan")
    alone = planned(narrow, text, tmp_path / "whole", tmp_path / "alone")
    assert found.decisions == alone.decisions
    assert found.loss_nats == pytest.approx(alone.loss_nats, rel=1e-5)  # float32


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--shard", "3/2"), 1, "shard 3/2: is none of 2; the first of three is 1/3"),
        (("--shard", "two"), 1, "shard 'two': give I/N, such as 1/3"),
        (("--shard", "3/3"), 1, "shard 3/3: there is no window for it"),
        (("--merge", "nowhere"), 1, "nowhere: is no work folder; gather a shard there first"),
        (("--merge", "one", "--prune"), 2, "leave out --prune"),
        (("--merge", "one", "--prune", "--disk", "1GB"), 2, "leave out --prune and --disk"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    words: tuple[str, ...],
    code: int,
    said: str,
    narrow: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("statistics", narrow, text, tmp_path / "work", *words) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_shard_or_a_merge(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("statistics", narrow, text, tmp_path, "--shard", "1/2", "--merge", "one")
    assert stopped.value.code == 2
    assert "not allowed with argument --shard" in capsys.readouterr().err


def test_the_folder_of_a_shard_has_a_limit(
    narrow: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("statistics", narrow, text, tmp_path, "--shard", "1/2", "--disk", "9kB") == 1
    assert "calibration takes" in capsys.readouterr().err
    assert not list(tmp_path.glob("moments.*"))
