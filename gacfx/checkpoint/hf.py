"""The loader that transformers finds under ``"quant_method": "gacfx"`` in config.json.

Before the weights are read, it replaces each layer named in the configuration by an empty
low-rank one, so that plain ``from_pretrained`` fills any architecture with per-layer ranks.
transformers' word for such a plug-in is quantizer; nothing is quantized here.

Importing this module registers the loader. No import of ``transformers.modeling_utils`` at module
level: while that module is imported, it imports this one.
"""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gacfx.core.config_json import FORMAT_VERSION, check_count, check_version
from gacfx.core.names import is_module_name, printable
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.modules.install import low_rank_modules, skeleton_
from gacfx.modules.low_rank import NOTICE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "gacfx"
NOTE = "import gacfx before loading"


class GacfxConfig(QuantizationConfigMixin):
    """What config.json says of a compressed model: the rank of each factorized module.

    Args:
        ranks: module name -> rank.
        format_version: of this block; unknown ones are refused.
        quant_method: always "gacfx".
        gacfx_note: for whoever reads config.json.
        unknown: keys of other programs; dropped with a warning that names them.

    Raises:
        CheckpointError: an unknown version, or ranks that are not positive integers by name.
    """

    def __init__(
        self,
        ranks: dict[str, int] | None = None,
        format_version: int = FORMAT_VERSION,
        quant_method: str = METHOD,
        gacfx_note: str = NOTE,
        **unknown: object,
    ) -> None:
        check_version(format_version)
        if quant_method != METHOD:
            raise CheckpointError(f"config.json: quant_method {quant_method!r} is not {METHOD!r}")
        if unknown:
            names = printable(", ".join(sorted(unknown)), 300)
            warnings.warn(f"config.json: unknown gacfx settings dropped: {names}", stacklevel=2)
        self.quant_method = METHOD  # type: ignore[assignment]  # a plain string, no enum member
        self.format_version = FORMAT_VERSION
        self.ranks = _checked(ranks if ranks is not None else {})
        self.gacfx_note = NOTE


class GacfxQuantizer(HfQuantizer):
    """Puts empty low-rank layers into the skeleton of a model."""

    requires_calibration = True  # only checkpoints that are compressed already can be loaded
    quantization_config: GacfxConfig

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", **_: Any
    ) -> "PreTrainedModel":
        _check_whole(model)
        ranks = _names_in(model, self.quantization_config.ranks)
        try:
            skeleton_(model, ranks)
        except UnsupportedModel as error:
            raise CheckpointError(f"config.json does not fit its own model: {error}") from error
        self.quantization_config.ranks = ranks
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        # Files may have the notice or not, so it is kept out of the load.
        for layer in low_rank_modules(model).values():
            delattr(layer, NOTICE)
        known = model._keys_to_ignore_on_load_unexpected or ()
        model._keys_to_ignore_on_load_unexpected = {*known, rf"\.{NOTICE}$"}
        return model

    def _process_model_after_weight_loading(
        self, model: "PreTrainedModel", **_: Any
    ) -> "PreTrainedModel":
        # transformers 5.17 takes tensors of any shape once a quantizer is at work.
        for name, parameter in model.named_parameters():
            if self._shapes.get(name, parameter.shape) != parameter.shape:
                raise CheckpointError(
                    f"{name}: the file has {tuple(parameter.shape)}, the ranks in config.json ask "
                    f"for {tuple(self._shapes[name])}; the two do not belong together"
                )
        for layer in low_rank_modules(model).values():
            if not layer.weight.is_meta:  # where buffers are on disk, so would it have to be
                layer.register_buffer(NOTICE, torch.empty_like(layer.weight))
        _unmark_(model)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """save_pretrained works: everything is ordinary parameters."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Low-rank layers train like any other."""
        return True


def register() -> None:
    """transformers finds the loader from here on; calling twice is once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(GacfxConfig)
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(GacfxQuantizer)


def config_of(model: "PreTrainedModel") -> GacfxConfig:
    """The configuration block for the low-rank layers that are in ``model`` now."""
    return GacfxConfig({name: layer.rank for name, layer in low_rank_modules(model).items()})


def check_unquantized(model: object) -> None:
    """Nothing when no other program's quantization is in force: its block would be written over.

    Raises:
        CheckpointError: names the method.
    """
    block = getattr(getattr(model, "config", None), "quantization_config", None)
    if isinstance(block, dict):
        method = block.get("quant_method", METHOD)
    else:
        method = getattr(block, "quant_method", METHOD)
    if method != METHOD:
        raise CheckpointError(
            f"the model is quantized with {getattr(method, 'value', method)}; gacfx cannot save "
            "that: start from the weights before quantization, or dequantize() first"
        )


def declare_(model: "PreTrainedModel") -> None:
    """Write the gacfx block into the model's config, so that every way of saving keeps it.

    The Trainer, PEFT and plain ``save_pretrained`` write the config that the model has. A model
    that was dequantized while it was loaded also forgets how its checkpoint was quantized: it is
    saved as what it is now.
    """
    model.config.quantization_config = config_of(model)
    if any(map(_quantizes, getattr(model, "_weight_conversions", None) or ())):
        # Saving finds those of the architecture again.
        vars(model)["_weight_conversions"] = None


def _quantizes(conversion: object) -> bool:
    """This step of loading dequantizes, so it would quantize on saving."""
    steps = getattr(conversion, "operations", ())
    return any(type(step).__module__.startswith("transformers.integrations") for step in steps)


def _checked(ranks: object) -> dict[str, int]:
    if not isinstance(ranks, dict):
        raise CheckpointError(f"config.json: gacfx ranks must be a table, not {repr(ranks)[:80]}")
    check_count(ranks, "config.json")
    for name, rank in ranks.items():
        if not is_module_name(name):
            raise CheckpointError(f"config.json: '{printable(name)}' is no module name")
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise CheckpointError(f"config.json: {name}: rank {rank!r} is not a positive integer")
    return dict(sorted(ranks.items()))


def _names_in(model: "PreTrainedModel", ranks: dict[str, int]) -> dict[str, int]:
    """The ranks under the names that they have in ``model``.

    As transformers does with weights: AutoModel drops the prefix of the base model, and the layers
    of a head that it does not have. A folder that holds the body alone has no prefix.
    """
    if model.base_model is not model:
        return ranks
    prefix, known = f"{model.base_model_prefix}.", {name for name, _ in model.named_modules()}
    return {
        name.removeprefix(prefix): rank
        for name, rank in ranks.items()
        if name.startswith(prefix) or name in known
    }


def _check_whole(model: "PreTrainedModel") -> None:
    """Refuse to split the model over processes, before a weight is read.

    The plans of transformers name dense weights. A pair would stay whole beside its split
    neighbours, and the first product of the two would raise.
    """
    asked = getattr(model.config, "distributed_config", None)
    for name in ("tp_size", "pp_size", "ep_size"):
        if (getattr(asked, name, None) or 1) > 1:
            raise CheckpointError(
                f"from_pretrained: {name} {getattr(asked, name)} splits weights, and low-rank "
                "pairs cannot be split yet; leave out tp_plan and distributed_config, "
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
