#!/usr/bin/env bash
# Guess: a causal model of transformers that takes a 4D attention mask (packing, shared prefixes, trees) either keeps
#        two sequences apart by it or raises where a layer cannot.
# Found: in models that mix attention with convolution or linear attention the mask reaches the attention layers alone.
#        The others run over the whole row, so the second sequence sees the first, without a warning; the first
#        is right, and so is a first training loss against a reference computed in the same way. A 2D mask with padding
#        is exact in the same models.
# transformers 5.23.0, torch 2.13.0: Lfm2, Qwen3_5, Qwen3Next leak; Llama does not.
# Seen: Lfm2        largest difference of logits: first sequence 1.5e-06, second 3.9e+00
#       Qwen3_5     largest difference of logits: first sequence 1.9e-06, second 5.3e+00
#       Qwen3Next   largest difference of logits: first sequence 2.1e-06, second 5.0e+00
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$place/venv/bin/python" - <<'PY'
import torch
import transformers as t

sizes = dict(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2)
linear = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, head_dim=8,
              layer_types=["linear_attention", "full_attention"])
models = {
    "Llama": t.LlamaForCausalLM(t.LlamaConfig(**sizes)),
    "Lfm2": t.Lfm2ForCausalLM(t.Lfm2Config(**sizes, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)),
    "Qwen3_5": t.Qwen3_5ForCausalLM(t.Qwen3_5TextConfig(**sizes, **linear)),
    "Qwen3Next": t.Qwen3NextForCausalLM(t.Qwen3NextConfig(**sizes, **linear, num_experts=0, mlp_only_layers=[0, 1])),
}
torch.manual_seed(0)
first, second = torch.randint(3, 200, (2, 6))
ids, places = torch.cat([first, second])[None], torch.arange(6).repeat(2)[None]
own = torch.block_diag(*[torch.ones(6, 6).tril()] * 2).bool()
mask = torch.zeros(12, 12).masked_fill(~own, torch.finfo(torch.float32).min)[None, None]
for name, model in models.items():
    model.eval()
    with torch.no_grad():
        packed = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits[0]
        alone = [model(input_ids=part[None], use_cache=False).logits[0] for part in (first, second)]
    apart = [(packed[:6] - alone[0]).abs().max().item(), (packed[6:] - alone[1]).abs().max().item()]
    print(f"{name:<10} largest difference of logits: first sequence {apart[0]:.1e}, second {apart[1]:.1e}")
    assert apart[0] < 1e-4 and (apart[1] < 1e-4) == (name == "Llama")
PY
