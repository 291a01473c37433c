"""A basis put into the weights: a model and a basis -> a plain model of a smaller hidden size.

    reader   W <- W diag(gain) R        and, of a shift b, plus W b 1^T / D
    writer   W <- write W, bias likewise
    table    E <- E write^T
    norm     gain 1, shift 1

where R is ``read`` or a regression of it, one for each norm. Everything else stays as it is.
Weights are multiplied in float64 and stored in their own dtype. A head that was the embedding
becomes a matrix of its own, since it reads what the embedding writes.
"""

# H hidden size, D that of the small model, M outputs, N inputs, V vocabulary

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gacfx.checkpoint.plain_folder import skeleton_of
from gacfx.checkpoint.pretrained import plain_config
from gacfx.core.model_class import text_config
from gacfx.core.names import one_line
from gacfx.coupling.residual import Residual
from gacfx.errors import UnsupportedModel
from gacfx.graph.compat import without_weight_init
from gacfx.modules.dense import is_conv1d
from gacfx.slicing.basis import Basis
from gacfx.slicing.norms import NormForm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Roles = dict[str, tuple[int, ...]]
"""Parameter -> the axes that are the hidden size."""


def check_layers(model: nn.Module, residual: Residual) -> None:
    """Nothing when every part that knows the stream is of a kind that can be folded.

    Raises:
        UnsupportedModel: names the part that is not, or that shares its weight.
    """
    for name in {*residual.writers, *residual.readers}:
        layer = model.get_submodule(name)
        if not (isinstance(layer, nn.Linear) or is_conv1d(layer)):
            raise UnsupportedModel(
                f"{name}: is a {type(layer).__name__}; a Linear or Conv1D can be folded"
            )
    for name in residual.embeddings:
        if not isinstance(model.get_submodule(name), nn.Embedding):
            kind = type(model.get_submodule(name)).__name__
            raise UnsupportedModel(f"{name}: is a {kind}; an Embedding can be folded")
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in roles_of(model, residual):
            names.setdefault(id(parameter), []).append(name)
    first, last = _ends(model)
    for shared in names.values():
        if len(shared) > 1 and set(shared) != {first, last}:
            raise UnsupportedModel(
                f"{shared[0]}: its weight is also {shared[1]}, and the two would come apart"
            )


def roles_of(model: nn.Module, residual: Residual) -> Roles:
    """Which axes of which parameters are the hidden size, by every name that a parameter has."""
    found: dict[str, set[int]] = {}

    def add(name: str, axis: int) -> None:
        found.setdefault(name, set()).add(axis)

    for name in residual.readers:
        add(f"{name}.weight", 0 if is_conv1d(model.get_submodule(name)) else 1)
    for name in residual.writers:
        layer = model.get_submodule(name)
        add(f"{name}.weight", 1 if is_conv1d(layer) else 0)
        if layer.bias is not None:
            add(f"{name}.bias", 0)
    for name in residual.embeddings:
        add(f"{name}.weight", 1)
    for name in residual.norms:
        for leaf, _ in model.get_submodule(name).named_parameters():
            add(f"{name}.{leaf}", 0)
    return {name: tuple(sorted(axes)) for name, axes in found.items()}


def small_config(model: "PreTrainedModel", size: int) -> Any:
    """The configuration with another hidden size, and a head of its own.

    The length of a head no longer follows from the hidden size, so it is said.
    """
    whole = plain_config(model)
    config = text_config(whole)
    heads = getattr(config, "num_attention_heads", None)
    if getattr(config, "head_dim", None) is None and isinstance(heads, int) and heads > 0:
        config.head_dim = config.hidden_size // heads
    config.hidden_size = size
    if is_tied(model):
        for each in (whole, config):
            each.tie_word_embeddings = False
    return whole


def refuses_size(model: "PreTrainedModel", size: int) -> str:
    """What the configuration has against a hidden size; empty where it takes it."""
    whole = small_config(model, size)
    for config in (whole, text_config(whole)):
        try:
            getattr(config, "validate", lambda: None)()
        except Exception as error:  # whatever a configuration raises
            return one_line(error.__cause__ or error)
    return ""


def is_tied(model: nn.Module) -> bool:
    """The head is the embedding."""
    first, last = _ends(model)
    held = dict(model.named_parameters(remove_duplicate=False))
    return bool(last) and held.get(first) is held.get(last)


def _ends(model: nn.Module) -> tuple[str, str]:
    """Names of the weights of embedding and head; empty where there is none."""
    names = {id(module): name for name, module in model.named_modules()}

    def weight(getter: str) -> str:
        module = getattr(model, getter, lambda: None)()
        return f"{names[id(module)]}.weight" if id(module) in names else ""

    return weight("get_input_embeddings"), weight("get_output_embeddings")


def check_plain(model: "PreTrainedModel", residual: Residual, size: int) -> None:
    """Nothing when the architecture has a model of this hidden size with all else as it is.

    Raises:
        UnsupportedModel: names the tensor that would have another shape.
        CheckpointError: it cannot be built.
    """
    roles, made = roles_of(model, residual), skeleton_of(model, small_config(model, size))
    wanted = {
        name: tuple(
            size if axis in roles.get(name, ()) else length
            for axis, length in enumerate(each.shape)
        )
        for name, each in model.named_parameters(remove_duplicate=False)
    }
    found = {
        name: tuple(each.shape) for name, each in made.named_parameters(remove_duplicate=False)
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UnsupportedModel(
                f"{name}: would be {wanted.get(name)}, and a plain {type(model).__name__} with a "
                f"hidden size of {size} has {found.get(name)}: other sizes of this architecture "
                "follow from the hidden size, so no configuration says this model"
            )


def folded(
    model: "PreTrainedModel",
    residual: Residual,
    forms: Mapping[str, NormForm],
    basis: Basis,
    reads: Mapping[str, Tensor] | None = None,
) -> "PreTrainedModel":
    """The plain model of a smaller hidden size, in the dtype and mode of the other one.

    Weights that know nothing of the stream are shared with ``model``, which stays as it is.

    Args:
        model: that passed :func:`check_layers` and :func:`check_plain`.
        residual: its stream.
        forms: of every norm.
        basis: what is kept.
        reads: for each norm [H, D] in the place of ``basis.read_HD``.

    Raises:
        UnsupportedModel: it cannot be built.
    """
    made = _built(model, small_config(model, basis.size))
    scale = _scale(model) / _scale(made)
    state = dict(made.named_parameters()) | dict(made.named_buffers())
    kept = set(model.state_dict()) - roles_of(model, residual).keys()
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        if name in kept and name in state:
            _put(made, name, tensor.detach())
    with torch.no_grad():
        for name in residual.embeddings:
            own = scale if model.get_submodule(name) is model.get_input_embeddings() else 1.0
            table = _weight(model, name)
            _put(made, f"{name}.weight", (own * (table.double() @ basis.write_DH.T)).to(table))
        for name in dict.fromkeys((*residual.readers, *residual.writers)):
            _fold_layer(made, model, residual, forms, basis, reads or {}, name)
    for name in residual.norms:
        forms[name].neutral_(made.get_submodule(name), shift=1.0)
    made.generation_config = copy.deepcopy(model.generation_config)
    made.train(model.training)
    return made


def _fold_layer(
    made: nn.Module,
    model: nn.Module,
    residual: Residual,
    forms: Mapping[str, NormForm],
    basis: Basis,
    reads: Mapping[str, Tensor],
    name: str,
) -> None:
    """Weight and bias of one linear layer that reads or writes the stream, or does both."""
    layer, stored = model.get_submodule(name), _weight(model, name)
    weight_MN = (stored.T if is_conv1d(layer) else stored).double()
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    if name in residual.readers:
        norm = residual.readers[name]
        form, read_HD = forms[norm], reads.get(norm, basis.read_HD)
        read_MD = (weight_MN * form.gain_H) @ read_HD
        if form.shift_H is not None:
            read_MD += (weight_MN @ form.shift_H)[:, None] / basis.size
        weight_MN = read_MD
    if name in residual.writers:
        weight_MN = basis.write_DH @ weight_MN
        if bias is not None:
            bias = (basis.write_DH @ bias.double()).to(stored)
    _put(made, f"{name}.weight", (weight_MN.T if is_conv1d(layer) else weight_MN).to(stored))
    if bias is not None:
        _put(made, f"{name}.bias", bias.detach())


def _built(model: "PreTrainedModel", config: Any) -> "PreTrainedModel":
    """A model of the class with memory for its weights and buffers that are right."""
    cls: Any = type(model)
    try:
        with torch.random.fork_rng(devices=[]), without_weight_init():
            made: PreTrainedModel = cls._from_config(config, dtype=model.dtype)
    except Exception as error:  # models raise nearly everything
        raise UnsupportedModel(
            f"{cls.__name__}: cannot be built with a hidden size of "
            f"{text_config(config).hidden_size}: {one_line(error)}"
        ) from error
    made.to(model.device)  # type: ignore[arg-type]
    return made


def _scale(model: "PreTrainedModel") -> float:
    """What the embedding multiplies its rows by: Gemma by the root of the hidden size."""
    table: Any = copy.deepcopy(model.get_input_embeddings())
    with torch.no_grad():
        table.weight.fill_(1.0)
        found: Tensor = table(torch.zeros(1, 1, dtype=torch.long, device=table.weight.device))
    return float(found.double().mean())


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _put(made: nn.Module, name: str, tensor: Tensor) -> None:
    """Another tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    owner = made.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor.contiguous())
    else:
        owner._buffers[leaf] = tensor.clone()
