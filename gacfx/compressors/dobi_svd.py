"""Dobi-SVD, light (after Qinsi Wang et al. 2025, arXiv 2502.02723): trained places of truncation.

    y = up (gate * (down x)),    gate_i = tanh(beta (place - (i - 1/2) / S)) / 2 + 1/2

One number for each weight is trained, the place of its gate as a share of its S components; all
else is frozen, and the factors are those of SVD-LLM. What is minimised is

    loss of the model on the text + penalty / 2 ((kept - limit) / dense)^2

with the parameters that places stand for: a pair's, or the dense weight's where those are fewer.
Positions that were trained are scaled together until the budget is met, and rounded down.

The paper truncates activations, goes through the SVD of each batch backwards, and trains for 20
epochs; here components are fixed, so that a gate has an exact gradient and a few steps are enough
to tell weights from each other. Its own losses are no curves: the planner has those of SVD-LLM.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import TYPE_CHECKING

from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import SIDE_BY_SIDE, AllocationInputs, Claim
from gacfx.compressors.svd_llm_v2 import closed
from gacfx.core.settings import setting
from gacfx.errors import CalibrationError, InfeasibleBudget, PipelineError

if TYPE_CHECKING:
    from torch import Tensor

PENALTY = 200.0
"""Nats for each square of a share of the parameters, halved; the paper's lambda."""
LAST_RATE = 0.2
"""Of the rate at the last step; a cosine leads there."""
DOUBLINGS = 60
"""Halvings of the interval in which places are scaled: to the last bit."""

Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class DobiSvd(Method):
    """Dobi-SVD with its settings.

    Raises:
        PipelineError: a setting out of its range.
    """

    steps: int = setting(40, "of the training of places, each a forward and a backward")
    tokens: int = setting(1024, "of text, at least, in each step")
    beta: float = setting(10.0, "steepness of a gate over the share of components")
    rate: float = setting(0.02, "most that a place moves in a step, as a share of components")
    seed: int = setting(0, "of the windows in each step")

    def __post_init__(self) -> None:
        for option, least in (("steps", 1), ("tokens", 1), ("seed", 0)):
            if (given := getattr(self, option)) < least:
                raise PipelineError(f"{self.name}: {option} {given}: at least {least}")
        if not self.beta > 0:
            raise PipelineError(f"{self.name}: beta {self.beta} is not above 0")
        if not 0 < self.rate <= 1:
            raise PipelineError(f"{self.name}: rate {self.rate} is not between 0 and 1")

    @property
    def allocates(self) -> str:
        """By training."""
        return (
            f"a gate in each weight, whose place is trained for {self.steps} steps against the loss"
        )

    def allocate(
        self, shapes: Shapes, ratio: float | str, inputs: AllocationInputs | None = None
    ) -> dict[str, int | None]:
        """Its own ranks.

        Args:
            shapes: module -> (rows, columns).
            ratio: share to remove, 0..1.
            inputs: with decompositions and gates; what has no decomposition stays dense, and the
                others make up for it.

        Raises:
            PipelineError: there are no inputs.
            CalibrationError: the loss was never finite.
            InfeasibleBudget: rank 1 of every weight is still too much.
        """
        if inputs is None:
            raise PipelineError(f"{self.name}: its own ranks need a model and its statistics")
        wanted_rank(1, 1, ratio)  # a share, or an error
        open_ = {name: shape for name, shape in shapes.items() if name in inputs.decompositions}
        left = inputs.limit_params - sum(_size(shapes[name]) for name in shapes.keys() - open_)
        if left >= sum(map(_size, open_.values())):
            return dict.fromkeys(shapes)
        if left < sum(map(sum, open_.values())):
            raise InfeasibleBudget(
                f"{self.name}: rank 1 of every weight that it can decompose is more than what may "
                f"remain of them, {max(left, 0):,} parameters; remove less",
                needed=sum(map(sum, open_.values())),
                budget=left,
            )
        places = dict(
            zip(
                open_,
                inputs.remember(
                    f"places.{inputs.limit_params}", lambda: self._trained(open_, left, inputs)
                ),
                strict=True,
            )
        )
        return closed(shapes, shares_of(open_, places, left), inputs.limit_params)

    def _trained(self, shapes: Shapes, limit: int, inputs: AllocationInputs) -> list[float]:
        """The place of each weight's gate, by Adam.

        Raises:
            CalibrationError: the loss was never finite.
        """
        import torch

        start = limit / sum(map(_size, shapes.values()))
        first = [min(start * _size(s) / (sum(s) * min(s)), 1.0) for s in shapes.values()]
        places_W = torch.tensor(first, dtype=torch.float64, requires_grad=True)
        least_W = torch.tensor([1 / min(s) for s in shapes.values()], dtype=torch.float64)
        adam = torch.optim.Adam([places_W], lr=self.rate, betas=(0.8, 0.95))
        seen = 0
        for step in range(self.steps):
            inputs.progress(step, self.steps)
            gates = [
                gate(place, min(shape), self.beta)
                for place, shape in zip(places_W, shapes.values(), strict=True)
            ]
            given = {name: each.detach() for name, each in zip(shapes, gates, strict=True)}
            nats, slopes = inputs.gated(given, self.tokens, self.seed + step)
            if not isfinite(nats):
                continue
            seen += 1
            _move(adam, places_W, gates, [slopes[name] for name in shapes], shapes, limit)
            with torch.no_grad():
                places_W.clamp_(least_W, torch.ones_like(least_W))
            adam.param_groups[0]["lr"] = self.rate * _cosine((step + 1) / self.steps)
        inputs.progress(self.steps, self.steps)
        if not seen:
            raise CalibrationError(
                f"{self.name}: the loss of the model with gates was not finite in any of "
                f"{self.steps} steps; give other text, or a method that trains nothing"
            )
        found: list[float] = places_W.tolist()
        return found


def gate(place: "Tensor", components: int, beta: float) -> "Tensor":
    """[S] gate of each component, best first, between 0 and 1, float64.

    Args:
        place: scalar, share of the components that pass.
        components: S.
        beta: steepness; the larger, the closer to 0 and 1.
    """
    import torch

    middle_S = (torch.arange(components, dtype=torch.float64) + 0.5) / components
    return torch.tanh(beta * (place - middle_S.to(place.device))) / 2 + 0.5


def penalty(places_W: "Tensor", shapes: Shapes, limit: int) -> "Tensor":
    """PENALTY / 2 ((kept - limit) / dense)^2, scalar.

    Args:
        places_W: of the gates, in the order of the shapes.
        shapes: module -> (rows, columns).
        limit: parameters that may remain of them.
    """
    import torch

    sizes_W = torch.tensor([_size(shape) for shape in shapes.values()], dtype=torch.float64)
    pairs_W = torch.tensor([sum(s) * min(s) for s in shapes.values()], dtype=torch.float64)
    kept = torch.minimum(places_W * pairs_W, sizes_W).sum()
    return PENALTY / 2 * ((kept - limit) / sizes_W.sum()) ** 2


def _move(
    adam: "object",
    places_W: "Tensor",
    gates: Sequence["Tensor"],
    slopes: Sequence["Tensor"],
    shapes: Shapes,
    limit: int,
) -> None:
    """One step of Adam, by the chain rule from gates to places."""
    import torch

    assert isinstance(adam, torch.optim.Adam)
    adam.zero_grad()
    along = [(each * slope.to(each)).sum() for each, slope in zip(gates, slopes, strict=True)]
    (torch.stack(along).sum() + penalty(places_W, shapes, limit)).backward()
    adam.step()


def shares_of(shapes: Shapes, places: Mapping[str, float], limit: int) -> dict[str, float]:
    """Module -> share that goes of it, with places scaled together until the budget is met.

    A weight of which nothing goes is missing, and stays dense.

    Args:
        shapes: module -> (rows, columns).
        places: module -> share of its components that pass, above 0.
        limit: parameters that may remain of them.
    """

    def kept(scale: float) -> dict[str, float]:
        return {
            name: min(places[name] * scale, 1.0) * min(shape) * sum(shape)
            for name, shape in shapes.items()
        }

    def total(scale: float) -> float:
        return sum(min(pair, _size(shapes[name])) for name, pair in kept(scale).items())

    scale = _largest(lambda one: total(one) <= limit, 0.0, 1 / min(places.values()))
    found = {name: 1 - pair / _size(shapes[name]) for name, pair in kept(scale).items()}
    return {name: share for name, share in found.items() if share > 0}


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number of an interval for which something holds, which holds for ``low``."""
    for _ in range(DOUBLINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _cosine(done: float) -> float:
    return LAST_RATE + (1 - LAST_RATE) * (1 + cos(pi * done)) / 2


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


DOBI_SVD = DobiSvd(
    "dobi-svd",
    Metric.IDENTITY,
    Metric.MOMENT,
    "after Wang et al. 2025 (arXiv 2502.02723), trained places of truncation; factors of SVD-LLM",
    (
        Claim(
            "lower perplexity than SVD-LLM with as many parameters",
            SIDE_BY_SIDE,
            "so at 20 and 30 % removed: 0.04 and 0.07 nats instead of 0.26 and 0.43",
        ),
        Claim(
            "lower perplexity than ASVD with as many parameters",
            SIDE_BY_SIDE,
            "so at 20 and 30 % removed: 0.04 and 0.07 nats instead of 0.10 and 0.65",
        ),
    ),
)
