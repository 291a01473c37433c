"""Which units of a structure go first: one elimination over the columns of the closing weight.

The unit whose removal costs least, 1/2 tr((P_SS)^-1 M_SS), goes, the others take over, and the next
one is priced: with q = (P_SS)^-1 P_S:,

    W <- W - W_S q        P <- P - P_:S q        M <- M - M_:S q - q^T M_S: + q^T M_SS q

Prices add up to the loss of all that went (:mod:`gacfx.compressors.pruning.closing`). With
P_SS = C C^T, u = C^-1 P_S: and t = C^-1 M_S: - (C^-1 M_SS C^-T) u / 2 the updates are P - u^T u and
M - t^T u - u^T t, so the rows u and t wait until there are many and go in by matrix products; until
then only the rows of P and M that are asked for are brought up to date. Source: the optimal brain
surgeon (Hassibi and Stork 1993), over structures as in ZipLM (arXiv 2302.04089).
"""

# N columns that are left, U units, C columns of a unit, H query heads of each key-value head,
# B blocks of columns that are left, W rows that wait, S columns that go

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from gacfx.compressors.pruning.closing import Closing, fixed_columns
from gacfx.errors import DecompositionFailed

WAITING = 96
"""Rows that wait at most, unless more go at once."""
DEAD = 1 / 8
"""Share of the columns that are gone when matrices are made smaller."""


def order_units(closing: Closing, columns_UC: Tensor) -> Tensor:
    """[U] units, those most worth keeping first.

    Args:
        closing: the weight that reads the units.
        columns_UC: its columns of each unit.

    Raises:
        DecompositionFailed: a price is not finite, or P lost its inverse.
    """
    left, gone = Elimination(closing, columns_UC), list[int]()
    while len(gone) < len(columns_UC):
        gone.append(int(left.prices().argmin()))
        left.remove(gone[-1:])
    return torch.tensor(gone[::-1])


def order_heads(closing: Closing, columns_UHC: Tensor) -> Tensor:
    """[U, H] query heads of each key-value head, those most worth keeping first.

    Every key-value head loses one, the cheapest of all first, before any loses its second one: so
    the first h of each row are a choice of equally many of each.

    Args:
        closing: the weight that reads the heads.
        columns_UHC: its columns of each query head of each key-value head.

    Raises:
        DecompositionFailed: a price is not finite, or P lost its inverse.
    """
    units, heads, _ = columns_UHC.shape
    left = Elimination(closing, columns_UHC.flatten(0, 1))
    gone: list[list[int]] = [[] for _ in range(units)]
    for count in range(units * heads):
        prices_UH = left.prices().reshape(units, heads)
        waits = [unit for unit in range(units) if len(gone[unit]) > count // units]
        prices_UH[waits] = inf
        flat = int(prices_UH.argmin())
        left.remove([flat])
        gone[flat // heads].append(flat % heads)
    return torch.tensor([own[::-1] for own in gone])


class Elimination:
    """What the removal of each unit would cost, when those before it are gone."""

    inverse_BCC: Tensor
    """P_SS of each unit, up to date."""
    loss_BCC: Tensor
    """M_SS of each unit, up to date."""
    u_WN: Tensor
    t_WN: Tensor
    waiting: int
    """Rows of them that P and M do not have yet."""

    def __init__(self, closing: Closing, columns_UC: Tensor) -> None:
        """Nothing is gone yet.

        Args:
            closing: the weight that reads the units.
            columns_UC: its columns of each unit; all other columns stay, and take over as well.
        """
        self.closing, (self.units, self.size) = closing, columns_UC.shape
        columns_UC = columns_UC.to(closing.input_NN.device)
        fixed = fixed_columns(columns_UC, len(closing.input_NN))
        columns_N = torch.cat([columns_UC.flatten(), fixed])
        root_NN = torch.linalg.cholesky(closing.input_NN[columns_N][:, columns_N])
        self.inverse_NN = torch.cholesky_inverse(root_NN)
        self.loss_NN = closing.loss_moment(columns_N)
        self.units_B = torch.arange(self.units, device=columns_N.device)
        """Unit of each block of columns; the columns of no unit come last."""
        self.alive_B = torch.ones_like(self.units_B, dtype=torch.bool)
        self._restart()

    def prices(self) -> Tensor:
        """[U] nats per token that the removal of each unit would cost; inf where it is gone.

        Raises:
            DecompositionFailed: a price is not finite, or P lost its inverse.
        """
        inverse_BCC, loss_BCC = self.inverse_BCC[self.alive_B], self.loss_BCC[self.alive_B]
        if self.size == 1:
            price_B = loss_BCC[:, 0, 0] / inverse_BCC[:, 0, 0]
        else:
            # Not torch.linalg.solve: MKL's LU of a batch fails on several threads.
            root_BCC, failed_B = torch.linalg.cholesky_ex(inverse_BCC)
            if bool(failed_B.any()):
                raise self._no_inverse("it is singular")
            half_BCC = torch.linalg.solve_triangular(root_BCC, loss_BCC, upper=False)
            price_BCC = torch.linalg.solve_triangular(root_BCC, half_BCC.mT, upper=False)
            price_B = price_BCC.diagonal(dim1=1, dim2=2).sum(1)
        if not bool(torch.isfinite(price_B).all()):
            raise DecompositionFailed(self.closing.module, "the price of a removal is not finite")
        prices_U = price_B.new_full((self.units,), inf)
        prices_U[self.units_B[self.alive_B]] = 0.5 * price_B.clamp_min(0)
        return prices_U

    def remove(self, units: Sequence[int]) -> None:
        """Take units out; the others take over.

        Raises:
            DecompositionFailed: P lost its inverse.
        """
        blocks = torch.isin(self.units_B, torch.tensor(units, device=self.units_B.device))
        self.alive_B &= ~blocks
        columns_S = self._columns(blocks.nonzero()[:, 0])
        inverse_SN, loss_SN = self._rows(columns_S)
        try:
            root_SS = torch.linalg.cholesky(inverse_SN[:, columns_S])
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise self._no_inverse(str(error)) from error
        u_SN = torch.linalg.solve_triangular(root_SS, inverse_SN, upper=False)
        v_SN = torch.linalg.solve_triangular(root_SS, loss_SN, upper=False)
        own_SS = torch.linalg.solve_triangular(root_SS, v_SN[:, columns_S].T, upper=False)
        t_SN = v_SN - 0.5 * own_SS @ u_SN
        self._wait(u_SN, t_SN)

    def _no_inverse(self, said: str) -> DecompositionFailed:
        return DecompositionFailed(
            self.closing.module, f"the inverse moment of its inputs is not positive: {said}"
        )

    def _rows(self, columns_S: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of P and of M as they are now."""
        u_WN, t_WN = self.u_WN[: self.waiting], self.t_WN[: self.waiting]
        u_SW, t_SW = u_WN[:, columns_S].T, t_WN[:, columns_S].T
        inverse_SN = self.inverse_NN[columns_S].addmm_(u_SW, u_WN, alpha=-1)
        loss_SN = self.loss_NN[columns_S].addmm_(t_SW, u_WN, alpha=-1)
        return inverse_SN, loss_SN.addmm_(u_SW, t_WN, alpha=-1)

    def _wait(self, u_SN: Tensor, t_SN: Tensor) -> None:
        """Bring the blocks of the units up to date, and let the rows wait."""
        self.inverse_BCC -= self._products(u_SN, u_SN)
        cross_BCC = self._products(t_SN, u_SN)
        self.loss_BCC -= cross_BCC + cross_BCC.mT
        end = self.waiting + len(u_SN)
        if end > len(self.u_WN):
            room_WN = u_SN.new_empty(WAITING + len(u_SN), u_SN.shape[1])
            self.u_WN, self.t_WN = (torch.cat([m, room_WN]) for m in (self.u_WN, self.t_WN))
        self.u_WN[self.waiting : end], self.t_WN[self.waiting : end] = u_SN, t_SN
        self.waiting = end
        if self.waiting >= WAITING:
            self._catch_up()

    def _catch_up(self) -> None:
        """Bring P and M up to date, without what is gone once that is enough."""
        u_WN, t_WN = self.u_WN[: self.waiting], self.t_WN[: self.waiting]
        self.inverse_NN.addmm_(u_WN.T, u_WN, alpha=-1)
        self.loss_NN.addmm_(torch.cat([t_WN, u_WN]).T, torch.cat([u_WN, t_WN]), alpha=-1)
        if float(self.alive_B.double().mean()) < 1 - DEAD:
            fixed_F = torch.arange(len(self.units_B) * self.size, len(self.inverse_NN))
            alive = self._columns(self.alive_B.nonzero()[:, 0])
            columns_N = torch.cat([alive, fixed_F.to(alive.device)])
            self.inverse_NN = self.inverse_NN[columns_N][:, columns_N]
            self.loss_NN = self.loss_NN[columns_N][:, columns_N]
            self.units_B = self.units_B[self.alive_B]
            self.alive_B = torch.ones_like(self.units_B, dtype=torch.bool)
        self._restart()

    def _restart(self) -> None:
        """Nothing waits."""
        self.waiting = 0
        self.u_WN = self.t_WN = self.inverse_NN[:0]
        columns_BC = self._columns(torch.arange(len(self.units_B)).to(self.units_B))
        rows_BC1 = columns_BC.reshape(-1, self.size, 1)
        self.inverse_BCC, self.loss_BCC = (
            matrix[rows_BC1, rows_BC1.mT] for matrix in (self.inverse_NN, self.loss_NN)
        )

    def _columns(self, blocks: Tensor) -> Tensor:
        """Columns of these blocks, where P and M have them now."""
        return (blocks[:, None] * self.size + torch.arange(self.size).to(blocks)).flatten()

    def _products(self, a_SN: Tensor, b_SN: Tensor) -> Tensor:
        """[B, C, C] a^T b of the columns of each block."""
        shape = len(a_SN), len(self.units_B), self.size
        a_SBC, b_SBC = (m[:, : shape[1] * shape[2]].reshape(shape) for m in (a_SN, b_SN))
        if self.size == 1:
            return (a_SBC * b_SBC).sum(0)[:, :, None]
        return a_SBC.permute(1, 2, 0) @ b_SBC.permute(1, 0, 2)
