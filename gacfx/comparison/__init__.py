"""Several checkpoints in one table: size, loss on a text, KL to the dense model, zero-shot scores.

    found = compare(["dense", "small", "smaller"], text=Text("other.jsonl", window=512, stride=256))
    found.models[1].text.change.mean

One model is in memory at a time, beside the dense one.
"""

from gacfx.comparison.results import Compared, Comparison, TextScores
from gacfx.comparison.side_by_side import Questions, compare, measure_text
from gacfx.comparison.sides import Text

__all__ = ["Compared", "Comparison", "Questions", "Text", "TextScores", "compare", "measure_text"]
