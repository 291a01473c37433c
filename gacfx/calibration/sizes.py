"""Sizes of a model that decide what its compression costs: read from a graph, without weights."""

from collections.abc import Container
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import GraphModule, Node

from gacfx.calibration.layered import Layered
from gacfx.core.sites import AttentionSite, Layout
from gacfx.errors import UnsupportedModel
from gacfx.graph.notes import matmuls, sites, target_nodes, target_sites


@dataclass(frozen=True, slots=True)
class Weight:
    """A targeted weight."""

    rows: int
    columns: int
    fed: int
    """Which tensor of its layer it is fed, counted from 0, the input of the layer; weights that are
    fed the same one share the moment of their inputs."""
    both_sides: bool = False
    """The moment of the long side is gathered too."""

    @property
    def short(self) -> int:
        return min(self.rows, self.columns)

    @property
    def long(self) -> int:
        return max(self.rows, self.columns)

    @property
    def wide(self) -> bool:
        """More outputs than inputs, so the short side is the input."""
        return self.rows > self.columns

    @property
    def params(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """A decoder layer."""

    weights: tuple[Weight, ...]
    params: int
    """Norms and what else is not targeted included."""
    attention: int
    """Widths of queries and of values, of all heads: a pair of tokens takes twice as many FLOPs."""

    @property
    def targeted(self) -> int:
        """Parameters of its targeted weights."""
        return sum(weight.params for weight in self.weights)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A causal language model."""

    layers: tuple[LayerSizes, ...]
    width: int
    vocabulary: int
    """Rows of the logits."""
    outside: int
    """Parameters outside the layers: embedding, head and norm; one that is tied counts once."""
    itemsize: int
    """Bytes of a number of the model."""

    @property
    def params(self) -> int:
        return self.outside + sum(layer.params for layer in self.layers)

    @property
    def targeted(self) -> int:
        """Parameters of all targeted weights."""
        return sum(layer.targeted for layer in self.layers)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All targeted weights."""
        return tuple(weight for layer in self.layers for weight in layer.weights)

    def deeper(self, layers: int) -> "Sizes":
        """The same with so many layers like the last one."""
        return replace(self, layers=(self.layers[-1],) * layers)


def sizes_of(model: nn.Module, gm: GraphModule, both_sides: Container[str] = ()) -> Sizes:
    """Sizes of a model, which may be on the meta device.

    Args:
        model: a Hugging Face causal language model.
        gm: its graph, with targets.
        both_sides: modules with second moments of both sides.

    Raises:
        UnsupportedModel: it is no list of decoder layers, or a target is outside of them.
    """
    layered, parameter = Layered(model), next(model.parameters())
    count = len(layered.layers)
    weights: list[list[Weight]] = [[] for _ in range(count)]
    fed: list[list[Node]] = [[] for _ in range(count)]
    nodes = target_nodes(gm)
    for name, site in target_sites(gm).items():
        if (at := layered.layer_of(site.name)) is None:
            raise UnsupportedModel(f"{site.name}: is outside the layers {layered.prefix}*")
        given = next(each for each in nodes[name][0].all_input_nodes if each.op != "get_attr")
        if given not in fed[at]:
            fed[at].append(given)
        both, number = site.name in both_sides, fed[at].index(given)
        weights[at].append(Weight(site.n.times, site.k.times, number, both))
    attention = [0] * count
    for _, seen in sites(gm):
        if isinstance(seen, AttentionSite) and (at := layered.layer_of(seen.name)) is not None:
            attention[at] += seen.heads_q * (seen.d_qk + seen.d_v)
    params = [sum(p.numel() for p in layer.parameters()) for layer in layered.layers]
    heads = [
        (site.n.times, site.k.times)
        for _, site in matmuls(gm)
        if site.layout in (Layout.LINEAR, Layout.CONV1D) and layered.layer_of(site.name) is None
    ]
    vocabulary, width = max(heads)
    layers = zip(map(tuple, weights), params, attention, strict=True)
    return Sizes(
        layers=tuple(LayerSizes(*each) for each in layers),
        width=width,
        vocabulary=vocabulary,
        outside=sum(p.numel() for p in model.parameters()) - sum(params),
        itemsize=parameter.itemsize,
    )
