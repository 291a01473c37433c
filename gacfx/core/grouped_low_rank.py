"""A product of low rank for each group of outputs: what Palu makes of keys and values.

    GroupedLowRank(groups=2, group_rank=64) of a weight [1024, 4096]: 8 heads of 128, 4 in a group

    x -> down [2 x 64, 4096] -> latents of 2 x 64 numbers -> up [2, 512, 64] -> 2 x 512 outputs

All groups have the same rank, so that they are one batched product. Source: Chang et al. 2024
(arXiv 2407.21118), group-head low-rank decomposition.
"""

from dataclasses import dataclass
from typing import ClassVar

from gacfx.core.decision import Copy, Decision, Gemm, Stored, Work


@dataclass(frozen=True, slots=True)
class GroupedLowRank(Decision):
    """Factors of each group: r (rows + groups x columns) parameters for groups of rank r."""

    kind: ClassVar[str] = "grouped-low-rank"
    groups: int
    """Parts of the outputs, of equal size and in order."""
    group_rank: int
    """Rank of each part."""

    @property
    def rank(self) -> int:
        """Of the product for all groups together: the latents of a token."""
        return self.groups * self.group_rank

    @property
    def label(self) -> int | str:
        """Unique among candidates of one number of groups."""
        return f"{self.groups} x rank {self.group_rank}"

    def problem(self, rows: int, columns: int) -> str:
        """Groups that do not divide the outputs, or more latents than the weight has ranks."""
        if self.groups < 1 or rows % self.groups:
            return f"{self.groups} groups do not divide {rows} outputs"
        most = min(rows, columns) // self.groups
        if not 1 <= self.group_rank <= most:
            return f"rank {self.group_rank} of each group is outside 1 .. {most}"
        return ""

    def params(self, rows: int, columns: int) -> int:
        """Of the common first factor, and of the second one of each group."""
        return self.group_rank * (rows + self.groups * columns)

    def work(self, rows: int, columns: int, bias: bool) -> Work:
        """A product, a batched one, a copy that puts the groups of a token side by side, a sum."""
        up = Gemm(self.group_rank, rows // self.groups, count=self.groups)
        copies = (Copy(rows),) * ((self.groups > 1) + bias)
        return Gemm(columns, self.rank), up, *copies

    def tensors(self, rows: int, columns: int) -> dict[str, Stored]:
        """The first factor, group after group, and the second ones."""
        up = (self.groups, rows // self.groups, self.group_rank)
        return {
            "down": Stored((self.rank, columns), "down.weight"),
            "up": Stored(up, "up"),
        }

    def sizes(self, rows: int, columns: int) -> tuple[int, ...]:
        """The rank of a group, and of all of them."""
        del rows, columns
        return self.group_rank, self.rank

    def latents(self, rows: int) -> int:
        """What a cache of latents would hold for a token in place of the outputs."""
        del rows
        return self.rank

    @classmethod
    def offers(cls, rows: int, columns: int, step: int) -> tuple[tuple[Decision, ...], str]:
        """Nothing: a shape alone does not tell the groups."""
        del rows, columns, step
        return (), f"is {cls.kind}: its groups are not known"

    @classmethod
    def offers_in_groups(
        cls, rows: int, columns: int, groups: int, step: int
    ) -> tuple[tuple[Decision, ...], str]:
        """Multiples of the step, for each group, that save parameters."""
        if not groups:
            return cls.offers(rows, columns, step)
        each = (rows * columns - 1) // (rows + groups * columns)
        top = min(each, min(rows, columns) // groups)
        found = tuple(cls(groups, rank) for rank in range(step, top + 1, step))
        return found, "" if found else f"is below break-even, {top} of each of {groups} groups"

    def __str__(self) -> str:
        return str(self.label)
