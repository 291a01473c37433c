"""The small trained Llama that `gacfx demo` compresses: `MODEL` is its Hugging Face folder."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
REAL = Path(__file__).parent / "llama-3-8b.txt"
"""What ``gacfx plan llama-3-8b --synthetic 0.5`` says of the speed, kept by tests/golden: making it
takes longer than the rest of the demo should wait."""
