"""Export a compressed model as a graph that runs where only torch is: no transformers, no gacfx."""

import subprocess
import sys
import tempfile
from pathlib import Path

import gacfx
from gacfx.demo import MODEL

ELSEWHERE = """
import sys
sys.modules["transformers"] = sys.modules["gacfx"] = None  # as where they are not installed
import torch
program = torch.export.load(sys.argv[1]).module()
ids = torch.tensor([[int(word) for word in sys.argv[2].split()]])
for _ in range(24):
    logits = program(input_ids=ids)  # of any batch and length
    ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
print(*ids[0].tolist())
"""


def main() -> None:
    """Remove 20 % of the parameters of the embedded model's linears, and send it away."""
    model, tokenizer = gacfx.load(MODEL)
    compressed = gacfx.compress(
        model,
        tokenizer,
        calibration=MODEL / "calibration.jsonl",
        calibration_tokens="4k",  # a few seconds' worth
        ratio=0.2,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = gacfx.export(
            compressed.model, Path(folder) / "out", to="pt2", tokenizer=compressed.tokenizer
        )
        print(f"logits differ by {made.difference} from those in memory")
        for file in sorted(made.folder.iterdir()):
            print(f"  {file.name:24} {file.stat().st_size:9,} bytes")
        ids = " ".join(map(str, tokenizer("The")["input_ids"]))
        command = [sys.executable, "-c", ELSEWHERE, str(made.folder / "model.pt2"), ids]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(tokenizer.decode([int(word) for word in found.split()], skip_special_tokens=True))


if __name__ == "__main__":
    main()
