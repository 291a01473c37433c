"""How long planning's linear algebra takes on the GPU, at the sizes of an 8B model.

statistics   gacfx.calibration.gather on one decoder block: the moments of its seven weights
decompose    gacfx.compressors.lowrank on one gate projection: all of its ranks
eigh, svd    torch.linalg alone, on the moment of random activations
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gacfx.hardware.measure.cases.prepared import DTYPES, relative_error
from gacfx.hardware.measure.memory import release
from gacfx.hardware.measure.part import Result, Setting

HIDDEN, INTERMEDIATE = 4096, 14336
"""Widths of Llama-3-8B."""
VOCABULARY = 1024
"""Small: the block is what is timed."""
DOCUMENTS, TOKENS = 4, 2048
SECONDS = {
    ("statistics", HIDDEN): 30.0,
    ("decompose", HIDDEN): 20.0,
    ("eigh", HIDDEN): 8.0,
    ("svd", HIDDEN): 25.0,
    ("eigh", INTERMEDIATE): 90.0,
}
"""Guesses of the longest, so that a run with little time left does not begin what it can't end."""


@dataclass(frozen=True, slots=True)
class Algebra:
    """One computation."""

    what: str
    """``statistics``, ``decompose``, ``eigh`` or ``svd``."""
    size: int
    """Hidden width, or the side of a square matrix."""
    dtype: str = "fp64"


class Decompose:
    """Linear algebra, the quick ones first."""

    name = "decompose"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def items(self) -> Sequence[Algebra]:
        """What planning does to one block, then the plain decompositions."""
        own = [Algebra("statistics", HIDDEN), Algebra("decompose", HIDDEN)]
        plain = [("eigh", HIDDEN, "fp32"), ("eigh", HIDDEN, "fp64"), ("svd", HIDDEN, "fp32")]
        plain += [("svd", HIDDEN, "fp64"), ("eigh", INTERMEDIATE, "fp32")]
        plain += [("eigh", INTERMEDIATE, "fp64")]
        return own + [Algebra(*fields) for fields in plain]

    def seconds(self, item: Algebra) -> float:
        """A guess from above."""
        return SECONDS[item.what, item.size]

    def measure(self, item: Algebra) -> Result:
        """Seconds of one computation, and its error where the result can be multiplied out."""
        size = min(item.size, 64) if self._setting.dry else item.size
        run = {"statistics": self._statistics, "decompose": self._decompose}
        if item.what in run:
            return run[item.what](size)
        return self._plain(item.what, size, item.dtype)

    def headline(self, item: Algebra, result: Result) -> str | None:
        """Seconds."""
        return f"{f'{item.what} {item.size} {item.dtype}':44}{result['seconds']:9.2f} s"

    def close(self) -> None:
        """Give the memory back."""
        release(self._setting.timer.device)

    def _statistics(self, size: int) -> Result:
        from gacfx.calibration.gather import gather
        from gacfx.calibration.text import Corpus

        model, linears = self._block(size)
        tokens = 64 if self._setting.dry else TOKENS
        documents = tuple(torch.randint(0, VOCABULARY, (tokens,)) for _ in range(DOCUMENTS))
        gather(model, Corpus(documents[:1]), linears)  # warm-up
        seconds = self._setting.timer.once(lambda: gather(model, Corpus(documents), linears))
        return {"seconds": seconds, "tokens": DOCUMENTS * tokens, "weights": len(linears)}

    def _block(self, size: int) -> tuple[torch.nn.Module, list[str]]:
        from transformers import LlamaConfig, LlamaForCausalLM

        wide = 4 * size if self._setting.dry else INTERMEDIATE
        config = LlamaConfig(
            hidden_size=size,
            intermediate_size=wide,
            num_hidden_layers=1,
            num_attention_heads=size // 16 if self._setting.dry else 32,
            num_key_value_heads=2 if self._setting.dry else 8,
            vocab_size=VOCABULARY,
        )
        with torch.device(self._setting.timer.device):
            model: torch.nn.Module = LlamaForCausalLM(config)
        names = [name for name, module in model.named_modules() if name.endswith("_proj")]
        return model.to(torch.bfloat16), names

    def _decompose(self, size: int) -> Result:
        from gacfx.compressors.lowrank import decompose
        from gacfx.compressors.methods import LOW_RANK
        from gacfx.core.statistics import Moments

        rows = 4 * size if self._setting.dry else INTERMEDIATE
        weight_MN, inputs_TN, grads_TM = (
            torch.randn(*shape, device=self._setting.timer.device, dtype=torch.float64)
            for shape in ((rows, size), (2 * size, size), (2 * size, rows))
        )
        moments = Moments.from_samples(weight_MN, inputs_TN, grads_TM)
        torch.linalg.eigh(moments.side_moment[:64, :64])  # the library's handles are made here
        method, kept = LOW_RANK["gfwsvd"], []

        def call() -> None:
            kept.append(decompose(weight_MN, moments, method))
            kept[-1].curve()

        seconds = self._setting.timer.once(call)
        whole = kept[-1].factors(size)
        error = relative_error(whole.tensors["up"] @ whole.tensors["down"], weight_MN)
        return {"seconds": seconds, "relative_error": error}

    def _plain(self, what: str, size: int, dtype: str) -> Result:
        matrix = self._moment(size).to(DTYPES[dtype])
        run: Callable[[Tensor], tuple[Tensor, ...]] = {
            "eigh": torch.linalg.eigh,
            "svd": torch.linalg.svd,
        }[what]
        run(matrix[:64, :64])  # the library's handles are made here
        found: list[tuple[Tensor, ...]] = []
        seconds = self._setting.timer.once(lambda: found.append(run(matrix)))
        return {"seconds": seconds, "relative_error": _rebuilt(what, found[0], matrix)}

    def _moment(self, size: int) -> Tensor:
        """[size, size] float64: a second moment with a decaying spectrum, as activations have."""
        device = self._setting.timer.device
        scale = torch.arange(1, size + 1, device=device, dtype=torch.float64) ** -0.5
        x_TD = torch.randn(2 * size, size, device=device, dtype=torch.float64) * scale
        return x_TD.t() @ x_TD / len(x_TD)


def _rebuilt(what: str, parts: tuple[Tensor, ...], matrix: Tensor) -> float:
    """Relative error of the product of the parts, in float64."""
    if what == "eigh":
        values, vectors = (part.double() for part in parts)
        product = (vectors * values) @ vectors.t()
    else:
        u, s, vh = (part.double() for part in parts)
        product = (u * s) @ vh
    return relative_error(product, matrix.double())
