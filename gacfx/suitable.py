"""Is this a model that can be calibrated and compressed? Asked before any work."""

from math import gcd

from torch import nn

from gacfx.checkpoint.hf import check_unquantized
from gacfx.core.asked import check_module
from gacfx.core.model_class import text_config
from gacfx.errors import PlanError, UnsupportedModel
from gacfx.graph.ops import DTYPES
from gacfx.hardware.profile import Profile
from gacfx.modules.blocks import blocks_in
from gacfx.modules.install import decisions_in


def check_dtype(model: nn.Module, profile: Profile) -> None:
    """Nothing when the GPU can multiply what the model is held in.

    Raises:
        ProfileError: it cannot.
    """
    profile.check_dtype(DTYPES[next(model.parameters()).dtype])


def check_model(model: nn.Module) -> None:
    """Nothing when the model can be calibrated and compressed.

    Raises:
        UnsupportedModel: no model, no causal language model, in training mode, or compressed
            already.
        CheckpointError: it is quantized.
    """
    check_module(model)
    check_unquantized(model)
    writes = getattr(model, "can_generate", None)
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if both or (callable(writes) and not writes()):
        raise UnsupportedModel(
            f"{type(model).__name__} is no causal language model; it can be inspected, but "
            "calibration needs the likelihood of text"
        )
    if model.training:
        raise UnsupportedModel("the model is in training mode; call model.eval() first")
    if decisions_in(model) or blocks_in(model):
        raise UnsupportedModel(
            "the model is compressed by gacfx already; start from the dense checkpoint"
        )


def check_tp(tp: int, config: object) -> None:
    """Nothing when ``tp`` devices can share the attention heads of a configuration.

    Raises:
        PlanError: names the heads that it does not divide.
    """
    text = text_config(config)
    kinds = {"num_attention_heads": "query", "num_key_value_heads": "key-value"}
    counts = {name: getattr(text, name, None) for name in kinds}
    heads = {name: n for name, n in counts.items() if isinstance(n, int) and n > 0}
    common = gcd(*heads.values())
    for name, number in heads.items():
        if number % tp:
            fit = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise PlanError(
                f"tp {tp} does not divide the {number} {kinds[name]} heads of the model ({name}); "
                f"devices share whole heads, so take one of {fit}"
            )
