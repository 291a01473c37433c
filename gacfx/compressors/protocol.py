"""What a compressor is: statistics of a weight in, its decomposition out, and ranks of its own.

    method = METHODS.find("gfwsvd")
    found = method.decompose(weight_MN, moments, "layers.0.mlp.up_proj")
    found.curve("two-sided")        # what every rank costs
    found.factors(1112)             # the pair of factors at one rank

A new method is a subclass of :class:`Compressor`, made known by
:func:`gacfx.compressors.methods.register` or by an entry point of the group ``gacfx.compressors``.
Whatever a method does by itself has its place: ranks of its own in ``allocate``, curves of its own
in ``Decomposition.curve``, factors that are refitted for a rank in ``Decomposition.factors``.
Fields that a name may set, as in ``asvd:alpha=0.3``, come from
:func:`gacfx.core.settings.setting`.
"""

# M outputs, N inputs, S = min(M, N), R rank

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from gacfx.compressors.allocate import allocate
from gacfx.core.decision import Decision, LowRank
from gacfx.core.kinds import BUILT_IN, KINDS
from gacfx.core.search import Search
from gacfx.errors import PipelineError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gacfx.compressors.pruning.scores import Evidence
    from gacfx.compressors.values import Losses
    from gacfx.core.curves import Curve
    from gacfx.core.materialise import Factors
    from gacfx.core.statistics import Moments
    from gacfx.core.structure_curves import StructureCurve
    from gacfx.core.structures import Structure


class Statistic(StrEnum):
    """What calibration gathers of a weight, as far as methods ask for it."""

    INPUT_ABS_MEAN = "input abs mean"
    """E |x| of each input."""
    INPUT_ABS_MAX = "input abs max"
    """Largest |x| of each input."""
    INPUT_MOMENT = "input moment"
    """A = E[x x^T] where that is the short side, else W A W^T."""
    WHOLE_INPUT_MOMENT = "whole input moment"
    """A whichever side is the short one, of weights that may share a basis: where it is the long
    one 8 bytes more for each of its entries and each of the two texts that are kept."""
    GRAD_MOMENT = "grad moment"
    """G = E[g g^T] of the output gradients where that is the short side, else W^T G W."""
    WEIGHT_GRADIENTS = "weight gradients"
    """dL/dW of the text itself, and its mean square over documents: 8 bytes for each parameter of
    a pruned structure and each of the two texts that are kept, and 4 more while a text is read. It
    takes a second forward and backward over the text."""


class Decomposition(ABC):
    """A weight as a method sees it: what every rank costs, and the factors of each."""

    module: str
    method: "Compressor"
    weight_MN: "Tensor"
    moments: "Moments"

    @property
    def components(self) -> "tuple[Tensor, Tensor] | None":
        """(inner, outer), both [S, S] in float64, where the pairs of all ranks are nested in it.

        Then the pair of rank R is W inner[:, :R] and outer[:R] when M > N, else inner[:, :R] and
        outer[:R] W, and the value models that count an error of the weight have their curves. None
        where that is not so: ``curve`` must then say by itself what a rank costs.
        """
        return None

    @abstractmethod
    def factors(self, rank: int, dtype: "torch.dtype | None" = None) -> "Factors":
        """W ~ up down with ``rank`` components, ready to be stored.

        Args:
            rank: 1 .. S.
            dtype: of the factors; None for that of the weight.

        Raises:
            DecompositionFailed: a factor is not finite in ``dtype``.
        """

    def pair(self, rank: int) -> "tuple[Tensor, Tensor]":
        """(up [M, R], down [R, N]) in float64: what other forms of the same product are made of."""
        import torch

        factors = self.factors(rank, torch.float64)
        return factors.tensors["up"], factors.tensors["down"]

    def decision(self, rank: int) -> Decision:
        """How the method by itself stores a rank: as a pair, unless it says otherwise.

        Args:
            rank: 1 .. S, of its own allocation.
        """
        return LowRank(rank)

    def curve(self, value_model: str = "two-sided", measured: "Losses | None" = None) -> "Curve":
        """What every rank 0 .. S costs under a value model; ``measured`` by one on text.

        Raises:
            PipelineError: no value model has this name.
            DecompositionFailed: the curve is not finite, or cannot be told of this decomposition.
        """
        from gacfx.compressors.values import VALUES

        return VALUES.find(value_model).curve(self, measured)


SIDE_BY_SIDE = "python -m benchmarks.methods"
"""Benchmark of what methods do by themselves, on a model of a million parameters."""
UNIFORM = "the same share of every weight goes"
"""How a method allocates that says nothing of it."""


class Measure(Protocol):
    """Measures the model with some weights compressed."""

    def __call__(self, ranks: Mapping[str, int], tokens: int | None = None) -> float:
        """Loss with these modules at these ranks and all others dense, nats per token.

        A forward pass over calibration text each time; infinite where the model gives NaN or
        factors overflow.

        Args:
            ranks: module -> rank.
            tokens: about how many are read, from all over the text; None for all of it.
        """
        ...


class Gated(Protocol):
    """Runs the model with a gate for every component of some weights."""

    def __call__(
        self, gates: "Mapping[str, Tensor]", tokens: int, seed: int
    ) -> "tuple[float, dict[str, Tensor]]":
        """(loss, its gradient for each gate), on text that is not held back, nats per token.

        Args:
            gates: module -> gate of each of its components, best first; ones are the dense weight.
            tokens: about how many are read.
            seed: which windows.
        """
        ...


def _no_gates(
    gates: "Mapping[str, Tensor]", tokens: int, seed: int
) -> "tuple[float, dict[str, Tensor]]":
    raise PipelineError(f"gates of {len(gates)} weights: there is no model to put them in")


def _measured_again(_name: str, make: Callable[[], Sequence[float]]) -> Sequence[float]:
    return make()


@dataclass(frozen=True)
class AllocationInputs:
    """What a method may look at when it allocates ranks, beside shapes and the ratio."""

    decompositions: Mapping[str, Decomposition]
    """Module -> decomposition; a weight that could not be decomposed is missing."""
    measure: Measure
    """Loss of the model with some of them."""
    limit_params: int
    """Parameters that may remain of all weights whose shapes are given."""
    progress: Callable[[int, int], None] = lambda _done, _total: None
    """Called with (measurements done, in all) by methods that take long."""
    remember: Callable[[str, Callable[[], Sequence[float]]], Sequence[float]] = _measured_again
    """(name, make) -> numbers that are made once, where the study has a place to keep them."""
    gated: Gated = _no_gates
    """Loss of the model with gates, and its gradient."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that is printed in the paper of a method."""

    what: str
    command: str = ""
    """Benchmark that shows it here; empty where none does yet."""
    found: str = ""
    """What that benchmark found, in a few words."""


class Compressor(ABC):
    """A compression method.

    Subclasses are values: equal ones are the same method, and nothing in them changes.
    """

    name: str
    """As plans and the command line have it."""
    source: str
    """The paper, and what of it is meant."""
    kinds: tuple[str, ...] = ("low-rank", "pivot")
    """Kinds of decisions that it can make. Whoever makes ``low-rank`` also makes the kinds of other
    packages that are a product of low rank, since these are made from a pair of factors. Whoever
    makes ``width`` or ``heads`` has ``scores`` and ``own_sizes``."""
    claims: tuple[Claim, ...] = ()
    """Printed claims of its paper, and whether a benchmark of gacfx shows them."""
    keys_and_values_only: bool = False
    """It treats the weights that make keys and values of attentions, and leaves all others. Plans
    count those alone, so that a ratio is of them."""
    compensates: bool = True
    """Of widths and heads that it chose by its own scores: whether the inputs that stay of a weight
    take over what the others did. Those that are chosen by elimination always do."""

    @property
    def minimises(self) -> str:
        """What its factors minimise, in a few words or as a formula in W, A and G."""
        return "its own measure"

    @property
    def allocates(self) -> str:
        """How it chooses sizes by itself, in a few words."""
        return "its own sizes" if self.prunes else UNIFORM

    @property
    def leaves(self) -> tuple[str, ...]:
        """What it leaves as it is, and why."""
        return ()

    @property
    def remark(self) -> str:
        """What of its settings cannot be had for a weight of these heads, and what is done instead;
        empty where all can."""
        return ""

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Statistics that it looks at; none for a method that knows weights only."""
        return ()

    @property
    def proxy(self) -> str:
        """Importance of a weight under the value model ``paper``: a proxy of
        :mod:`gacfx.compressors.importance`."""
        return "magnitude"

    def for_heads(self, heads: int) -> "Compressor":
        """The method for a weight whose outputs are the key-value heads of an attention, one after
        the other; itself unless it looks at them.

        Args:
            heads: how many; 0 for any other weight.
        """
        del heads
        return self

    @abstractmethod
    def decompose(self, weight_MN: "Tensor", moments: "Moments", module: str = "") -> Decomposition:
        """The weight as this method sees it, on the device of the moments.

        Args:
            weight_MN: any floating dtype; outputs first, whatever the layer's own layout.
            moments: of this weight.
            module: name for messages and curves.

        Raises:
            DecompositionFailed: the weight is kept dense, and the reason recorded.
        """

    def restored(
        self,
        weight_MN: "Tensor",
        moments: "Moments",
        module: str,
        components: "tuple[Tensor, Tensor]",
    ) -> Decomposition:
        """What ``decompose`` made once, from its components; made again unless a method can do it.

        Args:
            weight_MN: as it was given to ``decompose``.
            moments: of this weight.
            module: its name.
            components: of the decomposition.
        """
        del components
        return self.decompose(weight_MN, moments, module)

    def allocate(
        self,
        shapes: Mapping[str, tuple[int, int]],
        ratio: float | str,
        inputs: AllocationInputs | None = None,
    ) -> dict[str, int | None]:
        """The method's own ranks, or None to keep a weight dense; uniform unless it says otherwise.

        Args:
            shapes: module -> (rows, columns).
            ratio: share to remove, 0..1.
            inputs: for methods that look at more than shapes.

        Raises:
            InfeasibleBudget: it cannot remove so much.
        """
        del inputs
        return allocate(shapes, ratio)

    def scores(self, structure: "Structure", known: "Evidence") -> "Tensor":
        """[units] importance of each unit under the value model ``paper``, float64.

        Raises:
            PipelineError: it knows no such thing.
        """
        del known
        raise PipelineError(
            f"method {self.name!r} does not score what {structure.name} could lose; take a value "
            "model in nats, or a method that makes width and heads"
        )

    def own_sizes(self, curves: "Sequence[StructureCurve]", gone: int) -> dict[str, int]:
        """Structure -> units that the method by itself would keep, of those that it prunes.

        Args:
            curves: of all structures; losses are sums of its scores.
            gone: parameters that shall go, at least.

        Raises:
            InfeasibleBudget: it cannot remove so many.
        """
        del curves, gone
        return {}

    @property
    def shares(self) -> int:
        """Consecutive layers whose weights of one type share a basis; 1 for none. A method that
        says more is a :class:`gacfx.compressors.basis_sharing.BasisSharing`."""
        return 1

    @property
    def prunes(self) -> bool:
        """It chooses units of structures by itself."""
        return not {"width", "heads"}.isdisjoint(self.kinds)

    @property
    def makes_ranks(self) -> bool:
        """It makes decisions for single weights."""
        return not {*self.kinds} <= {"width", "heads"}

    def makes(self, kind: str) -> bool:
        """Can it make decisions of this kind?

        Raises:
            PlanError: no kind has this name.
        """
        decision = KINDS.find(kind).decision
        ours = any(decision is known.decision for known in BUILT_IN)
        # A decision that is a product of low rank says so by having a rank.
        product = decision.rank is not Decision.rank
        return kind in self.kinds or (not ours and product and "low-rank" in self.kinds)

    @property
    def refits(self) -> bool:
        """Second factors of pairs are refitted in the compressed model (:mod:`gacfx.refit`)."""
        return False

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """Every known kind that it can make, those of other packages included."""
        return tuple(kind.name for kind in KINDS.everything() if self.makes(kind.name))

    def offered(self, search: Search) -> tuple[str, ...]:
        """Kinds that a search asks for and that this method can make.

        Raises:
            PipelineError: it cannot make what is asked for by name, or none of it.
        """
        if search.prune != "none" and search.candidates == "window" and not self.prunes:
            raise PipelineError(
                f"method {self.name!r} has no widths of its own for a window to stand around; take "
                "candidates 'full', or a method that makes width and heads"
            )
        if not self.makes_ranks:
            if search.prune in ("only", "auto"):
                return ()
            raise PipelineError(
                f"method {self.name!r} makes {', '.join(self.kinds)} and no ranks; take prune "
                "'only'"
            )
        made = tuple(kind for kind in search.kinds if self.makes(kind))
        missing = [kind for kind in search.kinds if kind not in made]
        if missing and (search.form != "auto" or not made):
            raise PipelineError(
                f"method {self.name!r} makes no {missing[0]!r} decisions (form {search.form!r}); "
                f"it makes {', '.join(self.kinds)}"
            )
        return made
