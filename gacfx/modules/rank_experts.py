"""RankExpertLinear: a pool of rank-1 pieces in blocks, of which each prompt uses some.

    y = up[pick]^T (down[pick] x) + b

Nothing is picked: the first ``active`` ranks run, which is the static layer. ``choose`` gathers
what a prompt picked into contiguous factors, once for each prompt; decoding goes on with them. They
keep their place and shape from one prompt to the next while batches go the same way, so that
compiled code stays valid. Sequences of a batch that pick differently share one gathered union with
a mask where that is small, and else are computed group by group; either way each gets what it would
get alone.
"""

# P patterns, K active ranks, U ranks of a union, R pool, N inputs, M outputs, B sequences, T tokens

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.functional import linear

from gacfx.core.routed import Routed
from gacfx.errors import DecompositionFailed, PlanError, UnsupportedModel
from gacfx.graph.edit import Build
from gacfx.graph.ops import aten
from gacfx.modules.carrier import Carrier, Source
from gacfx.modules.low_rank import balanced

CAP = 1.25
"""Largest union of the picks of a batch, as a share of the active rank, that is computed whole.
``python -m benchmarks.parse.observations`` has the unions of batches of 2 to 16 prompts."""

MOST_RUNS = 4
"""Runs of blocks that are copied one by one; more are gathered at once."""

Run = tuple[int, int, int]
"""(place of the first block among those that are picked, its place in the pool, blocks)."""
Gathering = Callable[[Tensor, Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
"""(x, down, up, blocks, block, bias) -> y: a product that gathers in each call."""


class RankExpertLinear(Carrier):
    """Two factors with the ranks first, and what is picked of them."""

    down_picked: Tensor | None
    """[K, N] gathered; [U, N] of a union, [P, K, N] of groups. None: the prefix runs."""
    up_picked: Tensor | None
    """[K, M] gathered, and so on."""
    mask_picked: Tensor | None
    """[B, 1, U]: ranks of a union that each sequence uses. None: all."""
    order: Tensor | None
    """int64 [B]: sequences, those of one group after the other."""
    blocks_called: Tensor | None
    """int [P]: blocks that each call gathers."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        decision: Routed,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        made: Any = {"device": device, "dtype": dtype}
        self.routed = decision
        self.down = nn.Parameter(torch.empty(decision.pool, in_features, **made))
        self.up = nn.Parameter(torch.empty(decision.pool, out_features, **made))
        nn.init.normal_(self.down, std=in_features**-0.5)
        nn.init.normal_(self.up, std=decision.active**-0.5)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, **made))
        for name in ("down_picked", "up_picked", "mask_picked", "order", "blocks_called"):
            self.register_buffer(name, None, persistent=False)
        self.groups: tuple[int, ...] = ()
        self.weights: Tensor | None = None
        self.gathering: Gathering | None = None
        self._held: tuple[Tensor, float, object] | None = None
        self._placed: tuple[tuple[int, ...], object] | None = None

    # -- what a kind of decision says --------------------------------------------------------------

    @property
    def decision(self) -> Routed:
        """Pool, active and shared ranks, and the block."""
        return self.routed

    @classmethod
    def bare(
        cls,
        decision: Routed,
        rows: int,
        columns: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Two factors of the pool."""
        return cls(columns, rows, decision, bias=False, device=device, dtype=dtype)

    @classmethod
    def make(cls, decision: Routed, source: Source) -> dict[str, Tensor]:
        """The first ``pool`` components, in singular order.

        Raises:
            DecompositionFailed: the pool is larger than the rank of the weight: it holds own ranks
                of several clusters, which :mod:`gacfx.routing.bases` makes.
        """
        if decision.pool > min(source.weight_MN.shape):
            reason = f"{decision}: own ranks of clusters are made by gacfx.routing.bases"
            raise DecompositionFailed(source.module, reason)
        up_MR, down_RN = balanced(*source.pair(decision.pool))
        return {"down": down_RN.contiguous(), "up": up_MR.T.contiguous()}

    @classmethod
    def reordered(
        cls, decision: Routed, tensors: Mapping[str, Tensor], order_O: Tensor
    ) -> dict[str, Tensor] | None:
        """The second factor has the outputs."""
        del decision
        return {**tensors, "up": tensors["up"][:, order_O]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]; [sequences, ...] where they pick differently.

        Raises:
            UnsupportedModel: they pick differently, and the batch has another number of sequences.
        """
        if self.weights is not None:
            hidden = linear(x, self.down) * self.weights
            return linear(hidden, self.up.T, self.bias)
        if self.gathering is not None and self.blocks_called is not None:
            block, blocks = self.routed.block, self.blocks_called
            return self.gathering(x, self.down, self.up, blocks, block, self.bias)
        down, up = self._factors()
        if self.groups:
            return self._by_groups(x, down, up)
        hidden = linear(x, down)
        if self.mask_picked is not None:
            self._check_batch(x, len(self.mask_picked))
            mask = self.mask_picked
            hidden = hidden * mask.view(len(mask), *[1] * (x.ndim - 2), mask.shape[-1])
        return linear(hidden, up.T, self.bias)

    @classmethod
    def emit(
        cls,
        build: Build,
        decision: Routed,
        rows: int,
        columns: int,
        x: Node,
        tensors: Mapping[str, Node],
        bias: Node | None,
    ) -> Node:
        """The static prefix, as ``forward`` computes it without a pick; ``route-ranks`` makes the
        graph follow picks."""
        active = decision.active
        down, up = (
            build.call(aten.slice.Tensor, (tensors[name], 0, 0, active)) for name in ("down", "up")
        )
        hidden = build.linear(x, down, child="")
        turned = build.call(aten.numpy_T.default, (up,))
        return build.linear(hidden, turned, bias, child="")

    # -- what a prompt picks -----------------------------------------------------------------------

    def holds(self, blocks_PB: Tensor, *, cap: float = CAP) -> bool:
        """``choose`` would change nothing: it was asked for the same last, and the pool was neither
        trained nor loaded since."""
        if self._held is None:
            return False
        held_PB, held_cap, state = self._held
        same = state == self._state() and held_cap == cap
        return same and held_PB.shape == blocks_PB.shape and torch.equal(held_PB, blocks_PB.cpu())

    @torch.inference_mode(False)  # written in place by later calls, which may be outside of it
    @torch.no_grad()
    def choose(self, blocks_PB: Tensor | None, *, cap: float = CAP) -> None:
        """Compute with these blocks from now on.

        Args:
            blocks_PB: int [1, picks] for all sequences, [sequences, picks] for one row each, in any
                order; None for the static prefix.
            cap: largest union of different picks that is computed whole, of the active rank.

        Raises:
            PlanError: another number of blocks, or one that the pool does not have, or one twice.
            UnsupportedModel: accelerate moves the layer in and out of memory.
        """
        if blocks_PB is not None:
            self._check_blocks(blocks_PB)
            if hasattr(self, "_hf_hook"):
                raise UnsupportedModel(
                    "a pool of ranks is offloaded, and what a prompt picks is gathered before its "
                    "layer runs; load the model without offload, or detach its router"
                )
        if blocks_PB is None or not self._has_one_pick:
            self.weights = self.gathering = self.blocks_called = None
            self.groups, self.order = (), None
        own = vars(self)  # past nn.Module.__setattr__, which takes longer than the rest
        if blocks_PB is None:
            self.down_picked = self.up_picked = self.mask_picked = None
            own["_held"] = own["_placed"] = None
            return
        blocks_PB = blocks_PB.cpu().clone()
        own["_held"] = blocks_PB, cap, self._state()
        if len(blocks_PB) == 1:
            self._gather(sorted(blocks_PB[0].tolist()), None)
            return
        rows_PB, pattern_B = torch.unique(blocks_PB.sort(1).values, dim=0, return_inverse=True)
        if len(rows_PB) == 1:
            self._gather(rows_PB[0].tolist(), None)
            return
        union = rows_PB.unique()
        room = int(cap * self.routed.active) // self.routed.block
        if len(union) <= room:
            self._gather_union(union, rows_PB[pattern_B], room)
            return
        self._gather(rows_PB.flatten().tolist(), None, groups=len(rows_PB))
        self.order = pattern_B.argsort(stable=True).to(self.down.device)
        self.groups = tuple(torch.bincount(pattern_B, minlength=len(rows_PB)).tolist())

    def weigh(self, weights: Tensor | None) -> None:
        """Compute with the whole pool from now on, each rank times a weight.

        Args:
            weights: [R], or [sequences, 1, R]; gradients go into it. None to end that.
        """
        self.choose(None)
        vars(self)["weights"] = weights  # a parameter of others does not become one of this layer

    def gather_in_each_call(self, blocks_B: Tensor, product: Gathering) -> None:
        """Compute with these blocks, which each call gathers from the pool: no second copy.

        Args:
            blocks_B: int [picks], for all sequences.
            product: such as :func:`gacfx.routing.kernels.routed_linear`.

        Raises:
            PlanError: as for :meth:`choose`.
        """
        self._check_blocks(blocks_B[None])
        self.choose(None)
        self.gathering, self.blocks_called = product, blocks_B.to(self.down.device)

    def extra_repr(self) -> str:
        """Sizes, and where adapters go: nowhere, as there is no linear inside."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self.decision}, blocks of {self.routed.block}, bias={self.bias is not None}"
        )

    @property
    def _has_one_pick(self) -> bool:
        """All sequences pick the same, and it is gathered."""
        asked = (self.weights, self.gathering, self.mask_picked, self.order)
        return self.down_picked is not None and all(each is None for each in asked)

    # -- inside ------------------------------------------------------------------------------------

    def _check_blocks(self, blocks_PB: Tensor) -> None:
        routed = self.routed
        if blocks_PB.ndim != 2 or blocks_PB.shape[1] != routed.picks or not len(blocks_PB):
            raise PlanError(
                f"a pick of {tuple(blocks_PB.shape)} blocks; {routed} takes [sequences, "
                f"{routed.picks}] blocks of {routed.block}"
            )
        for row in blocks_PB.tolist():
            if min(row) < 0 or max(row) >= routed.blocks:
                raise PlanError(f"a pick outside the {routed.blocks} blocks of {routed}")
            if len({*row}) != len(row):
                raise PlanError(f"a pick that takes a block of {routed} twice")

    def _gather(self, blocks: Sequence[int], mask: Tensor | None, *, groups: int = 0) -> None:
        """Fill the gathered factors, in their place where the shape stays; only what is new."""
        ranks, before = len(blocks) * self.routed.block, None
        assert self._held is not None
        if self._placed is not None and self._placed[1] == self._held[2]:
            before = self._placed[0]
        for name, pool in (("down_picked", self.down), ("up_picked", self.up)):
            shape: tuple[int, ...] = (ranks, pool.shape[1])
            shape = (groups, ranks // groups, pool.shape[1]) if groups else shape
            held = getattr(self, name)
            if held is None or _unlike(held, shape, pool):
                held, before = pool.new_empty(shape), None
                setattr(self, name, held)
        runs = list(_runs(blocks, before))
        for name, pool in (("down_picked", self.down), ("up_picked", self.up)):
            self._copy(getattr(self, name).view(ranks, -1), pool, blocks, runs)
        vars(self)["_placed"] = tuple(blocks), self._held[2]
        held = self.mask_picked
        if mask is None:
            if held is not None:
                self.mask_picked = None
            return
        if held is None or (held.shape, held.dtype) != (mask.shape, mask.dtype):
            self.mask_picked = mask
        else:
            held.copy_(mask)

    def _copy(
        self, held_KX: Tensor, pool_RX: Tensor, blocks: Sequence[int], runs: Sequence[Run]
    ) -> None:
        """Copy runs of blocks; by one gather where they are many."""
        block = self.routed.block
        if len(runs) > MOST_RUNS:
            at = torch.tensor(blocks)[:, None] * block + torch.arange(block)
            torch.index_select(pool_RX, 0, at.flatten().to(pool_RX.device), out=held_KX)
            return
        for to, source, count in runs:
            rows = pool_RX[source * block : (source + count) * block]
            held_KX[to * block : (to + count) * block].copy_(rows)

    def _gather_union(self, union: Tensor, rows_BK: Tensor, room: int) -> None:
        """One set of factors for all, of always the same size, and who uses what of it."""
        taken = set(union.tolist())
        fill = [each for each in range(self.routed.blocks) if each not in taken]
        blocks = torch.cat([union, torch.tensor(fill[: room - len(union)], dtype=union.dtype)])
        uses_BU = (rows_BK[:, None, :] == blocks[None, :, None]).any(-1)
        mask = uses_BU.repeat_interleave(self.routed.block, 1)[:, None]
        self._gather(blocks.tolist(), mask.to(self.down))

    def _state(self) -> object:
        """What changes when the pool is written or replaced."""
        pool = (self.down, self.up)
        return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in pool]

    def _factors(self) -> tuple[Tensor, Tensor]:
        """What was gathered; the prefix without a pick. In training mode it is gathered again, so
        that gradients reach the pool."""
        if self.down_picked is None or self.up_picked is None:
            active = self.routed.active
            return self.down[:active], self.up[:active]
        if not self.training:
            return self.down_picked, self.up_picked
        assert self._placed is not None
        block, device = self.routed.block, self.down.device
        blocks = torch.tensor(self._placed[0], device=device)
        at = (blocks[:, None] * block + torch.arange(block, device=device)).flatten()
        return (
            self.down[at].view_as(self.down_picked),
            self.up[at].view_as(self.up_picked),
        )

    def _by_groups(self, x: Tensor, down_PKN: Tensor, up_PKM: Tensor) -> Tensor:
        """Sequences of one pattern together."""
        assert self.order is not None
        self._check_batch(x, len(self.order))
        parts = [
            linear(linear(rows, down_KN), up_KM.T, self.bias)
            for rows, down_KN, up_KM in zip(
                x[self.order].split(self.groups), down_PKN, up_PKM, strict=True
            )
        ]
        return torch.cat(parts)[self.order.argsort()]

    def _check_batch(self, x: Tensor, sequences: int) -> None:
        if x.ndim < 3 or len(x) != sequences:
            raise UnsupportedModel(
                f"a layer of routed ranks got {tuple(x.shape)} for {sequences} sequences that pick "
                "differently; [sequences, tokens, features] is needed: give it one prompt at a time"
            )


def _unlike(held: Tensor, shape: tuple[int, ...], pool: Tensor) -> bool:
    """It cannot take the place of what is to be gathered."""
    same = held.dtype == pool.dtype and held.device == pool.device
    return tuple(held.shape) != shape or not same or held.is_inference()


def _runs(blocks: Sequence[int], before: Sequence[int] | None) -> Iterator[Run]:
    """What must be copied: blocks that follow each other in the pool, where they are not yet."""
    start: int | None = None
    for at, block in enumerate(blocks):
        there = before is not None and before[at] == block
        if start is not None and (there or block != blocks[at - 1] + 1):
            yield start, blocks[start], at - start
            start = None
        if not there and start is None:
            start = at
    if start is not None:
        yield start, blocks[start], len(blocks) - start
