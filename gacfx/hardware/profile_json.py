"""Reads a profile from JSON data and refuses everything that it does not understand."""

from collections.abc import Mapping
from typing import get_args

from gacfx.core.names import odd_text
from gacfx.errors import ProfileError
from gacfx.hardware import checks
from gacfx.hardware.profile import (
    DTYPE_BYTES,
    KERNELS,
    Basis,
    Evidence,
    LatencyModel,
    Measurement,
    Profile,
    Source,
    Stack,
    Tile,
)

FORMAT = "gacfx-profile"
VERSION = 1
CONSTANTS = (
    *("device", "compute_capability", "sms", "peak_tflops", "bandwidth_gbps", "l2_mb"),
    *("smem_kb_per_block", "stack", "align", "latency"),
)
"""Fields that need a source, or a source for each of their members."""


def parse(data: object) -> Profile:
    """The profile that JSON data describe.

    Raises:
        ProfileError: unknown version or field, wrong type, or a constant without a source.
    """
    if odd := odd_text(data):  # its texts are printed
        raise ProfileError(odd)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ProfileError(f'format: not a profile, expected "format": "{FORMAT}"')
    found = data.get("version")
    if found != VERSION or isinstance(found, bool):
        raise ProfileError(f"version: {found!r} is unknown; this gacfx reads version {VERSION}")
    required = ("format", "version", "name", "sources", *CONSTANTS)
    top = checks.members(data, "profile", required, {"measured", "evidence"})
    peaks = checks.members(top["peak_tflops"], "peak_tflops", {"fp32"}, DTYPE_BYTES)
    align = checks.members(top["align"], "align", peaks)
    stack = checks.members(top["stack"], "stack", {"torch", "cudnn"})
    measured = checks.members(top.get("measured", {}), "measured", optional=None)
    return Profile(
        name=checks.text(top["name"], "name"),
        device=checks.text(top["device"], "device"),
        compute_capability=checks.version(top["compute_capability"], "compute_capability"),
        sms=checks.integer(top["sms"], "sms"),
        peak_tflops={d: checks.number(v, f"peak_tflops.{d}") for d, v in peaks.items()},
        bandwidth_gbps=checks.number(top["bandwidth_gbps"], "bandwidth_gbps"),
        l2_mb=checks.number(top["l2_mb"], "l2_mb"),
        smem_kb_per_block=checks.integer(top["smem_kb_per_block"], "smem_kb_per_block"),
        stack=Stack(
            torch=checks.version(stack["torch"], "stack.torch"),
            cudnn=checks.integer(stack["cudnn"], "stack.cudnn", least=0),
        ),
        align={d: checks.integer(v, f"align.{d}") for d, v in align.items()},
        latency=_latency(top["latency"]),
        measured={key: _measurement(v, f"measured.{key}") for key, v in measured.items()},
        provenance=_sources(top),
        evidence=_basis(top),
    )


def _basis(top: Mapping[str, object]) -> Basis:
    """What the file rests on; one that holds measurements cannot rest on data sheets alone."""
    found = top.get("evidence", "rules")
    kinds: tuple[Basis, ...] = get_args(Basis)
    basis = next((kind for kind in kinds if kind == found), None)
    if basis is None:
        raise ProfileError(f"evidence: expected {' or '.join(kinds)}, not {found!r}")
    if basis == "vendor" and any(s.evidence == "measured" for s in _sources(top)):
        raise ProfileError("evidence: vendor, but a source says measured; leave evidence out")
    return basis


def _latency(data: object) -> LatencyModel:
    names = ("f_tier", "f_mem", "launch_us", "tiles", "tile_k_bytes")
    values = checks.members(data, "latency", names)
    f_tier = checks.members(values["f_tier"], "latency.f_tier", KERNELS)
    tiles = checks.array(values["tiles"], "latency.tiles")
    return LatencyModel(
        # More than a peak or a bandwidth nobody reaches: a share above 1 is a wrong peak.
        f_tier={k: checks.number(f_tier[k], f"latency.f_tier.{k}", most=1) for k in KERNELS},
        f_mem=checks.number(values["f_mem"], "latency.f_mem", most=1),
        launch_us=checks.number(values["launch_us"], "latency.launch_us"),
        tiles=tuple(_tile(tile, f"latency.tiles[{i}]") for i, tile in enumerate(tiles)),
        tile_k_bytes=checks.integer(values["tile_k_bytes"], "latency.tile_k_bytes", least=8),
    )


def _tile(data: object, field: str) -> Tile:
    values = checks.members(data, field, ("m", "n", "share"))
    return Tile(
        m=checks.integer(values["m"], f"{field}.m"),
        n=checks.integer(values["n"], f"{field}.n"),
        share=checks.number(values["share"], f"{field}.share", most=1),
    )


def _measurement(data: object, field: str) -> Measurement:
    values = checks.members(data, field, ("tier", "kernel"), {"us", "reason"})
    kernel = checks.text(values["kernel"], f"{field}.kernel")
    if kernel != "error" and not {kernel, kernel.split(".")[0]} & set(KERNELS):
        known = ", ".join(KERNELS)
        raise ProfileError(f"{field}.kernel: {kernel!r} is no class of kernel; known are {known}")
    reason = values.get("reason", "")
    return Measurement(
        tier=checks.integer(values["tier"], f"{field}.tier", most=4),
        kernel=kernel,
        us=checks.number(values["us"], f"{field}.us") if "us" in values else None,
        reason=checks.text(reason, f"{field}.reason") if reason else "",
    )


def _sources(top: Mapping[str, object]) -> tuple[Source, ...]:
    """The sources, after a check that every constant has one and that each names a constant."""
    data = checks.members(top["sources"], "sources", optional=None)
    fields = CONSTANTS + (("measured",) if top.get("measured") else ())
    constants = {name for field in fields for name in _paths(top[field], field)}
    bare = sorted(name for name in constants if not any(part in data for part in _above(name)))
    if bare:
        raise ProfileError(
            f"sources: nothing is said of {', '.join(bare)}; say where it comes from"
        )
    named = {part for name in constants for part in _above(name)}
    if stray := sorted(data.keys() - named):
        raise ProfileError(f"sources: {', '.join(stray)} is no constant of this profile")
    return tuple(_source(what, data[what]) for what in data)


def _source(what: str, data: object) -> Source:
    field = f"sources.{what}"
    values = checks.members(data, field, ("source", "evidence"))
    kinds: tuple[Evidence, ...] = get_args(Evidence)
    evidence = next((kind for kind in kinds if kind == values["evidence"]), None)
    if evidence is None:
        found = values["evidence"]
        raise ProfileError(f"{field}.evidence: expected {' or '.join(kinds)}, not {found!r}")
    return Source(what, checks.text(values["source"], f"{field}.source"), evidence)


def _paths(value: object, name: str) -> list[str]:
    """Dotted names of the leaves below ``name``; a list is a leaf."""
    if not isinstance(value, dict):
        return [name]
    return [path for key, below in value.items() for path in _paths(below, f"{name}.{key}")]


def _above(name: str) -> list[str]:
    """A dotted name and all its prefixes: ``a.b`` gives ``a.b`` and ``a``."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
