"""Curves: the estimated rise of the task loss for every rank of a weight. Integers and floats."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.core.decision import Decision, break_even


@dataclass(frozen=True)
class Curve:
    """Loss against rank for one weight; *keep dense* has loss 0 and costs rows x columns."""

    module: str
    rows: int
    columns: int
    loss_nats: NDArray[np.float64]
    """[min(rows, columns) + 1]: entry r is the rise at rank r, nats per token; not increasing."""
    value_model: str
    failed: str = ""
    """Why there is no curve, so that the weight stays dense; ``loss_nats`` is empty then."""
    groups: int = 0
    """Groups of outputs with factors of their own; entry r then is the rise at r components of all
    of them together, the first ones of each in turn. 0 for a method that takes a weight whole."""

    @property
    def break_even(self) -> int:
        """Largest rank of a pair that has fewer parameters than the dense weight."""
        return break_even(self.rows, self.columns)

    def loss(self, decision: Decision) -> float:
        """Rise under a decision: that of its rank, in whatever form; 0 where there is none."""
        return 0.0 if decision.rank is None else float(self.loss_nats[decision.rank])


@dataclass(frozen=True)
class ListedCurve:
    """The loss of each candidate of a weight, where a rank alone does not tell it.

    *Keep dense* has loss 0 and need not be listed.
    """

    module: str
    rows: int
    columns: int
    losses: Mapping[Decision, float]
    """Candidate -> rise of the task loss, nats per token."""
    failed: str = ""
    """Why there is none, so that the weight stays dense."""

    def loss(self, decision: Decision) -> float:
        """Rise under a decision; 0 for the dense weight.

        Raises:
            KeyError: it is not listed.
        """
        return 0.0 if decision.is_dense else self.losses[decision]
