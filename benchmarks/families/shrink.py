"""Small configurations of any model type of transformers, from the names of their fields.

A size that a configuration has by default becomes the one below if it is larger; lists with an
entry for each layer are cut to layers of every kind, and configurations inside are treated alike.
What this does not get right stands in :mod:`benchmarks.families.settings`.

Residual width 48, MLP width 88 (experts 40) and 6 heads of 8: none is another's multiple of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from benchmarks.families.settings import SETTINGS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

VOCAB = 97
TEXT = (3, 80)
"""Token ids that texts are made of: from, and up to but without."""
SPECIAL = 81
"""The first id of tokens of images, sounds and the like."""
MOST_KINDS = 6
"""A list with more values than this is no list of kinds of layers."""

_NAMES = {
    48: "hidden_size d_model n_embd emb_dim embedding_dim dim_model embedding_size embed_dim "
    "word_embed_proj_dim input_embedding_size output_embedding_size lru_width hidden_size_global "
    "backbone_hidden_size out_hidden_size text_hidden_size output_dim adapter_in_dim "
    "adapter_out_dim adapter_input_size projection_dim",
    88: "intermediate_size ffn_dim d_ff dff dim_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim "
    "n_inner d_inner feed_forward_size dense_intermediate_size intermediate_size_mlp mlp_dim",
    40: "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size "
    "shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers depth "
    "num_encoder_layers num_decoder_layers num_blocks",
    6: "num_attention_heads n_head n_heads num_heads decoder_attention_heads attention_heads "
    "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "swa_num_attention_heads conf_num_attention_heads linear_num_heads",
    8: "head_dim dim_head d_kv d_head attention_head_size swa_head_dim kv_channels "
    "qk_nope_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim index_head_dim "
    "index_topk chunk_size mamba_chunk_size state_size mamba_d_state ssm_state_size "
    "hidden_size_per_layer_input laurel_rank adapter_rank o_lora_rank block_size "
    "query_pre_attn_scalar",
    97: "vocab_size vocab_size_per_layer_input audio_vocab_size decoder_vocab_size "
    "unpadded_vocab_size",
    64: "max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length "
    "max_source_positions max_target_positions",
}
_SMALL = {
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "kv_n_heads": 2,
    "swa_num_key_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 22,
    "qk_rope_head_dim": 4,
    "qk_head_dim": 12,
    "v_head_dim": 10,
    "index_n_heads": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_top_k": 2,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "num_nextn_predict_layers": 0,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "window_size": 16,
    "attention_window_size": 16,
    "local_attention": 16,
    "attention_chunk_size": 16,
    "rotary_dim": 4,
    "n_groups": 2,
    "mamba_n_heads": 6,
    "mamba_num_heads": 6,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_headdim": 16,
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
    "original_max_position_embeddings": 32,
    "image_size": 32,
    "patch_size": 8,
}
SIZES: dict[str, int] = {
    **{name: size for size, names in _NAMES.items() for name in names.split()},
    **_SMALL,
}
"""Name of a field -> the most that it may be."""
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
"""Fields that count the layers of which lists speak."""


def small_config(model_type: str) -> "PretrainedConfig":
    """The configuration of a tiny model of a type.

    Raises:
        Exception: transformers does not know the type, or refuses the sizes.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config: PretrainedConfig = shrunk(CONFIG_MAPPING[model_type], SETTINGS.get(model_type, {}))
    return config


def shrunk(kind: "type[PretrainedConfig]", own: Mapping[str, Any] | None = None) -> Any:
    """A configuration of a class with small sizes, ``own`` before all others.

    A dictionary in ``own`` is for the configuration inside that has its name.
    """
    own = dict(own or {})
    inside = {name: dict(own.pop(name, {})) for name in kind.sub_configs if name not in _whole(own)}
    usual = _usual(kind, {**own, **inside})
    usual.allow_global_per_layer_attribute_access = True
    nested = {name: getattr(usual, name, None) for name in inside}
    settings = {
        **shrink({each.name: getattr(usual, each.name, None) for each in fields(kind)}),
        **{
            name: _dict(shrunk(type(found), inside[name]))
            for name, found in nested.items()
            if found
        },
        **own,
    }
    return kind(**settings)


def shrink(usual: Mapping[str, Any]) -> dict[str, Any]:
    """What of these values to change, and into what."""
    numbers = {name: value for name, value in usual.items() if type(value) is int}
    changed: dict[str, Any] = {
        name: SIZES[name] for name, value in numbers.items() if value > SIZES.get(name, value)
    }
    if "head_dim" in usual and usual["head_dim"] is None:
        changed["head_dim"] = SIZES["head_dim"]
    if "kv_lora_rank" in usual and "num_key_value_heads" in usual:  # every query head has its own
        changed["num_key_value_heads"] = SIZES["num_attention_heads"]
    changed |= _tokens(usual)
    changed |= _layers(usual)
    if isinstance(rope := usual.get("rope_parameters"), dict):
        changed["rope_parameters"] = _rope(rope)
    return changed


def _usual(kind: "type[PretrainedConfig]", own: Mapping[str, Any]) -> Any:
    try:
        return kind()
    except Exception:  # some have no default that they accept
        return kind(**own)


def _whole(own: Mapping[str, Any]) -> list[str]:
    return [name for name, value in own.items() if value is None]


def _dict(config: Any) -> dict[str, Any]:
    return {**config.to_dict(), "model_type": config.model_type}


def _tokens(usual: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of special tokens, none of them in texts; a list of ends becomes one end."""
    usually = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    names = [n for n in usual if n.endswith(("_token_id", "_token_index")) and n not in usually]
    large = [n for n in names if isinstance(usual[n], int) and usual[n] >= SPECIAL]
    return {
        **{name: token for name, token in usually.items() if name in usual},
        **{name: SPECIAL + at % (VOCAB - SPECIAL) for at, name in enumerate(large)},
    }


def _layers(usual: Mapping[str, Any]) -> dict[str, Any]:
    """The depth, and lists of layers of every kind: two, or more where there are more kinds."""
    depth = next((name for name in DEPTHS if isinstance(usual.get(name), int)), None)
    if depth is None:
        return {}
    lists = {
        name: list(value)
        for name, value in usual.items()
        if isinstance(value, list | tuple)
        and len(value) == usual[depth]
        and len(set(map(repr, value))) <= MOST_KINDS
    }
    at = covering(list(lists.values()), usual[depth])
    return {depth: len(at), **{name: [value[i] for i in at] for name, value in lists.items()}}


def covering(lists: Sequence[Sequence[Any]], depth: int) -> list[int]:
    """Places, rising, that show every combination of the lists' values; two at least."""
    seen: dict[tuple[str, ...], int] = {}
    for at in range(depth):
        seen.setdefault(tuple(repr(each[at]) for each in lists), at)
    if len(seen) > MOST_KINDS:
        seen = {}
        for at in range(depth):
            for number, each in enumerate(lists):
                seen.setdefault((str(number), repr(each[at])), at)
    found = sorted(set(seen.values()))
    more = [at for at in range(depth) if at not in found]
    return sorted(found + more[: max(2 - len(found), 0)])


def _rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters, of one kind of layers or of several, for heads of 8."""
    found: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, dict):
            found[name] = _rope(value)
        elif name == "mrope_section":
            found[name] = [2, 1, 1]
        elif name == "original_max_position_embeddings":
            found[name] = SIZES[name]
        else:
            found[name] = value
    return found
