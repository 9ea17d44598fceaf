#!/usr/bin/env bash
# Guess: PEFT's target_modules="all-linear" with rank r gives every adapted matrix of a model rank r; of a mixture of
#        experts it either reaches the stacked experts or leaves them out, in every type alike, and the router stays out.
# Found: by type of model. On Mixtral and Qwen3-MoE it becomes three target_parameters, the router's gate.weight among
#        them, so the router is trained; on GPT-OSS neither experts nor router are reached, and nothing says so. Where
#        they are, the fused gate_up_proj gets twice the rank, since each half had r before the fusion; and PEFT warns
#        that the rank_pattern and alpha_pattern which it wrote itself "did not match any targeted module and were
#        ignored", although both were followed.
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: Qwen3Moe | target_parameters ['down_proj', 'gate.weight', 'gate_up_proj'] | rank_pattern {'.*\\.gate_up_proj': 8}
#           rows of lora_A: … experts.base_layer 16, … experts 8, … gate 4
#           warning: The following rank_pattern keys did not match any targeted module and were ignored: …
#       GptOss | target_parameters [] | rank_pattern {}
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$place/venv/bin/python" - <<'PY'
import warnings

import transformers as t
from peft import LoraConfig, get_peft_model

sizes = dict(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, num_experts_per_tok=1)
models = {
    "Mixtral": t.MixtralForCausalLM(t.MixtralConfig(**sizes, num_local_experts=2)),
    "GptOss": t.GptOssForCausalLM(t.GptOssConfig(**sizes, head_dim=8, num_local_experts=2)),
    "Qwen3Moe": t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**sizes, head_dim=8, num_experts=2, moe_intermediate_size=16)),
}
for name, model in models.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    config = adapted.peft_config["default"]
    ranks = {key.split("layers.0.")[1]: len(value) for key, value in adapted.named_parameters()
             if "lora_A" in key and ".mlp." in key}
    print(name, "| target_parameters", sorted(config.target_parameters or []), "| rank_pattern", dict(config.rank_pattern))
    print("    rows of lora_A:", ranks)
    for one in said:
        if "pattern" in str(one.message):
            print("    warning:", str(one.message)[:110])
    if name == "GptOss":
        assert not config.target_parameters and not ranks
    else:
        assert config.rank_pattern == {r".*\.gate_up_proj": 8} and "gate.weight" in config.target_parameters
        assert sorted(ranks.values()) == [4, 8, 16], ranks  # the router 4; of two experts each, 4 × 2 and, fused, 8 × 2
        assert any("rank_pattern keys did not match" in str(one.message) for one in said)
PY
