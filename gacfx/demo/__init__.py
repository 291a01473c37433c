"""The small trained Llama that `gacfx demo` compresses: `MODEL` is its Hugging Face folder."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
