"""What the papers published, as data: every number with its table or figure and its device.

Numbers were read from the text of the papers; what a figure shows without a number in the text is
not guessed from its axes.

    GAC-v1  Why Smaller Is Slower: Dimensional Misalignment in Compressed Large Language Models,
            anonymous preprint; A100-80GB, PyTorch 2.3, CUDA 12.4
    GAC-v2  Why Smaller Is Slower? Dimensional Misalignment in Compressed LLMs, EuroMLSys '26,
            arXiv 2604.09595; A100-80GB and H100-80GB, PyTorch 2.9.1, CUDA 12.8, fp16
    PARSE   Different Prompts, Different Ranks, arXiv 2605.08568
"""

from collections.abc import Mapping
from dataclasses import dataclass

A100 = "A100-80GB"


@dataclass(frozen=True, slots=True)
class Number:
    """One published figure, or a range from ``value`` to ``upper``."""

    where: str
    device: str
    what: str
    value: float
    unit: str
    upper: float | None = None

    def text(self) -> str:
        """``2.3 to 2.9 ms``."""
        last = "" if self.upper is None else f" to {self.upper:g}"
        return f"{self.value:g}{last} {self.unit}"


@dataclass(frozen=True, slots=True)
class Region:
    """Head dims that GAC-v2's Table 2 gives one latency for."""

    above: int
    to: int
    ms: Number


TABLE_2 = "GAC-v2 Table 2"
REGIONS = (
    Region(63, 64, Number(TABLE_2, A100, "d = 64, tile 128 x 128", 0.74, "ms")),
    Region(64, 96, Number(TABLE_2, A100, "64 < d <= 96, tile 128 x 64", 1.12, "ms")),
    Region(96, 128, Number(TABLE_2, A100, "96 < d <= 128, tile 128 x 64", 1.47, "ms")),
    Region(128, 160, Number(TABLE_2, A100, "128 < d <= 160, tile 128 x 32", 2.00, "ms")),
    Region(160, 256, Number(TABLE_2, A100, "160 < d <= 256, tile 128 x 32", 2.3, "ms", 2.9)),
)
"""Attention of B 4, S 2048, H 32 in fp16, multiples of 8 only."""

TABLE_3: tuple[tuple[int, str, str, str], ...] = (
    (1, "d % 8 == 0", "cuBLAS native sm80", "mma.m16n8k16"),
    (2, "d % 2 == 0", "CUTLASS sm80 align2", "mma.m16n8k16"),
    (3, "odd", "CUTLASS sm75 align1", "mma.m16n8k8"),
)
"""GAC-v2 Table 3, A100: (tier, condition, kernel, instruction)."""

TABLE_4 = "GAC-v2 Table 4"
PENALTIES = {
    "sdpa backend": Number(TABLE_4, A100, "SDPA backend, d % 8", 90, "%"),
    "flash template": Number(TABLE_4, A100, "FlashAttention template, d % 32", 30, "%"),
    "gemm": Number(TABLE_4, A100, "GEMM, K or N % 8", 30, "%"),
    "gemv": Number(TABLE_4, A100, "GEMV, K % 8", 12, "%"),
    "tensor core": Number(TABLE_4, A100, "tensor core, K % 16 or N % 8", 70, "%"),
    "sectors": Number(TABLE_4, A100, "L2 sectors, K % 16", 50, "%"),
}
"""What a misaligned size costs at most, about; of throughput in the last two."""

TABLE_5 = "GAC-v2 Table 5"
PREFILL_MS = {
    "dense": Number(TABLE_5, A100, "Baseline", 99.6, "ms"),
    "asvd": Number(TABLE_5, A100, "ASVD", 100.5, "ms"),
    "asvd-aligned": Number(TABLE_5, A100, "ASVD (GAC)", 67.1, "ms"),
    "pruner": Number(TABLE_5, A100, "LLM-Pruner", 137.7, "ms"),
    "pruner-aligned": Number(TABLE_5, A100, "LLM-Pruner (GAC)", 88.0, "ms"),
}
"""Variant -> prefill of Llama-3-8B, batch 1, 1024 tokens, fp16, 15 % of the parameters removed."""
ALIGNED_SHARE = {
    "dense": 1.0,
    "asvd": 0.05,
    "asvd-aligned": 1.0,
    "pruner": 0.83,
    "pruner-aligned": 1.0,
}
"""Variant -> share of aligned dimensions, GAC-v2 Table 5."""
FIGURE_10 = {
    128: Number("GAC-v2 section 5.3", A100, "LLM-Pruner over dense at S 128", 19, "%"),
    1024: Number("GAC-v2 section 5.3", A100, "LLM-Pruner over dense at S 1024", 38, "%"),
}

V1_TABLE_3 = "GAC-v1 Table 3"
ESTIMATED_MS = {
    "dense": Number(V1_TABLE_3, A100, "Uncompressed", 48.0, "ms"),
    "asvd": Number(V1_TABLE_3, A100, "ASVD", 41.7, "ms"),
    "asvd-aligned": Number(V1_TABLE_3, A100, "GAC+ASVD", 38.5, "ms"),
    "pruner": Number(V1_TABLE_3, A100, "LLM-Pruner", 38.9, "ms"),
    "pruner-aligned": Number(V1_TABLE_3, A100, "GAC+Pruner", 38.4, "ms"),
}
"""Estimated by the paper from single calls, not measured: batch 1, 512 tokens, 20 % removed."""
V1_MISALIGNED = {
    "activation (ASVD)": Number("GAC-v1 Table 1", "", "misaligned, mod 8", 80.8, "%"),
    "Fisher (PaLU)": Number("GAC-v1 Table 1", "", "misaligned, mod 8", 61.3, "%"),
    "magnitude": Number("GAC-v1 Table 1", "", "misaligned, mod 8", 60.8, "%"),
    "gradient (LLM-Pruner)": Number("GAC-v1 Table 1", "", "misaligned, mod 8", 53.0, "%"),
}
V1_SOLVER = Number("GAC-v1 Table 2", "CPU", "time of the solver", 80.5, "ms", 189.5)

SDPA_STEP = Number("GAC-v2 Fig. 5", A100, "d 129 over d 128", 90, "%")
V1_SDPA = Number("GAC-v1 Fig. 5", A100, "any d but 64, 128, 256", 90, "%")
GEMM_K_ALIGNED = Number("GAC-v2 Fig. 7", A100, "K % 8 == 0", 20, "us")
GEMM_K_MISALIGNED = Number("GAC-v2 Fig. 7", A100, "other K", 22, "us", 26)
GEMM_M_CLIFF = Number("GAC-v2 Fig. 7", A100, "M 1729 over M 1728", 30, "%")
GEMV = {
    "gemv-k": Number("GAC-v2 Fig. 6", A100, "misaligned K", 12, "%"),
    "gemv-n": Number("GAC-v2 Fig. 6", A100, "misaligned N", 4, "%"),
}
TENSOR_CORE_ALIGNED = Number("GAC-v2 Fig. 8", A100, "aligned K or N", 160, "TFLOPS", 175)
TENSOR_CORE_MISALIGNED = Number("GAC-v2 Fig. 8", A100, "misaligned", 50, "TFLOPS", 110)
ROW_READ = Number("GAC-v2 Fig. 8", A100, "bandwidth of aligned over misaligned rows", 2, "times")
PARSE_PREFILL = Number("PARSE abstract", "", "prefill over native SVD, at most", 2.5, "times")
PARSE_DECODE = Number("PARSE abstract", "", "decode over native SVD, at most", 2.4, "times")

VARIANTS: Mapping[str, str] = {
    "dense": "dense",
    "asvd": "ASVD, its own ranks",
    "asvd-aligned": "ASVD, ranks aligned",
    "asvd-padded": "ASVD, its ranks padded",
    "default": "gacfx plan",
    "default-64": "gacfx plan, multiples of 64",
    "uniform": "one ratio for all weights",
    "pruner": "LLM-Pruner, its own widths",
    "pruner-aligned": "LLM-Pruner, widths aligned",
    "pruner-padded": "LLM-Pruner, its widths padded",
}
"""Variant of the part ``end-to-end`` -> its name on the pages, in the order of the pages."""
