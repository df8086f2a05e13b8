"""Tiny models of transformers' causal architectures, made by replacing the sizes in their default configurations."""

import copy
import re

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 320

SIZES = [  # the first pattern that matches an option's name gives its value
    ("vocab_size.*", VOCABULARY),
    ("(num_)?(hidden_|decoder_|encoder_)?layers|n_layers?|num_layers_per_stack", 4),
    ("swa_num_key_value_heads|num_key_value_heads|num_kv_heads|n_head_kv|num_query_groups", 2),
    ("(swa_)?(num_)?(attention_|decoder_attention_|encoder_attention_)heads|num_heads|n_heads?|index_n_heads", 4),
    ("linear_num_(key|value)_heads|linear_num_heads", 2),
    ("(swa_|v_|linear_(key_|value_)?|index_)?head_dim|qk_(nope|rope)_head_dim|kv_channels|d_head|dim_head", 8),
    ("qk_head_dim", 16),
    ("attention_head_dim|attention_head_size", 8),
    ("hidden_size|d_model|n_embd|embedding_size|embedding_dim|dim_model_base|attention_hidden_size|lru_width", 32),
    ("emb_dim|word_embed_proj_dim|input_embedding_size|output_embedding_size|backbone_hidden_size", 32),
    (".*intermediate_size(_mlp)?|.*ffn_dim|ffn_hidden_size|dim_ff|dff|d_inner|feed_forward_size", 64),
    ("(num|n_routed|num_local|moe_num)_experts", 4),
    ("num_experts_per_tok(en)?|moe_topk|moe_k", 2),
    ("(kv|q)_lora_rank|o_lora_rank|hc_lowrank|laurel_rank|adapter_rank|gated_norm_rank", 8),
    ("n_group|topk_group|num_expert_group|o_groups", 1),
    ("hidden_size_per_layer_input|router_hidden_size|ple_embed_dim", 16),
    ("sliding_window(_size)?|attention_chunk_size|window_size|attention_window_size|keep_window_size", 6),
    ("local_attention", 12),
    ("(mamba_)?(d_state|chunk_size)|state_size|ssm_state_size", 16),
    ("mamba_n_heads|mamba_num_heads", 8),
    ("mamba_d_head|mamba_head_dim|mamba_headdim", 8),
    ("mamba_d_ssm", 64),
    ("(mamba_dt_rank|time_step_rank)", 4),
    ("index_topk", 64),
    ("rotary_dim", 8),
    ("num_kv_shared_layers", 0),
    ("max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length", 128),
    ("(pad|bos|eos|sep|cls|mask|eod|decoder_start|forced_eos)_token_id", 0),
]


OVERRIDES = {
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "xmod": {"default_language": "en_XX"},
}


def tiny_config(name: str, **replaced: object) -> PreTrainedConfig:
    """The default configuration of an architecture with small sizes, and one layer of each kind it has."""
    default = CONFIG_MAPPING[name]().get_text_config()
    values = default.to_dict()
    options = {"initializer_range": 0.2, "is_decoder": True, "tie_word_embeddings": False}
    for key, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            sizes = [size for pattern, size in SIZES if re.fullmatch(pattern, key)]
            options |= {key: sizes[0]} if sizes else {}
        if isinstance(value, list) and len(value) == default.num_hidden_layers and "layer" in key:
            kinds = list(dict.fromkeys(value))
            options[key] = [kinds[i % len(kinds)] for i in range(4)]
    if "kv_lora_rank" in values:  # latent attention has as many key heads as query heads
        options["num_key_value_heads"] = 4
    return type(default)(**options | OVERRIDES.get(name, {}) | replaced)


def tiny_model(name: str, **replaced: object) -> PreTrainedModel:
    """A model of random weights; the default 0.02 of `initializer_range` would leave attention without effect."""
    torch.manual_seed(0)
    config = tiny_config(name, **replaced)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters()
    if size > 20_000_000:
        raise ValueError(f"{size:,} parameters")
    return AutoModelForCausalLM.from_config(config).eval()
