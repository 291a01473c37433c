"""Palu (Chang et al. 2024, arXiv 2407.21118): keys and values by low ranks of groups of heads.

Outputs of k_proj and v_proj are cut into groups of four key-value heads, and each group W_g has
factors of its own, those that lose least of its outputs on calibration text (as SVD-LLM's do):

    W_g A W_g^T = U s^2 U^T      up_g = U[:, :R]      down_g = U[:, :R]^T W_g

A is the second moment of the inputs; of W A W^T, which calibration gathers, each group has one
block on the diagonal. No Cholesky factor and no inverse is needed, and directions that calibration
never saw keep what the weight does with them. U is orthonormal, so what a rank loses is the sum of
the tails of all groups, exactly.

Its own ranks are in :mod:`gacfx.compressors.palu_ranks`.
"""

# M outputs, N inputs, G groups, P = M / G

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gacfx.compressors.metrics import LEFT_DENSE, Method, Metric
from gacfx.compressors.palu_ranks import ALLOCATIONS, own_ranks
from gacfx.compressors.protocol import AllocationInputs, Claim, Statistic
from gacfx.core.settings import setting
from gacfx.errors import DecompositionFailed, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

    from gacfx.compressors.grouped_svd import GroupedSvd
    from gacfx.core.search import Search
    from gacfx.core.statistics import Moments


@dataclass(frozen=True)
class Palu(Method):
    """Palu with its settings.

    Raises:
        PipelineError: a setting out of its range.
    """

    heads_per_group: int = setting(4, "key-value heads that have factors together, 1 or more")
    allocation: str = setting("fisher-uniform", "how it chooses ranks by itself", known=ALLOCATIONS)
    multiple: int = setting(1, "that its own ranks are rounded to, the nearest; published with 32")
    heads: int = field(default=0, kw_only=True)
    """Key-value heads of the weight that is looked at; 0 where that is none of keys or values."""

    keys_and_values_only = True
    kinds = ("grouped-low-rank",)

    def __post_init__(self) -> None:
        for option in ("heads_per_group", "multiple"):
            if (given := getattr(self, option)) < 1:
                raise PipelineError(f"{self.name}: {option.replace('_', '-')} {given}: at least 1")
        if self.allocation not in ALLOCATIONS:
            raise PipelineError(
                f"{self.name}: no allocation {self.allocation!r}; known: {', '.join(ALLOCATIONS)}"
            )

    @property
    def minimises(self) -> str:
        """A norm of the error of each group of heads g."""
        return "|D_g A^1/2|"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The inputs' moment; its own ranks also look at gradients, but for uniform ones."""
        needs = (Statistic.INPUT_MOMENT,)
        return needs if self.allocation == "uniform" else (*needs, Statistic.GRAD_MOMENT)

    @property
    def allocates(self) -> str:
        """By Fisher information, or uniformly."""
        return ALLOCATIONS[self.allocation]

    @property
    def proxy(self) -> str:
        """That of GAC-v2's Table 1."""
        return "fisher"

    @property
    def leaves(self) -> tuple[str, ...]:
        """Weights that it keeps dense."""
        return (
            "every weight but those that make keys or values of an attention, and nothing else; "
            "a ratio is of these",
            "one whose heads do not come one after the other, as fused ones do not",
            "one with more outputs than inputs: its gradients' moment is of the inputs' side",
            *LEFT_DENSE,
        )

    def for_heads(self, heads: int) -> "Palu":
        """The method for a weight of so many key-value heads."""
        return replace(self, heads=heads)

    @property
    def group_heads(self) -> int:
        """Heads of a group: as many as asked for, or the most below that the heads can be divided
        by; 0 where there are none."""
        most = min(self.heads_per_group, self.heads)
        return next((each for each in range(most, 0, -1) if self.heads % each == 0), 0)

    @property
    def remark(self) -> str:
        """Heads that cannot be divided into such groups."""
        if not self.heads or self.group_heads == self.heads_per_group:
            return ""
        return (
            f"{self.name}: {self.heads} key-value heads come in no groups of "
            f"{self.heads_per_group}; groups of {self.group_heads} are taken "
            f"(heads-per-group={self.group_heads} says so)"
        )

    @property
    def groups(self) -> int:
        """Of the weight that is looked at; 0 where it has no heads."""
        return self.heads // self.group_heads if self.heads else 0

    def decompose(self, weight_MN: "Tensor", moments: "Moments", module: str = "") -> "GroupedSvd":
        """Components of each group of heads, by turns; see :mod:`gacfx.compressors.grouped_svd`."""
        from gacfx.compressors.grouped_svd import decompose  # torch

        if not self.groups:
            raise DecompositionFailed(module, "how many key-value heads it makes is not known")
        if weight_MN.shape[0] % self.groups:
            raise DecompositionFailed(module, f"{self.heads} heads of {len(weight_MN)} outputs")
        return decompose(weight_MN, moments, self, module)

    def restored(
        self,
        weight_MN: "Tensor",
        moments: "Moments",
        module: str,
        components: "tuple[Tensor, Tensor]",
    ) -> "GroupedSvd":
        """The same decomposition, without an eigenproblem."""
        from gacfx.compressors.grouped_svd import GroupedSvd

        return GroupedSvd(module, self, weight_MN.detach(), moments, *components)

    def allocate(
        self,
        shapes: Mapping[str, tuple[int, int]],
        ratio: float | str,
        inputs: AllocationInputs | None = None,
    ) -> dict[str, int | None]:
        """Its own ranks, those of all groups of a weight added up.

        Args:
            shapes: module -> (rows, columns).
            ratio: share to remove, 0..1.
            inputs: with decompositions; what has none stays dense, and the others make up for it.

        Raises:
            PipelineError: there are no inputs.
            InfeasibleBudget: the smallest ranks are more than may remain.
        """
        if inputs is None:
            raise PipelineError(f"{self.name}: its own ranks need a model and its statistics")
        return own_ranks(self, shapes, ratio, inputs)

    def offered(self, search: "Search") -> tuple[str, ...]:
        """Groups of heads, whatever form is best.

        Raises:
            PipelineError: a search that asks for what groups cannot be.
        """
        cannot = {
            "prune 'none'": search.prune != "none",
            "tp 1": search.tp > 1,
            "solver 'core'": search.solver in ("greedy", "round"),
            "another value model": search.value == "paper",
        }
        if asked := [what for what, wrong in cannot.items() if wrong]:
            raise PipelineError(
                f"method {self.name!r} makes ranks of groups of heads, no pairs: take "
                f"{' and '.join(asked)}"
            )
        return self.kinds if search.form == "auto" else super().offered(search)


COMMAND = "python -m benchmarks.palu"
"""Benchmark of its own ranks and of planned ones."""
FOUND = "so at 30 and 50 % of keys and values removed"

PALU = Palu(
    "palu",
    Metric.IDENTITY,
    Metric.MOMENT,
    "Chang et al. 2024 (arXiv 2407.21118), group-head low-rank decomposition",
    (
        Claim(
            "lower perplexity by ranks that follow Fisher information than by uniform ones",
            COMMAND,
            FOUND,
        ),
        Claim(
            "lower perplexity with groups of four heads than with a decomposition of each head",
            COMMAND,
            FOUND,
        ),
    ),
)
