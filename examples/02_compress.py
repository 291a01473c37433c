"""Compress a small trained model, save it, and load it again with plain transformers."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

import gacfx
from gacfx.demo import MODEL


def main() -> None:
    """Remove 20 % of the parameters of the embedded model's linears."""
    model, tokenizer = gacfx.load(MODEL)
    compressed = gacfx.compress(
        model,
        tokenizer,
        calibration=MODEL / "calibration.jsonl",
        calibration_tokens="6k",  # a few seconds' worth
        ratio=0.2,
        gpu="h200",
    )
    plan = compressed.planned.plan
    print(f"kept {plan.kept_params:,} of at most {plan.budget.limit_params:,} parameters")
    print(f"ranks {sorted(set(plan.ranks.values()))}, {len(plan.choices)} weights")
    with tempfile.TemporaryDirectory() as folder:
        gacfx.save(compressed, Path(folder) / "small")
        again: Any = AutoModelForCausalLM.from_pretrained(Path(folder) / "small")
        ids = AutoTokenizer.from_pretrained(Path(folder) / "small")("The", return_tensors="pt")
        written = again.generate(**ids, max_new_tokens=24, do_sample=False)
        print(tokenizer.decode(written[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
