"""Too little text for what is measured: said once, before calibration begins."""

# M outputs, N inputs

import warnings
from collections.abc import Iterable

from torch import nn

from gacfx.calibration.targets import targets
from gacfx.calibration.text import Corpus
from gacfx.modules.dense import features


class FewTokens(UserWarning):
    """Calibration text has fewer tokens than a weight has directions."""


def warn_of_few_tokens(model: nn.Module, texts: Iterable[Corpus], modules: Iterable[str]) -> None:
    """Say so when the texts together have fewer tokens than the largest rank of a target.

    Second moments of T tokens have rank T at most: what lies outside costs nothing in a curve.

    Args:
        model: holds the modules.
        texts: all that statistics are gathered of.
        modules: names of the targeted modules.
    """
    ranks = {name: min(features(module)) for name, module in targets(model, modules).items()}
    name = max(ranks, key=ranks.__getitem__)
    tokens, wanted = sum(text.counted_tokens for text in texts), ranks[name]
    if tokens < wanted:
        warnings.warn(
            f"the calibration text has {tokens:,} tokens, and {name} has {wanted:,} directions: "
            "those that no token shows are worth next to nothing in the curves, so that losses are "
            f"promised too low; give at least {wanted:,} tokens, better many times as many",
            FewTokens,
            stacklevel=2,
        )
