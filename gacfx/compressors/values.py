"""The table of value models: what a rank of a weight is worth, decomposition -> curve.

With D the error of the weight, A the second moment of its inputs and G that of its output
gradients, an error costs 1/2 tr(G D A D^T) nats per token (:mod:`gacfx.compressors.curves`). The
model is local, so there are several, and those of :data:`TRIED` are compared on text.

A new value model is one :class:`ValueModel`, made known by :func:`register` or by an entry point of
the group ``gacfx.values``.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gacfx.compressors.importance import importance, linear_losses
from gacfx.core.curves import Curve
from gacfx.core.own_sizes import OWN_VALUE
from gacfx.core.shared_curves import SharedCurve, SharedFacts
from gacfx.core.table import Table
from gacfx.errors import DecompositionFailed, PipelineError

if TYPE_CHECKING:
    from gacfx.compressors.curves import Tails
    from gacfx.compressors.protocol import Compressor, Decomposition
    from gacfx.compressors.shared import SharedSvd

Losses = NDArray[np.float64]

NATS = "nats"
SHARE = "share"
IMPORTANCE = "importance x params"


@dataclass(frozen=True)
class ValueModel:
    """What a rank is worth."""

    name: str
    unit: str
    """Of its losses: ``nats`` (per token), so that a plan promises a rise of the loss, or words for
    something else."""
    what: str
    """What it counts, in a few words or as a formula in D, A and G."""
    source: str
    losses: "Callable[[Decomposition], Losses]"
    """[S + 1] losses at every rank 0 .. S: finite, at least 0, not increasing."""
    structures: str = ""
    """What it puts in the place of G where units of a structure go, as
    :class:`gacfx.compressors.curves.OutputWeight` names it; empty where it says nothing of that."""
    shared: "Callable[[SharedSvd], Losses] | None" = None
    """The same of weights that share a basis, summed over them; None where it says nothing of
    that."""
    by_proxy: bool = False
    """It counts by a proxy that goes with the method, and plans name both."""
    on_text: bool = False
    """It is measured on text (:mod:`gacfx.calibration.tails`); ``losses`` is not asked then."""

    @property
    def in_nats(self) -> bool:
        """Its losses are nats per token."""
        return self.unit == NATS

    def label(self, method: "Compressor") -> str:
        """As plans and curves name it: ``two-sided``, ``paper:fisher``."""
        return f"{self.name}:{method.proxy}" if self.by_proxy else self.name

    def curve(self, found: "Decomposition", measured: Losses | None = None) -> Curve:
        """What every rank costs with the factors of a decomposition.

        Args:
            found: the decomposition.
            measured: [S + 1] losses that were measured on text, for a value model of these.

        Raises:
            DecompositionFailed: the losses are not finite, or cannot be told of this decomposition.
            PipelineError: the value model is no curve: another length, below 0 or increasing.
        """
        shape = found.moments.shape
        losses = _given(self.name, found, measured) if self.on_text else self.losses(found)
        if not np.isfinite(losses).all():
            raise DecompositionFailed(found.module, f"the {self.name} loss curve is not finite")
        if losses.shape != (min(shape) + 1,) or losses[-1] < 0 or (np.diff(losses) > 0).any():
            raise PipelineError(
                f"value model {self.name!r}, {found.module}: losses must be one for each rank from "
                f"0 to {min(shape)}, at least 0, and none above that of a smaller rank"
            )
        return Curve(found.module, *shape, losses, self.label(found.method))

    def shared_curve(self, found: "SharedSvd") -> SharedCurve:
        """What every rank costs that weights have together.

        Raises:
            DecompositionFailed: the losses are not finite, or the value model says nothing of it.
            PlanError: the value model gives no curve.
        """
        if self.shared is None:
            raise DecompositionFailed(
                found.name, f"value model {self.name!r} says nothing of what a shared basis costs"
            )
        losses = self.shared(found)
        if not np.isfinite(losses).all():
            raise DecompositionFailed(found.name, f"the {self.name} loss curve is not finite")
        shape = len(found.weights[0]), found.weights[0].shape[1]
        label = self.label(found.stacked.method)
        return SharedCurve(SharedFacts(found.name, found.modules, *shape, label), losses)


def _given(name: str, found: "Decomposition", measured: Losses | None) -> Losses:
    if measured is None:
        raise DecompositionFailed(
            found.module,
            f"value model {name!r} is measured on text, and nothing was of this weight",
        )
    return measured


def _two_sided(found: "Decomposition") -> Losses:
    return _tail(found, "moment")


def _fisher(found: "Decomposition") -> Losses:
    return _tail(found, "mean")


def _relative(found: "Decomposition") -> Losses:
    losses = _tail(found, "identity")
    with np.errstate(invalid="ignore"):  # infinite losses are no curve, which is said later
        return np.asarray(losses / max(losses[0], np.finfo(np.float64).tiny))


def _paper(found: "Decomposition") -> Losses:
    proxy = found.method.proxy
    score = importance(found.weight_MN, found.moments, proxy, module=found.module)
    return linear_losses(*found.moments.shape, score)


def _shared_two_sided(found: "SharedSvd") -> Losses:
    return _shared_tail(found, "moment")


def _shared_fisher(found: "SharedSvd") -> Losses:
    return _shared_tail(found, "mean")


def _shared_relative(found: "SharedSvd") -> Losses:
    return _shared_tail(found, "identity", shares=True)


def _shared_tail(found: "SharedSvd", output: str, *, shares: bool = False) -> Losses:
    from gacfx.compressors.curves import OutputWeight  # torch

    return found.losses(OutputWeight(output), shares=shares)


def _tail(found: "Decomposition", output: str) -> Losses:
    """Losses of an error D under A and what stands in the place of G."""
    from gacfx.compressors.curves import OutputWeight  # torch

    return _LAST.tails(found).losses(OutputWeight(output)).cpu().numpy()


class _Last:
    """The tails of the decomposition that was looked at last, as long as it lives."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Decomposition], Tails] | None = None

    def tails(self, found: "Decomposition") -> "Tails":
        from gacfx.compressors.curves import Tails  # torch

        if found.components is None:
            raise DecompositionFailed(
                found.module,
                f"the factors of {found.method.name!r} are not nested, and it has no curve of its "
                "own",
            )
        known = self._known
        if known is not None and known[0]() is found:
            return known[1]
        made = Tails(found.weight_MN, found.moments, *found.components)
        self._known = weakref.ref(found, self._forget), made
        return made

    def _forget(self, gone: "weakref.ref[Decomposition]") -> None:
        if self._known is not None and self._known[0] is gone:
            self._known = None


_LAST = _Last()


VALUES: Table[ValueModel] = Table(
    "value model",
    ValueModel,
    "gacfx.values",
    (
        ValueModel(
            "two-sided",
            NATS,
            "1/2 tr(G D A D^T)",
            "K-FAC, Martens and Grosse 2015",
            _two_sided,
            structures="moment",
            shared=_shared_two_sided,
        ),
        ValueModel(
            "fisher",
            NATS,
            "1/2 g tr(D A D^T), g the mean of G's diagonal",
            "the same with one number for G",
            _fisher,
            structures="mean",
            shared=_shared_fisher,
        ),
        ValueModel(
            "per-token",
            NATS,
            "1/2 E[(g^T D x)^2], token by token",
            "exact Fisher, Amari 1998",
            _two_sided,
            structures="moment",
            on_text=True,
        ),
        ValueModel(
            "relative",
            SHARE,
            "tr(D A D^T), as a share of that of the weight",
            "energy of SVD-LLM, Wang et al. 2024",
            _relative,
            shared=_shared_relative,
        ),
        ValueModel(
            "paper",
            IMPORTANCE,
            "importance x parameters that are gone",
            "GAC-v2, Eq. 4, arXiv 2604.09595",
            _paper,
            by_proxy=True,
        ),
    ),
    also=("auto",),
)
"""Name -> value model; :func:`register` and entry points of ``gacfx.values`` add to it."""

TRIED = ("two-sided", "per-token", "fisher", "relative")
"""What ``auto`` tries; the best one on held-back text is kept."""


def register(model: ValueModel) -> ValueModel:
    """Make a value model known by its name, to ``measure-curves`` and the command line alike.

    Raises:
        PipelineError: another one has that name.
    """
    return VALUES.register(model)


def unit_of(label: str) -> str:
    """What the losses of a plan are counted in; ``unknown unit`` for a model that is not here.

    Args:
        label: the value model as a plan names it, made-up curves included.
    """
    if label == OWN_VALUE:
        label = TRIED[0]
    if label.startswith("synthetic"):
        return IMPORTANCE if "paper" in label else NATS
    try:
        model = VALUES.seek(label.partition(":")[0])
    except PipelineError:  # a plan is shown whatever became of the package that it was made with
        model = None
    return "unknown unit" if model is None else model.unit
