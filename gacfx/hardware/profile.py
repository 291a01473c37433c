"""Profiles: what is known of one GPU with one software stack, and where each constant comes from.

A profile is a JSON file, ``{"format": "gacfx-profile", "version": 1, ...}``. Its ``sources`` name a
source for every constant; a constant without one is refused. Versions of torch and cuDNN are
inputs: the rules depend on them, and a machine may have others than the file's default. A file that
says ``"evidence": "vendor"`` holds data sheets and analogies: nothing was ever checked on that GPU.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from gacfx.core.files.reading import read_text
from gacfx.errors import CheckpointError, ProfileError

Evidence = Literal["read", "estimate", "measured"]
Basis = Literal["rules", "vendor"]
"""vendor: data sheets, and coefficients by analogy with another GPU. rules: the dispatch rules and
the coefficients were held against what is published of this very GPU."""

DTYPE_BYTES: Mapping[str, int] = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "int8": 1,
    "fp8": 1,
}
KERNELS = (
    *("native", "align4", "align2", "align1", "simt", "gemv", "gemv.unaligned", "grouped"),
    *("cudnn", "flash", "efficient", "math"),
)
"""Classes of kernels that the rules name; ``flash.t128.pad8`` belongs to ``flash``."""

USUAL = ("bf16", "fp16")
"""Half precision, the one that models are published in first."""

_FOLDER = Path(__file__).parent / "profiles"
T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True)
class Stack:
    """The software that chooses kernels."""

    torch: tuple[int, int]
    cudnn: int
    """As ``torch.backends.cudnn.version()`` says it: 91900 is 9.19.0; 0 means none."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a constant comes from."""

    what: str
    """Field of the profile; ``peak_tflops`` stands for all below it."""
    source: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of the output that one thread block computes."""

    m: int
    n: int
    share: float
    """Throughput inside full waves, as a share of the best tile's: small tiles re-read operands."""


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Coefficients of the latency model; a sweep fits them, until then they are estimates."""

    f_tier: Mapping[str, float]
    """Class of kernel -> share of peak throughput (gemv: of bandwidth) that it reaches."""
    f_mem: float
    """Share of the nominal bandwidth that a kernel reaches."""
    launch_us: float
    """Cost of one kernel launch."""
    tiles: tuple[Tile, ...]
    tile_k_bytes: int
    """Depth of a tile along K, in bytes of operand."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a sweep saw for one exact shape, under the profile's default stack."""

    tier: int
    kernel: str
    us: float | None = None
    """None if the call is an error."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of one GPU with one software stack."""

    name: str
    device: str
    compute_capability: tuple[int, int]
    sms: int
    """Streaming multiprocessors."""
    peak_tflops: Mapping[str, float]
    """dtype -> dense peak (never the sparse one); a dtype that is absent cannot be multiplied."""
    bandwidth_gbps: float
    """Nominal memory bandwidth, 1e9 bytes a second."""
    l2_mb: float
    smem_kb_per_block: int
    """Shared memory that one thread block can have."""
    stack: Stack
    align: Mapping[str, int]
    """dtype -> preferred multiple of a size, in elements."""
    latency: LatencyModel
    provenance: tuple[Source, ...]
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    """Key of ``predict.measured_key`` -> what was measured."""
    evidence: Basis = "rules"

    @property
    def forecast(self) -> str:
        """Where latencies come from. Measured entries decide tiers, not microseconds."""
        return "vendor figures only" if self.evidence == "vendor" else "rule-based"

    @property
    def known(self) -> str:
        """How well this GPU is known."""
        if self.measured:
            return f"measured entries: {len(self.measured)}"
        return "vendor figures only" if self.evidence == "vendor" else "rules + vendor figures"

    @property
    def usual_dtype(self) -> str:
        """What language models run in here: bf16, or fp16 where tensor cores have no bf16."""
        return next((d for d in USUAL if d in self.peak_tflops), "fp32")

    def check_dtype(self, dtype: str) -> None:
        """Nothing if this GPU can multiply a dtype.

        Raises:
            ProfileError: it cannot; says what it can, and what to do.
        """
        if dtype in self.peak_tflops:
            return
        usual = self.usual_dtype
        raise ProfileError(
            f"{self.name} cannot multiply {dtype}, only {', '.join(self.peak_tflops)}: take the "
            f"model in {usual} (--dtype {usual}), or another GPU"
        )

    def with_stack(
        self, *, torch: tuple[int, int] | None = None, cudnn: int | None = None
    ) -> "Profile":
        """The same GPU with other software; measurements under the old one are dropped."""
        stack = Stack(
            torch=self.stack.torch if torch is None else torch,
            cudnn=self.stack.cudnn if cudnn is None else cudnn,
        )
        if stack == self.stack:
            return self
        spoilt = ("stack", "measured")
        kept = tuple(s for s in self.provenance if s.what.split(".")[0] not in spoilt)
        given = Source("stack", "given by the caller", "read")
        return replace(self, stack=stack, measured={}, provenance=(*kept, given))

    def align_for(self, dtype: str) -> int:
        """Preferred multiple of a size in elements.

        Raises:
            ProfileError: the profile does not know the dtype.
        """
        return _find(dtype, self.align, self.name)

    def peak_for(self, dtype: str) -> float:
        """Dense peak in TFLOPS.

        Raises:
            ProfileError: the profile does not know the dtype.
        """
        return _find(dtype, self.peak_tflops, self.name)

    def share_of(self, kernel: str) -> float:
        """Share of peak that a kernel reaches; ``flash.t128`` is looked up as ``flash``.

        Raises:
            ProfileError: the kernel belongs to no known class.
        """
        for name in (kernel, kernel.split(".")[0]):
            if name in self.latency.f_tier:
                return self.latency.f_tier[name]
        known = ", ".join(self.latency.f_tier)
        raise ProfileError(f"{self.name}: no f_tier for kernel {kernel!r}; known are {known}")


def names() -> tuple[str, ...]:
    """Profiles that come with gacfx."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def load(
    name_or_path: str | Path,
    *,
    torch: tuple[int, int] | None = None,
    cudnn: int | None = None,
) -> Profile:
    """The profile of a known GPU, or of a file whose name ends in ``.json``.

    Args:
        name_or_path: one of ``names()``, such as ``rtx4090``; the device in other words, such as
            ``NVIDIA RTX 4090``; or a file.
        torch: (major, minor) to predict for; the file's default if None.
        cudnn: for example 91900; the file's default if None.

    Raises:
        ProfileError: no such profile, or the file is malformed; names the file and the field.
    """
    if not isinstance(name_or_path, str | Path):
        raise ProfileError(
            f"gpu {name_or_path!r}: give a name such as h200, or the path of a profile's file"
        )
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = _FOLDER / f"{_name(str(name_or_path))}.json"
    from gacfx.hardware.profile_json import parse  # it needs the nouns above

    try:
        profile = parse(json.loads(read_text(path)))
    except CheckpointError as error:
        raise ProfileError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: not JSON: {error}") from error
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None
    return profile.with_stack(torch=torch, cudnn=cudnn)


def _name(text: str) -> str:
    """The shipped profile that a text means."""
    if (name := text.lower()) in names():
        return name
    from gacfx.hardware.device_names import match, nearest

    devices = {name: load(name).device for name in names()}
    is_path = "/" in text or "\\" in text
    if found := "" if is_path else match(text, devices):
        return found
    near = "" if is_path else nearest(text, devices)
    hint = f"the nearest is {near} ({devices[near]})" if near else f"there are {', '.join(devices)}"
    raise ProfileError(
        f"no profile {text!r}; {hint}; gacfx profiles lists them, and for another GPU give the "
        "path of a .json file"
    )


def _find(dtype: str, table: Mapping[str, T], profile: str) -> T:
    if dtype not in table:
        raise ProfileError(f"{profile}: unknown dtype {dtype!r}; known are {', '.join(table)}")
    return table[dtype]


def load_profile(gpu: str | Path | Profile) -> Profile:
    """The profile behind a name or path; a profile is returned as it is."""
    return gpu if isinstance(gpu, Profile) else load(gpu)
