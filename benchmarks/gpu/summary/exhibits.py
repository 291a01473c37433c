"""Every figure and table of the GAC papers, and which part of the collection answers it."""

from dataclasses import dataclass

from benchmarks.gpu.summary import paper
from benchmarks.gpu.summary.records import Records

WEIGHTS = "needs the weights of an 8B model; no part covers it"
DRAWING = "a drawing, nothing to measure"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One figure or table of a paper."""

    where: str
    shows: str
    published: str
    """The paper's own numbers; empty if its text gives none."""
    answer: str = ""
    """Why no part answers it; empty if one does."""
    figures: tuple[str, ...] = ()
    """Names of the part ``figures``."""
    parts: tuple[str, ...] = ()
    """Other parts."""

    def source(self) -> str:
        """Where the answer comes from."""
        named = [f"`figures`: {', '.join(self.figures)}"] if self.figures else []
        return self.answer or "; ".join(named + [f"`{part}`" for part in self.parts])

    def answered(self, records: Records) -> bool:
        """Is there a result for it?"""
        drawn = {entry.item.get("figure") for entry in records.results("figures")}
        return bool(drawn & set(self.figures)) or any(map(records.results, self.parts))


def _shares(numbers: dict[str, paper.Number]) -> str:
    return ", ".join(f"{score} {number.text()}" for score, number in numbers.items())


def _times(numbers: dict[str, paper.Number]) -> str:
    return ", ".join(f"{number.what} {number.value:g}" for number in numbers.values()) + " ms"


def _table_2() -> str:
    steps = [f"d to {r.to}: {r.ms.text().removesuffix(' ms')}" for r in paper.REGIONS]
    return ", ".join(steps) + " ms"


def _penalties() -> str:
    return "; ".join(f"{n.what}: about {n.text()}" for n in paper.PENALTIES.values())


def _tensor_core() -> str:
    aligned, other = paper.TENSOR_CORE_ALIGNED.text(), paper.TENSOR_CORE_MISALIGNED.text()
    return f"aligned {aligned}, misaligned {other}; row bandwidth about {paper.ROW_READ.text()}"


EXHIBITS = (
    Exhibit(
        "GAC-v2 Table 1", "importance scores of four methods", "", "a list, nothing to measure"
    ),
    Exhibit(
        "GAC-v2 Table 2",
        "FlashAttention templates",
        _table_2(),
        figures=("sdpa-head-dim",),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v2 Table 3",
        "kernel by divisibility",
        "; ".join(f"{condition}: {kernel}" for _, condition, kernel, _ in paper.TABLE_3),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v2 Table 4",
        "what each misalignment costs",
        _penalties(),
        figures=("sdpa-head-dim", "gemm-k", "gemm-n", "gemv-k", "tensor-core-k", "row-read"),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v2 Table 5",
        "Llama-3-8B, 1024 tokens, 15 % removed",
        f"{_times(paper.PREFILL_MS)}; perplexities need weights",
        parts=("end-to-end",),
    ),
    Exhibit("GAC-v2 Fig. 1", "names of the dimensions of a GEMM", "", DRAWING),
    Exhibit("GAC-v2 Fig. 2", "ranks by layer for four scores", "no numbers in the text", WEIGHTS),
    Exhibit("GAC-v2 Fig. 3", "ranks of PaLU, 20 % removed", "78 % of layers misaligned", WEIGHTS),
    Exhibit("GAC-v2 Fig. 4", "the layers that SDPA passes through", "", DRAWING),
    Exhibit(
        "GAC-v2 Fig. 5",
        "SDPA by head dim: B 4, S 2048, H 32",
        f"d 129 about {paper.SDPA_STEP.text()} above d 128",
        figures=("sdpa-head-dim",),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v2 Fig. 6",
        "GEMV near 4096",
        f"K about {paper.GEMV['gemv-k'].text()}, N about {paper.GEMV['gemv-n'].text()}",
        figures=("gemv-k", "gemv-n"),
    ),
    Exhibit(
        "GAC-v2 Fig. 7",
        "GEMM: M = N = 2048, K = 128, one swept",
        f"K aligned about {paper.GEMM_K_ALIGNED.text()}, else {paper.GEMM_K_MISALIGNED.text()}; "
        f"{paper.GEMM_M_CLIFF.what} about {paper.GEMM_M_CLIFF.text()} more",
        figures=("gemm-m", "gemm-n", "gemm-k"),
    ),
    Exhibit(
        "GAC-v2 Fig. 8",
        "tensor core rate and row bandwidth near 4096",
        _tensor_core(),
        figures=("tensor-core-k", "tensor-core-n", "row-read"),
    ),
    Exhibit("GAC-v2 Fig. 9", "the three steps of GAC", "", DRAWING),
    Exhibit(
        "GAC-v2 Fig. 10",
        "Llama-3-8B over sequence lengths",
        "LLM-Pruner "
        + " to ".join(f"+{n.text()} at S {seq}" for seq, n in paper.FIGURE_10.items()),
        parts=("end-to-end",),
    ),
    Exhibit("GAC-v2 Fig. 11", "ranks at four ratios", "no numbers in the text", WEIGHTS),
    Exhibit(
        "GAC-v2 Fig. 12",
        "SDPA by head dim on an H100",
        "no numbers in the text",
        figures=("sdpa-head-dim",),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v2 Fig. 13",
        "tensor core rate and row bandwidth on an H100",
        "no numbers in the text",
        figures=("tensor-core-k", "tensor-core-n", "row-read"),
    ),
    Exhibit(
        "GAC-v2 Fig. 14",
        "Llama-3-8B over sequence lengths on an H100",
        "no numbers in the text",
        parts=("end-to-end",),
    ),
    Exhibit(
        "GAC-v1 Table 1",
        "misaligned ranks by importance score",
        _shares(paper.V1_MISALIGNED),
        WEIGHTS,
    ),
    Exhibit(
        "GAC-v1 Table 2",
        "solver: alignment, kept importance, time",
        f"{paper.V1_SOLVER.text()}; importance 1.064 to 1.072",
        "needs no GPU: `python -m benchmarks.planning`",
    ),
    Exhibit(
        "GAC-v1 Table 3",
        "Llama-3-8B, 512 tokens, 20 % removed, estimated",
        _times(paper.ESTIMATED_MS),
        parts=("end-to-end",),
    ),
    Exhibit("GAC-v1 Fig. 1", "penalties from tile to framework", "", DRAWING),
    Exhibit("GAC-v1 Fig. 2", "misaligned ranks by layer, 20 % removed", "80.8 % (ASVD)", WEIGHTS),
    Exhibit("GAC-v1 Fig. 3", "how GAC wraps a compressor", "", DRAWING),
    Exhibit(
        "GAC-v1 Fig. 4",
        "GEMM sawtooth: M 2048, K 4096, N swept",
        "fast at N % 16 == 0, no numbers in the text",
        figures=("gemm-sawtooth",),
    ),
    Exhibit(
        "GAC-v1 Fig. 5",
        "SDPA by head dim",
        f"flash only at 64, 128, 256; else math, up to {paper.V1_SDPA.text()} more",
        figures=("sdpa-head-dim",),
        parts=("dispatch",),
    ),
    Exhibit(
        "GAC-v1 Fig. 6",
        "speedup estimated from single calls",
        "ASVD 1.15 to 1.25 times, LLM-Pruner 1.23 to 1.25 times",
        parts=("end-to-end",),
    ),
)
