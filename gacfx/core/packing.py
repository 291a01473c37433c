"""Symmetric matrices in half the room: the rectangular full packed format of LAPACK.

The triangle of the last columns lies on its side in the corner that the one of the first columns
leaves free. For four rows it is [5, 2], for an even size N always [N + 1, N / 2]:

    a . . .        d e
    b c . .        a f
    g h d .        b c
    i j e f        g h
                   i j

Source: Gustavson et al. 2010.
"""

# N rows and columns, K = N / 2 rounded up

from torch import Tensor


def packed(matrix_NN: Tensor) -> Tensor:
    """What is on and below the diagonal: [N + 1, K] for an even N, else [N, K].

    Args:
        matrix_NN: symmetric; what is above the diagonal is not looked at.
    """
    size = len(matrix_NN)
    half, shift = (size + 1) // 2, 1 - size % 2
    rest = size - half
    made = matrix_NN.new_zeros(size + shift, half)
    made[shift:] = matrix_NN[:, :half].tril()
    made[:rest, half - rest :] += matrix_NN[half:, half:].tril().T
    return made


def unpacked(packed_: Tensor) -> Tensor:
    """[N, N] of what :func:`packed` gave, in memory of its own."""
    rows, half = packed_.shape
    shift = int(rows == 2 * half + 1)
    size = rows - shift
    rest, low = size - half, packed_[shift:]
    made = packed_.new_empty(size, size)
    made[:, :half] = low.tril()
    made[:half, :half] += low[:half].tril(-1).T
    made[:half, half:] = low[half:].T
    corner = packed_[:rest, half - rest :]
    made[half:, half:] = corner.triu()
    made[half:, half:] += corner.triu(1).T
    return made
