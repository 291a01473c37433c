"""Statistics: what a calibration run knows about the inputs and output gradients of each weight.

For y = W x with W of shape [M, N] (M outputs, N inputs; these are not the axes of a GEMM) the
Kronecker-factored second-order model of the loss needs A = E[x x^T] (N x N) and G = E[g g^T]
(M x M), per token, where g is the gradient of the log-likelihood at y with labels sampled from the
model (true Fisher). Low ranks never need the moment of the long side:

    M >  N   input_moment = A (N x N),   projected_moment = E[(W^T g)(W^T g)^T] = W^T G W (N x N)
    M <= N   grad_moment  = G (M x M),   projected_moment = E[(W x)(W x)^T]     = W A W^T (M x M)

Where outputs or inputs go (structured pruning) it is needed, so ``long_moment`` holds it for the
weights that it was gathered for.

Source: George et al. 2018 (K-FAC in its eigenbasis), Martens and Grosse 2015 (true Fisher).
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gacfx.errors import CalibrationError


@dataclass(frozen=True)
class Moments:
    """Second moments of one weight, float64, per token."""

    rows: int
    columns: int
    projected_moment: Tensor
    """[S, S] with S = min(rows, columns)."""
    side_moment: Tensor
    """[S, S]: the input moment A when rows > columns, else the gradient moment G."""
    input_abs_mean: Tensor
    """[columns]: mean of |x| over tokens (ASVD's channel scale)."""
    input_square_mean: Tensor
    """[columns]: diagonal of A."""
    grad_square_mean: float
    """E ||g||^2 / rows: the scalar output weight of the ``fisher`` value model."""
    long_moment: Tensor | None = None
    """[L, L] with L = max(rows, columns): G when rows > columns, else A. None: not gathered."""
    tokens_seen: int = 0
    """Tokens that the module was called with, once for each call: an expert sees some of a text. By
    these its input moments weigh when texts are merged; 0 for moments that never are."""
    grad_output_mean: float | None = None
    """Mean of |g h| over tokens and outputs, h the output with its bias (Taylor importance,
    Molchanov et al. 2017, with labels sampled). None: kept by a gacfx that did not gather it, or
    not gathered, since the model changes the output in place."""
    input_abs_max: Tensor | None = None
    """[columns]: largest |x| over tokens. None: kept by a gacfx that did not gather it."""

    @staticmethod
    def from_samples(
        weight_MN: Tensor, inputs_TN: Tensor, grads_TM: Tensor, *, both_sides: bool = False
    ) -> "Moments":
        """Moments of explicit samples: what calibration accumulates without keeping them.

        Args:
            weight_MN: float64 weight.
            inputs_TN: float64 inputs, one row per token.
            grads_TM: float64 gradients at the outputs, one row per token.
            both_sides: with the moment of the long side.
        """
        (rows, columns), tokens = weight_MN.shape, len(inputs_TN)
        wide = rows > columns
        projected_TS = grads_TM @ weight_MN if wide else inputs_TN @ weight_MN.T
        side_TS, long_TL = (inputs_TN, grads_TM) if wide else (grads_TM, inputs_TN)
        return Moments(
            rows=rows,
            columns=columns,
            projected_moment=projected_TS.T @ projected_TS / tokens,
            side_moment=side_TS.T @ side_TS / tokens,
            input_abs_mean=inputs_TN.abs().mean(0),
            input_square_mean=inputs_TN.square().mean(0),
            grad_square_mean=float(grads_TM.square().mean()),
            long_moment=long_TL.T @ long_TL / tokens if both_sides else None,
            tokens_seen=tokens,
            grad_output_mean=float((grads_TM * (inputs_TN @ weight_MN.T)).abs().mean()),
            input_abs_max=inputs_TN.abs().amax(0),
        )

    @staticmethod
    def from_both_sides(
        weight_MN: Tensor,
        input_moment_NN: Tensor,
        grad_moment_MM: Tensor,
        abs_mean_N: Tensor,
        tokens_seen: int = 0,
        abs_max_N: Tensor | None = None,
    ) -> "Moments":
        """Moments of a weight whose A and G are known.

        Args:
            weight_MN: any floating dtype.
            input_moment_NN: A, float64.
            grad_moment_MM: G, float64.
            abs_mean_N: mean of |x| over tokens.
            tokens_seen: as :attr:`tokens_seen`.
            abs_max_N: largest |x| over tokens, if it is known.
        """
        (rows, columns), weight_MN = weight_MN.shape, weight_MN.to(grad_moment_MM)
        if rows > columns:
            projected_SS = weight_MN.T @ (grad_moment_MM @ weight_MN)
            side_SS, long_LL = input_moment_NN, grad_moment_MM
        else:
            projected_SS = weight_MN @ input_moment_NN @ weight_MN.T
            side_SS, long_LL = grad_moment_MM, input_moment_NN
        return Moments(
            rows=rows,
            columns=columns,
            projected_moment=projected_SS,
            side_moment=side_SS,
            input_abs_mean=abs_mean_N,
            input_square_mean=input_moment_NN.diagonal().clone(),
            grad_square_mean=float(grad_moment_MM.trace()) / rows,
            long_moment=long_LL,
            tokens_seen=tokens_seen,
            input_abs_max=abs_max_N,
        )

    @property
    def input_moment(self) -> Tensor:
        """A = E[x x^T], [columns, columns], wherever it lies.

        Raises:
            CalibrationError: it is that of the long side, and was not gathered.
        """
        return self.side_moment if self.wide else self._long("inputs")

    @property
    def grad_moment(self) -> Tensor:
        """G = E[g g^T], [rows, rows], wherever it lies.

        Raises:
            CalibrationError: it is that of the long side, and was not gathered.
        """
        return self._long("output gradients") if self.wide else self.side_moment

    def _long(self, what: str) -> Tensor:
        if self.long_moment is None:
            raise CalibrationError(
                f"the second moment of the {what} of a weight [{self.rows}, {self.columns}] was "
                "not gathered; name its module in gather(..., both_sides=...)"
            )
        return self.long_moment

    @property
    def wide(self) -> bool:
        """More outputs than inputs, so the short side is the input."""
        return self.rows > self.columns

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the weight."""
        return self.rows, self.columns

    def problem(self) -> str:
        """Why these moments cannot be used; empty when they can."""
        tensors = [
            self.projected_moment,
            self.side_moment,
            self.input_abs_mean,
            self.input_square_mean,
        ]
        tensors += [t for t in (self.long_moment, self.input_abs_max) if t is not None]
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            return "NaN or infinite calibration statistics"
        if not math.isfinite(self.grad_square_mean):
            return "NaN or infinite gradient statistics"
        if not bool(self.input_square_mean.any()):
            return "no calibration token reached this weight"
        if not self.grad_square_mean:
            return "it runs without gradient, so its loss cannot be measured"
        return ""


@dataclass(frozen=True)
class Statistics:
    """Moments of every targeted weight, and the text they were made from."""

    moments: Mapping[str, Moments]
    """Module name -> moments."""
    tokens: int
    """Tokens that were counted."""
    text_digest: str
    """sha256 of the calibration token ids."""
    seed: int
    dense_nats_per_token: float
    """Loss of the dense model on the calibration text itself."""
    digests: dict[str, str] = field(default_factory=dict)
    """Module name -> sha256 of the weight (weights lock)."""
    windows: int = 0
    """Windows of the text, of each of which the first token is not predicted."""
    left_out: int = 0
    """Tokens that are predicted and not counted."""


def input_count(tokens_seen: int, tokens: int) -> int:
    """By how many tokens the input sums of a module are divided.

    Args:
        tokens_seen: that it was called with.
        tokens: of the whole text; a module that is called several times for each counts the sum of
            its calls.
    """
    return max(min(tokens_seen, tokens), 1)


def weight_digest(weight: Tensor) -> str:
    """sha256 of a parameter as it is stored: dtype, shape and bytes (the weights lock)."""
    stored = weight.detach().cpu()
    mixed = hashlib.sha256(f"{stored.dtype} {tuple(stored.shape)}\n".encode())
    mixed.update(stored.flatten().view(torch.uint8).numpy().data)
    return mixed.hexdigest()
