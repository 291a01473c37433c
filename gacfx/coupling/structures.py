"""Coupled structures of a captured model: which weights lose channels or heads together.

    model.layers.0.mlp         352 channels   gate_proj, up_proj -> down_proj
    model.layers.0.self_attn   4 x 2 heads    q_proj, k_proj, v_proj -> o_proj

Every MLP and attention of the graph gets a structure. What may not be pruned says why in
``refused``: masking a unit must be the same as slicing it off. Sources: LLM-Pruner (arXiv
2305.11627), DepGraph (arXiv 2301.12900).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch.fx import GraphModule, Node

from gacfx.core.structures import Member, Positions, Structure
from gacfx.coupling.blocks import name_of, why_kept
from gacfx.coupling.candidates import Candidate, candidates, read_by
from gacfx.coupling.interpreter import Interpreter
from gacfx.coupling.positions import all_of_one, positions
from gacfx.coupling.terms import Term, atoms
from gacfx.coupling.weights import Weight, Weights
from gacfx.graph.notes import state


@dataclass(frozen=True, eq=False)
class Coupled:
    """A structure and the atoms that its units are in the terms of the graph."""

    structure: Structure
    unit: Term | None
    """Atom of the channels or key-value heads; None where all query heads share one."""
    head: Term | None
    """Atom of the query heads of each key-value head; None where there is one."""


@dataclass(frozen=True, eq=False)
class Coupling:
    """A graph that was interpreted, and its structures.

    ``interpreter.values[node]`` are the axes of a node, and ``terms.resized(axis, {unit: 3})`` is
    the size of one of them once three units are left.
    """

    interpreter: Interpreter
    coupled: tuple[Coupled, ...]
    """In graph order of the layers that close them."""

    @property
    def structures(self) -> tuple[Structure, ...]:
        """All structures, those that are refused as well."""
        return tuple(each.structure for each in self.coupled)


def coupled_structures(gm: GraphModule) -> tuple[Structure, ...]:
    """Every MLP and attention of ``gm``: what it is made of, and why it may not be pruned.

    Args:
        gm: as for :func:`~gacfx.coupling.analyse.couple`.

    Raises:
        CaptureError: the graph has no fake values.
    """
    return analyse(gm).structures


def analyse(gm: GraphModule) -> Coupling:
    """The structures of ``gm`` with the terms that they were found in.

    Raises:
        CaptureError: the graph has no fake values.
    """
    interpreter = Interpreter(gm)
    interpreter.run()
    weights = Weights(gm, interpreter)
    found: dict[str, Coupled] = {}
    nodes: dict[str, Node] = {}
    taken: dict[str, str] = {}
    for candidate in candidates(weights):
        if (structure := _structure(weights, candidate, found)) is not None:
            why = structure.refused or state(gm).whole.get(structure.name, "")
            structure = replace(structure, refused=why or _other_home(structure, taken))
            if not structure.refused:
                taken |= dict.fromkeys(structure.modules, structure.name)
            found[structure.name] = Coupled(structure, candidate.unit, candidate.head)
            nodes[structure.name] = candidate.node
    order = {node: at for at, node in enumerate(weights.nodes)}
    names = sorted(found, key=lambda name: order[nodes[name]])
    return Coupling(interpreter, tuple(found[name] for name in names))


def _structure(weights: Weights, candidate: Candidate, taken: Iterable[str]) -> Structure | None:
    """The structure of a candidate; None where no weight shows its units."""
    names = set(weights.showing(candidate.atoms))
    if candidate.kind == "heads" and candidate.unit is None:
        names |= {weight.name for weight in read_by(weights, candidate.node)}
    layer, by_name = candidate.layer, weights.by_name.items()
    own = [w for name, w in by_name if name in names and weights.layer_of(name) == layer]
    if not own:
        return None
    members = tuple(_member(candidate, weight) for weight in own)
    name = name_of(weights, candidate.kind, own, layer, taken)
    refused = next(_refusals(weights, candidate, own, members), "")
    closing = [weight for weight, member in zip(own, members, strict=True) if member.closes]
    unit, head = candidate.unit, candidate.head
    return Structure(
        name=name,
        kind=candidate.kind,
        units=unit.size if unit is not None else 1,
        heads=head.size if head is not None else 1,
        members=members,
        refused=refused,
        keeps_block=refused or why_kept(weights, name, own, closing[0]),
    )


def _member(candidate: Candidate, weight: Weight) -> Member:
    def along(*axes: Term) -> Positions | None:
        shows = any(atom in candidate.atoms for axis in axes for atom in atoms(axis))
        if not shows or len(axes) > 1:
            return None
        return positions(axes[0], candidate.unit, candidate.head)

    outputs, inputs = along(*weight.outputs), along(weight.inputs)
    if candidate.unit is None and outputs is None and inputs is None and not weight.experts:
        outputs = all_of_one(weight.rows)
    return Member(weight.module, weight.rows, weight.inputs.size, outputs, inputs)


def _refusals(
    weights: Weights, candidate: Candidate, own: list[Weight], members: tuple[Member, ...]
) -> Iterator[str]:
    """Why the units may not be pruned, most telling first."""
    what = "channels" if candidate.kind == "width" else "heads"
    names = {weight.name for weight in own}
    if any(weight.experts for weight in own):
        yield "experts in one tensor, planned one by one"
    if candidate.problem:
        yield candidate.problem
    for atom in candidate.atoms:
        if atom.frozen:
            yield f"the number of {what} is fixed: {atom.frozen}"
    for weight in own:
        if why := weights.unfit(weight):
            yield f"{_last(weight.module)}: {why}"
    for name in weights.showing(candidate.atoms):
        if name not in names and (why := _stranger(weights, name, names)):
            yield f"its {what} are also those of {why}"
    for atom in candidate.atoms:
        if atom.mixed:
            yield f"its {what} are {atom.mixed}"
    yield from _form(what, members)


def _stranger(weights: Weights, name: str, own: set[str]) -> str:
    """A parameter that has the units and is neither a member nor the bias of one."""
    module, _, leaf = name.rpartition(".")
    if leaf == "bias" and f"{module}.weight" in own:
        return ""
    return module if name in weights.by_name else f"{_last(module)}.{leaf}, which is no Linear"


def _other_home(structure: Structure, taken: Mapping[str, str]) -> str:
    """Why a structure stays whole whose weight another one cuts along its other axis."""
    shared = [module for module in structure.modules if module in taken]
    return f"its {_last(shared[0])} is cut with {taken[shared[0]]}" if shared else ""


def _form(what: str, members: tuple[Member, ...]) -> Iterator[str]:
    closing = [_last(member.module) for member in members if member.closes]
    for member in members:
        if (member.outputs is None) == (member.inputs is None):
            yield f"{_last(member.module)} has its {what} in an irregular order"
    if not closing:
        yield f"no layer reads its {what}"
    if len(closing) > 1:
        yield f"several layers read its {what}: {', '.join(closing)}"


def _last(module: str) -> str:
    return module.rpartition(".")[2]
