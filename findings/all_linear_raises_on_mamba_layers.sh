#!/usr/bin/env bash
# Guess: PEFT's target_modules="all-linear" means every linear layer that LoRA can go on; what it cannot go on is left out,
#        as the output head is.
# Found: on models with Mamba layers it picks `out_proj` and then refuses its own pick with a ValueError, so "all-linear"
#        never works there; exclude_modules has to name what the error names.
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: ValueError: [PEFT:PeftType.LORA] Module 'out_proj' is incompatible with Mamba-based models (model_type='falcon_h1')
#       with exclude_modules: ['down_proj', 'gate_proj', 'in_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj']
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$place/venv/bin/python" - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import FalconH1Config, FalconH1ForCausalLM

config = FalconH1Config(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8)
try:
    get_peft_model(FalconH1ForCausalLM(config), LoraConfig(r=4, target_modules="all-linear"))
except ValueError as error:
    print("ValueError:", str(error)[:110])
    assert "out_proj" in str(error) and "incompatible" in str(error)
else:
    raise SystemExit("all-linear works now")
named = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["out_proj", "conv1d"])
model = get_peft_model(FalconH1ForCausalLM(config), named)
layers = {name.split(".")[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
print("with exclude_modules:", sorted(layers))
assert "in_proj" in layers and "out_proj" not in layers
PY
