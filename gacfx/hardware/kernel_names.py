"""What the name of a CUDA kernel says: attention backend, class of matmul, or a helper.

Names that no rule here knows are unknown; the pages list them, and nobody guesses. The patterns
stand for what was read in the binaries of torch (attention) and cuBLASLt 13.1 (matmuls):

    flash_fwd_kernel, flash_fwd_splitkv_kernel, ..._combine       FlashAttention 2; the template is
                                                                  the first number of the traits
    fmha_cutlassF_{bf16,f16,f32}_aligned_...                      efficient
    cudnn_generated_..._sdpa_..._fprop_...                        cuDNN
    nvjet_...                                                     Hopper and Blackwell native
    sm90_xmma_gemm_...                                            Hopper wgmma
    ampere_..._s16816gemm_..._ldg8_...                            Ampere native
    cutlass_..._align8 / align4 / align2 / align1                 CUTLASS by width of a load
    gemv..., gemvNSP, dot_kernel                                  one vector
    splitKreduce_kernel                                           sums of a split K
    another name with gemm in it                                  a matmul of unknown class
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["attention", "matmul", "helper", "unknown"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel that a call launched."""

    name: str
    us: float


@dataclass(frozen=True, slots=True)
class Class:
    """What a kernel is."""

    role: Role
    kind: str
    """``flash``, ``flash.splitkv``, ``nvjet``, ``align2``, ``copy``, ...; empty if unknown."""
    template: int | None = None
    """Head dim that a flash kernel was compiled for."""


UNKNOWN = Class("unknown", "")
UNCLASSED = "gemm"
"""Kind of a matmul whose name does not say how wide its loads are."""
_TRAITS = re.compile(r"Flash_fwd_kernel_traits<\s*(?:\(int\))?(\d+)")
_ALIGN = re.compile(r"_align(\d+)")
_RULES: tuple[tuple[str, Role, str], ...] = (
    (r"cudnn_generated_\w*sdpa", "attention", "cudnn"),
    (r"flash_fwd_splitkv_combine", "helper", "flash.combine"),
    (r"flash_fwd_splitkv_kernel", "attention", "flash.splitkv"),
    (r"flash_fwd_kernel", "attention", "flash"),
    (r"fmha_cutlassF_", "attention", "efficient"),
    (r"\bnvjet_", "matmul", "nvjet"),
    (r"\bsm90_xmma_gemm_", "matmul", "xmma"),
    (r"\bampere_\w*gemm_\w*ldg8", "matmul", "ldg8"),
    (r"\bcutlass(3x)?_\w*_align\d+", "matmul", "align"),
    (r"splitKreduce", "helper", "splitk"),
    (r"gemv|\bdot_kernel", "matmul", "gemv"),
    (r"gemm", "matmul", UNCLASSED),
    (r"softmax|SoftMax", "helper", "softmax"),
    (r"Memcpy|CatArrayBatchedCopy|copy_kernel", "helper", "copy"),
    (r"Memset|FillFunctor", "helper", "fill"),
    (r"elementwise_kernel", "helper", "elementwise"),
    (r"\breduce_kernel|reduce_1Block_kernel", "helper", "reduce"),
)
"""(what the name contains, role, kind); the first that fits counts."""
VECTOR_BYTES = 16
"""Widest load of a thread; cuBLAS documentation 2.1.11."""
_NATIVE = ("nvjet", "xmma", "ldg8")
"""Kernels of cuBLAS itself; that none of them serves misaligned sizes is to be seen."""


def classify(name: str) -> Class:
    """What a kernel's name says; unknown if it says nothing that is known here."""
    rule = next((rule for rule in _RULES if re.search(rule[0], name)), None)
    if rule is None:
        return UNKNOWN
    _, role, kind = rule
    if kind == "align":
        return Class(role, f"align{min(int(n) for n in _ALIGN.findall(name))}")
    traits = _TRAITS.search(name) if kind.startswith("flash") else None
    return Class(role, kind, int(traits[1]) if traits else None)


def unknown(kernels: Sequence[Kernel]) -> list[str]:
    """Names that nothing here knows, matmuls of unknown class among them."""
    return [k.name for k in kernels if classify(k.name).kind in (UNKNOWN.kind, UNCLASSED)]


@dataclass(frozen=True, slots=True)
class Attended:
    """The backend behind the kernels of one attention call."""

    backend: str
    template: int | None = None
    split: bool = False
    helpers: int = 0
    """Kernels beside the backend's own: pads, copies."""

    def text(self) -> str:
        """``flash t128 split + 6 helpers``."""
        words = [self.backend] + ([f"t{self.template}"] if self.template else [])
        words += ["split"] if self.split else []
        return " ".join(words) + (f" + {self.helpers} helpers" if self.helpers else "")


def attended(kernels: Sequence[Kernel]) -> Attended | None:
    """Which backend ran; None if the names do not tell.

    Without a fused kernel it is math, if a softmax and a matmul are among the names.
    """
    classes = [classify(kernel.name) for kernel in kernels]
    fused = [found for found in classes if found.role == "attention"]
    if len({found.kind.split(".")[0] for found in fused}) > 1:
        return None
    if fused:
        own = sum(found.kind == "flash.combine" for found in classes)
        return Attended(
            backend=fused[0].kind.split(".")[0],
            template=fused[0].template,
            split=fused[0].kind == "flash.splitkv",
            helpers=len(classes) - len(fused) - own,
        )
    kinds = {found.kind for found in classes}
    if "softmax" in kinds and any(found.role == "matmul" for found in classes):
        return Attended("math")
    return None


def multiplied(kernels: Sequence[Kernel], element_bytes: int) -> str | None:
    """Class of a matmul in the words of ``gacfx.hardware.gemm``; None if the names do not tell.

    The matmul that took longest counts. A load of 16 bytes is ``native`` whoever wrote the kernel:
    cuBLAS, or CUTLASS with align8 of half precision.
    """
    matmuls = [kernel for kernel in kernels if classify(kernel.name).role == "matmul"]
    if not matmuls:
        return None
    kind = classify(max(matmuls, key=lambda kernel: kernel.us).name).kind
    if kind == UNCLASSED:
        return None
    if kind in _NATIVE:
        return "native"
    if kind.startswith("align") and int(kind.removeprefix("align")) * element_bytes >= VECTOR_BYTES:
        return "native"
    return kind


def shown(kernels: Sequence[Kernel]) -> str:
    """A call's kernels in a few words: ``nvjet + splitk``, ``flash t128``; ``?`` is unknown."""
    if not kernels:
        return ""
    if (found := attended(kernels)) is not None:
        return found.text()
    kinds = [classify(kernel.name).kind or "?" for kernel in kernels]
    counted = {kind: kinds.count(kind) for kind in kinds}
    return " + ".join(kind + (f" ({n})" if n > 1 else "") for kind, n in counted.items())
