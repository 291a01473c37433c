"""What a model is fed that nobody gave anything."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.families.models import families, make
from gacfx.errors import CaptureError
from gacfx.tracing.export import export_model
from gacfx.tracing.inputs import example_inputs


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of tensors."""
    found = example_inputs(model)
    return {name: tuple(t.shape) for name, t in found.items() if isinstance(t, torch.Tensor)}


def test_sound_comes_as_features_and_text_goes_with_it() -> None:
    model = make(families()["whisper (both halves)"])
    frames = 2 * model.config.max_source_positions
    assert shapes(model) == {
        "input_features": (3, model.config.num_mel_bins, frames),
        "decoder_input_ids": (3, 17),
    }
    assert "encoder" in str(export_model(model, attention_seq=17).graph)


def test_sound_is_as_long_as_its_convolutions_need_for_the_frames() -> None:
    model: Any = make(families()["wav2vec2"])
    inputs = example_inputs(model)
    with torch.no_grad():
        assert model.wav2vec2.feature_extractor(inputs["input_values"]).shape[-1] == 17
        assert model(**inputs).logits.shape[:2] == (3, 17)


class Takes(nn.Module):
    """Something else."""

    def __init__(self, main: str, **config: Any) -> None:
        super().__init__()
        self.main_input_name, self.config = main, SimpleNamespace(**config)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """The same."""
        return spectrogram * self.scale


class TakesValues(Takes):
    """Sound, of a length that no convolutions say."""

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """The same."""
        return input_values * self.scale


@pytest.mark.parametrize("model", [Takes("spectrogram"), Takes("input_ids")])
def test_an_argument_that_nobody_knows_is_named(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match=r"Takes: its forward begins with spectrogram.*inputs="):
        example_inputs(model)
    assert export_model(model, {"spectrogram": torch.ones(3, 5)}).graph.output_node() is not None


def test_sizes_that_nobody_knows_are_no_attribute_error() -> None:
    with pytest.raises(CaptureError, match=r"TakesValues: its forward begins with input_values"):
        example_inputs(TakesValues("input_values"))
