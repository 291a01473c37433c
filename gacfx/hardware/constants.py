"""The constants of a profile with their sources, as a person asks for them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from gacfx.hardware.profile import Evidence, Profile, Source


@dataclass(frozen=True, slots=True)
class Constant:
    """What one source says."""

    what: str
    """``sms``, or ``peak_tflops`` for all below it that have no source of their own."""
    values: Mapping[str, object]
    """Dotted name in the file -> value."""
    source: str
    evidence: Evidence


def constants(profile: Profile) -> tuple[Constant, ...]:
    """All constants, grouped by source, in the profile's order."""
    leaves = dict(_leaves(profile))
    owner = {name: _owner(name, profile.provenance) for name in leaves}
    found = []
    for source in profile.provenance:
        if values := {name: leaf for name, leaf in leaves.items() if owner[name] == source.what}:
            found.append(Constant(source.what, values, source.source, source.evidence))
    return tuple(found)


def _owner(name: str, sources: tuple[Source, ...]) -> str:
    """The most special source that a constant is below."""
    above = [s.what for s in sources if f"{name}.".startswith(f"{s.what}.")]
    return max(above, key=len, default="")


def _leaves(profile: Profile) -> Iterator[tuple[str, object]]:
    """(dotted name as in the file, value) of every constant."""
    flat = ("device", "compute_capability", "sms", "bandwidth_gbps", "l2_mb", "smem_kb_per_block")
    yield from ((name, getattr(profile, name)) for name in flat)
    yield from ((f"peak_tflops.{dtype}", peak) for dtype, peak in profile.peak_tflops.items())
    yield from ((f"stack.{name}", value) for name, value in asdict(profile.stack).items())
    yield from ((f"align.{dtype}", step) for dtype, step in profile.align.items())
    latency = profile.latency
    yield from ((f"latency.f_tier.{kernel}", share) for kernel, share in latency.f_tier.items())
    coefficients = ("f_mem", "launch_us", "tiles", "tile_k_bytes")
    yield from ((f"latency.{name}", getattr(latency, name)) for name in coefficients)
    yield from ((f"measured.{key}", seen) for key, seen in profile.measured.items())
