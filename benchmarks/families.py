"""Every type of causal model that transformers has, tiny and random: does the kit compute what plain forwards give?

python benchmarks/families.py [--types llama,gemma2] [--record NAME]    # all of them: some minutes on one core
"""

import argparse
import logging
import multiprocessing
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import exactness  # noqa: E402
from families import telling  # noqa: E402

from sempa_utils import models, records  # noqa: E402
from sempa_utils.checks import InputError, build_folder, fingerprint, first_line  # noqa: E402

SECONDS = 180  # that one type may take
LAYERS, WINDOW = 4, 16  # a window that the sequences are longer than
# What is small, by the names that configurations have for it; what changes logits, so that it shows.
SIZES: dict[str, Any] = {
    name: value
    for names, value in (
        ("vocab_size decoder_vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab", 640),
        ("max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions", 512),
        ("intermediate_size ffn_dim n_inner d_ff dim_ff dff ffn_hidden_size decoder_ffn_dim intermediate_size_mlp", 64),
        ("feed_forward_size dense_intermediate_size prefix_dense_intermediate_size d_inner", 64),
        ("mamba_d_ssm", 64),
        ("mamba_n_heads", 8),
        ("hidden_size n_embd d_model emb_dim embedding_size embedding_dim hidden_size_global lru_width", 32),
        (
            "word_embed_proj_dim attention_hidden_size input_embedding_size output_embedding_size backbone_hidden_size",
            32,
        ),
        ("moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size", 32),
        ("moe_shared_expert_intermediate_size shared_experts_intermediate_size router_hidden_size", 32),
        (
            "sliding_window attention_window_size attention_chunk_size local_attention window_size keep_window_size",
            WINDOW,
        ),
        ("local_attention_window_len q_lora_rank kv_lora_rank o_lora_rank hidden_size_per_layer_input", 16),
        ("head_dim d_kv dim_head attention_head_dim attention_head_size d_head linear_head_dim", 8),
        ("linear_key_head_dim linear_value_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim", 8),
        (
            "mamba_d_head mamba_d_state state_size ssm_state_size mamba_head_dim rotary_dim time_step_rank",
            8,
        ),
        ("index_topk chunk_size mamba_chunk_size block_size", 8),
        ("logits_scaling", 8.0),
        ("final_logit_softcapping logits_soft_cap output_logit_soft_cap", 5.0),
        ("num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks", LAYERS),
        ("num_attention_heads n_head n_heads num_heads decoder_attention_heads num_decoder_attention_heads", 4),
        ("attention_heads linear_num_value_heads linear_num_heads num_query_groups index_n_heads encoder_layers", 4),
        ("num_experts n_routed_experts num_local_experts moe_num_experts mamba_num_heads", 4),
        ("num_key_value_heads num_kv_heads kv_n_heads linear_num_key_heads num_experts_per_tok moe_topk moe_k", 2),
        ("moe_top_k num_experts_per_token num_kv_shared_layers", 2),
        ("attn_layer_period", 2),
        ("attn_layer_offset", 1),
        ("embedding_multiplier", 2.0),
        ("topk_group n_group num_expert_group n_groups mamba_n_groups first_k_dense_replace num_dense_layers", 1),
        ("n_shared_experts num_shared_experts moe_num_shared_experts", 1),
        ("lm_head_multiplier logit_scale", 0.5),
        ("initializer_range init_std embedding_initializer_range embed_init_std", 0.2),
    )
    for name in names.split()
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
UNSET = ("head_dim", "num_key_value_heads")  # set, too, where a type leaves it open
FIRST_OTHER = 601  # tokens that stand for images and the like: beyond what the tokenizer writes
# What a type needs beside.
QWEN4 = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8}
QWEN4 |= {"indexer_compress_ratio": 4, "ngram_vocab_size_base": 1000}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_theta": 10000.0, "rope_type": "default"}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32},
    "dots3_note_text": {"head_dim": 16, "per_layer_config": {"01": {"kv_lora_rank": 8}, "03": {"kv_lora_rank": 8}}},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4, "full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


def small(kind: type, changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a configuration class: small, without chance, with every kind of layer that it has."""
    default, settings, others = kind(), {}, iter(range(FIRST_OTHER, FIRST_OTHER + 30))
    values = {
        name: value for name, value in vars(default).items() if name in UNSET or not (name[0] == "_" or value is None)
    }
    lists = {name: value for name, value in values.items() if _by_layer(default, value)}
    kinds = {name: list(dict.fromkeys(value)) for name, value in lists.items()}
    layers = max([LAYERS, *map(len, kinds.values())])
    for name, value in values.items():
        if hasattr(value, "model_type"):
            settings[name] = small(type(value), changes.get(name, {})) | {"model_type": value.model_type}
        elif name in kinds:
            settings[name] = [kinds[name][place % len(kinds[name])] for place in range(layers)]
        elif name in SPECIAL or name in SIZES:
            settings[name] = (SPECIAL | SIZES | {"num_hidden_layers": layers})[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            settings[name] = next(others)
        elif isinstance(value, float) and ("drop" in name or "jitter" in name):
            settings[name] = 0.0
    if values.get("num_key_value_heads") == values.get("num_attention_heads"):
        settings |= {"num_key_value_heads": 4} if "num_key_value_heads" in values else {}
    return settings | {name: value for name, value in changes.items() if not hasattr(values.get(name), "model_type")}


def _by_layer(config, value) -> bool:
    return isinstance(value, list) and len(value) > 1 and len(value) == getattr(config, "num_hidden_layers", None)


def build(kind: str, seed: int = 0):
    """Return a small random model of a type, as `AutoModelForCausalLM` makes it of a configuration."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind]
    made = config(**small(config, OVERRIDES.get(kind, {})))
    return telling(AutoModelForCausalLM.from_config(made).eval())


def outcome(kind: str) -> records.FamilyOutcome:
    """Return what the kit makes of a type of model."""
    try:
        model = build(kind)
        states = model(input_ids=torch.arange(3, 23)[None]).logits
        if not states.isfinite().all():
            raise ValueError("its logits are no numbers")
    except Exception as error:  # in as many ways as there are types
        return records.FamilyOutcome("not built", reason=f"{type(error).__name__}: {first_line(error)}")
    found: dict[str, float] = {}
    try:
        base = models.wrap(model, exactness.TOKENIZER, name=kind)
        ways = base.ways.lines()
        for name, compare in exactness.COMPARISONS.items():
            found[name] = compare(base).apart
        for objective in exactness.OBJECTIVES:
            training = exactness.training(base, objective)
            found[f"{objective}, loss"] = training.loss.apart
            found[f"{objective}, gradient"] = training.gradient_apart / 2  # twice as much rounding
    except InputError as error:
        return records.FamilyOutcome("refused", reason=str(error), apart=found)
    except Exception as error:
        return records.FamilyOutcome("failed", reason=f"{type(error).__name__}: {first_line(error)}", apart=found)
    wrong = [name for name, apart in found.items() if not apart < exactness.TOLERANCE]
    if wrong:
        return records.FamilyOutcome("wrong", ways=ways, reason=", ".join(wrong), apart=found)
    return records.FamilyOutcome("another way" if ways else "quick", ways=ways, apart=found)


def alone(kind: str) -> records.FamilyOutcome:
    """Return `outcome` of a process of its own, which may end as it likes."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work():
        there.send(outcome(kind))

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return here.recv()
        return records.FamilyOutcome("failed", reason=f"not done after {SECONDS} seconds")
    except EOFError:
        process.join()
        return records.FamilyOutcome("failed", reason=f"the process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def state_of_the_kit() -> str:
    """Return a fingerprint of all code that an outcome depends on: what is kept of a run that broke off is taken up."""
    files = [*Path(models.__file__).parents[1].rglob("*.py"), *Path(exactness.__file__).parent.glob("*.py"), __file__]
    return fingerprint(*(Path(file).read_text(encoding="utf8") for file in sorted(map(str, files))))


def main() -> None:
    """Try the types one after another and print what came out."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", help="of them these alone, with commas between")
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    chosen = options.types.split(",") if options.types else sorted(TYPES)
    warnings.simplefilter("ignore")
    found, kept = {}, build_folder() / "families" / state_of_the_kit()
    for kind in tqdm(chosen, unit="type"):
        path = kept / f"{kind}.json"
        if not path.is_file():
            records.write_json(path, alone(kind))
        found[kind] = records.read_json(path, records.FamilyOutcome)
        about = found[kind]
        tqdm.write(f"{kind}: {about.outcome} {'; '.join(about.ways)} {about.reason or ''}")
    if options.record:
        path = records.committed_folder() / f"{options.record}.json"
        if options.types and path.is_file():
            found = records.load_run(path, dict[str, records.FamilyOutcome]).figures | found
        counts = Counter(of_type.outcome for of_type in found.values())
        headline = f"{len(found)} types: " + ", ".join(f"{count} {name}" for name, count in counts.most_common())
        record = records.run_record(options.record, dict(sorted(found.items())), headline=headline)
        print(headline, records.save_run(record, path.parent))


if __name__ == "__main__":
    main()
