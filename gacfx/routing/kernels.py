"""One linear layer through the picked blocks of a pool of rank-1 pieces.

y = (x @ down_RN[pick].T) @ up_RM[pick] + bias

``pick`` are the ranks of the picked blocks; block b has those from b * block to before
(b + 1) * block. Both factors are stored with one contiguous row per rank, so a block is one slab of
each.
"""

# R ranks of the pool, B picked blocks, K = B * block picked ranks, N inputs, M outputs, T tokens

from __future__ import annotations  # Triton reads those of the kernel as text

import functools
import importlib
import math
import os
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from gacfx.errors import PlanError

FUSED_TOKENS = 16
"""Tokens up to which the kernel runs: one tile, so that it reads every picked row once. This number
is reasoned, not measured."""
FUSED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Of the kernel; the sums of float64 would be rounded to float32."""

_SMALLEST = 16
"""Side of a tile that ``tl.dot`` takes at least."""
_MOST_RANKS = 64
"""Ranks of one program; a larger block is shared among several."""
_TILE_BYTES = 256
"""Of one row of a tile: 128 numbers of 16 bits."""


def routed_linear(
    x: Tensor,
    down_RN: Tensor,
    up_RM: Tensor,
    blocks_B: Tensor,
    block: int,
    bias: Tensor | None = None,
) -> Tensor:
    """The layer, through the picked blocks of the pool.

    One of two ways is taken. Decoding has few tokens, and reading the factors is all that it costs:
    :func:`fused_linear` reads the picked rows where they lie, without a copy of them. Prefill has
    many tokens, for each tile of which that kernel would read the rows and add up its output once
    more, while a copy is paid once: there the rows are gathered, and two products of cuBLAS follow.
    That way is also taken without CUDA or Triton, for float64, where a gradient is wanted, where
    torch is told to be deterministic, and inside torch.compile.

    Args:
        x: [..., N], any float dtype; up to FUSED_TOKENS rows may go through the kernel.
        down_RN: [R, N], dtype and device of ``x``, as all factors.
        up_RM: [R, M].
        blocks_B: [B], int32 or int64: the picked blocks in any order; one that is named twice
            counts twice. A number outside 0 ... R / block - 1 is an error that only tensors on the
            CPU report at once: elsewhere the device stops, or the output is not a number.
        block: ranks per block; divides R.
        bias: [M].

    Returns:
        [..., M], dtype of ``x``.

    Raises:
        PlanError: shapes, dtypes or devices do not fit, or a block is outside the pool.
    """
    _check_linear(x, down_RN, up_RM, bias)
    _check_pick(down_RN, blocks_B, block)
    if _fuses(x, down_RN, up_RM, bias):
        return _fused(x, down_RN, up_RM, blocks_B, block, bias)
    down_KN, up_KM = _gather(down_RN, blocks_B, block), _gather(up_RM, blocks_B, block)
    return _two_linears(x, down_KN, up_KM, bias)


def fused_linear(
    x: Tensor,
    down_RN: Tensor,
    up_RM: Tensor,
    blocks_B: Tensor,
    block: int,
    bias: Tensor | None = None,
) -> Tensor:
    """As :func:`routed_linear`, by the Triton kernel whatever the number of tokens.

    Each program takes one tile of tokens and one picked block, and adds its share to an output in
    float32; the shares come in any order, so two runs may differ in the last bit. No gradient.

    Raises:
        PlanError: as :func:`routed_linear`; or Triton or CUDA is missing, or the dtype is not one
            of FUSED_DTYPES.
    """
    _check_linear(x, down_RN, up_RM, bias)
    _check_pick(down_RN, blocks_B, block)
    if x.dtype not in FUSED_DTYPES:
        raise PlanError(f"the kernel has no {x.dtype}; use routed_linear, which has")
    if _kernel() is None:
        raise PlanError("the kernel needs Triton, which is not installed; use routed_linear")
    if not (x.is_cuda or _interpreted()):
        raise PlanError(
            f"the kernel needs a CUDA device, and x is on {x.device}; use routed_linear"
        )
    return _fused(x, down_RN, up_RM, blocks_B, block, bias)


def gathered(pool_RX: Tensor, blocks_B: Tensor, block: int, *, out: Tensor | None = None) -> Tensor:
    """The rows of the picked blocks, contiguous, in the order of ``blocks_B``.

    Args:
        pool_RX: [R, X], any dtype.
        blocks_B: [B], int32 or int64.
        block: ranks per block; divides R.
        out: [B * block, X], contiguous, dtype and device of the pool: is filled and returned, with
            no gradient and no allocation. It must not share memory with the pool.

    Returns:
        [B * block, X], ``out`` where that is given.

    Raises:
        PlanError: shapes, dtypes or devices do not fit, or a block is outside the pool, which only
            tensors on the CPU report at once.
    """
    _check_pick(pool_RX, blocks_B, block)
    if out is None:
        return _gather(pool_RX, blocks_B, block)
    shape = (len(blocks_B) * block, pool_RX.shape[1])
    _check_like("out", out, shape, pool_RX)
    if not out.is_contiguous():
        raise PlanError("out is not contiguous; give a contiguous tensor")
    with torch.no_grad():
        slabs = out.view(len(blocks_B), block, shape[1])
        torch.index_select(_slabs(pool_RX, block), 0, blocks_B, out=slabs)
    return out


def gathered_linear(
    x: Tensor, down_KN: Tensor, up_KM: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The layer, through all rows of two factors: two products.

    Args:
        x: [..., N], any float dtype.
        down_KN: [K, N], dtype and device of ``x``, as all factors.
        up_KM: [K, M].
        bias: [M].

    Returns:
        [..., M], dtype of ``x``.

    Raises:
        PlanError: shapes, dtypes or devices do not fit.
    """
    _check_linear(x, down_KN, up_KM, bias)
    return _two_linears(x, down_KN, up_KM, bias)


def _slabs(pool_RX: Tensor, block: int) -> Tensor:
    """[R, X] as [R / block, block, X], the same memory."""
    return pool_RX.view(len(pool_RX) // block, block, pool_RX.shape[1])


def _gather(pool_RX: Tensor, blocks_B: Tensor, block: int) -> Tensor:
    return _slabs(pool_RX, block).index_select(0, blocks_B).flatten(0, 1)


def _two_linears(x: Tensor, down_KN: Tensor, up_KM: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(functional.linear(x, down_KN), up_KM.t(), bias)


def _fuses(x: Tensor, *others: Tensor | None) -> bool:
    """The kernel is possible, and the better way."""
    return (
        x.is_cuda
        and x.dtype in FUSED_DTYPES
        and math.prod(x.shape[:-1]) <= FUSED_TOKENS
        and not (
            torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *others))
        )
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.compiler.is_compiling()
        and _kernel() is not None
    )


# -- the kernel ----------------------------------------------------------------------------------

# Names of triton.language that the kernel uses. They are set when the kernel is first asked for.
tl: Any = None
tensor: TypeAlias = Any
constexpr: TypeAlias = Any


@functools.cache
def _kernel() -> Any:
    """The kernel as Triton runs it; None where Triton is not installed."""
    try:
        triton = importlib.import_module("triton")
        language = importlib.import_module("triton.language")
    except ImportError:
        return None
    globals().update(tl=language, tensor=language.tensor, constexpr=language.constexpr)
    return triton.jit(_routed)


def _interpreted() -> bool:
    """Triton runs kernels in Python, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _fused(
    x: Tensor,
    down_RN: Tensor,
    up_RM: Tensor,
    blocks_B: Tensor,
    block: int,
    bias: Tensor | None,
) -> Tensor:
    x_TN = x.reshape(-1, x.shape[-1])
    (tokens, inputs), (ranks, outputs) = x_TN.shape, up_RM.shape
    out_TM = torch.zeros(tokens, outputs, dtype=torch.float32, device=x.device)
    tile_K = min(_MOST_RANKS, max(_SMALLEST, 1 << (block - 1).bit_length()))
    parts = -(-block // tile_K)
    grid = (-(-tokens // _SMALLEST), len(blocks_B) * parts)
    wide = _TILE_BYTES // x.element_size()
    if math.prod(grid):
        with torch.accelerator.device_index(x.device.index):
            _kernel()[grid](
                *(x_TN, down_RN, up_RM, blocks_B, out_TM),
                *(tokens, inputs, outputs, ranks // block, block, parts),
                *(*x_TN.stride(), *down_RN.stride(), *up_RM.stride(), blocks_B.stride(0)),
                TILE_T=_SMALLEST,
                TILE_K=tile_K,
                TILE_N=wide,
                TILE_M=wide,
                WIDEN=_interpreted(),  # its tl.dot multiplies the bits of bfloat16
            )
    summed = out_TM if bias is None else out_TM + bias
    return summed.to(x.dtype).view(*x.shape[:-1], outputs)


def _routed(
    x_at: tensor,
    down_at: tensor,
    up_at: tensor,
    blocks_at: tensor,
    out_at: tensor,
    tokens: tensor,
    inputs: tensor,
    outputs: tensor,
    blocks: tensor,
    block: tensor,
    parts: tensor,
    x_row: tensor,
    x_column: tensor,
    down_row: tensor,
    down_column: tensor,
    up_row: tensor,
    up_column: tensor,
    blocks_row: tensor,
    TILE_T: constexpr,
    TILE_K: constexpr,
    TILE_N: constexpr,
    TILE_M: constexpr,
    WIDEN: constexpr,
) -> None:
    """One tile of tokens through one part of one picked block, in Triton's language.

    A block outside the pool is read nowhere, and makes the output not a number.
    """
    t_T = tl.program_id(0) * TILE_T + tl.arange(0, TILE_T)
    which = tl.load(blocks_at + (tl.program_id(1) // parts) * blocks_row).to(tl.int64)
    k_K = (tl.program_id(1) % parts) * TILE_K + tl.arange(0, TILE_K)
    known = (which >= 0) & (which < blocks)
    r_K = which * block + k_K
    here_T, here_K = t_T < tokens, k_K < tl.where(known, block, 0)
    t_T = t_T.to(tl.int64)

    h_TK = tl.zeros((TILE_T, TILE_K), dtype=tl.float32)
    for start in range(0, inputs, TILE_N):
        n_N = start + tl.arange(0, TILE_N)
        here_N = n_N < inputs
        x_TN = tl.load(
            x_at + t_T[:, None] * x_row + n_N[None, :] * x_column,
            mask=here_T[:, None] & here_N[None, :],
            other=0.0,
        )
        down_NK = tl.load(
            down_at + r_K[None, :] * down_row + n_N[:, None] * down_column,
            mask=here_K[None, :] & here_N[:, None],
            other=0.0,
        )
        if WIDEN:
            x_TN, down_NK = x_TN.to(tl.float32), down_NK.to(tl.float32)
        h_TK = tl.dot(x_TN, down_NK, acc=h_TK, input_precision="ieee")
    h_TK = tl.where(known, h_TK, float("nan")).to(x_at.dtype.element_ty)
    if WIDEN:
        h_TK = h_TK.to(tl.float32)

    for start in range(0, outputs, TILE_M):
        m_M = start + tl.arange(0, TILE_M)
        here_M = m_M < outputs
        up_KM = tl.load(
            up_at + r_K[:, None] * up_row + m_M[None, :] * up_column,
            mask=here_K[:, None] & here_M[None, :],
            other=0.0,
        )
        if WIDEN:
            up_KM = up_KM.to(tl.float32)
        tl.atomic_add(
            out_at + t_T[:, None] * outputs + m_M[None, :],
            tl.dot(h_TK, up_KM, input_precision="ieee"),
            mask=here_T[:, None] & here_M[None, :],
            sem="relaxed",
        )


# -- what is refused -----------------------------------------------------------------------------


def _check_linear(x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None) -> None:
    if not x.is_floating_point():
        raise PlanError(f"x is {x.dtype}; give it in the float dtype of the factors")
    if x.ndim < 1 or down.ndim != 2 or up.ndim != 2 or len(down) != len(up):
        raise PlanError(
            f"x is {_shape(x)}, down {_shape(down)}, up {_shape(up)}; the factors are "
            "ranks x inputs and ranks x outputs, with as many ranks"
        )
    _check_like("x", x, (*x.shape[:-1], down.shape[1]), down)
    _check_like("up", up, tuple(up.shape), down)
    if bias is not None:
        _check_like("bias", bias, (up.shape[1],), down)


def _check_pick(pool: Tensor, blocks_B: Tensor, block: int) -> None:
    if pool.ndim != 2:
        raise PlanError(f"the pool is {_shape(pool)}; it is ranks x columns")
    if block < 1 or len(pool) % block:
        raise PlanError(f"blocks of {block} do not divide the {len(pool)} ranks of the pool")
    if blocks_B.ndim != 1 or blocks_B.dtype not in (torch.int32, torch.int64):
        raise PlanError(
            f"blocks are {_shape(blocks_B)} of {blocks_B.dtype}; give one row of int32 or int64"
        )
    if blocks_B.device != pool.device:
        raise PlanError(f"blocks are on {blocks_B.device}, the pool on {pool.device}; move one")
    if blocks_B.device.type != "cpu" or torch.compiler.is_compiling() or not len(blocks_B):
        return
    low, high = (int(end) for end in torch.aminmax(blocks_B))
    if low < 0 or high >= len(pool) // block:
        raise PlanError(
            f"blocks {low} ... {high} are picked; the pool has 0 ... {len(pool) // block - 1}"
        )


def _check_like(name: str, given: Tensor, shape: tuple[int, ...], down: Tensor) -> None:
    """It has this shape, and the dtype and device of the first factor."""
    if given.shape != shape:
        raise PlanError(f"{name} is {_shape(given)}, expected {' x '.join(map(str, shape))}")
    if given.dtype != down.dtype or given.device != down.device:
        raise PlanError(
            f"{name} is {given.dtype} on {given.device}, the pool {down.dtype} on {down.device}; "
            "convert one"
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
