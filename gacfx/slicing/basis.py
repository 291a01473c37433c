"""How a subspace of the residual stream is written and read by a model of a smaller hidden size.

A stream x of H coordinates becomes x' = ``write`` x of D. With Q [H, K] orthonormal:

    RMSNorm      K = D      write = s Q^T      read = Q / s        s = sqrt(D / H)
    LayerNorm    K = D - 1  write = s B Q^T    read = Q B^T / s    B [D, K] orthonormal, B^T 1 = 0

A norm of the small model divides by D where the large one divides by H. The factor s makes the mean
square of x' that of the part of x that is kept, so that both divide by the same number, and every
epsilon in the configuration stays as it is. A LayerNorm takes the mean of the D coordinates off,
which is zero already in such a basis; in H coordinates Q has no part along the ones, so that what
the large model takes off is never written. The direction of ones is then free to carry a shift:
the norm adds a one to each coordinate, and what a reader made of the old shift is read from there.

Source: SliceGPT (arXiv 2401.15024), sections 3.1 to 3.3, with one rotation for all points.
"""

# H hidden size, D that of the small model, K kept directions

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Basis:
    """Old and new coordinates of the stream, float64."""

    write_DH: Tensor
    read_HD: Tensor
    """From the normalised new coordinates to the old ones."""

    @property
    def size(self) -> int:
        """New hidden size."""
        return len(self.write_DH)

    @property
    def projector(self) -> Tensor:
        """[H, H]: on what is kept, in old coordinates."""
        return self.read_HD @ self.write_DH


def basis_of(kept_HK: Tensor, centred: bool) -> Basis:
    """The basis that carries some directions.

    Args:
        kept_HK: orthonormal columns, float64; without a part along the ones where ``centred``.
        centred: the norms of the model take the mean off.
    """
    hidden, kept = kept_HK.shape
    size = kept + centred
    scale = math.sqrt(size / hidden)
    turned_HD = kept_HK @ without_ones(size).to(kept_HK).T if centred else kept_HK
    return Basis(scale * turned_HD.T, turned_HD / scale)


def without_ones(size: int) -> Tensor:
    """[size, size - 1] orthonormal columns, each of mean zero, float64 (Helmert's matrix)."""
    rows = torch.arange(size, dtype=torch.float64)
    counts = torch.arange(1, size, dtype=torch.float64)
    found = (rows[:, None] < counts).double() - counts * (rows[:, None] == counts).double()
    return found / (counts * (counts + 1)).sqrt()
