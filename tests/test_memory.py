"""The memory plan against the bytes that a real step allocates, and the laws it must obey."""

import ctypes

import psutil
import pytest
import torch
from conftest import tiny_model
from test_benchmarks import load_benchmark
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from sempa_utils import models, profiles, training
from sempa_utils.checks import InputError
from sempa_utils.models import prefix_tree
from sempa_utils.objectives import OBJECTIVES, TokenCounts
from sempa_utils.training import Recipe, lora_config, memory
from sempa_utils.training.memory import GIB, advice, plan, total
from sempa_utils.training.step import Step

large_models = load_benchmark("large_models")
SMALL = Recipe(micro_batch=4, max_length=128)


def config(layers=4, width=64):
    return tiny_model(layers, width).config


def small_of(name: str):
    """Return a small random model of a public model's family, with its biases and its kind of head."""
    sizes = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    torch.manual_seed(0)
    family, keywords = memory.SHAPES[name].family, memory.SHAPES[name].keywords
    model = AutoModelForCausalLM.from_config(family(**keywords | sizes | {"initializer_range": 0.2})).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def measured_peak(model, recipe: Recipe, tokens: TokenCounts) -> int:
    """Bytes at the peak of a real micro-batch: what lies there before it, and torch's own allocator."""
    from peft import get_peft_model
    from torch.profiler import ProfilerActivity, profile

    model = get_peft_model(model, lora_config(recipe)).train()
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
        model.get_base_model().activation_checkpointing_enable()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    batch = memory.example_batch(recipe, tokens)
    assert max(int(tree.input_ids.max()) for tree in batch.policy) < model.config.vocab_size
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimiser.step()  # the gradients stay, as in the midst of an accumulation
    lying = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    lying += [tensor for state in optimiser.state.values() for tensor in state.values()]
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            lying += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in lying}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        Step(recipe).compute(model, batch).loss.backward()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert peak > 0
    return before + peak


@pytest.mark.parametrize("kl_weight", [0.0, 10.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objectives_plan_is_the_peak_of_its_own_step(objective, kl_weight):
    recipe = SMALL.changed(objective=objective, micro_batch=6, chunk=8, kl_weight=kl_weight)
    model = tiny_model(4, 128, vocabulary=2000)
    planned = total(plan(model.config, "float32", recipe=recipe))
    assert planned == pytest.approx(measured_peak(model, recipe, TokenCounts()), rel=0.15)


def test_plans_of_objectives_differ():
    plans = {
        objective: total(plan(config(), "float32", recipe=SMALL.changed(objective=objective)))
        for objective in OBJECTIVES
    }
    assert len(set(plans.values())) == len(plans)
    held = total(plan(config(), "float32", recipe=SMALL.changed(kl_weight=1.0)))
    assert held > plans["pairwise"]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("layers", "width", "micro_batch"), [(2, 64, 2), (6, 64, 8), (4, 128, 4)])
def test_the_plan_is_the_measured_peak_of_a_small_model(layers, width, micro_batch, checkpointing):
    sizes = SMALL.changed(micro_batch=micro_batch, gradient_checkpointing=checkpointing)
    model = tiny_model(layers, width)
    planned = total(plan(model.config, "float32", recipe=sizes))
    assert planned == pytest.approx(measured_peak(model, sizes, TokenCounts()), rel=0.15)


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "mistral-7b-v0.3"])
def test_the_plan_is_the_measured_peak_of_another_family(name):
    sizes, tokens = SMALL.changed(micro_batch=4), TokenCounts()
    model = small_of(name)
    assert type(model).__name__ == {"q": "Qwen2ForCausalLM", "m": "MistralForCausalLM"}[name[0]]
    assert total(plan(model.config, "float32", recipe=sizes)) == pytest.approx(
        measured_peak(model, sizes, tokens), rel=0.15
    )


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "mistral-7b-v0.3"])
def test_prefix_trees_are_exact_in_another_family(name):
    model = small_of(name)
    prompts, answers = [[5, 6, 7], [5, 6, 8, 9]], [[[10, 11, 2], [12, 2]], [[13, 2], [10, 14, 15, 2]]]
    found = prefix_tree.log_probs(model, prefix_tree.build(prompts, answers))
    expected = []
    for prompt, pair in zip(prompts, answers):
        for answer in pair:
            logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            expected.append(sum(logits[len(prompt) - 1 + place, token] for place, token in enumerate(answer)))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.model
@pytest.mark.parametrize(("precision", "checkpointing"), [("float32", False), ("nf4", True)])
def test_the_plan_is_the_measured_peak_of_the_packaged_model(precision, checkpointing):
    sizes, tokens = SMALL.changed(micro_batch=2, gradient_checkpointing=checkpointing), TokenCounts(12, 10, 6)
    model = models.load(precision=precision, device="cpu").model
    planned = total(plan(model.config, precision, recipe=sizes, tokens=tokens, compute_dtype=torch.float32))
    assert planned == pytest.approx(measured_peak(model, sizes, tokens), rel=0.15)


def test_adapter_optimiser_and_gradients_by_hand():
    planned = plan(config(layers=1, width=64), "float32", recipe=SMALL.changed(lora_rank=2))
    # Rank × (in + out) of q, k, v, o, gate, up, down: 64→64, 64→32 twice, 64→64, 64→128 twice, 128→64.
    trained = 2 * (128 + 96 + 96 + 128 + 192 + 192 + 192)
    assert (planned["adapter"], planned["gradients"], planned["optimiser"]) == (4 * trained, 4 * trained, 8 * trained)
    eight_bit = plan(
        config(layers=1, width=64), "float32", recipe=SMALL.changed(lora_rank=2, optimizer="paged_adamw_8bit")
    )
    assert eight_bit["optimiser"] == 2 * trained


def test_weights_of_the_published_shapes():
    sizes = SMALL.changed(micro_batch=1)
    llama_2, llama_3 = (memory.shape(name) for name in ("llama-2-7b", "llama-3-8b"))
    # 6,738,415,616 and 8,030,261,248 parameters, as published.
    assert plan(llama_2, "bfloat16", recipe=sizes)["weights"] == 2 * 6_738_415_616
    assert plan(llama_3, "bfloat16", recipe=sizes)["weights"] == 2 * 8_030_261_248


# Weights in the files on the hub, tied ones once.
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "qwen2.5-0.5b": 494_032_768,
    "tinyllama-1.1b": 1_100_048_384,
    "qwen2.5-1.5b": 1_543_714_304,
    "smollm2-1.7b": 1_711_376_384,
    "llama-2-7b": 6_738_415_616,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3-8b": 8_030_261_248,
}


def test_every_shape_has_the_published_number_of_weights():
    found = {}
    for name in memory.SHAPES:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(memory.shape(name))
        found[name] = sum(parameter.numel() for parameter in model.parameters())
    assert found == PUBLISHED


@pytest.mark.model
def test_the_packaged_model_has_the_shape_of_its_name():
    packaged, named = memory.shape("packaged"), memory.shape("smollm2-135m")
    for field in memory.SHAPES["smollm2-135m"].keywords:
        assert getattr(packaged, field) == getattr(named, field), field


def test_a_suggestion_is_the_plan_of_the_profiles_recipe():
    (row,) = large_models.suggested(["smollm2-135m"])
    config = memory.shape("smollm2-135m")
    for way, (precision, name) in {"nf4 t4": ("nf4", "t4"), "bfloat16": ("bfloat16", "24gb")}.items():
        recipe = training.Recipe.of_profile(profiles.get(name))
        assert row.planned[way] == total(plan(config, precision, recipe=recipe, tokens=memory.LONGEST))
    assert row.parameters == PUBLISHED["smollm2-135m"] and row.fits["16 GB"] == list(row.planned)
    with pytest.raises(InputError, match="shape"):
        large_models.suggested(["llama-9-9b"])


def test_what_a_card_does_not_hold_is_said_not_to_fit(monkeypatch):
    (row,) = large_models.suggested(["smollm2-135m"])
    smallest = min(row.planned, key=row.planned.get)
    card = int(row.planned[smallest] / (1 - memory.SPARE)) + 1
    monkeypatch.setattr(large_models, "CARDS", {"tight": card, "too small": row.planned[smallest]})
    (row,) = large_models.suggested(["smollm2-135m"])
    assert row.fits == {"tight": [smallest], "too small": []}
    assert large_models.suggested_table([row]).splitlines()[-1].split(" | ")[-3:-1] == [smallest, "nothing"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_of_a_step(checkpointing):
    from peft import LoraConfig, get_peft_model

    sizes = SMALL.changed(micro_batch=4, gradient_checkpointing=checkpointing)
    # Wide, so that attention and the adapter weigh little.
    tokens, wide = TokenCounts(), config(layers=4, width=1024)
    tree = prefix_tree.build(
        [[0] * tokens.instruction + [1 + index] * tokens.anchor for index in range(4)],
        [[[5] * tokens.answer, [6] * tokens.answer] for _ in range(4)],
    )
    lora = LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(wide), lora).train()
    model.enable_input_require_grads()
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable()
    with FlopCounterMode(display=False) as counter:
        prefix_tree.log_probs(model, tree).sum().backward()
        with torch.no_grad():
            prefix_tree.log_probs(model, tree)
    assert memory.operations(wide, sizes, tokens=tokens) == pytest.approx(counter.get_total_flops() / 4, rel=0.05)


def test_more_triplets_need_more_and_checkpointing_needs_less():
    found = [plan(config(), "float32", recipe=SMALL.changed(micro_batch=size))["activations"] for size in (1, 2, 4, 8)]
    assert found == sorted(set(found))
    less = plan(config(), "float32", recipe=SMALL.changed(micro_batch=8, gradient_checkpointing=True))["activations"]
    assert less < found[-1] / 2


def test_fewer_bits_need_less_memory():
    found = {name: plan(config(), name, recipe=SMALL) for name in ("nf4", "bfloat16", "float32")}
    assert found["nf4"]["weights"] < found["bfloat16"]["weights"] < found["float32"]["weights"]
    assert found["bfloat16"]["weights"] * 2 == found["float32"]["weights"]
    assert found["bfloat16"]["activations"] < found["float32"]["activations"]
    assert all(
        set(one) == {"weights", "adapter", "optimiser", "gradients", "activations", "logits"}
        and total(one) == sum(one.values())
        for one in found.values()
    )


def test_what_nf4_computes_in_sets_the_size_of_the_rest():
    bfloat, half, whole = (
        plan(config(), "nf4", recipe=SMALL, compute_dtype=dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    )
    assert bfloat == half and bfloat["weights"] < whole["weights"] and total(bfloat) < total(whole)


def test_stock_batches_and_longer_sentences_need_more():
    tree = plan(config(), "float32", recipe=SMALL)
    assert total(plan(config(), "float32", recipe=SMALL.changed(shared_prefix=False))) > total(tree)
    assert total(plan(config(), "float32", recipe=SMALL, tokens=TokenCounts(22, 40, 16))) > total(tree)
    cut = plan(config(), "float32", recipe=SMALL.changed(max_length=56))  # leaves four tokens to an answer
    assert cut["activations"] < tree["activations"]


def test_advice_names_the_need_the_card_and_what_fits():
    sizes, tokens = SMALL.changed(micro_batch=8), TokenCounts()
    needed = total(plan(config(), "float32", recipe=sizes, tokens=tokens))
    smaller = total(plan(config(), "float32", recipe=sizes.changed(micro_batch=4), tokens=tokens))
    card = int((smaller + 1) / (1 - memory.SPARE)) + 1
    text = advice(config(), "float32", recipe=sizes, capacity_bytes=card, tokens=tokens)
    assert f"{needed / GIB:.2f} GiB" in text and f"{card / GIB:.2f} GiB" in text
    assert "What fits: micro_batch=4" in text and "gradient checkpointing and micro_batch=8" in text
    assert "fits" in advice(config(), "float32", recipe=sizes, capacity_bytes=100 * GIB) and "Nothing" not in text
    assert "Nothing fits" in advice(config(), "float32", recipe=sizes, capacity_bytes=1000, tokens=tokens)


def test_advice_offers_nf4_where_the_weights_alone_are_too_many():
    sizes, wide = SMALL.changed(micro_batch=1, gradient_checkpointing=True), config(2, 256)
    room = total(plan(wide, "nf4", recipe=sizes, tokens=memory.LONGEST))
    assert room < total(plan(wide, "float32", recipe=sizes, tokens=memory.LONGEST))
    text = advice(wide, "float32", recipe=sizes, capacity_bytes=int(room / (1 - memory.SPARE)) + 2)
    assert "What fits: nf4 and micro_batch=1" in text


@pytest.mark.parametrize(
    ("precision", "change", "words"),
    [
        ("nf5", {}, "precision"),
        ("nf4", {"optimizer": "sgd"}, "optimiser"),
        ("nf4", {"micro_batch": 0}, "micro_batch"),
        ("nf4", {"lora_rank": 0}, "lora_rank"),
    ],
)
def test_bad_settings_are_refused(precision, change, words):
    with pytest.raises(InputError, match=words):
        plan(config(), precision, recipe=SMALL.changed(**change))


def test_no_tokens_are_refused():
    with pytest.raises(InputError, match="anchor"):
        plan(config(), "float32", recipe=SMALL, tokens=TokenCounts(anchor=0))


@pytest.mark.parametrize("name", ["./no-such-directory", "nobody/no-such-model", "llama 3"])
def test_a_shape_that_cannot_be_had_is_one_clear_error(name):
    with pytest.raises(InputError, match="Name"):
        memory.shape(name)


def test_a_directory_gives_its_shape(tmp_path):
    model = tiny_model(3, 32)
    model.save_pretrained(tmp_path)
    assert memory.shape(str(tmp_path)).num_hidden_layers == 3


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this system's allocator keeps what is freed")
def test_a_peak_does_not_count_what_was_freed_before():
    blocks = [bytearray(100_000) for _ in range(2000)]
    kept = blocks[::50]  # so that the heap does not shrink by itself
    del blocks
    before = psutil.Process().memory_info().rss
    with training.PeakMemory(torch.device("cpu")) as memory_in_use:
        pass
    assert memory_in_use.peak < before - 150e6 and len(kept) == 40


def test_planning_leaves_torch_as_it_was():
    functions = torch.nn.functional
    before = (functions.linear, functions.scaled_dot_product_attention, torch.is_autocast_enabled)
    plan(config(), "nf4", recipe=SMALL.changed(micro_batch=3, gradient_checkpointing=True))
    assert before == (functions.linear, functions.scaled_dot_product_attention, torch.is_autocast_enabled)
    assert torch.ones(1).device.type == "cpu"
