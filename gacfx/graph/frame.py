"""Which sizes of a captured graph grow with its input, and with what."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch.fx import GraphModule

from gacfx.core.sites import Extent
from gacfx.graph import ops


@dataclass(frozen=True, slots=True)
class Frame:
    """Batch and sequence sizes of the capture; ``seq`` 0 where the input has no sequence."""

    batch: int
    seq: int
    chunks: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Module -> lengths that it pads the sequence to: it works on chunks of so many tokens, of
    which the capture has one."""

    def times(self, sizes: Sequence[int], inner: Sequence[int], module: str) -> Extent:
        """How often a product of activations is done: once for each chunk where it is of chunks.

        Args:
            sizes: of the axes that it is done along.
            inner: all sizes of one such product.
            module: that does it.
        """
        whole = self.extent(prod(sizes))
        chunk = next((n for n in sorted(self.chunks.get(module, ())) if n in inner), None)
        if chunk is None or whole.of != "sequence" or self.seq in inner:
            return whole
        return Extent(whole.times, "chunk", chunk)

    def extent(self, size: int) -> Extent:
        """A flattened row count as a multiple of tokens, of sequences, or a constant."""
        if self.seq and size % (self.batch * self.seq) == 0:
            return Extent(size // (self.batch * self.seq), "token")
        if size % self.batch == 0:
            return Extent(size // self.batch, "sequence")
        return Extent(size)

    def heads(self, shape: Sequence[int]) -> int:
        """Heads of queries or keys [B, H, S, D], or [B H, S, D]."""
        lead = prod(shape[:-2])
        return lead // self.batch if lead % self.batch == 0 else lead

    def rows(self, sizes: Sequence[int], window: int = 0) -> Extent:
        """The rows that go through a weight.

        Args:
            sizes: of the axes that they run along.
            window: numbers in a window of a convolution, which may add a few places to a sequence.
        """
        *_, last = sizes
        long = self.seq <= last < self.seq + window
        if self.seq and len(sizes) == 2 and long:  # of a text, and not of an image
            return Extent(sizes[0] // self.batch or 1, "token")
        return self.extent(prod(sizes))

    def of_activation(self, sizes: Sequence[int], unit: str) -> Extent:
        """A size of an activation matmul: the sequence where an axis equals it, else a constant."""
        total = prod(sizes)
        if self.seq and self.seq in sizes:
            return Extent(total // self.seq, "query" if unit == "query" else "key")
        return Extent(total)


def input_frame(gm: GraphModule) -> Frame:
    """Batch and sequence sizes, read from the first input: ids [B, S] or another [B, ...]."""
    for node in gm.graph.nodes:
        sizes = ops.shape(node) if node.op == "placeholder" else None
        if sizes:
            seq = sizes[1] if len(sizes) == 2 else 0
            return Frame(sizes[0], seq, _chunks(gm, seq))
    return Frame(1, 0)


def _chunks(gm: GraphModule, seq: int) -> dict[str, frozenset[int]]:
    """Where axes of the sequence are padded, and to which lengths.

    A window of a convolution is padded too, by a few places; no product is of such a length.
    """
    found: defaultdict[str, set[int]] = defaultdict(set)
    for node in gm.graph.nodes if seq else ():
        if ops.call_name(node) not in ("pad", "constant_pad_nd") or not ops.module_stack(node):
            continue
        before, after = ops.shape(node.all_input_nodes[0]), ops.shape(node)
        longer = {b for a, b in zip(before or (), after or (), strict=False) if a == seq < b}
        found[ops.module_stack(node)[-1][0]] |= longer
    return {module: frozenset(lengths) for module, lengths in found.items()}
