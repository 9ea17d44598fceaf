"""Tiny random models of many types, a kind of fault each and the families that people use most."""

import warnings

import torch

TOKENS = {"vocab_size": 600, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2}  # fmt: skip
COMMON = TOKENS | SIZES
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
LATENT = dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim", "index_head_dim", "index_topk"), 8)
LATENT |= {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "index_n_heads": 4, "n_routed_experts": 4}
LATENT |= {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
SEEN = {"image_token_index": 599, "boi_token_index": 598, "eoi_token_index": 597, "mm_tokens_per_image": 4}
SEEN |= {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
}
SEEN["vision_config"] |= {"image_size": 28, "patch_size": 14}
CHUNKED = ["chunked_attention", "full_attention"]
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
MIXED = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}

# name: (configuration, model, settings)
FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", COMMON),
    "mistral, a window of 16": ("MistralConfig", "MistralForCausalLM", COMMON | {"sliding_window": 16}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", COMMON),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", COMMON | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", COMMON | {"head_dim": 8, "initializer_range": 0.6,
               "final_logit_softcapping": 30.0, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", COMMON | MIXED | {"head_dim": 8, "sliding_window": 16}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", COMMON | {"sliding_window": None}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", COMMON),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", COMMON),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", TOKENS | GPT | {"n_positions": 512, "initializer_range": 0.2}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", COMMON),
    "opt": ("OPTConfig", "OPTForCausalLM", TOKENS | {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 512, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "bloom": ("BloomConfig", "BloomForCausalLM", TOKENS | {"hidden_size": 32, "n_layer": 2, "n_head": 4,
              "initializer_range": 0.2}),
    "mpt": ("MptConfig", "MptForCausalLM", {"vocab_size": 600, "d_model": 32, "n_layers": 2, "n_heads": 4,
            "max_seq_len": 512, "initializer_range": 0.2}),
    "cohere": ("CohereConfig", "CohereForCausalLM", COMMON | {"logit_scale": 0.0625}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", COMMON | {"logits_scaling": 8.0, "embedding_multiplier": 2.0}),
    "nanochat": ("NanoChatConfig", "NanoChatForCausalLM", COMMON),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", COMMON | {"head_dim": 8, "sliding_window": 16,
                "num_local_experts": 2, "num_experts_per_tok": 1}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", COMMON | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "falcon_h1": ("FalconH1Config", "FalconH1ForCausalLM", COMMON | MAMBA | {"head_dim": 8, "lm_head_multiplier": 0.5}),
    "recurrent_gemma": ("RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", TOKENS | {"hidden_size": 32,
                        "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "lru_width": 32,
                        "attention_window_size": 64}),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", COMMON | {"layer_types": ["conv", "full_attention"],
             "block_auto_adjust_ff_dim": False}),
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", COMMON | LINEAR),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", COMMON | LINEAR | {"num_experts": 0,
                   "mlp_only_layers": [0, 1]}),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2,
              "state_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "rwkv": ("RwkvConfig", "RwkvForCausalLM", {"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 2,
             "attention_hidden_size": 32, "intermediate_size": 64, "context_length": 512}),
    "gemma3 that sees": ("Gemma3Config", "Gemma3ForConditionalGeneration", SEEN | {"initializer_range": 0.2,
                         "text_config": COMMON | MIXED | {"head_dim": 8, "sliding_window": 16}}),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", COMMON | {"head_dim": 8, "intermediate_size_mlp": 64,
               "num_local_experts": 2, "attention_chunk_size": 16, "layer_types": CHUNKED}),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", COMMON | {"num_layers": 2, "num_heads": 4, "window_size": 64,
                "attention_types": [[["global", "local"], 1]]}),
    "modernbert": ("ModernBertDecoderConfig", "ModernBertDecoderForCausalLM", COMMON | {"local_attention": 32,
                   "cls_token_id": 1, "sep_token_id": 2, "initializer_cutoff_factor": 2.0}),
    "deepseek_v32": ("DeepseekV32Config", "DeepseekV32ForCausalLM", COMMON | LATENT),
}  # fmt: skip
NO_TREE = {"bloom", "mpt", "falcon_h1", "recurrent_gemma", "lfm2", "qwen3_5", "qwen3_next", "mamba", "rwkv"}
OWN_LOGITS = {"modernbert", "gemma2", "cohere", "granite", "nanochat", "falcon_h1", "recurrent_gemma"}
NO_CACHE = NO_TREE - {"bloom"} | {"deepseek_v32"}
WINDOW = {"llama4": 16, "gpt_neo": 64}  # tokens of a tree
ALONE = {"deepseek_v32": 8}


def random_model(name: str, seed: int = 0):
    """Return a tiny random model of a family."""
    import transformers

    kind, model, settings = FAMILIES[name]
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(transformers, model)(getattr(transformers, kind)(**settings)).eval()
    return telling(made)


def telling(model):
    """Return the model with nothing in it that chance or a start at one or zero decides."""
    for part in model.modules():
        for name, value in vars(part).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name or isinstance(part, torch.nn.Dropout)):
                setattr(part, name, 0.0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.05)
    return model
