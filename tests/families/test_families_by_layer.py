"""Every causal family: statistics one decoder layer at a time are those of the whole model."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gacfx import pipelines
from gacfx.calibration import batches, by_layer, predictions
from gacfx.calibration.gather import gather, gather_texts
from gacfx.calibration.layered import Layered
from gacfx.calibration.text import Corpus
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.work_folder import WorkFolder
from gacfx.graph.pipeline import Pipeline
from gacfx.passes.planning.read_graph import target_names
from gacfx.tracing.export import export_model
from tests.families.zoo import CORNERS, FAMILIES, VOCAB
from tests.few import few

CAUSAL = [name for name in FAMILIES if name not in ("bert", "t5", "vit")]
TENSORS = (
    *("projected_moment", "side_moment", "long_moment"),
    *("input_abs_mean", "input_abs_max", "input_square_mean"),
)


def corpus(seed: int) -> Corpus:
    random = torch.Generator().manual_seed(seed)
    lengths = [40, 33, 51]
    return Corpus(tuple(torch.randint(3, VOCAB, (n,), generator=random) for n in lengths))


@cache
def targets(name: str) -> list[str]:
    """Modules of the targeted weights of a family."""
    return targets_of(FAMILIES[name].make())


def targets_of(model: Any) -> list[str]:
    """Modules of the targeted weights of a model."""
    graph = export_model(model)
    Pipeline.parse(pipelines.SELECT).bind(skip=()).run(graph)
    return target_names(graph)


def difference(one: Moments, other: Moments) -> float:
    """Largest relative error of all tensors."""
    assert (one.rows, one.columns) == (other.rows, other.columns)
    found = [abs(one.grad_square_mean - other.grad_square_mean) / one.grad_square_mean]
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            found.append(float((a - b).norm() / a.norm()))
    return max(found)


def assert_equal(whole: Statistics, parts: Statistics, most: float) -> None:
    assert list(whole.moments) == list(parts.moments)
    assert (whole.tokens, whole.text_digest) == (parts.tokens, parts.text_digest)
    assert whole.digests == parts.digests
    assert parts.dense_nats_per_token == pytest.approx(whole.dense_nats_per_token, rel=1e-6)
    for name, found in whole.moments.items():
        assert difference(found, parts.moments[name]) <= most, name


@pytest.mark.parametrize("name", few(CAUSAL, *CORNERS))
def test_by_layer_is_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES[name].make()
    names = targets(name)
    both, texts = set(names[-3:]), (corpus(0), corpus(1))
    before = {key: each.clone() for key, each in model.state_dict().items()}
    monkeypatch.setattr(by_layer, "SHARD_TOKENS", 60)
    with WorkFolder(tmp_path / "work", {}) as store:
        parts = gather_texts(model, texts, names, both_sides=both, store=store)
        for text, found in zip(texts, parts, strict=True):
            # Nothing is split inside a document: the same products, so the same bits.
            assert_equal(gather(model, text, names, both_sides=both), found, 0.0)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_head_in_parts_gives_the_whole_to_rounding(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FAMILIES[name].make()
    names = targets(name)
    monkeypatch.setattr(predictions, "LOGITS", 7 * VOCAB)
    with WorkFolder(tmp_path / "work", {}) as store:
        (parts,) = gather_texts(model, (corpus(0),), names, store=store)
        assert_equal(gather(model, corpus(0), names), parts, 1e-6)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("llama", "gpt2", "gemma3", "deepseekv3")
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in CAUSAL
    ],
)
def test_statistics_do_not_depend_on_what_is_read_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kernels of experts know no float64.
    experts = name in ("mixtral", "qwen3moe", "deepseekv3")
    model, most = FAMILIES[name].make(), 1e-5 if experts else 1e-9
    model = model if experts else model.double()
    names = targets(name)
    together = gather(model, corpus(0), names, both_sides=set(names))
    monkeypatch.setattr(batches, "MOST_TOKENS", 1)
    assert_equal(gather(model, corpus(0), names, both_sides=set(names)), together, most)


@pytest.mark.parametrize("name", few(CAUSAL, *CORNERS))
def test_runs_from_boundary_to_boundary(name: str) -> None:
    model: Any = FAMILIES[name].make()
    layered, ids_BT = Layered(model), FAMILIES[name].inputs(2, 17)["input_ids"]
    with torch.no_grad():
        whole = model(ids_BT, use_cache=False).logits
        with layered.parted(ids_BT[0]):
            count = len(layered.layers)
            last = layered.between(ids_BT, -1, until=count)
            assert torch.equal(layered.between(ids_BT, count, last), whole)
            assert torch.equal(layered.between(ids_BT, -1, until=count + 1), whole)
        assert torch.equal(model(ids_BT, use_cache=False).logits, whole)
