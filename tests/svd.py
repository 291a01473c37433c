"""Tensors of decisions by plain truncated SVD: as good as any other for testing what holds them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gacfx.core.decision import Decision
from gacfx.core.materialise import Factors
from gacfx.modules.make import make_factors


@dataclass(frozen=True, eq=False)
class Svd:
    """A weight cut into components, best first; what a compressor's decomposition gives."""

    module: str
    weight_MN: Tensor
    up_MS: Tensor
    down_SN: Tensor

    @classmethod
    def of(cls, weight_MN: Tensor, module: str = "layer") -> Self:
        """In float64, each component's factors of equal norm."""
        u, s, vh = torch.linalg.svd(weight_MN.detach().double(), full_matrices=False)
        root = s.sqrt()
        return cls(module, weight_MN.detach(), u * root, root[:, None] * vh)

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up, down)."""
        return self.up_MS[:, :rank], self.down_SN[:rank]

    def factors(self, decision: Decision, dtype: torch.dtype = torch.float64) -> Factors:
        """The tensors of a decision."""
        rows, columns = self.weight_MN.shape
        return make_factors(self, decision, rows, columns, dtype)
