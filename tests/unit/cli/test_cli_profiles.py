"""``gacfx profiles``, ``--gpu`` in other words, ``--dtype``, and how wide the output is."""

import json
from pathlib import Path

import pytest
import torch

import gacfx
from gacfx.cli import main, screen
from gacfx.errors import ProfileError, UnsupportedModel
from gacfx.hardware import profile as profiles
from tests import tiny

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that is published in bf16."""
    folder = tmp_path_factory.mktemp("models") / "bf16"
    tiny.llama().to(torch.bfloat16).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def refused(capsys: Printed, *words: object) -> str:
    """The one line of a command that must fail with 1."""
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_the_list_as_json(capsys: Printed) -> None:
    assert run("profiles", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == set(profiles.names())
    assert rows["t4"]["dtype"] == "fp16" and rows["t4"]["peak_tflops"] == 65
    assert rows["t4"]["known"] == "vendor figures only"
    assert rows["h200"]["known"] == "rules + vendor figures"
    assert rows["h200"]["compute_capability"] == [9, 0] and rows["h200"]["rank_step"] == 8


def test_one_profile_as_json_has_every_constant_with_its_source(capsys: Printed) -> None:
    assert run("profiles", "RTX 4090", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "rtx4090"
    owner = {name: one for one in found["constants"] for name in one["values"]}
    assert owner["peak_tflops.bf16"]["values"]["peak_tflops.bf16"] == 165.2
    assert owner["latency.f_mem"]["source"].startswith("estimate by analogy with a100")
    assert all(one["source"] and one["evidence"] for one in found["constants"])


def test_a_file_is_shown_like_a_name_and_measured_entries_count(
    tmp_path: Path, capsys: Printed
) -> None:
    data = json.loads((Path(profiles.__file__).parent / "profiles" / "h200.json").read_text())
    data |= {"name": "mine", "measured": {"m": {"tier": 1, "kernel": "gemv", "us": 2.5}}}
    data["sources"]["measured"] = {"source": "a test", "evidence": "measured"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    assert run("profiles", path) == 0
    text = capsys.readouterr().out
    assert text.startswith("mine  NVIDIA H200  measured entries: 1\n")
    assert "measured  m tier 1 gemv 2.5 us\n    a test (measured)\n" in text


def test_a_typing_error_is_answered_with_the_nearest_gpu(capsys: Printed) -> None:
    said = refused(capsys, "inspect", "llama-3-8b", "--gpu", "h20")
    assert "no profile 'h20'; the nearest is h200 (NVIDIA H200)" in said


def test_inspect_says_vendor_figures_only(bf16: Path, capsys: Printed) -> None:
    assert run("inspect", bf16, "--gpu", "NVIDIA L4", "--seq", 32) == 0
    text = capsys.readouterr().out
    assert "parameters, bf16  l4 (vendor figures only)" in text and "rule-based" not in text
    assert run("inspect", bf16, "--gpu", "l4", "--seq", 32, "--json") == 0
    assert json.loads(capsys.readouterr().out)["forecast"] == "vendor figures only"


def test_plan_says_vendor_figures_only(bf16: Path, capsys: Printed) -> None:
    words = ("plan", bf16, "--synthetic", 0.5, "--latency-share", 1.5)
    assert run(*words, "--gpu", "l4") == 0
    text = capsys.readouterr().out
    assert "l4 (vendor figures only), ranks in steps of 8" in text
    assert "vendor figures only, prefill" in text and "rule-based" not in text
    assert run(*words) == 0
    assert "vendor" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "--seq", "32"),
        ("inspect", "--seq", "32", "--mode", "decode", "--json"),
        ("plan", "--synthetic", "0.5"),
        ("plan", "--synthetic", "0.5", "--quant", "int8"),
    ],
)
def test_bf16_on_a_t4_is_one_line_whose_remedy_works(
    words: tuple[str, ...], bf16: Path, capsys: Printed
) -> None:
    command, *others = words
    said = refused(capsys, command, bf16, *others, "--gpu", "t4")
    assert "t4 cannot multiply bf16" in said and "(--dtype fp16)" in said
    assert run(command, bf16, *others, "--gpu", "t4", "--dtype", "fp16") == 0


def test_compress_refuses_bf16_on_a_t4_before_it_calibrates(
    bf16: Path, tmp_path: Path, capsys: Printed
) -> None:
    text = tiny.text_file(tmp_path / "stories.txt")
    for words in (("--out", tmp_path / "small"), ("--dry-run",)):
        said = refused(capsys, "compress", bf16, "--calibration", text, "--gpu", "t4", *words)
        assert "t4 cannot multiply bf16" in said
    model, tokenizer = gacfx.load(bf16)
    with pytest.raises(ProfileError, match="t4 cannot multiply bf16"):
        gacfx.compress(model, tokenizer, calibration=text, gpu="t4")
    with pytest.raises(ProfileError, match="t4 cannot multiply bf16"):
        gacfx.plan(model, tokenizer, calibration=text, gpu="t4")


def test_curves_have_the_dtype_that_they_were_made_in(
    bf16: Path, tmp_path: Path, capsys: Printed
) -> None:
    made = ("plan", bf16, "--synthetic", 0.5, "--save-curves", tmp_path / "c")
    assert run(*made) == 0
    capsys.readouterr()
    assert "t4 cannot multiply bf16" in refused(
        capsys, "plan", "--curves", tmp_path / "c", "--gpu", "t4"
    )
    assert run("plan", "--curves", tmp_path / "c", "--dtype", "fp16") == 2
    assert "leave out --dtype" in capsys.readouterr().err


def test_a_module_keeps_its_dtype() -> None:
    with pytest.raises(UnsupportedModel, match="a module has its dtype already; leave out dtype"):
        gacfx.inspect(tiny.llama(), dtype="fp16")
    with pytest.raises(UnsupportedModel, match="no model in dtype 'int3'; take fp32, bf16, fp16"):
        gacfx.inspect("llama-3-8b", dtype="int3")


@pytest.mark.parametrize(
    ("columns", "width"), [(None, screen.WIDTH), ("80", 80), ("100", 100), ("", 240), ("0", 240)]
)
def test_a_pipe_is_as_wide_as_columns_says_or_very_wide(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert screen.console().width == width


def test_no_line_of_a_narrow_pipe_is_wider(
    bf16: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for words in (
        ("inspect", "--gpu", "gb10"),
        ("inspect", "--dims"),
        ("inspect", "--groups"),
        ("plan", "--synthetic", 1),
    ):
        assert run(words[0], bf16, *words[1:]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
