"""Folders that another program has quantized: they can be looked at, and what is seen says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import gacfx
from gacfx.inspection import Inspection
from gacfx.report.tables import inspection_view
from tests import tiny

TEXT = "stored as gptq, 4 bits; figures are for fp32"


def folder(path: Path, **block: Any) -> Path:
    """A checkpoint whose configuration declares a quantization; its weights are as they were."""
    tiny.checkpoint(path)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = block
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    path = tmp_path_factory.mktemp("quantized") / "gptq"
    return gacfx.inspect(folder(path, quant_method="gptq", bits=4, group_size=128))


def test_every_site_that_is_stored_otherwise_says_so(seen: Inspection) -> None:
    notes = {row.name.rpartition(".")[2]: row.note for row in seen.rows}
    assert {name for name, text in notes.items() if text == TEXT} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert notes["lm_head"] == "outside the repeated layers" and notes["self_attn"] == ""
    assert {row.dtype for row in seen.rows} == {"fp32"}


@pytest.mark.parametrize("width", [80, 160])
def test_a_person_is_told_once(seen: Inspection, width: int) -> None:
    console = Console(width=width)
    with console.capture() as text:
        console.print(inspection_view(seen))
    shown = " ".join(text.get().split())
    assert "its weights are stored as gptq, 4 bits (config.json)" in shown
    assert TEXT not in shown and "outside the repeated layers" in shown


def test_a_program_is_told(seen: Inspection, tmp_path: Path) -> None:
    table = seen.to_dict()
    assert table["stored_as"] == "gptq, 4 bits" and table["rows"][0]["stored"] == TEXT
    plain = gacfx.inspect(tiny.checkpoint(tmp_path / "plain"))
    assert plain.to_dict()["stored_as"] is None and plain.stored_as is None
    assert not any(row.stored for row in plain.rows)


def test_a_refusal_stands_before_it(tmp_path: Path) -> None:
    block = {"quant_method": "fp8", "lm_head": True}
    found = gacfx.inspect(folder(tmp_path / "fp8", **block))
    (head,) = [row for row in found.rows if row.name == "lm_head"]
    stored = "stored as fp8, 8 bits; figures are for fp32"
    assert head.note == f"outside the repeated layers; {stored}"
    assert (head.reasons, head.stored) == ("outside the repeated layers", stored)


def test_what_gacfx_has_made_is_not_quantized(tmp_path: Path) -> None:
    made = gacfx.compress(
        tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.1", force=True
    )
    assert gacfx.inspect(gacfx.save(made, tmp_path / "small")).stored_as is None
