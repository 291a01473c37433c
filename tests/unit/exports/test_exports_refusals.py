"""Exports that are refused: before any work, in one line, with nothing left behind."""

import resource
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import gacfx
from gacfx.errors import CaptureError, CheckpointError, ExportError, NoExporter, UnsupportedModel
from gacfx.exports import programs
from gacfx.exports.exported import compared
from gacfx.exports.targets import TARGETS
from tests.families.test_families_hybrids import HYBRIDS, SIZES
from tests.families.zoo import FAMILIES
from tests.unit.exports.kinds import dense_llama, model_of


def check_installed(to: str) -> None:
    """Skips the test where a package of the target is missing."""
    if not all(map(find_spec, TARGETS[to].packages)):
        pytest.skip(f"needs the extra gacfx[{TARGETS[to].extra}]")


@pytest.mark.parametrize(
    ("to", "most_bytes"),
    [
        pytest.param("pt2", 300, marks=pytest.mark.exhaustive),
        *(("pt2", 60_000), ("onnx", 60_000), ("openvino", 60_000), ("dense", 60_000)),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, to: str, most_bytes: int
) -> None:
    check_installed(to)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.raises((CheckpointError, ExportError), match="out: cannot be written") as found:
            gacfx.export(model_of("low rank"), tmp_path / "deep" / "out", to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(found.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [RuntimeError("lost\nit"), pytest.param(KeyboardInterrupt(), marks=pytest.mark.exhaustive)],
)
def test_a_writer_that_fails_leaves_the_folder_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = gacfx.export(model_of("low rank"), tmp_path / "out", to="pt2").folder
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fails(_: Any, file: Any) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch.export, "save", fails)
    expected = ExportError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected):
        gacfx.export(model_of("pivot"), out, to="pt2", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.export.load

    def spoilt(path: Path) -> Any:
        program = real(path)
        program.state_dict["model.model.norm.weight"].mul_(1.001)
        return program

    monkeypatch.setattr(torch.export, "load", spoilt)
    with pytest.raises(ExportError, match=r"model\.pt2: its logits are 0\.001 of the largest away"):
        gacfx.export(model_of("low rank"), tmp_path / "out", to="pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("whose", ["model", "export"])
def test_logits_that_are_no_numbers_equal_none(value: float, whose: str) -> None:
    model, ids = dense_llama(), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        fine = model(ids).logits
    odd = fine.clone()
    odd[0, 1, 2] = value
    made = fine if whose == "model" else odd
    if whose == "model":
        model.forward = lambda *_, **__: SimpleNamespace(logits=odd)
    with pytest.raises(ExportError, match="it: its logits are inf of the largest away"):
        compared(model, lambda _: made, what="it", ids=[ids])


@pytest.mark.parametrize("to", TARGETS)
def test_a_folder_that_is_there_stays(tmp_path: Path, to: str) -> None:
    check_installed(to)
    (tmp_path / "mine").write_text("mine")
    for overwrite, why in ((False, "exists and is not empty"), (True, "it has no config.json")):
        with pytest.raises(CheckpointError, match=why):
            gacfx.export(dense_llama(), tmp_path, to=to, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("to", "package"),
    [(name, package) for name, each in TARGETS.items() for package in each.packages],
)
def test_a_missing_package_is_named_with_its_extra(
    to: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = rf"{to} needs .*{package}.*pip install 'gacfx\[{TARGETS[to].extra}\]'"
    with pytest.raises(NoExporter, match=extra):
        gacfx.export(None, "nowhere", to=to)  # type: ignore[arg-type]  # nothing was looked at


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"to": "gguf"}, "no export to 'gguf'; take one of pt2, onnx"),
        ({"to": None}, "no export to None"),
        ({"to": "pt2", "cache": True}, "pt2 has no form with a cache; onnx, openvino have one"),
        (
            {"to": "pt2", "out": "small.pt2"},
            r"small\.pt2: exports are folders, .*for example small",
        ),
    ],
)
def test_wrong_use_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        gacfx.export(dense_llama(), **{"out": "small", **more})


def test_what_is_no_causal_model_with_values_is_refused(tmp_path: Path) -> None:
    for family in ("bert", "t5"):
        other: Any = FAMILIES[family].make()
        with pytest.raises(ExportError, match=f"{type(other).__name__}: is no causal language"):
            gacfx.export(other, tmp_path / "out", to="pt2")
    with pytest.raises(ExportError, match=r"weight: has no values \(meta device\)"):
        gacfx.export(dense_llama().to("meta"), tmp_path / "out", to="pt2")
    with pytest.raises(UnsupportedModel, match="str is no model"):
        gacfx.export("small", tmp_path / "out", to="pt2")  # type: ignore[arg-type]
    with torch.inference_mode():
        model = dense_llama()
    with pytest.raises(CaptureError, match="inference_mode"):
        gacfx.export(model, tmp_path / "out", to="pt2")
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_traced_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    sizes: Any = dense_llama().config.to_diff_dict()
    config = transformers.LlamaConfig(**{**sizes, "rope_parameters": rope})
    model = transformers.LlamaForCausalLM(config).eval()
    with pytest.raises(CaptureError, match="torch.export failed .*data-dependent") as caught:
        gacfx.export(model, tmp_path / "out", to="pt2")
    assert "\n" not in str(caught.value) and "def forward" not in capfd.readouterr().err


def test_a_cache_of_other_things_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    check_installed("onnx")
    config, name, more = HYBRIDS["lfm2"]
    model = getattr(transformers, name)(getattr(transformers, config)(**{**SIZES, **more})).eval()
    with pytest.raises(ExportError, match="Lfm2ForCausalLM: does not run with keys and values"):
        gacfx.export(model, tmp_path / "out", to="onnx", cache=True)


def test_operators_of_another_library_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_portable_experts", lambda _: nullcontext())
    model: Any = FAMILIES["mixtral"].make()
    with pytest.raises(ExportError, match="grouped_mm_fallback.default, which only its own"):
        gacfx.export(model, tmp_path / "out", to="pt2")


def test_low_ranks_are_refused_by_plain_and_dense_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="q_proj: is rank 9, .*format dense multiplies it"):
        gacfx.export(model_of("low rank"), tmp_path / "out", to="plain")
