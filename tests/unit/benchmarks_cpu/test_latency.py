"""benchmarks/latency.py: variants of one budget, runs that agree, and the page of its results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latency, record
from benchmarks.latency_models import ALIGN, RATIO, SUBJECTS, VARIANTS, Subject, models_of
from gacfx.modules.install import compressed_modules

ROOT = Path(__file__).parents[3]
TINY = Subject(
    "tiny",
    {
        "vocab_size": 90,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
)


def test_variants_have_one_budget_and_only_some_are_aligned() -> None:
    models, said = models_of(TINY)
    assert tuple(models) == tuple(each.variant for each in said) == VARIANTS
    dense, *others = said
    assert dense.kept == 1 and not dense.ranks
    for each in others:
        assert 0.95 * (1 - RATIO) < each.kept <= 1 - RATIO
        assert each.params < dense.params
    assert len(others[0].ranks) == len(others[2].ranks) == 7
    unaligned, aligned, pivots = (
        [rank % ALIGN for ranks in each.ranks.values() for rank in ranks] for each in others
    )
    assert any(unaligned) and not any(aligned + pivots)
    kinds = [{m.decision.kind for m in compressed_modules(models[v]).values()} for v in VARIANTS]
    assert kinds == [set(), {"low-rank"}, {"low-rank"}, {"pivot"}]


@pytest.mark.exhaustive
def test_every_run_computes_what_eager_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra gacfx[onnx]")
    monkeypatch.setattr(latency, "PROMPT", 12)
    monkeypatch.setattr(latency, "ROUNDS", {"prefill": 2, "decode": 3})
    names = [e for e in latency.ENGINES if e != "inductor" and e not in latency.installed()]
    assert {"torch eager", "onnxruntime"} <= {*names}
    _, rows = latency.measure(TINY, names)
    found = {(row.variant, row.workload, row.engine, row.dtype) for row in rows}
    for name in VARIANTS:
        for work in ("prefill", "decode"):
            assert (name, work, "torch eager", "bf16") in found
            assert (name, work, "onnxruntime", "fp32") in found
            assert (name, work, "onnxruntime", "bf16") not in found
    assert len(found) == len(rows)
    assert all(row.right and row.milliseconds > 0 for row in rows)
    assert all(row.of_dense == 1 for row in rows if row.variant == "dense")
    assert not replace(rows[0], difference=0.2).right


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(latency, "find_spec", lambda name: name if name in there else None)
    assert latency.installed() == dict.fromkeys(latency.ENGINES[2:], "is not installed")
    there.add("onnxruntime")
    assert [*latency.installed()] == ["openvino", "onnxruntime, bf16"]


def test_the_page_has_the_tables_of_the_results() -> None:
    found: Any = json.loads((record.RESULTS / "latency.json").read_text())
    page = (ROOT / "docs/exports.md").read_text(encoding="utf-8")
    for subject in SUBJECTS:
        assert latency.table(found["rows"], subject.name) in page
