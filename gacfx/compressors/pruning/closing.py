"""What a closing weight loses with its inputs: any set of them, or all widths of one order.

With A the moment of the inputs and G that of the output gradients, an error E of the weight W costs
1/2 tr(G E A E^T) nats per token. When the inputs S go and the others, K, take over,

    loss(S) = 1/2 tr((P_SS)^-1 M_SS),    P = A^-1,   M = W^T G W

where (P_SS)^-1 = A_SS - A_SK A_KK^-1 A_KS is what the others cannot tell of the inputs that go,
and one Cholesky factor A = C C^T in the order of the inputs, those that stay longest first, gives
the loss of every width: with T = W C, the sum of what diag(T^T G T) / 2 has beyond it. Source: the
optimal brain surgeon (Hassibi and Stork 1993) under K-FAC (Martens and Grosse 2015).
"""

# M outputs, N inputs, K those that stay, S those that go, U units, C columns of a unit

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gacfx.compressors.curves import OutputWeight
from gacfx.compressors.pruning.damping import damped
from gacfx.compressors.pruning.left import Kept
from gacfx.core.statistics import Moments
from gacfx.core.structures import Positions
from gacfx.errors import DecompositionFailed


@dataclass(frozen=True, eq=False)
class Closing:
    """A weight that reads the units of a structure: a down_proj or o_proj."""

    module: str
    weight_MN: Tensor
    """float64."""
    input_NN: Tensor
    """A with its ridge, float64."""
    grad: Tensor | float
    """G [M, M], or one number for it."""

    @staticmethod
    def of(
        weight_MN: Tensor,
        moments: Moments,
        output: OutputWeight = OutputWeight.MOMENT,
        *,
        module: str = "",
    ) -> "Closing":
        """A weight under its moments.

        Args:
            weight_MN: any floating dtype.
            moments: of this weight, of both sides.
            output: what stands in the place of G.
            module: name for messages.

        Raises:
            CalibrationError: the moment of the long side was not gathered.
            DecompositionFailed: something is not finite, or A cannot be inverted: leave the
                structure as it is and record the reason.
        """
        if tuple(weight_MN.shape) != moments.shape:
            raise ValueError(f"{module}: weight {tuple(weight_MN.shape)}, moments {moments.shape}")
        if problem := moments.problem():
            raise DecompositionFailed(module, problem)
        if not bool(torch.isfinite(weight_MN).all()):
            raise DecompositionFailed(module, "NaN or infinite weight")
        input_NN, _ = damped(moments.input_moment, module=module)
        grad: Tensor | float = 1.0 if output is OutputWeight.IDENTITY else moments.grad_square_mean
        grad = moments.grad_moment if output is OutputWeight.MOMENT else grad
        return Closing(module, weight_MN.detach().to(input_NN), input_NN, grad)

    def loss_of(self, kept_columns: Kept) -> float:
        """Nats per token when these columns stay and take over; all others go.

        Raises:
            DecompositionFailed: the loss is not finite.
        """
        kept_K, gone_S = self._split(kept_columns)
        left_SS = self.input_NN[gone_S][:, gone_S]
        if len(kept_K) and len(gone_S):
            root_KK = torch.linalg.cholesky(self.input_NN[kept_K][:, kept_K])
            seen_KS = torch.linalg.solve_triangular(
                root_KK, self.input_NN[kept_K][:, gone_S], upper=False
            )
            left_SS = left_SS - seen_KS.T @ seen_KS
        return self._loss(gone_S, left_SS)

    def width_curve(self, columns_UC: Tensor) -> Tensor:
        """[U + 1] losses when the first 0 .. U units of an order stay and take over, float64.

        Columns of no unit always stay.

        Args:
            columns_UC: of each unit, those most worth keeping first.

        Raises:
            DecompositionFailed: a loss is not finite.
        """
        units, size = columns_UC.shape
        columns_UC = columns_UC.to(self.input_NN.device)
        fixed = fixed_columns(columns_UC, len(self.input_NN))
        columns_N = torch.cat([fixed, columns_UC.flatten()])
        root_NN = torch.linalg.cholesky(self.input_NN[columns_N][:, columns_N])
        energy_N = self.energies(self.weight_MN[:, columns_N] @ root_NN)
        energy_U = energy_N[len(fixed) :].reshape(units, size).sum(1)
        curve = 0.5 * torch.cat([energy_U, energy_U.new_zeros(1)]).flip(0).cumsum(0).flip(0)
        if not bool(torch.isfinite(curve).all()):
            raise DecompositionFailed(self.module, "the loss of a width is not finite")
        return curve

    def energies(self, weight_MS: Tensor) -> Tensor:
        """diag(V^T G V) [S] of a matrix V, not below zero."""
        if isinstance(self.grad, Tensor):
            return ((self.grad @ weight_MS) * weight_MS).sum(0).clamp_min(0)
        return self.grad * weight_MS.square().sum(0)

    def loss_moment(self, columns_S: Tensor) -> Tensor:
        """M_SS of M = W^T G W."""
        weight_MS = self.weight_MN[:, columns_S]
        return weight_MS.T @ (
            self.grad @ weight_MS if isinstance(self.grad, Tensor) else self.grad * weight_MS
        )

    def _loss(self, gone_S: Tensor, left_SS: Tensor) -> float:
        loss = 0.5 * float((left_SS * self.loss_moment(gone_S)).sum())
        if not np.isfinite(loss):
            raise DecompositionFailed(self.module, "the loss of a removal is not finite")
        return max(loss, 0.0)

    def _split(self, kept_columns: Kept) -> tuple[Tensor, Tensor]:
        stays_N = torch.zeros(len(self.input_NN), dtype=torch.bool, device=self.input_NN.device)
        stays_N[torch.as_tensor(kept_columns, dtype=torch.int64, device=stays_N.device)] = True
        return stays_N.nonzero()[:, 0], (~stays_N).nonzero()[:, 0]


def unit_columns(positions: Positions) -> Tensor:
    """[U, C] int64: columns of each unit, rising; those of no unit are left out.

    Raises:
        ValueError: units differ in size.
    """
    return _grouped(positions.units, "units")


def head_columns(positions: Positions) -> Tensor:
    """[U, H, C] int64: columns of each query head of each unit.

    Raises:
        ValueError: units or heads differ in size, or heads share a column.
    """
    units, heads = positions.units, positions.heads
    if (heads[units >= 0] < 0).any():
        raise ValueError("query heads of a closing weight share no column")
    count = int(heads.max()) + 1
    flat = _grouped(np.where(units >= 0, units * count + heads, -1), "query heads")
    return flat.reshape(-1, count, flat.shape[1])


def fixed_columns(columns_UC: Tensor, size: int) -> Tensor:
    """Columns of no unit, rising."""
    fixed_N = torch.ones(size, dtype=torch.bool, device=columns_UC.device)
    fixed_N[columns_UC.flatten()] = False
    return fixed_N.nonzero()[:, 0]


def _grouped(owner: NDArray[np.int64], what: str) -> Tensor:
    order = np.argsort(owner, kind="stable")[int((owner < 0).sum()) :]
    counts = np.bincount(owner[owner >= 0])
    if not len(counts) or (counts != counts[0]).any():
        raise ValueError(f"{what} have {sorted(set(counts.tolist()))} columns; expected equal ones")
    return torch.from_numpy(order.reshape(len(counts), -1))
