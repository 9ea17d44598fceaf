#!/usr/bin/env bash
# Guess: under torch.autocast a float32 LoRA weight that two forwards use gets the float32 sum of both gradients,
#        whether the two stand in one autocast region or in two: autocast's weight cache only saves time.
# Found: in one region both forwards share one cached bfloat16 copy of the weight. Autograd adds their gradients at that
#        copy, in bfloat16, and only the sum is cast to float32. Two regions, or cache_enabled=False, add in float32.
#        A loss of several forwards (chosen and rejected apart, a KL term beside DPO) so trains on coarser gradients than
#        the same forwards in regions of their own, and "float32 adapters" do not prevent it.
# torch 2.13.0, peft 0.21.2, transformers 5.23.0, CPU.
# Seen: values that are bfloat16 numbers: one region 1.00, two 0.32, one without the cache 0.32
#       relative difference of the gradients: 1.7e-03
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$place/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
texts = torch.randint(0, 200, (2, 1, 12))
weights = [p for p in model.parameters() if p.requires_grad]
assert all(weight.dtype == torch.float32 for weight in weights)


def gradients(regions, cache):
    losses = []
    for together in regions:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            losses += [model(input_ids=text, labels=text).loss for text in together]
    return torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses), weights)])


one, two = list(texts), [[text] for text in texts]
together, apart, uncached = gradients([one], True), gradients(two, True), gradients([one], False)
coarse = lambda values: (values == values.bfloat16().float()).float().mean().item()
print(f"values that are bfloat16 numbers: one region {coarse(together):.2f}, two {coarse(apart):.2f}, "
      f"one without the cache {coarse(uncached):.2f}")
print(f"relative difference of the gradients: {((together - apart).norm() / apart.norm()).item():.1e}")
assert coarse(together) > 0.99 and coarse(apart) < 0.7 and torch.equal(apart, uncached)
assert 1e-4 < (together - apart).norm() / apart.norm() < 1e-1
PY
