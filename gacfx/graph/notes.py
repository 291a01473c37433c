"""Notes: all that gacfx knows about a graph, and the only door to ``node.meta["custom"]["gacfx"]``.

What is known of one node is a :class:`Note`, stored as plain JSON under ``meta["custom"]``, because
only that key survives re-export, saving and loading. A note carries a stamp of the node that it was
made for (operator, shapes, weights); a stamp that no longer fits makes the note stale, and a stale
note reads as empty. What is known of the whole module is its :class:`State`.

Facts ("sites are annotated") are never stored: :func:`facts` derives them from notes and state.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule, Node

from gacfx.core.dims import Dims
from gacfx.core.offered import Offered
from gacfx.core.plan import Plan
from gacfx.core.sites import (
    AttentionCall,
    AttentionSite,
    CopySite,
    Extent,
    Layout,
    MatmulSite,
    Site,
)
from gacfx.core.stored_as import StoredAs
from gacfx.core.structures import Structure
from gacfx.core.tiers import TierPrediction
from gacfx.graph import ops

if TYPE_CHECKING:
    from gacfx.core.curves import Curve
    from gacfx.core.shared_curves import SharedCurve
    from gacfx.core.structure_curves import StructureCurve

KEY = "gacfx"
CUSTOM = "custom"
"""The key of ``node.meta`` that survives re-export; other programs keep things there too."""


class Fact(StrEnum):
    """Something that holds for the whole graph once a pass has given it."""

    SITES = "sites"
    TARGETS = "targets"
    DIMS = "dims"
    TIERS = "tiers"
    LATENCY = "latency"
    CURVES = "curves"
    CANDIDATES = "candidates"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pass left a site alone."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """All that gacfx knows about one node. Frozen: replaced, never edited."""

    site: Site | None = None
    eager: AttentionCall | None = None
    """How eager mode makes this attention call, recorded at capture."""
    read_by: str | None = None
    """Class whose code reads the weight of this linear without calling it, found at capture."""
    targeted: bool | None = None
    """The weight of this site may be compressed; None before targets were selected."""
    tier: TierPrediction | None = None
    latency_us: float | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass
class State(Offered):
    """What is known of a whole module; lives in ``gm.meta["gacfx"]``."""

    dims: Dims | None = None
    structures: tuple[Structure, ...] | None = None
    """Which weights lose channels or heads together; found with the dims."""
    whole: dict[str, str] = field(default_factory=dict)
    """Structure -> why the module's own code needs all of it, where the module was asked."""
    heads: dict[str, int] = field(default_factory=dict)
    """Module -> key-value heads that its outputs are, where targets are keys and values alone."""
    curves: "dict[str, Curve] | None" = None
    structure_curves: "tuple[StructureCurve, ...]" = ()
    """Of coupled structures, under the value model of the curves."""
    shared_curves: "tuple[SharedCurve, ...]" = ()
    """Of weights that may share a basis, under the value model of the curves."""
    unshared: dict[str, str] = field(default_factory=dict)
    """Module -> why it keeps a basis of its own, where its type shares them."""
    joints: dict[str, Any] | None = None
    """Structure or group that may share a basis -> :class:`gacfx.allocation.joint.Joint`, what its
    candidates are worth; None where there is neither."""
    plan: Plan | None = None
    stored_as: StoredAs | None = None
    """How the checkpoint of a skeleton has its weights, where another program quantized them."""
    log: list[str] = field(default_factory=list)
    """The passes that ran, as pipeline text, with what they reported."""


def state(gm: GraphModule) -> State:
    """The module's state, made empty at first use."""
    found = gm.meta.setdefault(KEY, State())
    assert isinstance(found, State)
    return found


def _stamp(node: Node) -> dict[str, Any]:
    around = [*node.all_input_nodes, node]
    shapes = [ops.shape(n) for n in around]
    return {
        "op": str(node.target),
        "shapes": [list(s) if s is not None else None for s in shapes],
        "dtypes": [ops.dtype_name(n) for n in around],
        "weights": [ops.weight_name(n) or "" for n in node.all_input_nodes],
    }


def note(node: Node) -> Note:
    """The node's note; an empty one when there is none or it is stale."""
    raw = _fresh(node)
    return Note() if raw is None else _read(raw)


def _fresh(node: Node) -> dict[str, Any] | None:
    """The note as it is stored; None when there is none or it is stale."""
    raw = node.meta.get("custom", {}).get(KEY)
    fits = isinstance(raw, dict) and raw.get("stamp") == _stamp(node)
    return raw if fits else None


def annotate(node: Node, **changes: Any) -> Note:
    """Replace fields of the node's note and return the new one."""
    new = replace(note(node), **changes)
    raw = {k: v for k, v in _plain(new).items() if v not in (None, [], ())}
    custom = dict(node.meta.get("custom", {}))
    custom[KEY] = {"stamp": _stamp(node), **raw}
    node.meta["custom"] = custom
    return new


def inherit_custom(new: Node, old: Node) -> None:
    """Give ``new`` what other programs keep under ``meta["custom"]`` of ``old``; not our note."""
    others = {k: v for k, v in old.meta.get("custom", {}).items() if k != KEY}
    if others:
        new.meta["custom"] = others


def erase(node: Node, *names: str) -> None:
    """Forget some fields of the node's note, if it has one."""
    if KEY not in node.meta.get("custom", {}):
        return
    raw = _fresh(node)
    if raw is None or not raw.keys().isdisjoint(names):
        blank = Note()
        annotate(node, **{name: getattr(blank, name) for name in names})


def refuse(node: Node, *, by: str, reason: str) -> None:
    """Record why a pass leaves this site alone; a reason is recorded once."""
    known = note(node).refusals
    new = Refusal(by, reason)
    if new not in known:
        annotate(node, refusals=(*known, new))


def forgive(node: Node, *, by: str) -> None:
    """Forget what one pass refused at this node, before it looks again."""
    known = note(node).refusals
    if any(r.by == by for r in known):
        annotate(node, refusals=tuple(r for r in known if r.by != by))


def sites(gm: GraphModule) -> Iterator[tuple[Node, Site]]:
    """Every node that has a fresh site, in graph order."""
    for node in gm.graph.nodes:
        if (site := note(node).site) is not None:
            yield node, site


def matmuls(gm: GraphModule) -> Iterator[tuple[Node, MatmulSite]]:
    """Every annotated matmul node, in graph order."""
    for node, site in sites(gm):
        if isinstance(site, MatmulSite):
            yield node, site


def targets(gm: GraphModule) -> Iterator[tuple[Node, MatmulSite]]:
    """Every matmul whose weight may be compressed, in graph order."""
    for node, site in matmuls(gm):
        if note(node).targeted:
            yield node, site


def target_nodes(gm: GraphModule) -> dict[str, tuple[Node, ...]]:
    """Module -> its products with the weight that may be compressed, in graph order; several where
    the model runs a layer more than once."""
    found: dict[str, tuple[Node, ...]] = {}
    for node, site in targets(gm):
        found[site.name] = (*found.get(site.name, ()), node)
    return found


def target_sites(gm: GraphModule) -> dict[str, MatmulSite]:
    """Module -> the product with its weight, and how often it runs."""
    found: dict[str, MatmulSite] = {}
    for _, site in targets(gm):
        before = found.get(site.name)
        found[site.name] = replace(before, runs=before.runs + site.runs) if before else site
    return found


def facts(gm: GraphModule) -> frozenset[Fact]:
    """What holds for ``gm`` right now, read from its notes and its state.

    One matmul without a fresh note, such as another program's pass leaves behind, and the sites are
    not known any more. What is stored of a note has the fields that are not empty, so that none has
    to be read: facts are asked for before and after every pass.
    """
    raw = [(node, _fresh(node)) for node in gm.graph.nodes]
    seen = all(found is not None for node, found in raw if ops.op_of(node) is not None)
    known = [found for _, found in raw if found is not None and "site" in found] if seen else []
    held: set[Fact] = set()
    if known:
        held.add(Fact.SITES)
        if all("targeted" in found for found in known if found["kind"] == _KINDS[MatmulSite]):
            held.add(Fact.TARGETS)
        if all("tier" in found for found in known):
            held.add(Fact.TIERS)
        if all("latency_us" in found for found in known):
            held.add(Fact.LATENCY)
    about = state(gm)
    in_state = {
        Fact.DIMS: about.dims,
        Fact.CURVES: about.curves,
        Fact.CANDIDATES: about.candidates,
        Fact.PLAN: about.plan,
    }
    return frozenset(held | {fact for fact, found in in_state.items() if found is not None})


_NOTE_FIELDS = {
    Fact.SITES: ("site", "targeted", "tier", "latency_us"),
    Fact.TARGETS: ("targeted",),
    Fact.TIERS: ("tier",),
    Fact.LATENCY: ("latency_us",),
}


def drop(gm: GraphModule, facts_to_drop: frozenset[Fact]) -> None:
    """Forget facts: clear the fields of the notes, or of the state, that they are read from."""
    about = state(gm)
    for fact in sorted(facts_to_drop):
        if fact in _NOTE_FIELDS:
            for node in gm.graph.nodes:
                erase(node, *_NOTE_FIELDS[fact])
        else:
            setattr(about, fact.value, None)
    if Fact.DIMS in facts_to_drop:
        about.structures = None


_KINDS: dict[type[Site], str] = {
    MatmulSite: "matmul",
    AttentionSite: "attention",
    CopySite: "copy",
}


def _plain(value: Note) -> dict[str, Any]:
    raw, site = asdict(value), value.site
    if site is not None:
        raw["kind"] = _KINDS[type(site)]
    if isinstance(site, MatmulSite):
        raw["site"]["layout"] = site.layout.value  # plain text, no class of ours
    if isinstance(site, CopySite):
        raw["site"] |= {"elements": list(site.elements), "what": list(site.what)}
    raw["refusals"] = [asdict(r) for r in value.refusals]
    return raw


def _read(raw: dict[str, Any]) -> Note:
    tier, eager = raw.get("tier"), raw.get("eager")
    return Note(
        site=_read_site(raw),
        eager=AttentionCall(**eager) if eager else None,
        read_by=raw.get("read_by"),
        targeted=raw.get("targeted"),
        tier=TierPrediction(**tier) if tier else None,
        latency_us=raw.get("latency_us"),
        refusals=tuple(Refusal(**r) for r in raw.get("refusals", [])),
    )


def _read_site(raw: dict[str, Any]) -> Site | None:
    data = raw.get("site")
    if data is None:
        return None
    if raw.get("kind") == "copy":
        lists = {key: tuple(data[key]) for key in ("elements", "what")}
        return CopySite(**{**data, **lists, "m": Extent(**data["m"])})
    if raw.get("kind") == "matmul":
        extents = {key: Extent(**data[key]) for key in ("m", "k", "n", "count")}
        return MatmulSite(**{**data, **extents, "layout": Layout(data["layout"])})
    calls = {key: AttentionCall(**data[key]) for key in ("compiled", "eager")}
    return AttentionSite(**{**data, **calls})
