"""SVD-LLM v2 (Wang et al. 2025, arXiv 2503.12340): the factors of SVD-LLM, ranks by their losses.

Weights of one type (all q_proj, all down_proj) share what is to be removed. With L the loss of each
at the rank that the same share of every weight would leave, E |(W - W') x|^2 / 2, the share R that
goes of a weight is larger where its loss is small:

    R = c / ln(shift + L / mean L),    0 <= R <= 0.95,    sum of R params = what the type shall lose

As it is printed, 1 / ln L, it turns over at L = 1 and changes with the unit of the inputs; the mean
of the type undoes both. With ``shift`` 1 a weight of small loss loses nearly all, however much that
costs (2.30 nats instead of 0.24 at 20 % of babyllama-tok105-1M); the larger it is, the closer
shares are to equal ones, and e is the default. Ranks are rounded down, and what that
leaves of the budget goes back to the weights that lost most by it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, log1p

from gacfx.compressors.allocate import wanted_rank
from gacfx.compressors.metrics import Method, Metric
from gacfx.compressors.protocol import SIDE_BY_SIDE, AllocationInputs, Claim, Decomposition
from gacfx.core.settings import setting
from gacfx.errors import InfeasibleBudget, PipelineError

MOST = 0.95
"""Share that goes of a weight, at most."""
LEAST_LOSS = 1e-12
"""Of a weight, as a share of the mean of its type: one without loss has no largest share."""

Shapes = Mapping[str, tuple[int, int]]
Ranks = dict[str, int | None]


@dataclass(frozen=True)
class SvdLlmV2(Method):
    """SVD-LLM with ranks of its own.

    Raises:
        PipelineError: a setting out of its range.
    """

    shift: float = setting(2.72, "added to L / mean L before the logarithm, 1 or more")

    def __post_init__(self) -> None:
        if not self.shift >= 1:
            raise PipelineError(f"{self.name}: shift {self.shift} is below 1")

    @property
    def allocates(self) -> str:
        """By losses within a type of weight."""
        return f"of each type of weight c / ln({self.shift:g} + L / mean L) goes, L its loss"

    def allocate(
        self,
        shapes: Shapes,
        ratio: float | str,
        inputs: AllocationInputs | None = None,
    ) -> Ranks:
        """Its own ranks.

        Args:
            shapes: module -> (rows, columns).
            ratio: share to remove, 0..1.
            inputs: with decompositions; what has none stays dense, and the others make up for it.

        Raises:
            PipelineError: there are no inputs.
            InfeasibleBudget: more than 95 % of the weights that can lose something would go.
        """
        if inputs is None:
            raise PipelineError(f"{self.name}: its own ranks need a model and its statistics")
        wanted_rank(1, 1, ratio)  # a share, or an error
        open_ = {name: shape for name, shape in shapes.items() if name in inputs.decompositions}
        gone = sum(map(_size, shapes.values())) - inputs.limit_params
        able = sum(map(_size, open_.values()))
        if gone <= 0:
            return dict.fromkeys(shapes)
        if gone > MOST * able:
            raise InfeasibleBudget(
                f"{self.name} removes at most {MOST:.0%} of each weight, {int(MOST * able):,} "
                f"parameters of those that it can decompose; {gone:,} shall go: remove less",
                needed=gone,
                budget=int(MOST * able),
            )
        share = Fraction(gone, able)
        losses = {
            name: truncation_loss(inputs.decompositions[name], *shape, share)
            for name, shape in open_.items()
        }
        shares = shares_of(open_, losses, float(share), self.shift)
        return closed(shapes, shares, inputs.limit_params)


def truncation_loss(found: Decomposition, rows: int, columns: int, share: Fraction) -> float:
    """E |(W - W') x|^2 / 2 at the rank that leaves 1 - ``share`` of the parameters.

    Args:
        found: with nested components.
        rows: outputs of the weight.
        columns: inputs of the weight.
        share: that goes, 0..1.
    """
    from gacfx.compressors.curves import OutputWeight, Tails

    assert found.components is not None
    tails = Tails(found.weight_MN, found.moments, *found.components)
    rank = max(int(wanted_rank(rows, columns, str(share))), 1)
    return float(tails.losses(OutputWeight.IDENTITY)[rank])


def shares_of(
    shapes: Shapes, losses: Mapping[str, float], share: float, shift: float = 2.72
) -> dict[str, float]:
    """Module -> share that goes of it, 0 .. :data:`MOST`; of each type of weight ``share`` goes.

    A type is the last part of a module's name. What cannot go of a weight because of the bound goes
    of the others of its type.

    Args:
        shapes: module -> (rows, columns).
        losses: module -> loss at that share, at least 0; a weight whose loss is not finite counts
            as the one with the largest.
        share: 0 .. :data:`MOST`.
        shift: at least 1.
    """
    types = defaultdict[str, list[str]](list)
    for name in shapes:
        types[name.rpartition(".")[2]].append(name)
    found = dict[str, float]()
    for names in types.values():
        finite = [losses[name] for name in names if isfinite(losses[name])]
        worst = max(finite, default=1.0)
        known = [losses[name] if isfinite(losses[name]) else worst for name in names]
        sizes = [_size(shapes[name]) for name in names]
        found |= dict(zip(names, _filled(_weights(known, shift), sizes, share), strict=True))
    return {name: found[name] for name in shapes}


def _weights(losses: Sequence[float], shift: float) -> list[float]:
    """1 / ln(shift + L / mean L) of each loss."""
    mean = sum(losses) / len(losses)
    if not mean > 0:
        return [1.0] * len(losses)
    return [1 / log1p(shift - 1 + max(loss / mean, LEAST_LOSS)) for loss in losses]


def _filled(weights: Sequence[float], sizes: Sequence[int], share: float) -> list[float]:
    """Shares in proportion to weights, none above :data:`MOST`, that remove ``share`` in all."""
    shares, full = [0.0] * len(weights), set[int]()
    while len(full) < len(weights):
        free = [at for at in range(len(weights)) if at not in full]
        left = share * sum(sizes) - MOST * sum(sizes[at] for at in full)
        scale = max(left, 0.0) / sum(sizes[at] * weights[at] for at in free)
        for at in free:
            shares[at] = scale * weights[at]
        over = {at for at in free if shares[at] > MOST}
        for at in over:
            shares[at] = MOST
        full |= over
        if not over:
            break
    return shares


def closed(shapes: Shapes, shares: Mapping[str, float], limit_params: int) -> Ranks:
    """Module -> rank, or None to keep it dense: within the budget, and no rank more would fit.

    Args:
        shapes: module -> (rows, columns).
        shares: module -> share that goes of it; a module that is missing, or of which nothing goes,
            stays dense.
        limit_params: that may be kept in all.

    Raises:
        InfeasibleBudget: rank 1 of every weight is still too much.
    """
    ranks, rests = dict[str, int](), dict[str, float]()
    for name, share in shares.items():
        rows, columns = shapes[name]
        exact = (1 - share) * rows * columns / (rows + columns)
        if share > 0 and rows * columns > rows + columns:
            ranks[name] = max(int(exact), 1)
            rests[name] = exact - int(exact)
    dense = sum(_size(shape) for name, shape in shapes.items() if name not in ranks)
    left = limit_params - dense - sum(rank * sum(shapes[name]) for name, rank in ranks.items())
    order = sorted(ranks, key=lambda name: -rests[name])
    left = _shrunk(ranks, shapes, order[::-1], left)
    if left < 0:
        raise InfeasibleBudget(
            f"rank 1 of every weight is {-left:,} parameters more than may remain; remove less",
            needed=limit_params - left,
            budget=limit_params,
        )
    _grown(ranks, shapes, order, left)
    return {name: ranks.get(name) for name in shapes}


def _shrunk(ranks: dict[str, int], shapes: Shapes, order: Sequence[str], left: int) -> int:
    """Ranks go down by one, in turn, until the budget holds or all are 1; what is left of it."""
    while left < 0:
        able = [name for name in order if ranks[name] > 1]
        if not able:
            break
        for name in able:
            if left < 0:
                ranks[name] -= 1
                left += sum(shapes[name])
    return left


def _grown(ranks: dict[str, int], shapes: Shapes, order: Sequence[str], left: int) -> None:
    """Ranks go up by one, in turn, while one fits and a pair still saves something."""
    while left > 0:
        fitting = [
            name
            for name in order
            if sum(shapes[name]) <= left
            and (ranks[name] + 1) * sum(shapes[name]) < _size(shapes[name])
        ]
        if not fitting:
            return
        for name in fitting:
            if sum(shapes[name]) <= left:
                ranks[name] += 1
                left -= sum(shapes[name])


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


SVD_LLM_V2 = SvdLlmV2(
    "svd-llm-v2",
    Metric.IDENTITY,
    Metric.MOMENT,
    "Wang et al. 2025 (arXiv 2503.12340), heterogeneous ratios; L relative to its type's mean",
    (
        Claim(
            "lower perplexity than SVD-LLM with as many parameters",
            SIDE_BY_SIDE,
            "so at 20, 30 and 40 % removed; with shift=1 far from it",
        ),
    ),
)
