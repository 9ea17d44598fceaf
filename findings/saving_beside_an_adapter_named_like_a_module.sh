#!/usr/bin/env bash
# Guess: the name of an adapter is a label. Whatever the others on the model are called, save_pretrained(selected_adapters=[one])
#        writes all weights of that one; adapters called "0", "1", "2" (a loop's numbers) are as good as any.
# Found: the weights of the others are told apart by their name standing between dots in the parameter's path. An adapter
#        called "0" beside it, and the saved one has no layer 0; one called "mlp", and it has no MLP at all. Nothing is said
#        on saving. On loading there is a UserWarning of missing keys, and those layers keep their untrained zeros.
#        It meets who combines adapters: add_weighted_adapter needs its parts on the model under names, and then saves the sum.
# peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: beside 'other': 28 weights saved; beside '0': 14 (no layer 0); beside 'mlp': 16 (no mlp)
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
PLACE="$place" "$place/venv/bin/python" - <<'PY'
import os
import warnings
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
saved = {}
for other in ("other", "0", "mlp"):
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2)
    model = get_peft_model(LlamaForCausalLM(config), lora)  # an adapter called "default"
    model.add_adapter(other, lora)
    folder = Path(os.environ["PLACE"]) / f"beside {other}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    assert not any("adapter" in str(one.message) for one in said), [str(one.message) for one in said]
    saved[other] = set(load_file(folder / "adapter_model.safetensors"))
    print(f"beside {other!r}: {len(saved[other])} weights saved")
assert len(saved["other"]) == 28
assert saved["0"] == {name for name in saved["other"] if ".0." not in name} and len(saved["0"]) == 14
assert saved["mlp"] == {name for name in saved["other"] if ".mlp." not in name} and len(saved["mlp"]) == 16
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    PeftModel.from_pretrained(LlamaForCausalLM(config), os.environ["PLACE"] + "/beside 0")
assert any("missing adapter keys" in str(one.message) for one in said)
PY
