"""Parts of a model that share a size, and the same parts with a larger one, in place.

A part is all MLPs of one width, or all attentions with heads of one length.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.fx import GraphModule

from gacfx.checkpoint.layers import WIDTHS, width_name
from gacfx.checkpoint.rehearsal import shapes
from gacfx.core.model_class import text_config
from gacfx.core.padding import ZERO, Padded, PaddedHeads
from gacfx.core.sites import AttentionSite, MatmulSite
from gacfx.core.structures import Member, Positions, Structure
from gacfx.errors import UnsupportedModel
from gacfx.graph.notes import sites
from gacfx.hardware.padding import Sized
from gacfx.modules.attention_sizes import numbers_of
from gacfx.modules.blocks import check_blocks
from gacfx.modules.dense import features
from gacfx.modules.install import replaceable
from gacfx.modules.padded import enlarged, padded
from gacfx.modules.ties import tied_modules
from gacfx.tracing.skeleton import skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

What = Literal["MLP width", "head dim"]
Undo = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Part:
    """Blocks of one kind with one size."""

    what: What
    size: int
    structures: tuple[Structure, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(each.name for each in self.structures)

    def modules(self, model: nn.Module) -> tuple[str, ...]:
        """The smallest modules that hold them; a structure may be two layers of a larger one."""
        known = {name for name, _ in model.named_modules()}
        return tuple(n if n in known else n.rpartition(".")[0] for n in self.blocks)

    def sites(self, gm: GraphModule) -> tuple[Sized, ...]:
        """Products and attentions that have the size, of an annotated graph."""
        members = {f"{m.module}.weight": m for each in self.structures for m in each.members}
        found = list[Sized]()
        for _, site in sites(gm):
            if isinstance(site, AttentionSite):
                if self.what == "head dim" and site.d_qk == self.size:
                    found.append(Sized(site))
            elif isinstance(site, MatmulSite) and site.weight in members:
                member = members[site.weight]
                found.append(Sized(site, member.outputs is not None, member.closes))
        return tuple(found)


def parts_of(
    model: nn.Module, structures: Iterable[Structure]
) -> tuple[tuple[Part, ...], dict[str, str]]:
    """(parts that can be padded, widths first; name of each other block -> why it cannot)."""
    found: dict[tuple[What, int], list[Structure]] = {}
    left: dict[str, str] = {}
    for structure in structures:
        try:
            key = _size(model, structure)
        except UnsupportedModel as error:
            left[structure.name] = str(error).removeprefix(f"{structure.name}: ")
            continue
        found.setdefault(key, []).append(structure)
    ordered = sorted(found, key=lambda key: (key[0] != "MLP width", key[1]))
    return tuple(Part(*key, tuple(found[key])) for key in ordered), left


def _size(model: nn.Module, structure: Structure) -> tuple[What, int]:
    """What a structure has, and how large it is.

    Raises:
        UnsupportedModel: it cannot be padded.
    """
    if structure.refused:
        raise UnsupportedModel(structure.refused)
    if not replaceable(model, structure.modules):
        raise UnsupportedModel("a layer of it is shared, hooked, or of a class of its own")
    if structure.kind == "width":
        return "MLP width", structure.units
    attention = numbers_of(structure.name, model.get_submodule(structure.name))
    if attention.latent or attention.key_dim != attention.value_dim:
        raise UnsupportedModel(
            f"its keys have {attention.key_dim} numbers and its values {attention.value_dim}"
        )
    return "head dim", attention.key_dim


def widen_(model: "PreTrainedModel", part: Part, width: int) -> Undo:
    """MLPs of another width, in place, and a configuration that says so.

    Raises:
        UnsupportedModel: the configuration cannot say it. Nothing was changed.
    """
    config: Any = text_config(model.config)
    name = width_name(config)
    layers: dict[str, nn.Module] = {}
    for structure in part.structures:
        for member in structure.members:
            outputs, inputs = (
                _widened(each, part.size, width) for each in (member.outputs, member.inputs)
            )
            layers[member.module] = enlarged(model.get_submodule(member.module), outputs, inputs)
    put = [_put_(model, layers), _numbers_(model, part, width)]
    before = getattr(config, name)
    setattr(config, name, width)

    def undo() -> None:
        setattr(config, name, before)
        for each in put:
            each()

    expected = shapes(skeleton(model.config, model.dtype))
    if odd := sorted(n for n, shape in shapes(model).items() if expected.get(n) != shape):
        undo()
        raise UnsupportedModel(
            f"{type(config).__name__}.{name} = {width} makes another {odd[0]}, so no plain "
            "configuration can say these widths"
        )
    return undo


def _widened(positions: Positions | None, old: int, new: int) -> list[int] | None:
    """Old position of each new one: after each last channel come the added ones."""
    if positions is None:
        return None
    found = list[int]()
    for at, unit in enumerate(positions.units.tolist()):
        found.append(at)
        if unit == old - 1:
            found.extend([ZERO] * (new - old))
    return found


def lengthen_(model: nn.Module, part: Part, state: PaddedHeads) -> Undo:
    """Attentions with longer heads, in place.

    Raises:
        UnsupportedModel: an attention is not understood. Nothing was changed.
    """
    if problem := state.misfit(part.size):
        raise UnsupportedModel(problem)
    inside = state.positions(part.size)
    layers: dict[str, nn.Module] = {}
    for structure in part.structures:
        for member in structure.members:
            outputs, inputs = _lengthened(structure, member, inside, part.size)
            layers[member.module] = padded(model.get_submodule(member.module), outputs, inputs)
    decisions = {name: Padded(*features(layer)) for name, layer in layers.items()}
    blocks = dict.fromkeys(part.blocks, state)
    checked = check_blocks(model, blocks, decisions, tied_modules(model))
    put = [_put_(model, layers), checked.put_(model)]

    def undo() -> None:
        for each in reversed(put):
            each()

    return undo


def _lengthened(
    structure: Structure, member: Member, inside: tuple[int, ...], old: int
) -> tuple[list[int] | None, list[int] | None]:
    """(old outputs, old inputs) of the new ones of a weight.

    Raises:
        UnsupportedModel: an axis is no row of heads.
    """

    def along(positions: Positions | None, size: int) -> list[int] | None:
        if positions is None:
            return None
        owner = positions.units * (structure.heads + 1) + positions.heads
        whole = size % old == 0 and (owner.reshape(-1, old) == owner[::old, None]).all()
        if not whole:
            raise UnsupportedModel(f"{member.module}: its heads do not lie one after the other")
        return [at if at == ZERO else head + at for head in range(0, size, old) for at in inside]

    return along(member.outputs, member.rows), along(member.inputs, member.columns)


def _put_(model: nn.Module, layers: Mapping[str, nn.Module]) -> Undo:
    dense = {name: model.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        model.set_submodule(name, layer)

    def undo() -> None:
        for name, layer in dense.items():
            model.set_submodule(name, layer)

    return undo


def _numbers_(model: nn.Module, part: Part, width: int) -> Undo:
    """The widths that MLPs keep as numbers of their own."""
    owners = {member.rpartition(".")[0] for each in part.structures for member in each.modules}
    found = [
        (module, name)
        for module in map(model.get_submodule, sorted(owners))
        for name in WIDTHS
        if vars(module).get(name) == part.size
    ]
    for module, name in found:
        setattr(module, name, width)

    def undo() -> None:
        for module, name in found:
            setattr(module, name, part.size)

    return undo
