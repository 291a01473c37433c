"""Profiles as text: a list of them, and one with the source of every constant."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from gacfx.hardware.constants import Constant, constants
from gacfx.hardware.profile import Measurement, Profile, Tile
from gacfx.report.layout import Column, Flow, grid, sentence

LEGEND = (
    "cc: compute capability; tflops: dense peak with fp32 accumulation; step: multiple of ranks "
    "in elements. gacfx profiles NAME shows where each constant comes from"
)


def profiles_view(profiles: Sequence[Profile]) -> RenderableType:
    """One row for each profile, under a line that says how well it is known."""
    kinds = list(dict.fromkeys(profile.known for profile in profiles))
    ordered = [profile for kind in kinds for profile in profiles if profile.known == kind]
    lines = grid(_columns(ordered)).split("\n")
    parts: list[RenderableType] = [lines[0]]
    rows = dict(zip((profile.name for profile in ordered), lines[1:], strict=True))
    for kind in kinds:
        parts += [Text(), Text(kind, style="bold")]
        parts += [rows[profile.name] for profile in ordered if profile.known == kind]
    return Group(*parts, Text(), sentence(LEGEND))


def profile_view(profile: Profile) -> RenderableType:
    """Every constant of one profile, each with its source below it."""
    head = (profile.name, profile.device, profile.known)
    parts: list[RenderableType] = [Flow(head, style="bold")]
    for found in constants(profile):
        parts += [Text(), *_constant(found)]
    return Group(*parts)


def _columns(profiles: Sequence[Profile]) -> list[Column]:
    usual = [(p, p.usual_dtype) for p in profiles]
    return [
        Column("name", [p.name for p in profiles]),
        Column("device", [p.device for p in profiles]),
        Column("cc", ["{}.{}".format(*p.compute_capability) for p in profiles], right=True),
        Column("SMs", [str(p.sms) for p in profiles], right=True),
        Column("tflops", [f"{p.peak_for(d):,g}" for p, d in usual], right=True),
        Column("", [d for _, d in usual]),
        Column("GB/s", [f"{p.bandwidth_gbps:,g}" for p in profiles], right=True),
        Column("step", [str(p.align_for(d)) for p, d in usual], right=True),
    ]


def _constant(found: Constant) -> Iterator[RenderableType]:
    shown = [
        f"{name.removeprefix(found.what).lstrip('.')} {text}".strip()
        for name, value in found.values.items()
        for text in _texts(value)
    ]
    yield Flow([f"{found.what}  {shown[0]}", *shown[1:]], ", ")
    yield Flow([*found.source.split(" "), f"({found.evidence})"], " ", first=4)


def _texts(value: object) -> list[str]:
    """A value as text; one for each tile."""
    if isinstance(value, Measurement):
        us = "" if value.us is None else f" {value.us:g} us"
        return [f"tier {value.tier} {value.kernel}{us}"]
    if isinstance(value, Tile):
        return [f"{value.m} x {value.n} ({value.share:g})"]
    if isinstance(value, tuple) and isinstance(value[0], Tile):
        return [text for tile in value for text in _texts(tile)]
    if isinstance(value, tuple):
        return [".".join(map(str, value))]
    return [f"{value:g}" if isinstance(value, float) else str(value)]
