"""Tiny models with random weights of many architectures, in which what a layer sees makes a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from model_server import make_tokenizer
from transformers import AutoTokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.3,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
_WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
_MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
    "mamba_chunk_size": 8,
}  # fmt: skip
_GPT2 = {
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}

# The class (without ForCausalLM), and what its config has beside SIZES. None: SIZES has it, this one has not.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, **_EXPERTS}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "gemma3": ("Gemma3", _WINDOWS),
    "phi3": ("Phi3", {"sliding_window": 6}),
    "olmo2": ("Olmo2", {}),
    "glm4": ("Glm4", {}),
    "deepseek_v3": (
        "DeepseekV3",
        {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
         "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **_EXPERTS},
    ),
    "smollm3": ("SmolLM3", {}),
    "cohere2": ("Cohere2", {**_WINDOWS, "logit_scale": 1.0}),
    "gpt2": ("GPT2", _GPT2),
    "qwen3_next": ("Qwen3Next", {"num_experts": 4, "shared_expert_intermediate_size": 24, **_EXPERTS, **_LINEAR}),
    "qwen3_5": ("Qwen3_5", _LINEAR),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "falcon_h1": ("FalconH1", {**_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 32}),
    "mamba": ("Mamba", {"state_size": 8}),
    "mamba2": (
        "Mamba2",
        {"num_heads": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8, "expand": 2, "num_attention_heads": None},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24,
         "layer_types": ["mamba", "attention"] * 2, **_MAMBA},
    ),
    "recurrent_gemma": ("RecurrentGemma", {"attention_window_size": 6, "lru_width": 32}),
    "gpt_oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, **_WINDOWS}),
    "llama4": ("Llama4", {"attention_chunk_size": 6, "num_local_experts": 4, "intermediate_size_mlp": 48}),
    "gemma2": ("Gemma2", {**_WINDOWS, "attn_logit_softcapping": 5.0}),
    "bloom": ("Bloom", {"n_head": 4, "n_layer": 4}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 256}),
    "gpt_neo": (
        "GPTNeo", {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 6},
    ),
    "bert": ("Bert", {"num_key_value_heads": None}),
}  # fmt: skip
_TEXT = ("Gemma3", "Qwen3_5", "Llama4")  # whose plain name is that of the model with images
_HEADS = {"GPT2": "GPT2LMHeadModel", "Bert": "BertLMHeadModel"}


def model_of(kind: str, **changed: Any) -> Any:
    """A model of that kind in float32, the same for every call. `changed`: settings of its config; None: not given."""
    name, more = KINDS[kind]
    settings = {key: value for key, value in (SIZES | more | changed).items() if value is not None}
    settings |= dict.fromkeys(("pad_token_id", "bos_token_id"))
    config = getattr(transformers, f"{name}{'Text' * (name in _TEXT)}Config")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, _HEADS.get(name, f"{name}ForCausalLM"))(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sink" in name or name.endswith("bias"):
                parameter += torch.randn_like(parameter)
    return model.eval()


def folder_of(kind: str, folder: Path, tokenizer: Path | None = None, **changed: Any) -> Path:
    """The same as a folder, with a tokenizer: the one of another model's folder, or a small one."""
    model_of(kind, **changed).save_pretrained(folder)
    if tokenizer is None:
        make_tokenizer(folder)
    else:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder
