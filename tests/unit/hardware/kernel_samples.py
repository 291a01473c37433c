"""Names as CUDA kernels have them, one of each class."""

NATIVE = "nvjet_hsh_128x256_64x4_synthetic"
ALIGN2 = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_128x128_32x3_tn_align2>"
ALIGN1 = "void cutlass::Kernel2<cutlass_75_tensorop_bf16_s1688gemm_128x128_tn_align1>"
GEMV = "void gemvNSP_kernel<__nv_bfloat16>(synthetic)"
CUDNN_KERNEL = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_bf16"
EFFICIENT = "fmha_cutlassF_bf16_aligned_64x128_rf_sm80"
SOFTMAX = "void (anonymous namespace)::softmax_warp_forward<float>"
FILL = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>"


def flash(template: int) -> str:
    """A FlashAttention kernel of a template."""
    traits = f"Flash_fwd_kernel_traits<{template}, 128, 64, 4, false>"
    return f"void pytorch_flash::flash_fwd_kernel<pytorch_flash::{traits}>"
