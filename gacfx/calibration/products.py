"""What a compression computes, moves and hashes, by arithmetic: sizes and tokens -> work.

Products count two FLOPs for each multiplication and addition, in the dtype that they are formed
in. What is done to each number by itself (norms, softmax, packing) counts by the bytes that it
reads and writes, roughly.
"""

# T tokens, N parameters, S short and L long side of a weight, R rank

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from math import sqrt

from gacfx.calibration.cost import moment_bytes
from gacfx.calibration.sizes import LayerSizes, Sizes, Weight
from gacfx.calibration.sums import LEAST_ROWS
from gacfx.calibration.text import SAMPLE_TOKENS

HELD = 0.25
"""Of the text, what is held back."""
TRIALS = 3
"""Plans that are made and measured before the last one, with value model ``auto``."""
BACKWARD = 2.5
"""Attention backward, in forwards: it makes its scores again."""
HEAD_PASSES, LOSS_PASSES = 24, 5
"""Over the logits in float32: casts, checks, sums to draw labels from, two losses and the gradient
of one; and those of a loss alone."""
LAYER_PASSES, OUTPUT_PASSES = 24, 2
"""Of a layer forward, over its hidden states and over the outputs of its weights."""
MATRIX_PASSES = 10
"""Over a sum until it is packed."""


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done; any order."""

    own: float = 0.0
    """FLOPs in the dtype of the model."""
    fp32: float = 0.0
    fp64: float = 0.0
    eigh: float = 0.0
    """Sum of S^3 of symmetric eigenproblems in float64."""
    touched: float = 0.0
    """Bytes read or written in memory, number by number."""
    hashed: float = 0.0
    """Bytes."""
    written: float = 0.0
    """Bytes to the work folder, where whatever is written is hashed, too."""
    read: float = 0.0
    """Bytes from there."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * each for each in astuple(self)))

    def on(self, machines: int) -> "Work":
        """What each of several does that share what is computed, and one disk."""
        part = self * (1 / machines)
        return replace(part, hashed=self.hashed, written=self.written, read=self.read)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second."""

    own: float
    """FLOPs of products in the dtype of the model."""
    fp32: float
    fp64: float
    eigh: float
    """S^3 of an eigenproblem in float64."""
    touched: float
    """Bytes of memory."""
    hashed: float
    """Bytes of sha256."""
    disk: float
    """Bytes written or read."""

    def seconds(self, work: Work) -> float:
        """Of work that is done one after the other."""
        return (
            work.own / self.own
            + work.fp32 / self.fp32
            + work.fp64 / self.fp64
            + work.eigh / self.eigh
            + work.touched / self.touched
            + (work.hashed + work.written) / self.hashed
            + (work.written + work.read) / self.disk
        )


def triangle(size: int) -> int:
    """FLOPs for each token of a symmetric sum, in the blocks of :mod:`gacfx.calibration.sums`."""
    rows = max(LEAST_ROWS, size // 8)
    return sum(2 * min(rows, size - at) * (size - at) for at in range(0, size, rows))


def stages(sizes: Sizes, tokens: int, window: int, *, kept: bool = True) -> dict[str, Work]:
    """Stage -> what it takes, of ``gacfx compress`` with value model ``auto``, without pruning.

    Args:
        sizes: of the model.
        tokens: of the calibration text; :data:`HELD` of it is held back.
        window: tokens of a document; attention is causal, so half of its pairs count.
        kept: the work folder has room for components. Otherwise each is made again for the factors
            of every plan.
    """
    through = _layers(sizes, window, 1.0)
    hidden = tokens * sizes.width * sizes.itemsize
    boundaries = len(sizes.layers) + 1
    head = 2.0 * sizes.vocabulary * sizes.width
    moments = sum(
        (_moments(layer, sizes.itemsize, lowest=not at) for at, layer in enumerate(sizes.layers)),
        Work(),
    )
    of_one = sum(moments_bytes(layer) for layer in sizes.layers)
    weights = sizes.weights
    components = sum(16.0 * weight.short**2 for weight in weights)
    decomposed = sum(map(_decomposed, weights), Work()) * (2 if kept else 2 + TRIALS + 1)
    logits, passing = 4.0 * tokens * sizes.vocabulary, tokens * _touched(sizes)
    loss_passes = LOSS_PASSES * 4.0 * sizes.vocabulary
    losses = Work(own=through + head, touched=_touched(sizes) + loss_passes)
    held = HELD * tokens
    sample = min(SAMPLE_TOKENS, held)
    folder = Work(written=2 * components, read=(TRIALS + 1) * components) if kept else Work()
    kept_factors = 0.8 * sizes.targeted * sizes.itemsize
    return {
        "sample": losses * sample,
        "digests": Work(hashed=(sizes.params + sizes.targeted) * sizes.itemsize),
        "forward": Work(
            own=tokens * through,
            touched=passing,
            written=boundaries * hidden,
            read=(boundaries - 1) * hidden,
        ),
        "head": Work(
            own=2 * tokens * head, touched=HEAD_PASSES * logits, written=hidden, read=hidden
        ),
        "backward": Work(
            own=tokens * (through + _layers(sizes, window, BACKWARD) - _lowest(sizes.layers[0])),
            touched=3 * passing,
            written=(boundaries - 2) * hidden,
            read=2 * (boundaries - 1) * hidden,
        ),
        "moments": moments * tokens
        + Work(touched=2 * MATRIX_PASSES * 2.0 * of_one, written=2 * of_one),
        "decompositions": decomposed + folder + Work(read=3 * of_one),
        "curves": sum((_curves(weight) for weight in weights), Work()),
        "factors": sum(map(_factors, weights), Work()) * (TRIALS + 1)
        + Work(written=(TRIALS + 1) * kept_factors, read=(TRIALS + 1) * 3 * of_one / 2),
        # All of it for the best of the plans that are tried, and for the last one.
        "trials": losses * (held + (TRIALS - 1) * sample),
        "evaluation": losses * held,
    }


EVALUATIONS = ("trials", "evaluation")
CALIBRATION = ("sample", "digests", "forward", "head", "backward", "moments")
"""Stages to the end of the statistics."""


def total(works: Iterable[Work]) -> Work:
    return sum(works, Work())


def moments_bytes(layer: LayerSizes) -> int:
    """Of the moments of a layer on one text in the work folder, shared ones once."""
    made = moment_bytes((w.rows, w.columns, w.both_sides) for w in layer.weights)
    return made - sum(_half(size) for size in _again(layer))


def _half(size: int) -> int:
    return 4 * size * (size + 1)


def _again(layer: LayerSizes) -> list[int]:
    """Sizes of moments of inputs that a weight shares with one before it."""
    seen, again = set[int](), list[int]()
    for weight in layer.weights:
        if weight.wide or weight.both_sides:
            if weight.fed in seen:
                again.append(weight.columns)
            seen.add(weight.fed)
    return again


def _layers(sizes: Sizes, window: int, attention: float) -> float:
    """FLOPs of all layers for each token, forward or backward.

    Parameters are frozen, so that a backward makes gradients of activations only.
    """
    pairs = window / 2
    return sum(2 * (x.targeted + attention * x.attention * pairs) for x in sizes.layers)


def _touched(sizes: Sizes) -> float:
    """Bytes for each token of all layers forward."""
    outputs = sum(OUTPUT_PASSES * weight.rows for weight in sizes.weights)
    return sizes.itemsize * (LAYER_PASSES * sizes.width * len(sizes.layers) + outputs)


def _lowest(layer: LayerSizes) -> float:
    """FLOPs for each token of the gradients at the input of the lowest layer: nobody wants them."""
    return sum(2 * weight.params for weight in layer.weights if weight.fed == 0)


def _moments(layer: LayerSizes, itemsize: int, *, lowest: bool) -> Work:
    """For each token. The way of gradients through a wide weight is part of the backward, except in
    the lowest layer, where nobody else wants it."""
    own = long = short = touched = 0
    for weight in layer.weights:
        # Rows to be multiplied, their sizes, and the same of gradients.
        touched += 4 * 4 * (weight.rows + weight.columns)
        short += triangle(weight.short)  # projected
        if weight.wide:
            own += 2 * weight.params * (lowest and weight.fed == 0)
            long += triangle(weight.long) * weight.both_sides
        else:
            short += triangle(weight.short)  # gradients
    seen = set[int]()
    for weight in layer.weights:
        if (weight.wide or weight.both_sides) and weight.fed not in seen:
            seen.add(weight.fed)
            fed = [w for w in layer.weights if w.fed == weight.fed]
            if any(w.wide for w in fed):
                short += triangle(weight.columns)
            else:
                long += triangle(weight.columns)
    if itemsize < 4:
        return Work(own=own, fp32=long + short, touched=touched)
    return Work(own=own, fp32=long, fp64=short, touched=touched)


def _decomposed(weight: Weight) -> Work:
    """Cholesky, two products, eigh, a triangular solve and the other half of the components."""
    cube = float(weight.short**3)
    return Work(fp64=(1 / 3 + 4 + 1 + 2) * cube, eigh=cube)


def _curves(weight: Weight) -> Work:
    """Of the first text all that ``auto`` tries, of both texts the one that is taken."""
    S, L = float(weight.short), weight.long
    grams = 8 * S**3
    plain = 4 * L * S * S if weight.wide else 2 * S**3
    white = 4 * L * S * S + 2 * S**3
    return Work(fp64=2 * grams + plain, fp32=2 * white)


def _factors(weight: Weight) -> Work:
    """A pair, and a pivot form of it, of a rank that leaves four fifths of the parameters."""
    S, L = float(weight.short), float(weight.long)
    R = (L + S - sqrt((L + S) ** 2 - 4 * 0.8 * L * S)) / 2
    pair, elimination = 2 * L * S * R, S * R * R + (S - R) * R * R
    return Work(fp64=pair + elimination + 4 * R * R * L + 6 * S * R * R)
