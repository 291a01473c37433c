"""A mixture of experts: one size for all experts of a layer, which then run as grouped products."""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

import gacfx
from gacfx.demo import MODEL


def main() -> None:
    """A small random Mixtral with the demo's tokenizer: what is shown is sizes, not quality."""
    _, tokenizer = gacfx.load(MODEL)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    small = gacfx.compress(
        model,
        tokenizer,
        calibration=MODEL / "calibration.jsonl",
        calibration_tokens="5k",
        ratio=0.3,
        search=gacfx.Search(value="two-sided", form="pair", limits=("tie-experts",)),
        force=True,  # a random model predicts nothing
    )
    for name, decision in small.planned.plan.decisions.items():
        if ".experts.0." in name:
            print(f"{name.replace('.experts.0.', '.experts.*.'):34} {decision}")
    with tempfile.TemporaryDirectory() as folder:
        gacfx.save(small, Path(folder) / "small")
        place = Path(folder) / "small"
        served = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    ids = tokenizer("import os", return_tensors="pt").input_ids
    before = served(ids).logits
    left = gacfx.group_experts_(served)
    print(f"grouped: {left or 'all layers'}")
    apart = (served(ids).logits - before).abs().max()
    print(f"logits differ by {apart:.1e}; {served.model.layers[0].mlp.experts}")
    found = gacfx.inspect(served)
    print(*(f"{row.name:44} {row.kernel}" for row in found.rows if "experts" in row.name), sep="\n")


if __name__ == "__main__":
    main()
