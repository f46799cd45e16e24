"""Tiny random models of the architectures that transformers knows: each is built offline in milliseconds.

`ARCHITECTURES` maps a name to what stands in `[model.architecture]`. Two layers of width 32, 257 tokens, 512 positions.
"""

from collections.abc import Iterator
from typing import Any

import torch

from bakeoff.config.schema import ModelSettings
from bakeoff.models import loading
from bakeoff.runs.pipeline import Base

WIDE = 0.35
"""Standard deviation of a weight: attention is peaked, so a wrong position or a wrong mask changes the text."""
END = 256
"""The end token of the byte tokenizer, which pads as well."""
COMMON = {
    "vocab_size": 257,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": END,
    "tie_word_embeddings": False,
}
UNPADDED = ("codegen", "rwkv")
"""Model types whose configuration has no padding token."""

SIZE = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**SIZE, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 512}
GROUPED = {**HEADS, "num_key_value_heads": 2}
WINDOW = {"sliding_window": 16}
ALTERNATING = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
OPT = {**SIZE, "ffn_dim": 48, "num_attention_heads": 4, "max_position_embeddings": 512}
FALCON = {**SIZE, "num_attention_heads": 4}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED = {"shared_expert_intermediate_size": 24}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1,
          "first_k_dense_replace": 1}  # fmt: skip
LATENT = {**ROUTED, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 8, "v_head_dim": 8}  # fmt: skip
STATES = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip


def stretched(kind: str, **values: Any) -> dict[str, Any]:
    """Rope that is scaled; `dynamic` depends on how long a sequence is."""
    return {"rope_parameters": {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, **values}}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name: model type, its settings
    # learned positions, alibi, none
    "gpt2": ("gpt2", GPT),
    "gpt2-tied": ("gpt2", {**GPT, "tie_word_embeddings": True}),
    "openai-gpt": ("openai-gpt", GPT),
    "gpt_bigcode": ("gpt_bigcode", GPT),
    "gpt_neo": ("gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 512,
                            "attention_types": [[["global", "local"], 1]], "window_size": 16}),
    "ctrl": ("ctrl", {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 512}),
    "opt": ("opt", {**OPT, "word_embed_proj_dim": 32}),
    "opt-350m": ("opt", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "biogpt": ("biogpt", HEADS),
    "xglm": ("xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
                      "max_position_embeddings": 512}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 512}),
    "falcon-alibi": ("falcon", {**FALCON, "multi_query": False, "alibi": True, "parallel_attn": False}),
    # rotary positions
    "falcon-7b": ("falcon", {**FALCON, "multi_query": True, "alibi": False, "parallel_attn": True}),
    "falcon-40b": ("falcon", {**FALCON, "num_kv_heads": 2, "alibi": False, "new_decoder_architecture": True}),
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "codegen": ("codegen", {**GPT, "rotary_dim": 4}),
    "gpt_neox": ("gpt_neox", HEADS),
    "gpt_neox_japanese": ("gpt_neox_japanese", {**SIZE, "intermediate_multiple_size": 2, "num_attention_heads": 4,
                                                "max_position_embeddings": 512}),
    "phi": ("phi", HEADS),
    "persimmon": ("persimmon", HEADS),
    "stablelm": ("stablelm", GROUPED),
    "nemotron": ("nemotron", GROUPED),
    "llama": ("llama", GROUPED),
    "llama-dynamic": ("llama", {**GROUPED, "max_position_embeddings": 64, **stretched("dynamic")}),
    "llama-yarn": ("llama", {**GROUPED, **stretched("yarn", original_max_position_embeddings=128)}),
    "phi3": ("phi3", GROUPED),
    "mistral": ("mistral", {**GROUPED, **WINDOW}),
    "ministral": ("ministral", {**GROUPED, **ALTERNATING, "head_dim": 8}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "gemma2": ("gemma2", {**GROUPED, "head_dim": 8, **WINDOW}),
    "gemma3": ("gemma3_text", {**GROUPED, "head_dim": 8, **ALTERNATING}),
    "starcoder2": ("starcoder2", {**GROUPED, **WINDOW}),
    "olmo": ("olmo", GROUPED),
    "olmo2": ("olmo2", GROUPED),
    "olmo3": ("olmo3", {**GROUPED, **ALTERNATING}),
    "granite": ("granite", {**GROUPED, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
                            "attention_multiplier": 0.3, "logits_scaling": 2.0}),
    "cohere": ("cohere", {**GROUPED, "logit_scale": 1.0}),
    "cohere2": ("cohere2", {**GROUPED, **ALTERNATING, "logit_scale": 1.0}),
    "smollm3": ("smollm3", {**GROUPED, "num_hidden_layers": 4}),
    "glm": ("glm", {**GROUPED, "head_dim": 8}),
    "glm4": ("glm4", {**GROUPED, "head_dim": 8}),
    "exaone4": ("exaone4", {**GROUPED, **ALTERNATING}),
    "helium": ("helium", {**GROUPED, "head_dim": 8}),
    "ernie4_5": ("ernie4_5", {**GROUPED, "head_dim": 8}),
    "seed_oss": ("seed_oss", {**GROUPED, "head_dim": 8}),
    "arcee": ("arcee", GROUPED),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**GROUPED, "head_dim": 8}),
    "bitnet": ("bitnet", GROUPED),
    "apertus": ("apertus", GROUPED),
    "diffllama": ("diffllama", GROUPED),
    # mixtures of experts
    "mixtral": ("mixtral", {**GROUPED, **LOCAL, "sliding_window": None}),
    "phimoe": ("phimoe", {**GROUPED, **LOCAL}),
    "granitemoe": ("granitemoe", {**GROUPED, **LOCAL}),
    "olmoe": ("olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", {**GROUPED, **MIXTURE, **SHARED}),
    "qwen3_moe": ("qwen3_moe", {**GROUPED, **MIXTURE}),
    "glm4_moe": ("glm4_moe", {**GROUPED, **ROUTED}),
    "deepseek_v2": ("deepseek_v2", {**GROUPED, **LATENT}),
    "deepseek_v3": ("deepseek_v3", {**GROUPED, **LATENT}),
    "gpt_oss": ("gpt_oss", {**GROUPED, **LOCAL, "head_dim": 8, **ALTERNATING}),
    # states instead of attention, or beside it
    "mamba": ("mamba", {**SIZE, "state_size": 8}),
    "mamba2": ("mamba2", {**SIZE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16}),
    "falcon_mamba": ("falcon_mamba", {**SIZE, "state_size": 8}),
    "rwkv": ("rwkv", {**SIZE, "attention_hidden_size": 32, "intermediate_size": 48}),
    "xlstm": ("xlstm", {"hidden_size": 32, "num_blocks": 2, "num_heads": 4}),
    "recurrent_gemma": ("recurrent_gemma", {
        "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16}),
    "jamba": ("jamba", {**GROUPED, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
                        "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8,
                        "mamba_dt_rank": 4}),
    "bamba": ("bamba", {**GROUPED, **STATES, "attn_layer_indices": [1]}),
    "granitemoehybrid": ("granitemoehybrid", {**GROUPED, **LOCAL, **STATES, "shared_intermediate_size": 24,
                                              "layer_types": ["mamba", "attention"]}),
    "zamba": ("zamba", {**HEADS, "num_hidden_layers": 3, "num_key_value_heads": 4, "mamba_d_state": 8,
                        "n_mamba_heads": 2, "mamba_dt_rank": 4, "layers_block_type": ["mamba", "hybrid", "mamba"]}),
    "zamba2": ("zamba2", {
        **HEADS, "num_hidden_layers": 3, "num_key_value_heads": 4, "layers_block_type": ["mamba", "hybrid", "mamba"],
        "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1, "num_mem_blocks": 1,
        "adapter_rank": 4}),
    "lfm2": ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "qwen3_next": ("qwen3_next", {**GROUPED, **MIXTURE, **SHARED, **LINEAR, "head_dim": 8}),
    "minimax": ("minimax", {**GROUPED, **LOCAL, "head_dim": 8, "block_size": 16, "layer_types": LINEAR["layer_types"]}),
}  # fmt: skip


def architecture(name: str) -> dict[str, Any]:
    """What stands in `[model.architecture]`."""
    kind, values = KINDS[name]
    common = {key: value for key, value in COMMON.items() if key != "pad_token_id" or kind not in UNPADDED}
    return {"model_type": kind, **common, **values}


ARCHITECTURES = {name: architecture(name) for name in KINDS}


def settings(name: str) -> ModelSettings:
    """The model's settings, as a preset holds them."""
    return ModelSettings(name="random", architecture=ARCHITECTURES[name])


class Wide(Base):
    """The base model of a run with wide weights, the same ones at each load."""

    def load(self) -> tuple[Any, Any]:
        """Model (fp32, on the CPU) and tokenizer."""
        model, tokenizer = super().load()
        widen(model)
        return model, tokenizer


@torch.no_grad()
def widen(model: torch.nn.Module) -> None:
    """Draws every matrix of `model` anew with a standard deviation of WIDE."""
    generator = torch.Generator().manual_seed(3)
    for parameter in matrices(model):
        parameter.normal_(0, WIDE, generator=generator)


def matrices(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """The parameters of two and more dimensions, each once, in the order of their names."""
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() >= 2:
            yield parameter


def load(name: str) -> tuple[Any, Any]:
    """Model with wide weights and tokenizer, nothing attached."""
    chosen = settings(name)
    model, tokenizer = loading.load(chosen, loading.locate(chosen), None, "eager")
    widen(model)
    return model, tokenizer


def configuration(name: str) -> Any:
    """The transformers configuration."""
    return loading.configuration(settings(name))
