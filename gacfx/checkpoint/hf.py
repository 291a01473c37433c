"""The loader that transformers finds under ``"quant_method": "gacfx"`` in config.json.

Before the weights are read, it replaces each layer named in the configuration by the empty layer of
its decision, so that plain ``from_pretrained`` fills any architecture.
transformers' word for such a plug-in is quantizer; nothing is quantized here.

Importing this module registers the loader. No import of ``transformers.modeling_utils`` at module
level: while that module is imported, it imports this one.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gacfx import __version__
from gacfx.checkpoint.stored import check_integers, check_there, not_there
from gacfx.core.blocks import BlockState, write_block_state
from gacfx.core.config_json import (
    FORMAT_VERSION,
    METHOD,
    READS,
    UNPRUNED,
    UNROUTED,
    read_block,
    read_blocks,
    read_router,
    version_for,
)
from gacfx.core.decision import Decision
from gacfx.core.kinds import write_decision
from gacfx.core.names import printable
from gacfx.core.padding import Padded
from gacfx.core.pruning import Sliced
from gacfx.core.quantized import held_otherwise
from gacfx.core.router_shape import RouterShape
from gacfx.core.stored_as import stored_as
from gacfx.errors import CheckpointError, PlanError, PlanMismatch, UnsupportedModel
from gacfx.modules.blocks import blocks_in
from gacfx.modules.carrier import NOTICE
from gacfx.modules.install import compressed_modules, decisions_in, guards_in, skeleton_
from gacfx.modules.routing_hooks import NAME as ROUTER
from gacfx.modules.routing_hooks import attach_empty_, router_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTE = "import gacfx before loading"
T = TypeVar("T")


class GacfxConfig(QuantizationConfigMixin):
    """What config.json says of a compressed model: the decision of each module.

    Args:
        modules: module name -> decision, or what a file says of it.
        format_version: of this block; unknown ones are refused.
        quant_method: always "gacfx".
        gacfx_note: for whoever reads config.json.
        gacfx_version: of the gacfx that wrote the block.
        ranks: module name -> rank of a pair, in version 1 instead of ``modules``.
        blocks: name of an attention or MLP -> its numbers of heads, or that it is skipped.
        router: head and sizes of the router of prompts.
        unknown: keys of other programs; dropped with a warning that names them.

    Raises:
        CheckpointError: an unknown version or kind of decision, or no decisions by name.
    """

    def __init__(
        self,
        modules: Mapping[str, Any] | None = None,
        format_version: int | None = None,
        quant_method: str = METHOD,
        gacfx_note: str = NOTE,
        gacfx_version: str = "",
        ranks: Mapping[str, int] | None = None,
        blocks: Mapping[str, Any] | None = None,
        router: "RouterShape | Mapping[str, Any] | None" = None,
        **unknown: object,
    ) -> None:
        if quant_method != METHOD:
            raise CheckpointError(f"config.json: quant_method {quant_method!r} is not {METHOD!r}")
        if format_version is None:
            said = UNPRUNED if ranks is None else READS[0]
            format_version = said if not (blocks or _slices(modules)) else UNROUTED
            format_version = FORMAT_VERSION if router is not None else format_version
        first = format_version == READS[0]
        unknown |= {"modules": modules} if first and modules else {}
        unknown |= {"ranks": ranks} if ranks and not first else {}
        if unknown:
            names = printable(", ".join(sorted(unknown)), 300)
            warnings.warn(f"config.json: unknown gacfx settings dropped: {names}", stacklevel=2)
        block = {
            "format_version": format_version,
            "modules": _written(modules),
            "ranks": {} if ranks is None else ranks,
            "blocks": _written_blocks(blocks),
            "router": router.to_dict() if isinstance(router, RouterShape) else router,
            "gacfx_version": gacfx_version,
        }
        self.quant_method = METHOD  # type: ignore[assignment]  # a plain string, no enum member
        self.gacfx_version = __version__
        self.gacfx_note = NOTE
        self.keep(read_block(block), read_blocks(block), read_router(block))

    @property
    def decisions(self) -> dict[str, Decision]:
        """Module name -> decision."""
        return read_block(self.__dict__)

    @property
    def states(self) -> dict[str, BlockState]:
        """Name of a block -> what became of it."""
        return read_blocks(self.__dict__)

    @property
    def router_shape(self) -> RouterShape | None:
        """Head and sizes of the router of prompts; None without one."""
        return read_router(self.__dict__)

    def keep(
        self,
        decisions: Mapping[str, Decision],
        states: Mapping[str, BlockState],
        router: RouterShape | None,
    ) -> None:
        """Say these from now on."""
        # Plain JSON values: everything that an instance holds is written to config.json.
        self.format_version = version_for(decisions, states, router)
        if router is not None:
            self.router: dict[str, Any] = router.to_dict()
        else:
            vars(self).pop("router", None)
        self.modules: dict[str, Any] = _written(dict(sorted(decisions.items())))
        if states:
            self.blocks: dict[str, Any] = _written_blocks(dict(sorted(states.items())))
        else:
            vars(self).pop("blocks", None)  # version 2 has no such table


def _slices(modules: object) -> bool:
    """Some of these decisions, none of which need to be read yet, is a slice or padded."""
    found = modules.values() if isinstance(modules, Mapping) else ()
    return any(isinstance(one, Sliced | Padded) for one in found)


def _written(modules: Any) -> Any:
    """Decisions as a file has them; what is none is left for the reader to refuse."""
    if not isinstance(modules, Mapping):
        return {} if modules is None else modules
    return {
        name: write_decision(said) if isinstance(said, Decision) else said
        for name, said in modules.items()
    }


def _written_blocks(blocks: Any) -> Any:
    """As a file has them; what is none is left for the reader to refuse."""
    if not isinstance(blocks, Mapping):
        return {} if blocks is None else blocks
    return {
        name: write_block_state(said) if isinstance(said, BlockState) else said
        for name, said in blocks.items()
    }


class GacfxQuantizer(HfQuantizer):
    """Puts the empty layers of decisions into the skeleton of a model."""

    requires_calibration = True  # only checkpoints that are compressed already can be loaded
    quantization_config: GacfxConfig

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> "PreTrainedModel":
        _check_whole(model)
        decisions = _names_in(model, self.quantization_config.decisions)
        states = _names_in(model, self.quantization_config.states)
        try:
            skeleton_(model, decisions, states)
        except (UnsupportedModel, PlanError) as error:
            raise CheckpointError(f"config.json does not fit its own model: {error}") from error
        check_there(model, checkpoint_files or ())
        router = self.quantization_config.router_shape
        if router is not None:
            _attach_empty_(model, router, checkpoint_files or ())
        self.quantization_config.keep(decisions, states, router)
        self._shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        # accelerate and safetensors take empty tensors for shared ones, and write one of them all.
        lacking = not_there(_guard_names(model), checkpoint_files or ())
        known = model._keys_to_ignore_on_load_missing or ()
        model._keys_to_ignore_on_load_missing = {*known, *(f"{re.escape(n)}$" for n in lacking)}
        # Files may have the notice or not, so it is kept out of the load.
        for layer in guards_in(model):
            delattr(layer, NOTICE)
        known = model._keys_to_ignore_on_load_unexpected or ()
        model._keys_to_ignore_on_load_unexpected = {*known, rf"\.{NOTICE}$"}
        return model

    def _process_model_after_weight_loading(
        self, model: "PreTrainedModel", **_: Any
    ) -> "PreTrainedModel":
        # transformers 5.17 takes tensors of any shape once a quantizer is at work.
        for name, tensor in model.state_dict().items():
            if self._shapes.get(name, tensor.shape) != tensor.shape:
                raise CheckpointError(
                    f"{name}: the file has {tuple(tensor.shape)}, the decisions in config.json ask "
                    f"for {tuple(self._shapes[name])}; the two do not belong together"
                )
        for name, layer in compressed_modules(model).items():
            if problem := layer.problem():
                raise CheckpointError(f"{name}: {problem}; the file is not what was written")
        router = router_of(model)
        if router is not None and (problem := router.problem()):
            raise CheckpointError(f"{problem}; the file is not what was written")
        for guard in guards_in(model):
            if not guard.weight.is_meta:  # where buffers are on disk, so would it have to be
                guard.register_buffer(NOTICE, torch.empty_like(guard.weight))
        _unmark_(model)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """save_pretrained works: everything is ordinary parameters and buffers."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Such layers train like any other."""
        return True


def register() -> None:
    """transformers finds the loader from here on; calling twice is once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(GacfxConfig)
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(GacfxQuantizer)


def config_of(model: "PreTrainedModel") -> GacfxConfig:
    """The configuration block for the compressed layers that are in ``model`` now."""
    router = router_of(model)
    shape = None if router is None else router.shape
    return GacfxConfig(decisions_in(model), blocks=blocks_in(model), router=shape)


def _attach_empty_(
    model: "PreTrainedModel", shape: RouterShape, files: Sequence[str | Path]
) -> None:
    """Put a router into a skeleton, for the loader to fill.

    Raises:
        CheckpointError: it does not fit the model, or the files have not all of it.
    """
    try:
        router = attach_empty_(model, shape)
    except (PlanMismatch, UnsupportedModel) as error:
        raise CheckpointError(f"config.json does not fit its own model: {error}") from error
    sizes = {f"{ROUTER}.{name}": tuple(part.shape) for name, part in router.named_buffers()}
    check_integers(sizes, files)


def _guard_names(model: "PreTrainedModel") -> list[str]:
    """Names of the empty buffers."""
    guards = {id(guard) for guard in guards_in(model)}
    return [f"{name}.weight" for name, module in model.named_modules() if id(module) in guards]


def check_unquantized(model: object) -> None:
    """Nothing when no other program's quantization is in force: its block would be written over,
    and its tensors are neither decomposed nor saved.

    Raises:
        CheckpointError: names the method, or the first such weight.
    """
    if found := stored_as(getattr(model, "config", None)):
        raise CheckpointError(
            f"the model is quantized with {found.method}; gacfx cannot save that: start from the "
            "weights before quantization, or dequantize() first"
        )
    for name, kind in held_otherwise(model).items() if isinstance(model, nn.Module) else ():
        raise CheckpointError(
            f"{name}: is no plain tensor, but {kind}; gacfx works on the weights before "
            "quantization: compress, save, and quantize what is loaded"
        )


def declare_(model: "PreTrainedModel") -> None:
    """Write the gacfx block into the model's config, so that every way of saving keeps it.

    The Trainer, PEFT and plain ``save_pretrained`` write the config that the model has, and tensors
    under the names in memory: other names, fused weights and formats, to which transformers would
    go back when it saves, are those of the dense checkpoint.
    """
    model.config.quantization_config = config_of(model)
    vars(model)["_weight_conversions"] = []


def _names_in(model: "PreTrainedModel", decisions: dict[str, T]) -> dict[str, T]:
    """The decisions under the names that they have in ``model``.

    As transformers does with weights: AutoModel drops the prefix of the base model, and the layers
    of a head that it does not have. A folder that holds the body alone has no prefix.
    """
    if model.base_model is not model:
        return decisions
    prefix, known = f"{model.base_model_prefix}.", {name for name, _ in model.named_modules()}
    return {
        name.removeprefix(prefix): decision
        for name, decision in decisions.items()
        if name.startswith(prefix) or name in known
    }


def _check_whole(model: "PreTrainedModel") -> None:
    """Refuse to split the model over processes, before a weight is read.

    The plans of transformers name dense weights. A compressed layer would stay whole beside its
    split neighbours, and the first product of the two would raise.
    """
    asked = getattr(model.config, "distributed_config", None)
    for name in ("tp_size", "pp_size", "ep_size"):
        if (getattr(asked, name, None) or 1) > 1:
            raise CheckpointError(
                f"from_pretrained: {name} {getattr(asked, name)} splits weights, and "
                "compressed layers cannot be split yet; leave out tp_plan and distributed_config, "
                "device_map='auto' spreads whole layers over the devices of one process"
            )


def _unmark_(model: "PreTrainedModel") -> None:
    """Take off what transformers pins on quantized models: this one is cast, compiled and trained
    like any other. The configuration keeps its block, which save_pretrained writes.
    """
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    for module in model.modules():
        if hasattr(config := getattr(module, "config", None), "_is_quantized"):
            delattr(config, "_is_quantized")


register()
