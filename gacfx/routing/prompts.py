"""Prompts of kinds of text, as a router sees them: mean embeddings, whole and cut short."""

# P prompts, F features, T tokens

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gacfx.modules.routing_hooks import means_of

CUTS = (1, 2, 4, 8)
"""Prompts are also known by their first half, quarter and eighth."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Mean embeddings of the prompts of each kind of text."""

    by_length: dict[int, tuple[Tensor, ...]]
    """Tokens -> of each kind, float32 [P, F]; the most tokens first. The same prompts in each, and
    those that have fewer tokens as they are."""

    @staticmethod
    def of(model: nn.Module, kinds: Sequence[Iterable[Tensor]], tokens: int) -> "Prompts":
        """The prompts of each kind.

        Args:
            model: with input embeddings.
            kinds: token ids of the prompts of each kind, int64 [T] each.
            tokens: most of a prompt.
        """
        lengths = sorted({max(tokens // cut, 1) for cut in CUTS}, reverse=True)
        return Prompts(
            {
                length: tuple(
                    torch.cat([means_of(model, ids_T[None, :length]) for ids_T in prompts])
                    for prompts in kinds
                )
                for length in lengths
            }
        )

    @property
    def whole(self) -> tuple[Tensor, ...]:
        """Of whole prompts."""
        return next(iter(self.by_length.values()))

    def with_more(self, other: "Prompts") -> "Prompts":
        """With further prompts of each kind."""
        return Prompts(
            {
                length: tuple(
                    torch.cat(pair) for pair in zip(found, other.by_length[length], strict=True)
                )
                for length, found in self.by_length.items()
            }
        )


def prompts_in(documents: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """Windows cut into prompts; a rest that is shorter than half a prompt is none.

    Args:
        documents: token ids of windows, [T] each.
        tokens: of a prompt.
    """
    made = []
    for ids_T in documents:
        first, *others = ids_T.split(tokens)
        made += [first, *(part for part in others if 2 * len(part) >= tokens)]
    return made
