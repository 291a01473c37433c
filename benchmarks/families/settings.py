"""What the names of fields do not tell of a small model: settings for single types."""

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SHARED = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
"""Two layers that share a transformer: the fewest that show it."""
_WINDOWED = ["sliding_attention", "full_attention"]
_KEPT = {
    "layer_types": _WINDOWED * 2,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
}
"""The last two layers take keys and values of the first two."""
_INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 16,
}
_WINDOWS = {
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 6,
    "swa_q_lora_rank": 20,
    "swa_kv_lora_rank": 22,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 10,
    "head_dim": 12,
    "mlp_layer_types": ["dense", "sparse"],
    "layer_types": ["indexed_attention", "sliding_attention"],
    "num_hidden_layers": 2,
}
_SPEECH = {
    "ext_pw_out_channel": 48,
    "depthwise_separable_out_channel": 48,
    "nemo_conv_channels": 48,
    "bias_max_distance": 16,
    "intermediate_size": 88,
}

SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "codegen": {"n_head": 4},  # it is written for four devices
    "cohere_compass_text": {
        "layer_types": _WINDOWED,
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "dots3_note": {
        "text_config": _WINDOWS,
        "vision_config": {"mlp_layer_types": ["dense", "dense"]},
    },
    "dots3_note_text": _WINDOWS,
    "ernie4_5_moe": {"moe_layer_end_index": 1},
    "falcon_h1": {"mamba_d_ssm": 96, "mamba_d_head": 16},
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": {
        **_KEPT,
        "intermediate_size": 88,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
    "gemma4": {"text_config": {**_KEPT, "global_head_dim": 12}},
    "gemma4_assistant": {
        "text_config": {
            "global_head_dim": 12,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
    "gemma4_text": {**_KEPT, "global_head_dim": 12},
    "gemma4_unified": {"text_config": {"global_head_dim": 12}},
    "gemma4_unified_assistant": {"text_config": {"global_head_dim": 12}},
    "gemma4_unified_text": {"global_head_dim": 12},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {
        "num_layers_per_stack": 1,
        "num_hidden_layers": 8,  # places in the cache: two cycles of three runs and one
    },
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "laguna": {"layer_types": _WINDOWED, "num_attention_heads_per_layer": [6, 12]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"], "num_hidden_layers": 3},
    "llama4": {"text_config": {"interleave_moe_layer_step": 2}},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2},
    "mamba2": {"head_dim": 16},
    "mimo_v2_flash": {"num_attention_heads": 8},  # windows have twice the key-value heads
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "mllama": {"text_config": {"cross_attention_layers": [1], "num_hidden_layers": 3}},
    "nemotron": {"num_key_value_heads": 2},
    "phi4_multimodal": {"audio_config": _SPEECH},
    "qwen4_exp": {"text_config": _INDEXED},
    "qwen4_exp_text": _INDEXED,
    "qwen2_5_vl": {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}}},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 32],
        "attn_layers": ["local", "lsh"],
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 50,
        "pronunciation_embed_dim": 24,
        "shape_vocab_size": 50,
        "shape_embed_dim": 24,
    },
    "rwkv": {"rescale_every": 1},  # else two layers are not rescaled
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_heads": 4},  # it rounds up to 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": _SHARED, "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": _SHARED, "num_hidden_layers": 4},
}
