"""Contracts: multiples that formats ask for, against torch's own refusals where a CPU can ask."""

import warnings
from math import ceil
from typing import get_args

import pytest
import torch
from torch.sparse import semi_structured

from gacfx.core.search import Quant, Search
from gacfx.errors import PlanError
from gacfx.hardware import profile as profiles
from gacfx.hardware.contracts import CONTRACTS, chosen_align, rank_step
from gacfx.hardware.gemm import matmul_tier

H200 = profiles.load("h200")


def test_every_format_that_can_be_asked_for_has_a_contract_with_a_source() -> None:
    assert tuple(CONTRACTS) == get_args(Quant)
    assert all(len(contract.source) > 40 for contract in CONTRACTS.values())


@pytest.mark.parametrize(
    ("name", "k", "n", "rank"),
    [
        ("fp8", 16, 16, 16),
        ("int8", 8, 8, 8),
        ("int4-g128", 128, 8, 128),
        ("mxfp8", 32, 16, 32),
        ("nvfp4", 32, 16, 32),
        ("2:4", 64, 32, 64),
    ],
)
def test_a_rank_is_the_n_of_one_product_and_the_k_of_the_other(
    name: Quant, k: int, n: int, rank: int
) -> None:
    contract = CONTRACTS[name]
    assert (contract.k, contract.n, contract.rank) == (k, n, rank)


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("rows", "columns"), [(256, 256), (264, 256), (256, 264), (260, 256)])
def test_the_rules_of_dispatch_agree(name: Quant, rows: int, columns: int) -> None:
    legal = matmul_tier(1024, columns, rows, name, H200).tier < 4
    assert legal == (CONTRACTS[name].broken_by(rows, columns) == "")


def test_what_breaks_a_contract_is_named() -> None:
    assert CONTRACTS["fp8"].broken_by(256, 4096) == ""
    assert CONTRACTS["fp8"].broken_by(258, 4088) == "K=4088 %16==8, N=258 %16==2"


def multiply(dtype: torch.dtype, k: int, n: int, packed: int = 1) -> None:
    """What torch says to ``_scaled_mm`` of these sizes, on the meta device."""
    x = torch.empty(32, k // packed, dtype=dtype, device="meta")
    w = torch.empty(n, k // packed, dtype=dtype, device="meta").T
    scales = [torch.empty((), device="meta")] * 2
    if packed == 2:  # one scale for 16 values, padded to 128 rows by 4 blocks
        blocks = 4 * ceil(k / 64)
        scales = [
            torch.empty(128 * ceil(rows / 128) * blocks, dtype=torch.float8_e4m3fn, device="meta")
            for rows in (32, n)
        ]
    torch.ops.aten._scaled_mm(x, w, *scales, None, None, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "dtype", "packed"),
    [("fp8", torch.float8_e4m3fn, 1), ("nvfp4", torch.float4_e2m1fn_x2, 2)],
)
@pytest.mark.parametrize("k", [16, 24, 32, 48, 64])
@pytest.mark.parametrize("n", [16, 24, 32, 40])
def test_torch_refuses_the_same_sizes(
    name: Quant, dtype: torch.dtype, packed: int, k: int, n: int
) -> None:
    if CONTRACTS[name].broken_by(n, k):
        with pytest.raises(RuntimeError, match="divisible by 16"):
            multiply(dtype, k, n, packed)
    else:
        multiply(dtype, k, n, packed)


def test_torch_has_the_same_constraints_for_2_4() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cutlass = semi_structured.SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS
        other = semi_structured.SparseSemiStructuredTensorCUSPARSELT._DTYPE_SHAPE_CONSTRAINTS
    contract = CONTRACTS["2:4"]
    for dtype in (torch.float16, torch.bfloat16):
        assert contract.n == cutlass[dtype].sparse_min_rows
        assert contract.k == cutlass[dtype].sparse_min_cols
        assert contract.n % other[dtype].sparse_min_rows == 0
        assert contract.k % other[dtype].sparse_min_cols == 0


def test_alignment_is_what_was_asked_for_or_what_the_profile_wants() -> None:
    assert chosen_align(Search(align=3), H200, "fp32") == 3
    assert chosen_align(Search(), H200, "fp32") == 8  # half precision, wherever it will run
    assert chosen_align(Search(quant="fp8"), H200, "bf16") == 16
    assert chosen_align(Search(quant="nvfp4"), H200, "bf16") == 8


def test_the_step_of_ranks_serves_everything_at_once() -> None:
    assert rank_step(8, Search()) == 8
    assert rank_step(8, Search(tp=4)) == 32
    assert rank_step(8, Search(tp=2, quant="mxfp8")) == 64
    assert rank_step(12, Search(quant="fp8")) == 48
    with pytest.raises(PlanError):
        Search(tp=0)
