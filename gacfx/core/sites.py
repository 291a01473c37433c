"""Sites: nodes of a graph seen as operations, and the workload they run under.

Sizes that grow with the input are kept as multiples (:class:`Extent`), so one capture answers for
prefill and decode at any batch and length.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Mode = Literal["prefill", "decode"]
Execution = Literal["eager", "compiled"]


class Axis(StrEnum):
    """Position of a size in an operation: Y[M, N] = X[M, K] W[K, N], or the width of a head."""

    M = "M"
    K = "K"
    N = "N"
    HEAD = "HEAD"


class Layout(StrEnum):
    """How the weight of a matmul lies in memory."""

    LINEAR = "linear"
    """[N, K], as in ``nn.Linear``."""
    CONV1D = "conv1d"
    """[K, N], as in the Conv1D of GPT-2."""
    EXPERTS = "experts"
    """[E, K, N] or [E, N, K]: one matrix for each expert."""
    CONVOLUTION = "convolution"
    """[N, C, window ..]; K is what a window holds."""
    RESHAPED = "reshaped"
    """A parameter in another shape than it is stored in, or as the left factor."""
    ACTIVATION = "activation"
    """Both operands are computed: attention scores, for example."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What runs: ``batch`` sequences of ``seq`` tokens.

    In decode each sequence has one new token and ``seq`` is the length of its KV cache.
    """

    batch: int = 1
    seq: int = 1024
    mode: Mode = "prefill"
    execution: Execution = "eager"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seq < 1:
            raise ValueError(f"batch and seq must be at least 1, not {self.batch} and {self.seq}")

    @property
    def new_tokens(self) -> int:
        """Tokens that pass through the linears in one step."""
        return self.batch * (self.seq if self.mode == "prefill" else 1)


@dataclass(frozen=True, slots=True)
class Extent:
    """A size as a multiple of something that the workload decides."""

    times: int
    of: Literal["token", "query", "key", "sequence", "chunk", "one"] = "one"
    """token: batch x new tokens; query: new tokens of a sequence; key: cached and new tokens of a
    sequence; sequence: the batch; chunk: batch x chunks of ``per`` new tokens, the last one padded;
    one: a constant."""
    per: int = 1
    """Only one in so many of them, on average: an expert sees some of the tokens."""

    def __post_init__(self) -> None:
        if self.per < 1:
            raise ValueError(f"one in {self.per} is no share")

    def at(self, workload: Workload) -> int:
        """The size under ``workload``, in elements."""
        match self.of:
            case "one":
                unit = 1
            case "token":
                unit = workload.new_tokens
            case "query":
                unit = workload.new_tokens // workload.batch
            case "key":
                unit = workload.seq
            case "sequence":
                unit = workload.batch
            case "chunk":
                chunks = -(-workload.new_tokens // workload.batch // self.per)
                return self.times * workload.batch * chunks
        return -(-self.times * unit // self.per)


@dataclass(frozen=True, slots=True)
class MatmulSite:
    """Y[M, N] = X[M, K] W, done ``count`` times."""

    name: str
    """Module that does it, for example ``model.layers.0.self_attn.q_proj``."""
    m: Extent
    k: Extent
    n: Extent
    dtype: str
    """fp32, bf16, fp16, ..."""
    weight: str | None = None
    """Fully qualified name of the weight; None when both operands are activations."""
    layout: Layout = Layout.LINEAR
    bias: bool = False
    count: Extent = Extent(1)
    """Times that the whole product is done: the batch of a bmm."""
    experts: int = 1
    """Matrices that the M rows are spread over; 1 unless the layout is ``experts``."""
    runs: int = 1
    """Times that it is launched, one after the other: what stands for all products of a weight that
    a loop over layers uses more than once."""

    def sizes(self, workload: Workload) -> tuple[int, int, int]:
        """(M, K, N) under ``workload``."""
        return self.m.at(workload), self.k.at(workload), self.n.at(workload)

    def flops(self, workload: Workload) -> int:
        """Multiply-adds counted as two, all ``count`` repetitions and all ``runs``."""
        m, k, n = self.sizes(workload)
        return 2 * m * k * n * self.count.at(workload) * self.runs


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """The arguments that decide which attention kernel runs."""

    mask: bool
    """An explicit mask tensor is passed."""
    causal: bool
    """``is_causal=True`` is passed."""
    gqa: bool
    """``enable_gqa=True`` is passed, so K and V keep their own number of heads."""


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """softmax(Q K^T) V through ``scaled_dot_product_attention``."""

    name: str
    heads_q: int
    heads_kv: int
    """Heads of K and V as the model stores them, before any repetition."""
    d_qk: int
    d_v: int
    dtype: str
    compiled: AttentionCall
    """As the captured graph calls it; torch.compile runs this."""
    eager: AttentionCall
    """As the model calls it in eager mode, recorded on the meta device."""
    chosen: str = ""
    """Class of the kernel that a compiled graph calls by name: flash, efficient or cudnn; empty
    where torch chooses when it runs, or chose one of a CPU."""

    def call(self, workload: Workload) -> AttentionCall:
        """The call under ``workload``; one new token needs neither mask nor causality."""
        found = self.eager if workload.execution == "eager" else self.compiled
        if workload.mode == "decode" and workload.execution == "eager":
            return AttentionCall(mask=False, causal=False, gqa=found.gqa)
        return found

    def flops(self, workload: Workload) -> int:
        """Both products, without using causality."""
        q, k = Extent(1, "query").at(workload), Extent(1, "key").at(workload)
        return 2 * workload.batch * self.heads_q * q * k * (self.d_qk + self.d_v)


@dataclass(frozen=True, slots=True)
class CopySite:
    """Kernels in a row that multiply nothing: they gather, join or add what a decision needs."""

    name: str
    """Module that does it, for example ``model.layers.0.self_attn.q_proj``."""
    m: Extent
    elements: tuple[int, ...]
    """Numbers that each kernel reads and writes for each of the M rows, in order."""
    dtype: str
    what: tuple[str, ...] = ()
    """What each kernel does: ``join``, ``gather``, ``sum``, or the name of its operator."""

    def kernels(self, workload: Workload) -> tuple[int, ...]:
        """Numbers that each kernel reads and writes under ``workload``.

        One reads what the one before it wrote, and torch.compile makes one kernel of them.
        """
        compiled = workload.execution == "compiled"
        each = (max(self.elements),) if compiled else self.elements
        return tuple(self.m.at(workload) * elements for elements in each)

    def flops(self, workload: Workload) -> int:
        """None."""
        del workload
        return 0


Site = MatmulSite | AttentionSite | CopySite
