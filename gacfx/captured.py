"""A model as a graph with its targets, and what of it calibration has to measure."""

import warnings
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.compressors.protocol import Compressor
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.errors import UnsupportedModel
from gacfx.graph import edit
from gacfx.graph.notes import KEY, state
from gacfx.graph.pipeline import Pipeline
from gacfx.modules.blocks import heads_problem
from gacfx.passes.planning.measure_structures import untreated
from gacfx.passes.planning.read_graph import target_names
from gacfx.tracing.export import export_model


@dataclass(frozen=True, eq=False)
class Captured:
    """What is measured of a model."""

    graph: GraphModule
    """With its targets."""
    structures: tuple[Structure, ...]
    """Coupled structures; empty where none was asked for."""

    @property
    def names(self) -> list[str]:
        """Modules of the targeted weights, in the order of the graph."""
        return target_names(self.graph)

    @property
    def both_sides(self) -> frozenset[str]:
        """Modules whose moments are wanted on both sides: those of structures that may go."""
        pruned = [each for each in self.structures if not untreated(self.graph, each)]
        return frozenset(module for each in pruned for module in each.modules)

    def check_prunes(self, method: str) -> None:
        """Nothing when some structure may go.

        Args:
            method: that makes nothing but sizes of structures, for the message.

        Raises:
            UnsupportedModel: none may; lists the reasons.
        """
        if not self.both_sides:
            reasons = sorted({untreated(self.graph, each) for each in self.structures})
            raise UnsupportedModel(
                f"method {method!r} prunes MLPs and attentions, and none of this model can be: "
                f"{'; '.join(reasons) or 'none was found'}"
            )


def captured(
    model: nn.Module, *, skip: tuple[str, ...] = (), seq: int = 1024, structures: bool = False
) -> Captured:
    """The graph of a model, with targets chosen.

    Args:
        model: dense, in evaluation mode.
        skip: patterns of module names to leave dense.
        seq: tokens of a sequence for which attention calls are recorded.
        structures: find coupled structures too.

    Raises:
        UnsupportedModel: no weight of the model can be compressed; lists the reasons.
        CaptureError: it cannot be made a graph.
    """
    graph = export_model(model, attention_seq=seq)
    Pipeline.parse(pipelines.SELECT).bind(skip=skip).run(graph)
    target_names(graph)  # refuses a model without any
    if not structures:
        return Captured(graph, ())
    heads = [each for each in coupled_structures(graph) if each.kind == "heads"]
    able = (each for each in heads if not each.refused)
    problems = {each.name: heads_problem(model, each) for each in able}
    state(graph).whole = {name: why for name, why in problems.items() if why}
    return Captured(graph, coupled_structures(graph))


class OtherSettings(UserWarning):
    """A method cannot do with a model what its settings ask for, and does something near to it."""


def treated(graph: GraphModule, method: Compressor) -> GraphModule:
    """A graph with the targets of a method: itself, or a copy over the same parameters of whose
    targets keys and values are left.

    Args:
        graph: with its targets; left as it is.
        method: whose settings are held against the heads of the model.

    Raises:
        UnsupportedModel: no weight makes keys or values alone; lists the reasons.
    """
    if method.keys_and_values_only and not state(graph).heads:
        graph = _keys_and_values(graph)
    remarks = {method.for_heads(heads).remark for heads in state(graph).heads.values()}
    for remark in sorted(remarks - {""}):
        warnings.warn(remark, OtherSettings, stacklevel=3)
    return graph


def _keys_and_values(graph: GraphModule) -> GraphModule:
    narrow, known = edit.fork(graph), state(graph)
    narrow.meta[KEY] = replace(known, curves=None, structure_curves=(), log=list(known.log))
    Pipeline.parse(pipelines.KEYS_AND_VALUES).run(narrow)
    target_names(narrow)  # refuses a model without any
    return narrow
