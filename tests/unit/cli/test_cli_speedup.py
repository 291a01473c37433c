"""Every plan and every compression answers how much faster it gets; the demo explains its size."""

import argparse
import json
from pathlib import Path
from shutil import copytree

import pytest

from gacfx import cli, demo
from gacfx.cli.demo import is_default, wrapped
from gacfx.hardware import profile
from tests import tiny

HEAD = "how much faster on h200 (rule-based forecast, "


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def told(text: Path) -> tuple[object, ...]:
    return ("--calibration", text, "--value", "fisher", "--ratio", "0.3")


def test_a_plan_answers_for_the_whole_model_and_its_curves_for_the_targets(
    dense: Path, told: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "curves.safetensors"
    seen = shown(capsys, "plan", dense, *told, "--seq", "64", "--save-curves", kept)
    assert f"{HEAD}whole model, fp32, 64 tokens)" in seen
    assert seen.count("slower at batch 1, 8, 64: launch cost") == 2
    assert "gacfx plan llama-3-8b --synthetic 0.5" in seen
    again = shown(capsys, "plan", "--curves", kept, "--ratio", "0.3")
    assert f"{HEAD}targeted weights only, fp32, 1024 tokens)" in again


def test_a_configuration_alone_answers_for_the_whole_model(
    dense: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", dense / "config.json", "--synthetic", "0.5")
    assert f"{HEAD}whole model, fp32, 1024 tokens, compiled)" in shown(
        capsys, *words, "--exec", "compiled"
    )
    assert run(*words, "--json") == 0
    printed = capsys.readouterr()
    assert "choices" in json.loads(printed.out) and printed.err == ""


def test_compress_answers_under_its_table_and_in_the_report(
    dense: Path, told: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    seen = shown(capsys, "compress", dense, *told, "--out", out)
    assert f"{HEAD}whole model, fp32, 1024 tokens)" in seen.partition("perplexity")[2]
    summary = json.loads((out / "gacfx_report.json").read_text())
    none, ours = (side["speedup"] for side in summary["sides"])
    assert none is None and ours["replaced"] > 0 and len(ours["points"]) == 6
    assert all(p["ratio"] < 1 and p["cause"] for p in ours["points"])
    assert f"{HEAD}whole model" in shown(capsys, "compress", dense, *told, "--dry-run")


def test_a_gpu_without_the_dtype_says_so_in_one_line(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled = Path(profile.__file__).parent / "profiles" / "h200.json"
    other = json.loads(bundled.read_text(encoding="utf-8"))
    del other["peak_tflops"]["bf16"], other["align"]["bf16"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    settings = json.loads((dense / "config.json").read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    words = ("plan", tmp_path / "config.json", "--synthetic", "0.5", "--align", "8")
    seen = shown(capsys, *words, "--gpu", tmp_path / "other.json")
    last = seen.splitlines()[-1]
    assert "no forecast" in last and "no bf16 matmul" in last and HEAD not in seen


def test_the_demo_explains_its_size_and_shows_what_each_model_writes(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copytree(dense, tmp_path / "model")
    stories = "\n".join(json.dumps({"text": story}) for story in tiny.texts())
    for name in ("calibration.jsonl", "evaluation.jsonl"):
        (folder / name).write_text(stories, encoding="utf-8")
    monkeypatch.setattr(demo, "MODEL", folder)
    seen = shown(capsys, "demo", "--out", tmp_path / "out")
    own, _, rest = seen.partition("parameters are too few to get faster")
    assert f"{HEAD}whole model, fp32, 256 tokens)" in own and "slower at batch" in own
    assert demo.REAL.read_text(encoding="utf-8") in rest
    assert "for real shapes" not in seen  # they are there
    written = rest.partition("what each writes after 'Return a new'")[2]
    names = ("dense", "upstream", "gacfx")
    places = [written.index(f"\n{name}:\n    Return a new") for name in names]
    assert places == sorted(places)
    assert max(map(len, written.splitlines())) <= 80


def test_what_was_kept_for_the_demo_is_for_its_defaults_only() -> None:
    def asked(*words: str) -> argparse.Namespace:
        return cli.parser().parse_args(["demo", *words])

    assert is_default(asked()) and is_default(asked("--batch", "4"))
    for words in (("--gpu", "a100"), ("--ratio", "0.3"), ("--exec", "compiled")):
        assert not is_default(asked(*words))


def test_generated_text_is_wrapped_and_indented() -> None:
    text = wrapped("one\n\n" + "word " * 40)
    assert max(map(len, text.splitlines())) <= 80
    assert all(line.startswith("    ") and line.strip() for line in text.splitlines())
    assert text.split() == ["one", *["word"] * 40]
