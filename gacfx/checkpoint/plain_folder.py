"""A pruned model as an ordinary Hugging Face folder, where all its layers are alike.

A model whose layers all have one width and the same heads is a smaller model of its architecture:
other numbers in config.json say all of it, and it loads everywhere, without gacfx. A layer whose
attention and MLP are both skipped is left out.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gacfx.checkpoint.checksums import write_checksums
from gacfx.checkpoint.hf import check_unquantized
from gacfx.checkpoint.layers import Layer, layers_of, width_name
from gacfx.checkpoint.pretrained import plain_config, save_pretrained
from gacfx.checkpoint.rehearsal import shapes
from gacfx.checkpoint.written import check_written
from gacfx.core.files.atomic import making, replacing_folder
from gacfx.core.files.targets import check_folder, writing
from gacfx.core.model_class import text_config
from gacfx.core.names import one_line
from gacfx.errors import CheckpointError
from gacfx.graph.compat import without_weight_init

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_plain(
    model: "PreTrainedModel",
    folder: str | Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
) -> Path:
    """Writes a folder without any trace of gacfx, which computes the very same thing.

    It is compared before anything is written: the smaller model, built from its configuration
    alone, has every tensor of the pruned one and gives the same logits.

    Args:
        model: pruned, with the same widths and heads in all layers; it is left as it is.
        folder: to make.
        tokenizer: saved beside it; None leaves it out.
        overwrite: replace an existing checkpoint folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: the layers differ, or hold more than slices; names them. Or the folder
            exists and cannot be written.
    """
    out = Path(folder).expanduser()
    check_unquantized(model)
    check_folder(out, overwrite=overwrite, holds=("config.json",), what="a checkpoint folder")
    return write_plain(plain_model(model), out, tokenizer=tokenizer, overwrite=overwrite)


def write_plain(
    plain: "PreTrainedModel",
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None",
    overwrite: bool,
) -> Path:
    """Writes a model that has no trace of gacfx, whole or not at all."""
    out = out.resolve()
    with writing(out), making(out.parent), replacing_folder(out, overwrite=overwrite) as made:
        save_pretrained(plain, made)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        check_written(plain, made)
        write_checksums(made)
    return out


def plain_model(model: "PreTrainedModel") -> "PreTrainedModel":
    """The smaller model of the same architecture, with the very tensors of a pruned one.

    Raises:
        CheckpointError: there is none, with the reason.
    """
    if not model.can_generate():
        raise CheckpointError(
            f"{type(model).__name__}: is no causal language model, so its logits cannot be compared"
        )
    config, names = plain_config(model), _Names("", {})
    plain = skeleton_of(model, config)
    if shapes(plain) != shapes(model):
        layers = layers_of(model)
        kept = _alike(layers)
        _make_smaller_(config, layers, kept)
        names = _Names(layers[0].prefix, {layer.index: at for at, layer in enumerate(kept)})
        plain = skeleton_of(model, config)
    _fill_(plain, model, names)
    plain.generation_config = copy.deepcopy(model.generation_config)
    plain.train(model.training)
    _compare(plain, model)
    return plain


def skeleton_of(model: "PreTrainedModel", config: Any) -> "PreTrainedModel":
    """A model of the same class with another configuration, on the meta device.

    Raises:
        CheckpointError: the class has no such model.
    """
    try:
        with torch.device("meta"), without_weight_init():
            made: PreTrainedModel = type(model)(config)
    except Exception as error:  # models raise nearly everything
        raise CheckpointError(
            f"{type(model).__name__}: has no smaller model with these numbers: {one_line(error)}"
        ) from error
    return made


@dataclass(frozen=True)
class _Names:
    """How tensors are called once layers are left out."""

    prefix: str
    numbers: dict[int, int]
    """Old number of a layer -> new one, for those that stay."""

    def of(self, name: str) -> str | None:
        """New name of a tensor; None where its layer is left out."""
        if not name.startswith(f"{self.prefix}."):
            return name
        number, _, rest = name.removeprefix(f"{self.prefix}.").partition(".")
        new = self.numbers.get(int(number))
        return None if new is None else f"{self.prefix}.{new}.{rest}"


def _alike(layers: list[Layer]) -> list[Layer]:
    """The layers that stay, once they are found to be alike.

    Raises:
        CheckpointError: names those that differ.
    """
    for layer in layers:
        for module, decision in layer.factored.items():
            raise CheckpointError(
                f"{module}: is {decision}, and a plain folder has dense weights only; format "
                "dense multiplies it out, which saves nothing"
            )
        if (layer.attention == "skip") != (layer.mlp == "skip"):
            what, other = (
                ("attention", "MLP") if layer.attention == "skip" else ("MLP", "attention")
            )
            raise CheckpointError(
                f"{layer.name}: its {what} is skipped and its {other} is not, which no plain "
                "configuration can say; take format per-layer-config, or skip whole layers"
            )
    kept = [layer for layer in layers if layer.attention != "skip"]
    if not kept:
        raise CheckpointError("every layer is skipped; nothing is left to save")
    first = kept[0]
    for what in ("attention", "mlp"):
        said = getattr(first, what)
        odd = [layer for layer in kept if getattr(layer, what) != said]
        if odd:
            shown = ", ".join(f"{layer.name} has {getattr(layer, what)}" for layer in odd[:4])
            more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
            raise CheckpointError(
                f"the layers are not alike: {first.name} has {said}, {shown}{more}; take format "
                "per-layer-config (Llama, weights that are dense), plan with the same numbers for "
                "all layers, or keep the gacfx checkpoint"
            )
    return kept


def _make_smaller_(whole: Any, layers: list[Layer], kept: list[Layer]) -> None:
    """Gives a configuration the numbers of the smaller model."""
    config = text_config(whole)
    first = kept[0]
    if first.width is not None:
        setattr(config, width_name(config), first.width)
    if first.counts is not None and first.head_dim is not None:
        if first.counts.heads * first.head_dim != config.hidden_size or hasattr(config, "head_dim"):
            config.head_dim = first.head_dim
        config.num_attention_heads = first.counts.heads
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = first.counts.groups
    if len(kept) < len(layers):
        staying = [layer.index for layer in kept]
        for name, found in _per_layer(config, len(layers)):
            setattr(config, name, [found[at] for at in staying])
        config.num_hidden_layers = len(kept)


def _per_layer(config: Any, count: int) -> Iterator[tuple[str, list[Any]]]:
    """Lists of a configuration with an entry for each layer."""
    for name, found in list(vars(config).items()):
        if isinstance(found, list) and len(found) == count and "layer" in name:
            yield name, found


def _fill_(plain: nn.Module, model: nn.Module, names: _Names) -> None:
    """Puts the tensors of a pruned model into the smaller one, shared and not copied.

    Raises:
        CheckpointError: the smaller model has other tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        new = names.of(name)
        if new is not None:
            tensors[new] = tensor
    wanted = dict(plain.named_parameters(remove_duplicate=False)) | dict(plain.named_buffers())
    for name in sorted(wanted.keys() ^ tensors.keys()):
        what = "is missing" if name in wanted else "is not in the smaller model"
        raise CheckpointError(f"{name}: {what}, so no plain folder can hold this model")
    for name, tensor in sorted(tensors.items()):
        if wanted[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name}: is {tuple(tensor.shape)}, and a plain {type(plain).__name__} with its "
                f"numbers has {tuple(wanted[name].shape)}: this architecture cannot say it; keep "
                "the gacfx checkpoint"
            )
        path, _, leaf = name.rpartition(".")
        owner = plain.get_submodule(path)
        table = owner._parameters if leaf in owner._parameters else owner._buffers
        table[leaf] = tensor  # type: ignore[assignment]


def _compare(plain: nn.Module, model: nn.Module) -> None:
    """Nothing when both give the same logits for a few tokens; without values nothing is asked.

    Raises:
        CheckpointError: they differ, so something else than numbers is in the pruned model.
    """
    parameters = list(model.parameters())
    if any(parameter.is_meta for parameter in parameters):
        return
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows, (1, 8), generator=draw).to(parameters[0].device)
    with torch.no_grad():
        one, other = (each(ids, use_cache=False)[0] for each in (plain, model))
    if not torch.equal(one, other):
        most = (one - other).abs().max().item()
        raise CheckpointError(
            f"the plain model differs from the pruned one by {most:.3g} in its logits, so "
            "something of it is in no configuration; keep the gacfx checkpoint"
        )
