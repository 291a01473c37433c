"""The layers of a pruned model, as a configuration speaks of them: width and heads of each."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from gacfx.core.blocks import BlockState, HeadCounts
from gacfx.core.decision import Decision
from gacfx.core.model_class import text_config
from gacfx.core.pruning import Skip, Sliced
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.modules.attention_sizes import numbers_of
from gacfx.modules.blocks import blocks_in
from gacfx.modules.dense import features, is_conv1d
from gacfx.modules.install import decisions_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "d_ff")
"""Names under which configurations have the width of an MLP."""
_ATTENTIONS = ("self_attn", "attn", "attention")
_CLOSING = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "wo")
"""Names of the layer that closes an MLP."""


@dataclass(frozen=True)
class Layer:
    """What one layer has."""

    name: str
    prefix: str
    """Name of the list that it is in."""
    index: int
    width: int | None
    """Channels of its MLP; None where it is skipped."""
    counts: HeadCounts | None
    """Heads of its attention; None where it is skipped."""
    head_dim: int | None
    factored: dict[str, Decision] = field(default_factory=dict)
    """Modules with another decision than a slice that stays dense."""

    @property
    def attention(self) -> str:
        """``heads 6/2``, or ``skip``."""
        return str(self.counts or Skip())

    @property
    def mlp(self) -> str:
        """``width 88``, or ``skip``."""
        return str(Skip()) if self.width is None else f"width {self.width}"


def width_name(config: object) -> str:
    """Where a configuration has the width of its MLPs.

    Raises:
        CheckpointError: it is not known.
    """
    found = [name for name in WIDTHS if hasattr(config, name)]
    if not found:
        raise CheckpointError(
            f"{type(config).__name__}: has the width of its MLPs under no known name"
        )
    return found[0]


def layers_of(model: "PreTrainedModel") -> list[Layer]:
    """The layers of a model in order.

    Raises:
        CheckpointError: it is no decoder of layers with one attention and one MLP each.
    """
    count = getattr(text_config(model.config), "num_hidden_layers", None)
    text = set(model.get_decoder().modules())  # and not those of images
    lists = [
        (name, each)
        for name, each in model.named_modules()
        if isinstance(each, nn.ModuleList) and len(each) == count and _has_attention(each[0])
        if each in text
    ]
    if len(lists) != 1:
        raise CheckpointError(
            f"{type(model).__name__}: has {len(lists)} lists of {count} layers with an attention "
            "each; only models with one such list can be exported"
        )
    prefix, found = lists[0]
    decisions, states = decisions_in(model), blocks_in(model)
    return [_layer(prefix, at, each, decisions, states) for at, each in enumerate(found)]


def _has_attention(layer: nn.Module) -> bool:
    return any(name in dict(layer.named_children()) for name in _ATTENTIONS)


def _layer(
    prefix: str,
    index: int,
    layer: nn.Module,
    decisions: dict[str, Decision],
    states: dict[str, BlockState],
) -> Layer:
    """What a layer has."""
    name = f"{prefix}.{index}"
    inner = next(each for each in _ATTENTIONS if each in dict(layer.named_children()))
    state = states.get(f"{name}.{inner}")
    counts, head_dim = None, None
    if not isinstance(state, Skip):
        try:
            attention = numbers_of(f"{name}.{inner}", layer.get_submodule(inner))
        except UnsupportedModel as error:
            raise CheckpointError(str(error)) from error
        counts, head_dim = attention.counts, attention.value_dim
    factored = {
        module: one
        for module, one in decisions.items()
        if module.startswith(f"{name}.")
        if not (isinstance(one, Sliced) and one.rest.is_dense)
    }
    width = _width(name, layer, states, inner)
    return Layer(name, prefix, index, width, counts, head_dim, factored)


def _width(
    name: str, layer: nn.Module, states: dict[str, BlockState], attention: str
) -> int | None:
    """Inputs of the layer that closes the MLP; None where the MLP is skipped."""
    for block, state in states.items():
        own = block.startswith(f"{name}.") and block != f"{name}.{attention}"
        if own and isinstance(state, Skip):
            return None
    for path, module in layer.named_modules():
        if path.startswith(f"{attention}.") or path.rpartition(".")[2] not in _CLOSING:
            continue
        inputs = getattr(module, "in_features", None)
        if is_conv1d(module):
            inputs = features(module)[1]
        if isinstance(inputs, int):
            return inputs
    raise CheckpointError(f"{name}: has no MLP that is known, so its width cannot be said")
