"""The router of a model: which blocks of its pools the prompts of a batch use.

    features   mean of the input embeddings of a prompt, minus a centre, in some directions
    classes    the nearest kind of text, if it is near enough for the length of the prompt, else
               none; each has its own pattern
    scores     a linear score for each block of each pool, of which the best are picked

One for a model, asked once for a prompt, before anything runs (PARSE asks a linear router for each
weight; docs/parse.md says why this one). Its floats are kept as the integers that have their bits,
so that casting a model to half precision leaves its picks as they are.
"""

# B sequences, T tokens, F features, D directions, C classes, L lengths, P picks, K blocks

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gacfx.core.routed import Routed
from gacfx.core.router_shape import RouterShape
from gacfx.errors import PlanError

_MOST_KNOWN = 64
"""Picks that are remembered, by the kinds of the prompts of a batch."""


@dataclass(frozen=True, eq=False)
class Pick:
    """What the sequences of a batch picked."""

    blocks: dict[str, Tensor]
    """Module -> int32 [sequences, picks], on the CPU."""
    classes: tuple[int, ...] = ()
    """Kind of text of each sequence, 0 for none; empty for a router of scores."""

    @property
    def sequences(self) -> int:
        """Sequences of the batch."""
        return len(next(iter(self.blocks.values())))


class Remembered(Protocol):
    """A cache of picks, such as :class:`gacfx.routing.cache.PatternCache`."""

    def find(self, embedding_F: Tensor) -> "dict[str, Tensor] | None":
        """The pick of a prompt like this one."""

    def put(self, embedding_F: Tensor, value: dict[str, Tensor]) -> None:
        """Remember a pick."""

    def check(self, fingerprint: str) -> None:
        """Raise where the picks are of another router."""


@dataclass(frozen=True, eq=False)
class Projection:
    """From the mean embedding of a prompt to a few numbers."""

    centre_F: Tensor
    basis_FD: Tensor
    """Orthonormal columns."""
    scale_DD: Tensor
    """What makes the numbers comparable: classes have identity covariance in them."""

    def __call__(self, mean_BF: Tensor) -> tuple[Tensor, Tensor]:
        """(numbers [B, D], squared distance from the directions [B])."""
        centred_BF = mean_BF - self.centre_F
        found_BD = centred_BF @ self.basis_FD
        rest_BF = centred_BF - found_BD @ self.basis_FD.T
        return found_BD @ self.scale_DD, rest_BF.square().sum(1)


class PromptRouter(nn.Module):
    """Picks for all pools of a model.

    Args:
        shape: head and sizes.
        routed: module -> decision, of all pools.
    """

    def __init__(self, shape: RouterShape, routed: Mapping[str, Routed]) -> None:
        super().__init__()
        self.shape, self.routed = shape, dict(sorted(routed.items()))
        self.automatic = True
        """It picks for whatever its model is called with."""
        self.refresh: int | None = None
        """Pick again after so many tokens were decoded; keys and values stay as they are. None: the
        pick of a prompt stays."""
        self.remembered: Remembered | None = None
        """Where picks by scores are looked up first."""
        self.installed: Pick | None = None
        """What the pools compute with."""
        self._known: dict[tuple[int, ...], Pick] = {}
        self.noted: Any = None
        """What hooks say to each other."""
        self.owner: int | None = None
        """Thread that picks by hand for now."""
        self.held = 0
        """Calls that are inside of the model."""
        features, directions = shape.features, shape.directions
        sizes = {
            "centre": (features,),
            "basis": (features, directions),
            "scale": (directions, directions),
        }
        if shape.head == "classes":
            sizes |= {
                "means": (shape.classes, directions),
                "lengths": (shape.lengths,),
                "limits": (shape.lengths, shape.classes + 1),
                "gate": (shape.lengths, 2),
            }
            picks = sum(each.picks for each in self.routed.values())
            self.register_buffer("table", torch.zeros(shape.classes, picks, dtype=torch.int32))
        else:
            blocks = sum(each.blocks for each in self.routed.values())
            sizes |= {"weight": (blocks, directions), "offset": (blocks,)}
        self._floats = tuple(sizes)
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.int32))

    def floats(self, name: str) -> Tensor:
        """Numbers by their name, float32, on the CPU."""
        return self.get_buffer(name).cpu().view(torch.float32)

    def set_floats_(self, **given: Tensor) -> None:
        """Give numbers, which are kept as they are in float32.

        Raises:
            PlanError: a name or a shape that the router does not have, or not finite in float32.
        """
        made = {name: tensor.detach().float().contiguous() for name, tensor in given.items()}
        for name, tensor in made.items():
            if name not in self._floats:
                raise PlanError(f"router: has no {name}, but {', '.join(self._floats)}")
            found, wanted = tuple(tensor.shape), tuple(self.get_buffer(name).shape)
            if found != wanted or not bool(tensor.isfinite().all()):
                raise PlanError(f"router: {name} {found} is not finite, or not {wanted}")
        for name, tensor in made.items():
            self.get_buffer(name).copy_(tensor.view(torch.int32))
        self._forget()

    def set_patterns_(self, patterns: Sequence[Mapping[str, Tensor]]) -> None:
        """Give the blocks of each kind of text.

        Args:
            patterns: of each, module -> int [picks].
        """
        rows = [torch.cat([one[name].int() for name in self.routed]) for one in patterns]
        self.get_buffer("table").copy_(torch.stack(rows))
        self._forget()

    @property
    def fingerprint(self) -> str:
        """Tells routers apart: sha256 of their numbers and of what they pick for."""
        mixed = sha256(repr((self.shape, self.routed)).encode())
        for name, held in sorted(self.named_buffers()):
            mixed.update(f"{name} {tuple(held.shape)}\n".encode())
            mixed.update(held.cpu().contiguous().numpy().tobytes())
        return mixed.hexdigest()

    def remember_(self, cache: Remembered | None) -> None:
        """Look picks up in a cache first, and leave them there; of a router of scores.

        Args:
            cache: made for :attr:`fingerprint`; None to end that.

        Raises:
            PlanError: of a router of classes, whose picks are known beforehand.
            PlanMismatch: the cache is of another router.
        """
        if cache is not None:
            if self.shape.head == "classes":
                raise PlanError("a router of classes has its picks in a table; nothing to remember")
            cache.check(self.fingerprint)
        self.remembered = cache

    def _forget(self) -> None:
        """The numbers are others: what was picked by the old ones is void."""
        self._known.clear()
        self.remembered = None

    def _load_from_state_dict(self, *given: Any, **more: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*given, **more)

    @property
    def projection(self) -> Projection:
        """From mean embeddings to directions."""
        return Projection(*(self.floats(name) for name in ("centre", "basis", "scale")))

    def problem(self) -> str:
        """Why its numbers cannot be those of a router; empty where they can."""
        for name in self._floats:
            if not bool(self.floats(name).isfinite().all()):
                return f"router: {name} has NaN or infinite values"
        if self.shape.head != "classes":
            return ""
        lengths = self.floats("lengths")
        if float(lengths.min()) < 1 or bool((lengths[1:] >= lengths[:-1]).any()):
            return f"router: lengths {lengths.tolist()} are no falling numbers of tokens"
        for name, found_CP in self._rows(self.get_buffer("table").cpu(), "picks"):
            decision, sorted_CP = self.routed[name], found_CP.sort(1).values
            twice = bool((sorted_CP[:, 1:] == sorted_CP[:, :-1]).any())
            if twice or int(sorted_CP.min()) < 0 or int(sorted_CP.max()) >= decision.blocks:
                return f"router: the blocks of {name} are none of {decision}"
            if not bool((sorted_CP[:, : decision.fixed] == torch.arange(decision.fixed)).all()):
                return f"router: a pattern of {name} leaves out blocks that always run"
        return ""

    def patterns(self) -> Pick:
        """The picks of all classes, the static prefix of no class first."""
        none = {name: torch.arange(each.picks)[None] for name, each in self.routed.items()}
        rows = dict(self._rows(self.get_buffer("table").cpu(), "picks"))
        blocks = {name: torch.cat([none[name].int(), rows[name]]) for name in none}
        return Pick(blocks, tuple(range(self.shape.classes + 1)))

    def classify(self, mean_BF: Tensor, tokens_B: Tensor | None = None) -> Tensor:
        """The kind of text of each prompt, 0 for none: int64 [B].

        The nearest class, where it is sure enough, and the prompt not farther from it than its
        limit, nor farther from all directions than the last limit. The mean of few tokens is
        farther from its kind, so limits are those of the length of the prompt.

        Args:
            mean_BF: float32 mean embeddings, on the CPU.
            tokens_B: of each prompt; None where all are long.
        """
        found_BD, away_B = self.projection(mean_BF)
        distance_BC = torch.cdist(found_BD, self.floats("means")).square()
        least_B, class_B = distance_BC.min(1)
        limits_BC, sharpness_B, needed_B = self._gate(tokens_B, len(mean_BF))
        limit_B = limits_BC.gather(1, class_B[:, None])[:, 0]
        near_B = (least_B <= limit_B) & (away_B <= limits_BC[:, -1])
        sure_B = torch.softmax(-sharpness_B[:, None] * distance_BC, 1).amax(1) >= needed_B
        return torch.where(near_B & sure_B, class_B + 1, 0)

    def _gate(self, tokens_B: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(limits [B, C + 1], sharpness [B], least probability [B]) of prompts.

        Between the lengths that are known they are linear in 1 / tokens, as the variance of a mean
        is; beyond them those of the nearest length.
        """
        known_LX = torch.cat([self.floats("limits"), self.floats("gate")], 1)
        found_BX = known_LX[:1].expand(count, -1)
        if tokens_B is not None:
            shares = 1 / tokens_B.double().cpu().clamp_min(1).numpy()
            lengths = 1 / self.floats("lengths").double().numpy()
            columns = [np.interp(shares, lengths, column.numpy()) for column in known_LX.T]
            found_BX = torch.from_numpy(np.stack(columns, 1)).float()
        return found_BX[:, :-2], found_BX[:, -2], found_BX[:, -1]

    def pick(self, mean_BF: Tensor, tokens_B: Tensor | None = None) -> Pick:
        """The blocks for each prompt of a batch.

        Args:
            mean_BF: float32 mean embeddings of the prompts; NaN for a prompt without a token, which
                gets the static prefix.
            tokens_B: of each prompt; None where all are long.
        """
        mean_BF = mean_BF.float().cpu()
        known_B = mean_BF.isfinite().all(1)
        mean_BF = torch.where(known_B[:, None], mean_BF, 0.0)
        if self.shape.head == "classes":
            return self.of_classes(
                torch.where(known_B, self.classify(mean_BF, tokens_B), 0).tolist()
            )
        rows = [
            self._scored(mean_F) if bool(known) else self._prefix()
            for mean_F, known in zip(mean_BF, known_B, strict=True)
        ]
        return Pick({name: torch.stack([row[name] for row in rows]) for name in self.routed})

    def of_classes(self, classes: Sequence[int]) -> Pick:
        """The blocks for prompts of these kinds, 0 for none; the same value for the same kinds."""
        if (key := tuple(classes)) not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            at = torch.tensor(key, dtype=torch.long)
            rows = {name: found[at] for name, found in self.patterns().blocks.items()}
            self._known[key] = Pick(rows, key)
        return self._known[key]

    def embedding(self, mean_BF: Tensor) -> Tensor:
        """What prompts are compared by: their centred mean embedding, of norm 1; [B, F]."""
        return nn.functional.normalize(mean_BF.float().cpu() - self.floats("centre"), dim=1)

    def _scored(self, mean_F: Tensor) -> dict[str, Tensor]:
        """Module -> blocks of one prompt, by the cache if it knows a prompt like this."""
        key_F = self.embedding(mean_F[None])[0]
        if self.remembered is not None and (known := self.remembered.find(key_F)) is not None:
            return known
        found_BD, _ = self.projection(mean_F[None])
        score_BK = found_BD @ self.floats("weight").T + self.floats("offset")
        made = {
            name: top_blocks(scores, self.routed[name])[0]
            for name, scores in self._rows(score_BK, "blocks")
        }
        if self.remembered is not None:
            self.remembered.put(key_F, made)
        return made

    def _prefix(self) -> dict[str, Tensor]:
        return {n: torch.arange(each.picks, dtype=torch.int32) for n, each in self.routed.items()}

    def _rows(self, found: Tensor, size: str) -> list[tuple[str, Tensor]]:
        """(module, its columns)."""
        sizes = [int(getattr(each, size)) for each in self.routed.values()]
        return list(zip(self.routed, found.split(sizes, 1), strict=True))


def top_blocks(score_BK: Tensor, decision: Routed) -> Tensor:
    """int32 [B, picks]: the blocks that always run, and the best of the others, in their order."""
    count = decision.picks - decision.fixed
    best = score_BK[:, decision.fixed :].topk(count, 1).indices + decision.fixed
    fixed = torch.arange(decision.fixed, device=best.device).expand(len(best), -1)
    return torch.cat([fixed, best], 1).sort(1).values.int()


def embedding_sums(embedded_BTF: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(sums over the tokens of each prompt [B, F], how many they are [B]), float32, on the CPU.

    Args:
        embedded_BTF: input embeddings of any floating dtype.
        mask_BT: 1 for tokens, 0 for padding.
    """
    weights_BT = mask_BT.to(embedded_BTF.device).bool().float()
    sums_BF = torch.einsum("bt,btf->bf", weights_BT, embedded_BTF.detach().float())
    return sums_BF.cpu(), weights_BT.sum(1).cpu()
