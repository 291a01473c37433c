"""Models of parts: a tower for images beside a language model, whose sizes are one level down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.bench.sides import check_alike
from gacfx.bench.steps import make_step
from gacfx.calibration.text import max_positions
from gacfx.checkpoint.plain_folder import save_plain
from gacfx.core.model_class import text_config, vocabulary
from gacfx.core.pruning import Skip
from gacfx.core.search import Search
from gacfx.core.sites import Workload
from gacfx.tracing.inputs import example_inputs
from tests.families.narrow import LAYOUTS, Layout, attention, decision_of, mlp, plan_of
from tests.families.test_families_uncommon import SIZES, corpus, llava
from tests.families.zoo import VOCAB

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def composite(prefix: str, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A random model of a language model and a tower, in eval mode."""
    import transformers

    config = getattr(transformers, f"{prefix}Config")(
        text_config={**SIZES, **text}, vision_config=vision, **more
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()


def qwen2_vl() -> Any:
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 48, "num_heads": 4, "patch_size": 8}
    return composite("Qwen2VL", {"rope_parameters": MROPE}, vision, image_token_id=96)


def mllama() -> Any:
    vision = {
        **{name: size for name, size in VISION.items() if name != "num_attention_heads"},
        "attention_heads": 4,
        "num_global_layers": 1,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
    }
    text = {"cross_attention_layers": [1], "rope_parameters": ROPE}
    return composite("Mllama", text, vision, image_token_index=96)


def llama4() -> Any:
    text = {"intermediate_size_mlp": 88, "num_local_experts": 4, "head_dim": 8}
    sizes = {f"{name}_dim": 32 for name in ("vision_output", "projector_input", "projector_output")}
    return composite("Llama4", text, {**VISION, **sizes}, image_token_index=96)


COMPOSITE: dict[str, Callable[[], Any]] = {
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "mllama": mllama,
    "llama4": llama4,
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 14)[None]).logits
    return found


@pytest.mark.parametrize("name", COMPOSITE)
def test_a_model_of_parts_goes_the_whole_road(name: str, tmp_path: Path) -> None:
    model = COMPOSITE[name]()
    try:
        logits(model)
    except AttributeError as error:  # Llama 4 with an image tower, transformers 5.24.0
        pytest.skip(f"transformers does not run it: {error}")
    model.save_pretrained(tmp_path / "dense")
    assert gacfx.inspect(model).params == gacfx.inspect(tmp_path / "dense").params
    dense, _ = gacfx.load(tmp_path / "dense")
    assert type(dense) is type(model)
    assert torch.equal(logits(dense), logits(model))
    made = gacfx.compress(
        model, calibration=corpus(), ratio="0.2", search=Search(value="two-sided")
    )
    assert made.planned.plan.ranks
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "small"))
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(made.model))


def test_sizes_are_read_from_the_part_that_is_about_text() -> None:
    model = llava()
    assert text_config(model.config) is model.config.text_config
    assert (max_positions(model), vocabulary(model)) == (64, VOCAB)
    check_alike([model, llava()])
    with torch.no_grad():
        shapes = [
            tuple(make_step(model, Workload(2, 8, mode), 0)().shape)
            for mode in ("prefill", "decode")
        ]
    assert shapes == 2 * [(2, 1, VOCAB)]


def test_of_two_ends_with_text_the_one_that_writes_counts() -> None:
    class Ends:
        """As the configuration of MusicGen."""

        def get_text_config(self, decoder: bool = False) -> Any:
            if not decoder:
                raise ValueError("Multiple valid text configs were found")
            return "the decoder's"

    assert text_config(Ends()) == "the decoder's"


def test_images_have_the_sizes_of_the_tower_and_text_goes_with_them_where_it_must() -> None:
    import transformers

    text = {"model_type": "opt", "vocab_size": VOCAB, "hidden_size": 48, "ffn_dim": 88}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 6, "word_embed_proj_dim": 48}
    former = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Blip2Config(
        text_config=text,
        vision_config=VISION,
        qformer_config={**former, "intermediate_size": 40, "encoder_hidden_size": 32},
        num_query_tokens=4,
        image_token_index=96,
    )
    model = transformers.Blip2ForConditionalGeneration(config).eval()
    inputs = example_inputs(model)
    assert inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert inputs["input_ids"].shape == (3, 17)
    assert gacfx.inspect(model).rows


@pytest.mark.parametrize("skips", [False, True])
def test_a_plain_folder_says_its_sizes_in_the_part_that_is_about_text(
    skips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = "model.language_model.layers.{}"
    layout = Layout(attention=f"{layers}.self_attn", mlp=f"{layers}.mlp")
    monkeypatch.setitem(LAYOUTS, "llava", layout)
    model = llava()
    parts = [(attention(model, "llava", at), mlp(model, "llava", at)) for at in (0, 1)]
    chosen: list[Any] = [(width, decision_of(width, tuple(range(0, 88, 2)))) for _, width in parts]
    if skips:
        chosen = [(part, Skip()) for part in parts[1]]
    gacfx.apply_(model, plan_of(model, *chosen))
    again, _ = gacfx.load(save_plain(model, tmp_path / "out"))
    text = again.config.text_config
    assert (text.num_hidden_layers, text.intermediate_size) == ((1, 88) if skips else (2, 44))
    assert torch.equal(logits(again), logits(model))
