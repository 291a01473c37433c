"""Basis Sharing (Wang et al. 2024, arXiv 2410.03765): consecutive layers read inputs by one basis.

Weights of one type (all q_proj, all up_proj) of ``layers`` consecutive layers are factorized
together (:mod:`gacfx.compressors.shared`). A weight that closes its block (o_proj, down_proj) keeps
a basis of its own, as in the paper, and is what SVD-LLM makes of it; so is one that finds no
neighbour.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import Claim, Statistic
from gacfx.core.search import Search
from gacfx.core.settings import setting
from gacfx.core.shared_basis import MOST_LAYERS, basis_group, layers_before
from gacfx.errors import PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.shared import SharedSvd
    from gacfx.core.statistics import Moments

LONELY = "no further weight of its type in these layers"
"""Why a weight keeps a basis of its own that stands alone where others share one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A weight that may share its basis."""

    rows: int
    columns: int
    dtype: str
    routed: bool = False
    """It is an expert's."""


@dataclass(frozen=True)
class Grouping:
    """Which weights share a basis, and why others do not."""

    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of the group -> modules, in the order of their layers."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Module -> why it keeps a basis of its own, where its type shares them."""


@dataclass(frozen=True)
class BasisSharing(Method):
    """SVD-LLM's factors, with one basis for several layers.

    Raises:
        PipelineError: a setting out of its range.
    """

    layers: int = setting(2, "consecutive layers that share a basis; 1 for none, which is svd-llm")
    kinds = ("low-rank", "pivot", "shared-basis")

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= MOST_LAYERS:
            raise PipelineError(
                f"{self.name}: layers {self.layers} is outside 1 .. {MOST_LAYERS}; 2 is the paper's"
            )

    @property
    def shares(self) -> int:
        """As many as the setting says."""
        return self.layers

    @property
    def minimises(self) -> str:
        """A norm of the errors of all layers of a group, one above the other."""
        return "|D (sum A)^1/2|"

    @property
    def allocates(self) -> str:
        """The same share of every group."""
        return "the same share of every group goes"

    @property
    def leaves(self) -> tuple[str, ...]:
        """Weights that it keeps dense, or to themselves."""
        alone = (
            "alone, as svd-llm: a weight that closes its block (o_proj, down_proj), experts",
            "alone: one whose neighbours are of another shape, or left out of the plan",
        )
        return (*super().leaves, *alone)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Those that can be added up over layers."""
        return (Statistic.WHOLE_INPUT_MOMENT,)

    def offered(self, search: Search) -> tuple[str, ...]:
        """Ranks, for groups and for weights alone.

        Raises:
            PipelineError: pruning is asked for, or a form that it cannot make.
        """
        if search.prune != "none":
            raise PipelineError(
                f"method {self.name!r} decides for weights of several layers at once, and pruning "
                "for those of one block; take prune 'none', or another method"
            )
        if self.layers > 1 and search.solver in ("greedy", "round"):
            raise PipelineError(
                f"method {self.name!r} offers ranks of single weights and of groups, and solver "
                f"{search.solver!r} knows one kind only; take solver 'core', dp or ilp"
            )
        return super().offered(search)

    def group(
        self,
        weights: Mapping[str, Candidate],
        left_out: Mapping[str, str],
        closing: Collection[str],
    ) -> Grouping:
        """Which weights share a basis: those of layers 0 .. n - 1, of n .. 2 n - 1 and so on.

        Args:
            weights: module -> targeted weight, in the order of the graph.
            left_out: module -> why its weight is no target: skipped, tied, read elsewhere.
            closing: modules that give what their block gives; they keep a basis of their own.
        """
        made = Grouping()
        if self.layers == 1:
            return made
        types = dict[tuple[str, int], dict[int, str]]()
        for module in (*weights, *left_out):
            if module not in closing and (place := _place(module)) is not None:
                kind, layer = place
                types.setdefault((kind, layer // self.layers), {})[layer] = module
        for found in types.values():
            members = tuple(found[layer] for layer in sorted(found))
            reason = _odd(members, weights, left_out)
            if reason:
                made.reasons.update({m: reason for m in members if m in weights})
            else:
                made.groups[basis_group(members)] = members
        return made

    def decompose_shared(
        self, name: str, weights: "Mapping[str, Tensor]", moments: "Mapping[str, Moments]"
    ) -> "SharedSvd":
        """Several weights by one basis; see :func:`gacfx.compressors.shared.decompose_shared`."""
        from gacfx.compressors.shared import decompose_shared  # torch

        return decompose_shared(name, weights, moments, self)


def _place(module: str) -> tuple[str, int] | None:
    """(name with the layer left open, layer); None for a weight that is in no layer."""
    first = layers_before(module, 0)
    if not first:
        return None
    parts = first.split(".")
    at = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join([*parts[:at], "*", *parts[at + 1 :]]), int(parts[at])


def _odd(
    members: tuple[str, ...], weights: Mapping[str, Candidate], left_out: Mapping[str, str]
) -> str:
    """Why these weights, of one type and of neighbouring layers, share no basis; empty if they
    do."""
    if gone := [module for module in members if module in left_out]:
        return f"{gone[0]} is left out of the plan: {left_out[gone[0]]}"
    if len(members) == 1:
        return LONELY
    if any(weights[module].routed for module in members):
        return "experts of different layers see different tokens"
    for at, module in enumerate(members):
        if layers_before(module, at) != members[0]:
            return f"{members[at - 1]} and {module} are not of consecutive layers"
    if len(found := {(weights[m].rows, weights[m].columns): m for m in members}) > 1:
        said = " and ".join(f"{m} is {rows} x {cols}" for (rows, cols), m in found.items())
        return f"a basis is shared by weights of one shape, and {said}"
    if len(kinds := {weights[m].dtype: m for m in members}) > 1:
        said = " and ".join(f"{m} is {dtype}" for dtype, m in kinds.items())
        return f"a basis is shared by weights of one dtype, and {said}"
    return ""


BASIS_SHARING = BasisSharing(
    "basis-sharing",
    Metric.IDENTITY,
    Metric.MOMENT,
    "Wang et al. 2024 (arXiv 2410.03765), q, k, v, gate and up of neighbouring layers; no refit",
    (Claim("lower perplexity than SVD-LLM with as many parameters"),),
)
