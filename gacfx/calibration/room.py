"""What a compression needs of disk and memory, by arithmetic: sizes and tokens -> bytes."""

# S short and L long side of a weight, M outputs, N inputs

from dataclasses import dataclass

from gacfx.calibration.batches import MOST_TOKENS
from gacfx.calibration.by_layer import SHARD_TOKENS
from gacfx.calibration.cost import CURVES, hidden_bytes, most_at_once
from gacfx.calibration.predictions import LOGITS
from gacfx.calibration.products import moments_bytes
from gacfx.calibration.sizes import LayerSizes, Sizes, Weight
from gacfx.core.paging import pages_of_bytes

IMPORTS = int(0.4 * 2**30)
"""Of a process before it has read any weight: torch, transformers, gacfx."""
LOGIT_COPIES = 8
"""Of so many positions' logits in float32, at once: in the model's dtype, their rows, labels' sums,
and gradients."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the work folder."""

    calibration: int
    """At its fullest while statistics are gathered."""
    moments: int
    """Of two texts: what is left of that."""
    components: int
    """Of two texts: what ``--disk`` may leave out."""
    factors: int
    curves: int

    @property
    def most(self) -> int:
        """At any time."""
        return max(self.calibration, self.least_after + self.components)

    @property
    def least(self) -> int:
        """With ``--disk``, where all components are made again."""
        return max(self.calibration, self.least_after)

    @property
    def least_after(self) -> int:
        return self.moments + self.factors + self.curves


def disk_of(sizes: Sizes, tokens: int) -> Disk:
    """What the folder of ``gacfx compress`` takes."""
    moments = [2 * moments_bytes(layer) for layer in sizes.layers]
    shorts = [weight.short for weight in sizes.weights]
    return Disk(
        calibration=most_at_once(moments, hidden_bytes(tokens, sizes.width, sizes.itemsize)),
        moments=sum(moments),
        components=sum(2 * 16 * short**2 for short in shorts),
        factors=int(0.8 * sizes.targeted) * sizes.itemsize,
        curves=sum(CURVES * 8 * (short + 1) for short in shorts),
    )


def host_bytes(sizes: Sizes, *, device: bool = False, converted: bool = False) -> int:
    """The most memory of the process.

    Args:
        sizes: of the model.
        device: layers and decompositions are on another device.
        converted: the checkpoint is in another dtype, so that weights are in memory and not in its
            files.
    """
    model, head = sizes.params * sizes.itemsize, sizes.vocabulary * sizes.width * sizes.itemsize
    pages = min(model, max(pages_of_bytes(model), head))
    if converted:
        pages += model
    sets = max(_packed_twice(layer) for layer in sizes.layers) + _shard(sizes)
    if device:
        return IMPORTS + pages + sets
    steps = [_layer(sizes, layer) for layer in sizes.layers]
    steps += [decomposition_bytes(weight) for weight in sizes.weights]
    return IMPORTS + pages + max(*steps, _logits() + 2 * _shard(sizes))


def device_bytes(sizes: Sizes) -> int:
    """The most memory of tensors on a device where layers compute one at a time."""
    outside = sizes.outside * sizes.itemsize
    steps = [
        outside + layer.params * sizes.itemsize + _layer(sizes, layer) for layer in sizes.layers
    ]
    steps += [decomposition_bytes(weight) for weight in sizes.weights]
    return max(*steps, outside + _logits() + _shard(sizes))


def sums_bytes(layer: LayerSizes) -> int:
    """Of the sums of a layer on one text, whole float64 matrices."""
    made, fed = 0, dict[int, int]()
    for weight in layer.weights:
        made += weight.short**2 * (1 if weight.wide else 2)
        made += weight.long**2 if weight.both_sides and weight.wide else 0
        if weight.wide or weight.both_sides:
            fed[weight.fed] = weight.columns
    return 8 * (made + sum(columns**2 for columns in fed.values()))


def decomposition_bytes(weight: Weight) -> int:
    """While one weight is decomposed and another one like it is held, or its curves are made.

    Of S x S matrices in float64 live: moments, components and half of the curves of the other one
    (5.5); moments, root and matrix of this one (4), and what the eigenproblem makes (3: vectors and
    twice the matrix to work in).
    """
    square, whole = 8 * weight.short**2, 8 * weight.params
    made = int(12.5 * square) + whole
    curves = int(5.5 * square) + (2 * whole if weight.wide else whole)
    return max(made, curves)


def _layer(sizes: Sizes, layer: LayerSizes) -> int:
    """Sums and activations while a layer goes back, or the moments that they become."""
    sums, packed = sums_bytes(layer), _packed_twice(layer)
    largest = max(weight.short for weight in layer.weights)
    turned = sums + packed // 2 + 3 * 8 * largest**2
    at_work = sums + packed // 2 + 2 * _shard(sizes) + _activations(sizes, layer)
    return max(sums + packed, turned, at_work)


def _packed_twice(layer: LayerSizes) -> int:
    return 2 * moments_bytes(layer)


def _shard(sizes: Sizes) -> int:
    """Hidden states that are one set of the store."""
    return SHARD_TOKENS * sizes.width * sizes.itemsize


def _activations(sizes: Sizes, layer: LayerSizes) -> int:
    """Of one batch: inputs and outputs of all weights, norms in float32, rows to be multiplied."""
    fed = {weight.fed: weight.columns for weight in layer.weights}
    kept = sum(fed.values()) + 2 * sum(weight.rows for weight in layer.weights)
    widest = max(weight.long for weight in layer.weights)
    product = 4 if sizes.itemsize < 4 else 8
    return MOST_TOKENS * (sizes.itemsize * kept + 4 * 6 * sizes.width + 2 * product * widest)


def _logits() -> int:
    return LOGIT_COPIES * 4 * LOGITS
