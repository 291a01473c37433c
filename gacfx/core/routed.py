"""Routed ranks as a decision: a pool of rank-1 pieces, of which every prompt uses some blocks.

    Routed(pool=96, active=64, shared=32, block=16)

      blocks    0   1 | 2   3 | 4   5        6 blocks of 16 ranks are stored
    prompt a    x   x   x   x                4 of them run: the first two always
    prompt b    x   x           x   x        prompt a has the static prefix, as without a pick

The number of active ranks is the same for every prompt, so that shapes are static and one graph
serves all. Source: PARSE, arXiv 2605.08568; blocks, and pools that hold the own directions of
several kinds of text, are ours (docs/parse.md).
"""

from dataclasses import dataclass
from typing import ClassVar

from gacfx.core.decision import Decision, Gemm, Stored, Work

MOST = 2**24
"""Stored ranks; a file that says more is refused before anything is built of it."""


@dataclass(frozen=True, slots=True)
class Routed(Decision):
    """A pool of ``pool`` ranks in blocks, of which ``active`` run for a prompt."""

    kind: ClassVar[str] = "routed"
    pool: int
    """Ranks that are stored."""
    active: int
    """Ranks that run; without a pick the first ones do."""
    shared: int
    """Ranks that run for every prompt: the first ones."""
    block: int
    """Ranks that are picked together."""

    @property
    def rank(self) -> int:
        """Rank of the product that runs."""
        return self.active

    @property
    def label(self) -> int | str:
        """Unique among candidates of one block size."""
        return f"routed {self.active} of {self.pool}, {self.shared} shared"

    @property
    def blocks(self) -> int:
        """Blocks that are stored."""
        return self.pool // self.block

    @property
    def picks(self) -> int:
        """Blocks that run for a prompt."""
        return self.active // self.block

    @property
    def fixed(self) -> int:
        """Blocks that run for every prompt."""
        return self.shared // self.block

    def problem(self, rows: int, columns: int) -> str:
        """Sizes that are no multiples of the block, or do not fit into each other or the weight."""
        if self.block < 1:
            return f"block {self.block} is below 1"
        for what, found in (("pool", self.pool), ("active", self.active), ("shared", self.shared)):
            if found % self.block:
                return f"{what} {found} is no multiple of the block of {self.block}"
        most = min(rows, columns)
        if not 1 <= self.active <= most:
            return f"active rank {self.active} is outside 1 .. {most}"
        if self.pool > MOST:
            return f"pool {self.pool} is above {MOST:,} ranks"
        if self.active > self.pool:
            return f"active rank {self.active} is more than the pool of {self.pool}"
        if not 0 <= self.shared <= self.active:
            return f"shared rank {self.shared} is outside 0 .. {self.active}, the active rank"
        return ""

    def params(self, rows: int, columns: int) -> int:
        """Of the whole pool."""
        return self.pool * (rows + columns)

    def active_params(self, rows: int, columns: int) -> int:
        """Of what runs for a prompt."""
        return self.active * (rows + columns)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """Two products of the active rank, whose factors were gathered when the prompt came."""
        return Gemm(columns, self.active), Gemm(self.active, rows, bias)

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """Both factors, ranks first, so that a block is one piece of memory in each."""
        return {
            "down": Stored((self.pool, columns), "down"),
            "up": Stored((self.pool, rows), "up"),
        }

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """What runs, and what is picked together."""
        del rows, columns
        return self.active, self.block

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Nothing: what a pool is worth depends on prompts, which a curve knows nothing of."""
        del rows, columns, step
        return (), f"is {cls.kind}: gacfx route plans such pools"

    def __str__(self) -> str:
        return str(self.label)


def own_blocks(decision: Routed, clusters: int, cluster: int) -> tuple[int, ...]:
    """The blocks that the prompts of one cluster use, where each cluster has own ones.

    Behind the ``active`` ranks of the static prefix, cluster 0, stand ``active - shared`` own ranks
    of each further cluster.

    Args:
        decision: with a pool of active + clusters (active - shared) ranks.
        clusters: that have own ranks.
        cluster: 0 for the prefix, else 1 .. clusters.

    Raises:
        ValueError: another pool, or no such cluster.
    """
    own = decision.picks - decision.fixed
    if decision.blocks != decision.picks + clusters * own:
        raise ValueError(f"{decision} is no pool of {clusters} clusters")
    if not 0 <= cluster <= clusters:
        raise ValueError(f"cluster {cluster} is outside 0 .. {clusters}")
    if cluster == 0:
        return tuple(range(decision.picks))
    first = decision.picks + (cluster - 1) * own
    return (*range(decision.fixed), *range(first, first + own))
