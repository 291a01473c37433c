"""The sizes of a Llama: names and shapes of its linear layers."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Llama with grouped-query attention; nothing is tied and nothing has a bias."""

    name: str
    layers: int
    hidden: int
    width: int
    """MLP channels."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    unpruned: int
    """First layers that LLM-Pruner leaves alone."""

    def linears(self, layers: Sequence[int] | None = None) -> dict[str, tuple[int, int]]:
        """Name inside the decoder -> (rows, columns), in the order of the model.

        Args:
            layers: only these layers; default: all.
        """
        chosen = range(self.layers) if layers is None else layers
        kinds = self._kinds()
        return {f"layers.{i}.{kind}": size for i in chosen for kind, size in kinds.items()}

    @property
    def targeted(self) -> int:
        """Parameters of all linear layers of the decoder."""
        return sum(rows * columns for rows, columns in self.linears().values())

    @property
    def channel_params(self) -> int:
        """Parameters of one MLP channel: a row of gate and of up, a column of down."""
        return 3 * self.hidden

    def spread(self, count: int) -> tuple[int, ...]:
        """``count`` layers, the first and the last among them, evenly chosen."""
        if count >= self.layers:
            return tuple(range(self.layers))
        return tuple(i * (self.layers - 1) // max(count - 1, 1) for i in range(count))

    def _kinds(self) -> dict[str, tuple[int, int]]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.width, self.hidden),
            "mlp.up_proj": (self.width, self.hidden),
            "mlp.down_proj": (self.hidden, self.width),
        }


LLAMA_3_8B = Architecture("Llama-3-8B", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 3)
"""config.json of meta-llama/Meta-Llama-3-8B; unpruned: GAC, footnote 3."""
TINY = Architecture("tiny", 3, 64, 176, 4, 2, 16, 256, 128, 1)
"""For rehearsals on a CPU."""
