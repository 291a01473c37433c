import pytest

from gacfx.hardware.kernel_names import (
    Attended,
    Class,
    Kernel,
    attended,
    classify,
    multiplied,
    shown,
    unknown,
)
from tests.unit.hardware.kernel_samples import (
    ALIGN1,
    ALIGN2,
    CUDNN_KERNEL,
    EFFICIENT,
    FILL,
    GEMV,
    NATIVE,
    SOFTMAX,
    flash,
)

SPLIT = (
    "void pytorch_flash::flash_fwd_splitkv_kernel<pytorch_flash::"
    "Flash_fwd_kernel_traits<(int)64, (int)64, (int)256, (int)4, (bool)0>>"
)
COMBINE = "void flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4>, 4, 2>"
NAMES = {
    flash(128): Class("attention", "flash", 128),
    SPLIT: Class("attention", "flash.splitkv", 64),
    COMBINE: Class("helper", "flash.combine", 64),
    EFFICIENT: Class("attention", "efficient"),
    CUDNN_KERNEL: Class("attention", "cudnn"),
    NATIVE: Class("matmul", "nvjet"),
    "nvjet_sm90_tst_mma_128x256x64_3_32x64x64_cta2x1": Class("matmul", "nvjet"),
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": Class("matmul", "xmma"),
    "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn": Class("matmul", "ldg8"),
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_f16_s161616gemm_16x16_tn_align8>": Class(
        "matmul", "align8"
    ),
    ALIGN2: Class("matmul", "align2"),
    ALIGN1: Class("matmul", "align1"),
    "cutlass3x_sm100_tensorop_s64x128x16gemm_bf16_align4_warpspecialized": Class(
        "matmul", "align4"
    ),
    GEMV: Class("matmul", "gemv"),
    "void gemv2T_kernel_val<int, int, __half, __half, __half, float, 128>": Class("matmul", "gemv"),
    "void dot_kernel<float, 128, 0>": Class("matmul", "gemv"),
    "void cublasLt::splitKreduce_kernel<32, 16, int, float>": Class("helper", "splitk"),
    "ampere_sgemm_128x64_tn": Class("matmul", "gemm"),
    SOFTMAX: Class("helper", "softmax"),
    "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float>": Class(
        "helper", "softmax"
    ),
    "Memcpy DtoD (Device -> Device)": Class("helper", "copy"),
    FILL: Class("helper", "fill"),
    "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>": Class(
        "helper", "copy"
    ),
    "void at::native::vectorized_elementwise_kernel<4, at::native::MulFunctor>": Class(
        "helper", "elementwise"
    ),
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp>": Class("helper", "reduce"),
    "something_nobody_has_seen": Class("unknown", ""),
    "conflash_fwd": Class("unknown", ""),
}


def kernels(*names: str) -> list[Kernel]:
    return [Kernel(name, 1.0) for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_one_class(name: str) -> None:
    assert classify(name) == NAMES[name]


def test_unknown_names_are_listed_and_so_are_matmuls_of_unknown_class() -> None:
    seen = kernels("something_nobody_has_seen", NATIVE, "ampere_sgemm_128x64_tn")
    assert unknown(seen) == ["something_nobody_has_seen", "ampere_sgemm_128x64_tn"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([flash(96)], Attended("flash", 96)),
        ([FILL, FILL, flash(192)], Attended("flash", 192, helpers=2)),
        ([SPLIT, COMBINE], Attended("flash", 64, split=True)),
        ([CUDNN_KERNEL], Attended("cudnn")),
        ([EFFICIENT, FILL], Attended("efficient", helpers=1)),
        ([ALIGN1, SOFTMAX, NATIVE], Attended("math")),
        (["ampere_sgemm_128x64_tn", SOFTMAX], Attended("math")),
        ([SOFTMAX, "something_nobody_has_seen"], None),
        ([flash(96), CUDNN_KERNEL], None),
        ([NATIVE], None),
        ([], None),
    ],
)
def test_the_backend_of_an_attention_call(names: list[str], expected: Attended | None) -> None:
    assert attended(kernels(*names)) == expected


@pytest.mark.parametrize(
    ("names", "element_bytes", "expected"),
    [
        ([NATIVE], 2, "native"),
        ([ALIGN2], 2, "align2"),
        ([ALIGN1], 2, "align1"),
        (["cutlass_80_tensorop_bf16_s16816gemm_tn_align8"], 2, "native"),
        (["cutlass_80_tensorop_s1688gemm_tn_align4"], 4, "native"),
        (["cutlass_80_tensorop_i16832gemm_s8_tn_align4"], 1, "align4"),
        (["cutlass_80_tensorop_i16832gemm_s8_tn_align16"], 1, "native"),
        ([GEMV], 2, "gemv"),
        ([FILL], 2, None),
        (["ampere_sgemm_128x64_tn"], 4, None),
        ([], 2, None),
    ],
)
def test_the_class_of_a_matmul(names: list[str], element_bytes: int, expected: str | None) -> None:
    assert multiplied(kernels(*names), element_bytes) == expected


def test_the_longest_matmul_counts() -> None:
    assert multiplied([Kernel(ALIGN1, 1.0), Kernel(NATIVE, 9.0)], 2) == "native"
    assert multiplied([Kernel(ALIGN1, 9.0), Kernel(NATIVE, 1.0)], 2) == "align1"


def test_kernels_in_a_few_words() -> None:
    splitk = "void cublasLt::splitKreduce_kernel<32>"
    assert shown(kernels(NATIVE, splitk, splitk)) == "nvjet + splitk (2)"
    assert shown(kernels(FILL, SPLIT)) == "flash t64 split + 1 helpers"
    assert shown(kernels("something_nobody_has_seen")) == "?"
    assert shown([]) == ""
