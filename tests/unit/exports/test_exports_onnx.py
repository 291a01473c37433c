"""onnx: the logits of the model in ONNX Runtime, and step by step its greedy tokens."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gacfx
from gacfx.errors import ExportError
from gacfx.exports import onnx as exports_onnx
from tests.few import few
from tests.unit.checkpoint.tiny_models import cast_
from tests.unit.exports.kinds import KINDS, SIZES, ids_of, logits_of, model_of

pytest.importorskip("onnxscript", reason="needs the extra gacfx[onnx]")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="needs the extra gacfx[onnx]")

CLOSE = 1e-4
STEPS = 24


def session_of(folder: Path) -> Any:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def shapes(values: Any) -> dict[str, list[Any]]:
    return {value.name: value.shape for value in values}


class Decoder:
    """Greedy decoding by an ONNX graph alone."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.past = {n: s for n, s in shapes(session.get_inputs()).items() if n.startswith("past")}
        self.names = [value.name for value in session.get_outputs()]

    def tokens(self, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
        """[batch, steps] behind the prompt."""
        batch, found = len(ids), []
        given = {n: np.zeros((batch, s[1], 0, s[3]), "f4") for n, s in self.past.items()}
        given |= {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        for _ in range(steps):
            made = dict(zip(self.names, self.session.run(None, given), strict=True))
            next_ids = made["logits"][:, -1:].argmax(-1)
            found.append(torch.from_numpy(next_ids))
            grown = np.concatenate([given["attention_mask"], np.ones_like(next_ids)], 1)
            given = {n: made[n.replace("past_key_values", "present")] for n in self.past}
            given |= {"input_ids": next_ids, "attention_mask": grown}
        return torch.cat(found, 1)


def generated(model: Any, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    made = model.generate(ids, attention_mask=mask, max_new_tokens=steps, **settings)
    found: Tensor = made[:, ids.shape[1] :]
    return found


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Kind -> session of its graph with a cache."""
    home = tmp_path_factory.mktemp("cached")

    @cache
    def made(kind: str) -> Any:
        found = gacfx.export(model_of(kind), home / kind, to="onnx", cache=True)
        assert found.difference is not None and found.difference < CLOSE
        return session_of(found.folder)

    return made


@pytest.mark.parametrize(
    "kind", few(["pivot", "narrow", "narrow and skipped"], "narrow and skipped")
)
def test_decoding_step_by_step_gives_the_tokens_of_the_model(
    kind: str, cached: Callable[[str], Any]
) -> None:
    model, session = model_of(kind), cached(kind)
    decoder = Decoder(session)
    names = [f"past_key_values.{n}.{what}" for n in (0, 1) for what in ("key", "value")]
    assert list(shapes(session.get_inputs())) == ["input_ids", "attention_mask", *names]
    assert decoder.names == ["logits", *(n.replace("past_key_values", "present") for n in names)]
    ids = ids_of(2, 6)
    mask = torch.ones_like(ids)
    tokens = decoder.tokens(ids, mask, STEPS)
    assert torch.equal(tokens, generated(model, ids, mask, STEPS))
    mask[0, :3] = 0  # padded on the left
    assert torch.equal(decoder.tokens(ids, mask, STEPS), generated(model, ids, mask, STEPS))


HEADS = {
    "narrow": [(1, 8), (2, 8)],
    "skipped": [(1, 1), (2, 8)],
    "narrow and skipped": [(1, 8), (1, 1)],
}
"""Kind -> (heads, size of each) in the cache of each layer."""


@pytest.mark.parametrize("kind", few(HEADS, "narrow and skipped"))
def test_the_cache_has_the_heads_that_each_layer_has(
    kind: str, cached: Callable[[str], Any]
) -> None:
    past = Decoder(cached(kind)).past
    for layer, (heads, size) in enumerate(HEADS[kind]):
        shape = ["batch_size", heads, "past_sequence_length", size]
        assert past[f"past_key_values.{layer}.key"] == shape


@pytest.mark.parametrize(
    ("kind", "beside"),
    [("narrow, low rank", False), pytest.param("gpt2", True, marks=pytest.mark.exhaustive)],
)
def test_logits_are_those_of_the_model(
    kind: str, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:
        monkeypatch.setattr(exports_onnx, "MOST_INSIDE", 1000)
    model = model_of(kind)
    folder = gacfx.export(model, tmp_path / "out", to="onnx").folder
    data = folder / "model.onnx.data"
    assert data.exists() == beside
    assert not beside or data.stat().st_size > 4 * model.lm_head.weight.numel()
    session = session_of(folder)
    assert shapes(session.get_inputs()) == {"input_ids": ["batch_size", "sequence_length"]}
    for size in SIZES:
        ids = ids_of(*size)
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        assert np.abs(logits - logits_of(model, ids).numpy()).max() < CLOSE


@pytest.mark.exhaustive
def test_float16_runs_and_bfloat16_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model = cast_(KINDS["low rank"](), torch.float16)
    made = gacfx.export(model, tmp_path / "out", to="onnx", cache=True)
    assert made.difference is not None and 1e-6 < made.difference < 2e-2
    cast_(model, torch.bfloat16)
    with pytest.raises(ExportError, match=r"bfloat16, for which ONNX Runtime .*--dtype fp32"):
        gacfx.export(model, tmp_path / "other", to="onnx")
    assert not (tmp_path / "other").exists()
