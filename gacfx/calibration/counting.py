"""Which tokens count in second moments, and how much of the gradient of one.

Llamas keep what no token needs in attention sinks: a few tokens, mostly the first of a window, with
activations a thousand times those of others, and gradients that are as far off. A moment is a mean
of squares, so that one such token in a window rules it. Positions can be left out, and gradients
of single tokens cut. What that brings: ``python -m benchmarks.outliers``.

Sources: Xiao et al. 2023 (attention sinks, arXiv 2309.17453); Sun et al. 2024 (massive activations,
arXiv 2402.17762); Pascanu et al. 2013 (gradients cut by their norm).
"""

# B documents of a batch, T tokens of the longest, M outputs

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from gacfx.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Counting:
    """Which positions of every window count in moments, and how much."""

    first: int = 0
    """Positions at the beginning of each window that do not."""
    last: int = 0
    """Positions at its end that do not."""
    clip: float | None = None
    """Most that the gradient of a token at an output may have, in mean norms of the tokens of its
    window; None for as much as it has."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            CalibrationError: a number of positions that is none, or a clip that is not above 0.
        """
        for name in ("first", "last"):
            count = getattr(self, name)
            if type(count) is not int or count < 0:
                raise CalibrationError(
                    f"{name} {count!r}: give a number of positions that are left out, 0 or more"
                )
        clip = self.clip
        if clip is None:
            return
        if isinstance(clip, bool) or not (isinstance(clip, int | float) and 0 < clip < math.inf):
            raise CalibrationError(
                f"clip {clip!r}: give the most that a gradient may have, in mean norms, such as 3"
            )
        object.__setattr__(self, "clip", float(clip))

    @staticmethod
    def parse(text: str) -> "Counting":
        """What ``first=4,last=2,clip=3`` says; any of the three.

        Raises:
            CalibrationError: another name, one said twice, or a value that cannot be.
        """
        said: dict[str, int | float] = {}
        for part in text.split(","):
            name, _, given = part.strip().partition("=")
            if name not in ("first", "last", "clip") or name in said:
                raise CalibrationError(
                    f"{part.strip()!r}: give first=N, last=N or clip=C, each once, as in "
                    "first=4,clip=3"
                )
            try:
                said[name] = float(given) if name == "clip" else int(given)
            except ValueError:
                raise CalibrationError(f"{part.strip()!r}: {given!r} is no number") from None
        return Counting(**said)  # type: ignore[arg-type]

    @property
    def all(self) -> bool:
        """Every token counts as it is."""
        return self == Counting()

    def tokens(self, length: int) -> int:
        """Of a window of so many tokens, how many count."""
        return max(length - self.first - self.last, 0)

    def check(self, documents: Sequence[Tensor]) -> None:
        """Nothing where some token counts.

        Args:
            documents: token ids of each window, [T].

        Raises:
            CalibrationError: none does.
        """
        longest = max(map(len, documents), default=0)
        if documents and not self.tokens(longest):
            raise CalibrationError(
                f"{self.first} first and {self.last} last positions left out of windows of at most "
                f"{longest} tokens leave nothing; leave out fewer, or give longer documents"
            )

    def places(self, lengths: Sequence[int]) -> Tensor | None:
        """[B x T]: whether each place of a batch counts; None where all do.

        Args:
            lengths: of its documents, the longest first.
        """
        lengths_B = torch.tensor(lengths)[:, None]
        at_T = torch.arange(lengths[0])
        counts_BT = (at_T >= self.first) & (at_T < lengths_B - self.last)
        return None if bool(counts_BT.all()) else counts_BT.flatten()

    def described(self) -> dict[str, int | float | None]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(eq=False, slots=True)
class Call:
    """One call of a module: its rows that count, and by how much its gradients are cut."""

    module: str
    """Its name, for messages."""
    counts: Tensor | None
    """[B x T]; None where all do."""
    clip: float | None
    shape: tuple[int, int] = (1, 0)
    """(B, T) of the batch; looked at where gradients are cut."""
    scale_R1: Tensor | None = field(default=None)
    """[R, 1] factor of the gradient of each row that counts; known when the gradient came."""

    def rows(self, found: Tensor, columns: int) -> Tensor:
        """[R, columns]: those that count.

        Raises:
            CalibrationError: the module, an expert say, is not told which token a row is.
        """
        rows = found.reshape(-1, columns)
        if self.counts is None:
            return rows
        self._check_told(len(rows), len(self.counts))
        return rows[self.counts.to(rows.device)]

    def cut(self, grad: Tensor) -> Tensor:
        """[R, M]: the gradient at the rows that count, cut.

        Args:
            grad: [B, T, M] or [B x T, M].

        Raises:
            CalibrationError: the module is not told which token a row is.
        """
        rows_RM = self.rows(grad, grad.shape[-1])
        if self.clip is None:
            return rows_RM
        dtype = torch.promote_types(grad.dtype, torch.float32)
        norms = torch.linalg.vector_norm(grad, dim=-1, dtype=dtype)
        self._check_told(norms.numel(), self.shape[0] * self.shape[1])
        norms_BT = norms.view(self.shape)
        counts_BT = torch.ones_like(norms_BT, dtype=torch.bool)
        if self.counts is not None:
            counts_BT = self.counts.to(grad.device).view_as(norms_BT)
        number_B1 = counts_BT.sum(-1, keepdim=True).clamp_min(1)
        most_B1 = self.clip * (norms_BT * counts_BT).sum(-1, keepdim=True) / number_B1
        scale_BT = (most_B1 / norms_BT.clamp_min(torch.finfo(dtype).tiny)).clamp_max(1.0)
        self.scale_R1 = self.rows(scale_BT[..., None], 1)
        return rows_RM * self.scale_R1.to(grad.dtype)

    def _check_told(self, rows: int, tokens: int) -> None:
        if rows != tokens:
            raise CalibrationError(
                f"{self.module}: is called with {rows} rows where the text has {tokens} tokens, so "
                "none of them can be left out or cut; count all as they are"
            )

    def cut_alike(self, grad: Tensor) -> Tensor:
        """[R, N]: the gradient at the input of the same call, cut as the one at its output was."""
        rows_RN = self.rows(grad, grad.shape[-1])
        return rows_RN if self.scale_R1 is None else rows_RN * self.scale_R1.to(grad.dtype)
