"""What calibration one decoder layer at a time takes of the disk, by arithmetic.

While it goes forward the hidden states of all boundaries pile up; on the way back each layer's give
way to its moments.
"""

from collections.abc import Iterable, Sequence

CURVES = 7
"""Of each weight: four of the first text, that of both texts, the last plan's, and what was
measured on held-back text."""

Shape = tuple[int, int, bool]
"""(rows, columns, with the moment of the long side) of a weight."""


def moment_bytes(weights: Iterable[Shape]) -> int:
    """Of the moments of one text, symmetric matrices of float64 once each.

    Weights that are fed the same tensor share one, which is not counted here: it is this or less.
    """
    return sum(
        8 * (2 * _triangle(min(rows, columns)) + both * _triangle(max(rows, columns)) + 3 * columns)
        for rows, columns, both in weights
    )


def plan_bytes(weights: Iterable[tuple[int, int, int]]) -> int:
    """The most that plans leave beside statistics: factors, which are no larger than the dense
    weights, and curves.

    Args:
        weights: (rows, columns, bytes of a number) of each.
    """
    return sum(
        rows * columns * itemsize + CURVES * 8 * (min(rows, columns) + 1)
        for rows, columns, itemsize in weights
    )


def hidden_bytes(tokens: int, width: int, itemsize: int) -> int:
    """Of the hidden states of one boundary, or of their gradients."""
    return tokens * width * itemsize


def calibration_bytes(
    layers: Sequence[Sequence[Shape]], texts: int, tokens: int, width: int, itemsize: int
) -> int:
    """The most that the folder holds at any time.

    Args:
        layers: shapes of the measured weights of each decoder layer, from the first.
        texts: whose moments are kept apart.
        tokens: of all of them.
        width: of the hidden states.
        itemsize: bytes of a number of the model.
    """
    moments = [texts * moment_bytes(layer) for layer in layers]
    return most_at_once(moments, hidden_bytes(tokens, width, itemsize))


def most_at_once(moments: Sequence[int], hidden: int) -> int:
    """The same of bytes.

    Args:
        moments: of each layer, on all texts.
        hidden: of the hidden states of one boundary, on all texts.
    """
    made, most = 0, (len(moments) + 1) * hidden
    for at in range(len(moments) - 1, -1, -1):
        made += moments[at]
        # Boundaries up to this layer's, and the gradients on both of its sides.
        most = max(most, made + (at + 3) * hidden)
    return most


def _triangle(size: int) -> int:
    return size * (size + 1) // 2
