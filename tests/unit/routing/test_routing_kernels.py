"""One linear layer through picked blocks: each way of computing it against float64.

The kernel runs on a GPU, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1).
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.errors import PlanError
from gacfx.routing import kernels
from gacfx.routing.kernels import fused_linear, gathered, gathered_linear, routed_linear

Way = Callable[..., Tensor]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON = importlib.util.find_spec("triton") is not None
NO_TRITON = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
NO_DEVICE = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="the kernel needs a GPU, or TRITON_INTERPRET=1",
)
KERNEL = pytest.param(fused_linear, marks=[NO_TRITON, NO_DEVICE], id="kernel")
WAYS = [pytest.param(routed_linear, id="torch"), KERNEL]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Case:
    """Arguments of a layer."""

    x: Tensor
    down_RN: Tensor
    up_RM: Tensor
    blocks_B: Tensor
    block: int
    bias: Tensor | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.x, self.down_RN, self.up_RM, self.blocks_B, self.block, self.bias

    @property
    def rows(self) -> list[int]:
        """Ranks that are picked, counted here and not by what is tested."""
        return [b * self.block + i for b in self.blocks_B.tolist() for i in range(self.block)]


def made(
    way: Way,
    lead: tuple[int, ...] = (3,),
    inputs: int = 40,
    outputs: int = 24,
    block: int = 16,
    blocks: tuple[int, ...] = (4, 0, 3),
    dtype: torch.dtype = torch.float32,
    index: torch.dtype = torch.int64,
    bias: bool = True,
    pool: int = 6,
    seed: int = 0,
) -> Case:
    """A random layer whose output is about 1, on the device that this way needs."""
    on_gpu = way is fused_linear and not INTERPRETED
    device = torch.device("cuda" if on_gpu else "cpu")
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=random) * scale).to(device, dtype)

    ranks = pool * block
    return Case(
        normal(*lead, inputs),
        normal(ranks, inputs, scale=inputs**-0.5),
        normal(ranks, outputs, scale=(max(len(blocks), 1) * block) ** -0.5),
        torch.tensor(blocks, dtype=index, device=device),
        block,
        normal(outputs) if bias else None,
    )


def exact(case: Case) -> Tensor:
    """The output, in float64."""
    hidden = case.x.double() @ case.down_RN[case.rows].double().T
    out = hidden @ case.up_RM[case.rows].double()
    return out if case.bias is None else out + case.bias.double()


def rounded(case: Case, truncated: bool) -> Tensor:
    """The output of exact products, rounded where a layer stores something.

    Args:
        case: of a 16-bit or 32-bit dtype.
        truncated: bfloat16 between the products is cut off, as Triton's interpreter does it.
    """
    hidden = case.x.double() @ case.down_RN[case.rows].double().T
    if truncated and case.x.dtype == torch.bfloat16:
        hidden = (hidden.float().view(torch.int32) >> 16 << 16).view(torch.float32)
    out = hidden.to(case.x.dtype).double() @ case.up_RM[case.rows].double()
    return (out if case.bias is None else out + case.bias.double()).to(case.x.dtype)


def error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    apart = torch.linalg.vector_norm(found.double() - expected.double())
    return float(apart / torch.linalg.vector_norm(expected.double()))


def agrees(way: Way, case: Case) -> None:
    """It has the shape and dtype, and the error that its dtype must have, and no more.

    One rounding of the output to bfloat16 alone is 1.7e-3, so what is held to 1e-3 is the distance
    to the output of exact products that are rounded in the same places.
    """
    found, expected = way(*case.arguments), exact(case)
    assert found.shape == expected.shape and found.dtype == case.x.dtype
    if case.x.dtype == torch.float32:
        assert error(found, expected) < 1e-5
        return
    best = rounded(case, truncated=INTERPRETED and way is fused_linear)
    assert error(found, best) < 1e-3
    assert error(found, expected) < error(best, expected) + 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("lead", "inputs", "outputs", "block"),
    [
        ((1,), 64, 64, 16),
        ((3,), 300, 150, 8),  # wider than a tile, and no multiple of one
        ((19,), 129, 257, 32),  # two tiles of tokens
        ((2, 5), 33, 17, 24),  # a block that is no power of two
        ((2, 1, 3), 7, 5, 1),
        ((4,), 20, 30, 100),  # a block that several programs share
        ((), 31, 1, 4),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_the_layer_is_the_one_of_the_picked_ranks(
    way: Way, lead: tuple[int, ...], inputs: int, outputs: int, block: int, dtype: torch.dtype
) -> None:
    agrees(way, made(way, lead, inputs, outputs, block, dtype=dtype))


@pytest.mark.parametrize("way", WAYS)
def test_float32_sums_keep_bfloat16_exact_over_many_ranks(way: Way) -> None:
    picked = tuple(range(0, 40, 2))
    agrees(way, made(way, (2,), 512, 24, 16, picked, torch.bfloat16, pool=40))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("blocks", [(5,), (0, 1, 2, 3, 4, 5), (5, 2, 0), (3, 3)])
@pytest.mark.parametrize("way", WAYS)
def test_any_blocks_in_any_order(
    way: Way, blocks: tuple[int, ...], bias: bool, index: torch.dtype
) -> None:
    agrees(way, made(way, blocks=blocks, bias=bias, index=index, seed=len(blocks)))


@pytest.mark.parametrize("way", WAYS)
def test_no_blocks_leave_the_bias_and_no_tokens_leave_nothing(way: Way) -> None:
    case = made(way, blocks=())
    assert case.bias is not None
    assert torch.equal(way(*case.arguments), case.bias.expand(3, -1))
    assert way(*made(way, (2, 0)).arguments).shape == (2, 0, 24)


@pytest.mark.parametrize("way", WAYS)
def test_tensors_need_not_be_contiguous(way: Way) -> None:
    case = made(way, (4, 3))
    other = Case(
        case.x.transpose(0, 1).contiguous().transpose(0, 1),
        case.down_RN.T.contiguous().T,
        case.up_RM.repeat(1, 2)[:, : case.up_RM.shape[1]],
        torch.stack([case.blocks_B, case.blocks_B.flip(0)], dim=1)[:, 0],
        case.block,
        case.bias,
    )
    assert not any(t.is_contiguous() for t in (other.x, other.down_RN, other.up_RM, other.blocks_B))
    agrees(way, other)


def test_float64_stays_float64() -> None:
    case = made(routed_linear, dtype=torch.float64)
    assert error(routed_linear(*case.arguments), exact(case)) < 1e-14


def test_a_gradient_reaches_the_picked_ranks_alone() -> None:
    case = made(routed_linear, dtype=torch.float64)
    down_RN = case.down_RN.requires_grad_()
    routed_linear(*case.arguments).sum().backward()
    assert down_RN.grad is not None
    moved = down_RN.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert moved == sorted(case.rows)


def test_it_compiles_to_one_graph() -> None:
    case = made(routed_linear)
    compiled = torch.compile(routed_linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*case.arguments), routed_linear(*case.arguments))


# -- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [KERNEL])
def test_the_kernel_makes_a_block_outside_the_pool_not_a_number(way: Way) -> None:
    """On a GPU nobody looks at the numbers of the blocks before."""
    x, down_RN, up_RM, blocks_B, block, _ = made(way).arguments
    for outside in (-1, 6, 2**40):
        found = kernels._fused(x, down_RN, up_RM, blocks_B.new_tensor([0, outside]), block, None)
        assert bool(found.isnan().all())


@NO_TRITON
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")
@pytest.mark.parametrize(("capability", "decoding"), [(80, False), (90, True)])
@pytest.mark.parametrize(("dtype", "wide"), [("bf16", 128), ("fp16", 128), ("fp32", 64)])
def test_the_kernel_compiles_without_a_gpu(
    dtype: str,
    wide: int,
    capability: int,
    decoding: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To machine code for one token and for several, within the shared memory of every such GPU,
    with tensor cores where the dtype is one of theirs."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    fixed = {"TILE_T": 16, "TILE_K": 64, "TILE_N": wide, "TILE_M": wide, "WIDEN": False}
    fixed |= dict.fromkeys(("x_column", "down_column", "up_column", "blocks_row"), 1)
    fixed |= dict.fromkeys(("tokens", "parts") if decoding else (), 1)
    pointers = {"blocks_at": "*i64", "out_at": "*fp32"}
    pointers |= dict.fromkeys(("x_at", "down_at", "up_at"), f"*{dtype}")
    kernel = kernels._kernel()
    signature = {name: pointers.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(fixed, "constexpr")
    done = compiler.compile(compiler.ASTSource(kernel, signature, fixed), target=target)
    assert done.asm["cubin"]
    assert done.metadata.shared <= 99 * 1024
    assert ("mma.sync" in done.asm["ptx"]) == (dtype != "fp32")


@pytest.mark.gpu
@NO_TRITON
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_few_tokens_on_a_gpu_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = kernels._fused

    def watched(x: Tensor, *rest: Any) -> Tensor:
        taken.append(len(x))
        return real(x, *rest)

    monkeypatch.setattr(kernels, "_fused", watched)
    for tokens in (1, kernels.FUSED_TOKENS, kernels.FUSED_TOKENS + 1, 100):
        case = made(fused_linear, (tokens,), dtype=torch.bfloat16)
        found = routed_linear(*case.arguments)
        assert error(found, rounded(case, truncated=False)) < 1e-3
    assert taken == [1, kernels.FUSED_TOKENS]


@pytest.mark.parametrize(
    ("change", "fuses"),
    [
        ({}, True),
        ({"shape": (2, 8, 40)}, True),
        ({"shape": (17, 40)}, False),
        ({"dtype": torch.float64}, False),
        ({"requires_grad": True}, False),
        ({"is_cuda": False}, False),
    ],
)
def test_when_the_kernel_is_taken(
    change: dict[str, Any], fuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of a stand-in that says it is on a GPU."""
    monkeypatch.setattr(kernels, "_kernel", lambda: "a kernel")

    @dataclass
    class Tall:
        shape: tuple[int, ...] = (16, 40)
        dtype: torch.dtype = torch.bfloat16
        is_cuda: bool = True
        requires_grad: bool = False

    x: Any = Tall(**change)
    assert kernels._fuses(x, None) == fuses
    with torch.no_grad():
        assert kernels._fuses(x, None) == (fuses or "requires_grad" in change)
    monkeypatch.setattr(kernels, "_kernel", lambda: None)
    assert not kernels._fuses(x, None)


def test_the_kernel_says_what_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = made(routed_linear)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "_kernel", lambda: None)
    with pytest.raises(PlanError, match="needs Triton, which is not installed"):
        fused_linear(*case.arguments)
    monkeypatch.setattr(kernels, "_kernel", lambda: "a kernel")
    with pytest.raises(PlanError, match="needs a CUDA device, and x is on cpu"):
        fused_linear(*case.arguments)
    with pytest.raises(PlanError, match="no torch.float64; use routed_linear"):
        fused_linear(*made(routed_linear, dtype=torch.float64).arguments)


# -- gathered factors ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_gathered_rows_are_the_picked_ones_in_their_order(dtype: torch.dtype) -> None:
    case = made(routed_linear, block=8, blocks=(5, 0, 3), dtype=dtype)
    found = gathered(case.down_RN, case.blocks_B, 8)
    assert torch.equal(found, case.down_RN[case.rows]) and found.is_contiguous()


def test_gathering_into_a_tensor_fills_that_tensor() -> None:
    case = made(routed_linear, block=8, blocks=(5, 0, 3))
    out, pool = torch.full((24, 40), torch.nan), case.down_RN.requires_grad_()
    where = out.data_ptr()
    assert gathered(pool, case.blocks_B, 8, out=out) is out
    assert out.data_ptr() == where and not out.requires_grad
    assert torch.equal(out, pool[case.rows])
    assert gathered(pool, case.blocks_B[:0], 8, out=out[:0]).shape == (0, 40)


def test_two_gathered_factors_make_the_same_layer() -> None:
    case = made(routed_linear, (2, 3), bias=False)
    down_KN, up_KM = (gathered(pool, case.blocks_B, 16) for pool in (case.down_RN, case.up_RM))
    found, bias = gathered_linear(case.x, down_KN, up_KM), torch.randn(24)
    assert torch.equal(found, routed_linear(*case.arguments))
    assert error(gathered_linear(case.x, down_KN, up_KM, bias), exact(case) + bias) < 1e-5


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": 7}, "blocks of 7 do not divide the 96 ranks of the pool"),
        ({"block": 0}, "blocks of 0 do not divide"),
        ({"blocks_B": torch.tensor([0, 6])}, "blocks 0 ... 6 are picked; the pool has 0 ... 5"),
        ({"blocks_B": torch.tensor([-1, 2])}, "blocks -1 ... 2 are picked"),
        ({"blocks_B": torch.tensor([[0]])}, "blocks are 1 x 1 of torch.int64; give one row"),
        ({"blocks_B": torch.tensor([0.0])}, "of torch.float32; give one row of int32 or int64"),
        ({"blocks_B": torch.zeros(1, dtype=torch.int64, device="meta")}, "blocks are on meta"),
        ({"x": torch.zeros(3, 41)}, "x is 3 x 41, expected 3 x 40"),
        ({"x": torch.tensor(1.0)}, "x is a number, down 96 x 40"),
        ({"x": torch.zeros(3, 40, dtype=torch.int64)}, "x is torch.int64; give it in the float"),
        ({"x": torch.zeros(3, 40).half()}, "x is torch.float16 on cpu, the pool torch.float32"),
        ({"x": torch.zeros(3, 40, device="meta")}, "x is torch.float32 on meta"),
        ({"down_RN": torch.zeros(96)}, "down 96, up 96 x 24; the factors are ranks x inputs"),
        ({"up_RM": torch.zeros(80, 24)}, "up 80 x 24; the factors .* with as many ranks"),
        ({"up_RM": torch.zeros(96, 24).double()}, "up is torch.float64 on cpu"),
        ({"bias": torch.zeros(40)}, "bias is 40, expected 24"),
        ({"bias": torch.zeros(24).bfloat16()}, "bias is torch.bfloat16 on cpu"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    case = made(routed_linear)
    named = dict(zip(case.__annotations__, case.arguments, strict=True)) | change
    for way in (routed_linear, fused_linear):
        with pytest.raises(PlanError, match=message):
            way(**named)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros(48, 41), "out is 48 x 41, expected 48 x 40"),
        (torch.zeros(47, 40), "out is 47 x 40, expected 48 x 40"),
        (torch.zeros(48, 40).double(), "out is torch.float64 on cpu, the pool torch.float32"),
        (torch.zeros(40, 48).T, "out is not contiguous"),
    ],
)
def test_a_bad_target_of_gathering_is_refused(out: Tensor, message: str) -> None:
    case = made(routed_linear)
    with pytest.raises(PlanError, match=message):
        gathered(case.down_RN, case.blocks_B, 16, out=out)


def test_bad_factors_and_pools_are_refused() -> None:
    case = made(routed_linear)
    with pytest.raises(PlanError, match="the pool is 96; it is ranks x columns"):
        gathered(torch.zeros(96), case.blocks_B, 16)
    with pytest.raises(PlanError, match="with as many ranks"):
        gathered_linear(case.x, case.down_RN, case.up_RM[:8])
