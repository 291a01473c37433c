"""Contracts: which sizes a storage format allows, so that a plan can be quantized afterwards.

A low-rank pair is two products, Y[M, R] = X[M, K] down and Z[M, N] = Y up, so its rank R is the N
of ``down`` and the K of ``up``. It must fulfil both columns of the table; K and N of the weight
itself must fulfil theirs.

    format      K     N     rank   because
    fp8         16    16    16     torch._scaled_mm
    int8        8     8     8      torch._int_mm
    int4-g128   128   8     128    whole groups of 128 along K, tiles of 8 along N
    mxfp8       32    16    32     blocks of 32 along K share a scale
    nvfp4       32    16    32     two values in a byte, and 16 bytes along K
    2:4         64    32    64     CUTLASS in half precision, the stricter of two backends

These are conditions of legality: a call with other sizes raises. They say nothing about speed, and
hold whatever the GPU: one that cannot multiply a format may still store weights in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

from gacfx.core.search import Quant, Search
from gacfx.hardware.gemm import misfits
from gacfx.hardware.profile import Profile


@dataclass(frozen=True, slots=True)
class Contract:
    """Multiples that the K and the N of every product must be, in elements."""

    name: Quant
    k: int
    n: int
    source: str
    dtype: str | None = None
    """Name of the format in a profile, whose preferred multiple then counts as well."""

    @property
    def rank(self) -> int:
        """Multiple of a rank, which is the N of ``down`` and the K of ``up``."""
        return lcm(self.k, self.n)

    def broken_by(self, rows: int, columns: int) -> str:
        """Why a weight [rows, columns] cannot be stored so: ``N=258 %16==2``; empty if it can."""
        wrong = (misfits([("K", columns)], self.k), misfits([("N", rows)], self.n))
        return ", ".join(filter(None, wrong))


CONTRACTS: Mapping[Quant, Contract] = {
    contract.name: contract
    for contract in (
        Contract(
            "fp8",
            k=16,
            n=16,
            source="_scaled_mm in torch/_meta_registrations.py of torch 2.13: K and N of both "
            "operands are multiples of 16; M is free",
            dtype="fp8",
        ),
        Contract(
            "int8",
            k=8,
            n=8,
            source="_int_mm_out_cuda in aten/src/ATen/native/cuda/Blas.cpp of pytorch: K and N are "
            "multiples of 8, and M is above 16",
            dtype="int8",
        ),
        Contract(
            "int4-g128",
            k=128,
            n=8,
            source="aten/src/ATen/native/cuda/int4mm.cu of pytorch: the group of 128 divides K; "
            "scales are stored for whole tiles of 8 along N",
        ),
        Contract(
            "mxfp8",
            k=32,
            n=16,
            source="OCP Microscaling Formats 1.0: 32 elements along K share a scale; N as in "
            "_scaled_mm",
        ),
        Contract(
            "nvfp4",
            k=32,
            n=16,
            source="_scaled_mm in torch/_meta_registrations.py of torch 2.13: the stored K is a "
            "multiple of 16, and a byte stores two values; a block of 16 along K fits in",
        ),
        Contract(
            "2:4",
            k=64,
            n=32,
            source="_DTYPE_SHAPE_CONSTRAINTS in torch/sparse/semi_structured.py of torch 2.13: "
            "CUTLASS wants rows % 32 and columns % 64 in half precision; cuSPARSELt 16 and 16",
        ),
    )
}
"""Format -> what it asks of sizes."""


def chosen_align(search: Search, profile: Profile, dtype: str) -> int:
    """Multiple of ranks that was asked for, or else what the profile prefers.

    That is for the model's dtype, for half precision in any case, and for the format.

    Raises:
        ProfileError: the GPU cannot multiply the model's dtype.
    """
    if search.align is not None:
        return search.align
    profile.check_dtype(dtype)
    names = {dtype, profile.usual_dtype}
    if search.quant is not None and (stored := CONTRACTS[search.quant].dtype) in profile.align:
        names.add(str(stored))
    return max(profile.align_for(name) for name in sorted(names))


def rank_step(align: int, search: Search) -> int:
    """Multiple of ranks that serves alignment, format and tensor parallelism together."""
    contract = None if search.quant is None else CONTRACTS[search.quant]
    return step_of(align, search.tp, contract)


def step_of(align: int, tp: int, contract: Contract | None) -> int:
    """The multiple of a rank whose every part, on ``tp`` devices, is aligned and legal."""
    return tp * lcm(align, contract.rank if contract else 1)
