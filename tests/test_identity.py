"""Identity: a kept figure's key knows all that it depends on, and no arithmetic changes without a new revision."""

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.torch import load_file

from sempa_utils import models, training
from sempa_utils.checks import InputError, build_folder
from sempa_utils.data import corpora
from sempa_utils.embedding import METHODS, Embedder, embedder
from sempa_utils.evaluation import geometry, sts
from sempa_utils.evaluation.generation import gold_answers, harness, signals
from sempa_utils.models import identity
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.training import step

SENTENCES = ["The shop opens at nine.", "A cat sleeps on the mat.", "Two men play chess in the park."]


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    return tmp_path / "build"


@pytest.fixture
def directory(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def triplets(count: int = 12) -> corpora.Corpus:
    kinds = "A man number {} eats bread.", "Someone {} eats.", "The bread {} is old.", "Nobody {} eats at all."
    rows = [corpora.RankedRow(*(kind.format(number) for kind in kinds)) for number in range(count)]
    return corpora.Corpus("rows", rows, "made here", "of-this-test")


def byte_level():
    """A tokenizer of single bytes: no text decides its tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<pad>", "<end>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=258, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def bytewise(layers: int = 4) -> models.LanguageModel:
    model = tiny_model(layers=layers, vocabulary=258)
    model.config.max_position_embeddings = 16_384
    return models.wrap(model, byte_level(), name="bytewise")


def adapter_of(directory: Path, folder: Path, config) -> Path:
    """Save an adapter of any kind, made by PEFT alone, with weights that are not zero."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(directory), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def kinds_of_adapters() -> dict:
    import peft

    linear = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    return {
        "LoRA": peft.LoraConfig(r=4, **linear),
        "rsLoRA": peft.LoraConfig(r=4, use_rslora=True, **linear),
        "DoRA": peft.LoraConfig(r=4, use_dora=True, **linear),
        "with the embeddings": peft.LoraConfig(r=4, modules_to_save=["embed_tokens"], **linear),
        "with tokens": peft.LoraConfig(r=4, trainable_token_indices=[5, 6], **linear),
        "PiSSA": peft.LoraConfig(r=4, init_lora_weights="pissa", **linear),
        "OLoRA": peft.LoraConfig(r=4, init_lora_weights="olora", **linear),
        "IA3": peft.IA3Config(feedforward_modules=[], **linear),
        "LoHa": peft.LoHaConfig(r=4, **linear),
    }


# --- the key ---------------------------------------------------------------------------------------


def test_a_key_is_of_all_its_parts_and_of_nothing_without_a_lasting_form(monkeypatch):
    recipe = training.Recipe()
    key = models.figure_key("sts", 1, recipe=dataclasses.asdict(recipe), data="abc")
    assert key == models.figure_key("sts", 1, data="abc", recipe=recipe) and len(key) == 16
    others = [
        models.figure_key("sts", 2, recipe=recipe, data="abc"),
        models.figure_key("geometry", 1, recipe=recipe, data="abc"),
        models.figure_key("sts", 1, recipe=recipe, data="abcd"),
        models.figure_key("sts", 1, recipe=recipe, rows="abc"),
        models.figure_key("sts", 1, packages=("peft",), recipe=recipe, data="abc"),
    ]
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "torch" else version(name))
    others.append(models.figure_key("sts", 1, recipe=recipe, data="abc"))
    assert len({key, *others}) == 7
    with pytest.raises(TypeError, match="object has no lasting form"):
        models.figure_key("sts", 1, model=object())


def test_every_field_of_a_recipe_is_in_its_runs_key(tiny, monkeypatch):
    """Also one whose value is the default: tomorrow's default is another."""
    recipe, corpus = training.Recipe(), triplets()
    keys = [training.run_fingerprint(tiny, corpus, recipe=recipe)]
    for name, value in recipe.settings().items():
        changed = dict(recipe.settings(), **{name: f"not {value}"})
        other = type(
            "Changed", (), {"identity": lambda self, changed=changed: changed, "objective": recipe.objective}
        )()
        keys.append(training.run_fingerprint(tiny, corpus, recipe=other))
    assert len(set(keys)) == 1 + len(recipe.settings()) > 20


def test_a_key_is_the_same_in_another_process(directory, tmp_path):
    adapter = adapter_of(directory, tmp_path / "adapter", kinds_of_adapters()["LoRA"])
    script = f"""
import json
from sempa_utils import models
model = models.load({str(directory)!r}, adapter={str(adapter)!r})
print(json.dumps(model.identity()))
"""
    here = models.load(str(directory), adapter=adapter).identity()
    surroundings = os.environ | {"PYTHONHASHSEED": "1"}  # a set is listed in another order
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=surroundings,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == here


def changed_model(part: str) -> models.LanguageModel:
    """The tiny model with one thing changed."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    if part == "template":
        tokenizer.chat_template = tokenizer.chat_template.replace("\n", ":\n")
    elif part == "begin token":
        from tokenizers.processors import TemplateProcessing

        begin = {"single": "<|im_start|> $A", "special_tokens": [("<|im_start|>", 1)]}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**begin)
    elif part == "normaliser":
        from tokenizers.normalizers import Lowercase

        tokenizer.backend_tokenizer.normalizer = Lowercase()
    elif part == "end token":
        tokenizer.eos_token = "<|im_start|>"
    elif part == "last row":
        model.get_input_embeddings().weight.data[-1] += 0.01
    elif part == "rows exchanged":
        table = model.get_input_embeddings().weight
        table.data[[3, 4]] = table.data[[4, 3]]
    elif part == "settings":
        model.config.rms_norm_eps = 1e-3
    elif part == "generation":
        model.generation_config.repetition_penalty = 1.3
    return models.wrap(model, tokenizer, name="tiny", precision="bfloat16" if part == "precision" else "float32")


PARTS = ["nothing", "template", "begin token", "normaliser", "end token", "last row", "rows exchanged"]
PARTS += ["settings", "generation", "precision"]


def test_a_model_is_known_by_all_that_its_figures_depend_on():
    known = {part: json.dumps(changed_model(part).identity()) for part in PARTS}
    assert len(set(known.values())) == len(PARTS)
    assert known["nothing"] == json.dumps(changed_model("nothing").identity())


def test_reading_and_training_leave_no_trace_in_what_a_model_is_known_by(no_data, tiny, tmp_path):
    before = tiny.identity()
    tiny.tokenizer(SENTENCES, padding=True, truncation=True, max_length=8)
    Embedder(tiny, "token_prepending").encode(SENTENCES)
    signals.paraphrases(tiny, SENTENCES[:1], sampling=signals.Sampling(max_new_tokens=3))
    recipe = training.Recipe.make("one_word", micro_batch=4, gradient_checkpointing=True)
    training.train(tiny, triplets(8), recipe=recipe, folder=tmp_path / "run")
    assert tiny.identity() == before


def test_an_unchanged_digest_is_that_of_every_byte():
    tensors = {"a": torch.randn(3000, 7), "b": torch.randn(5), "c": torch.tensor(1.5), "d": torch.zeros(0, 4)}
    digest = identity.weights_digest(tensors)
    assert identity.weights_digest({name: value.clone() for name, value in tensors.items()}) == digest
    assert identity.weights_digest(tensors | {"a": tensors["a"].T.contiguous().T}) == digest
    for name, place in (("a", (2999, 6)), ("a", (1500, 3)), ("b", (4,)), ("c", ())):
        other = tensors[name].clone()
        other[place] += 1e-6 * other[place].abs().clamp(min=1)
        assert identity.weights_digest(tensors | {name: other}) != digest
    swapped = tensors["a"][torch.tensor([1, 0, *range(2, 3000)])]
    assert identity.weights_digest(tensors | {"a": swapped}) != digest
    odd = torch.randn(20_001).to(torch.bfloat16)[1:]  # begins in the midst of eight bytes
    assert identity.weights_digest({"a": odd}) == identity.weights_digest({"a": odd.clone()})


# --- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds_of_adapters())
def test_an_adapter_of_any_kind_goes_on_as_peft_has_it_and_off_without_a_trace(directory, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = adapter_of(directory, tmp_path / "adapter", kinds_of_adapters()[kind])
    base = models.load(str(directory))
    ids = base.tokenizer(SENTENCES[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory), folder).eval()(ids).logits
        before, known = base.model(ids).logits, base.identity()
        tensors = {name: (value, value.clone()) for name, value in base.model.state_dict(keep_vars=True).items()}
        with models.adapted(base, folder) as model:
            assert torch.equal(model.model(ids).logits, stock) and not torch.allclose(stock, before)
            # The base carries it too, and neither says otherwise.
            assert base.adapter == model.adapter == models.adapter_fingerprint(folder)
            assert model.describe() == base.describe() and model.identity() == base.identity() != known
            with model.model.disable_adapter():
                assert model.adapter is base.adapter is None
                assert (model.identity() == known) == torch.equal(model.model(ids).logits, before)
        assert model.adapter is base.adapter is None and base.identity() == model.identity() == known
        assert torch.equal(base.model(ids).logits, before) and torch.equal(model.model(ids).logits, before)
    after = base.model.state_dict(keep_vars=True)
    assert after.keys() == tensors.keys()
    assert all(after[name] is value and torch.equal(value, copy) for name, (value, copy) in tensors.items())


def test_no_two_kinds_of_adapters_are_known_by_the_same(directory, tmp_path):
    base, known = models.load(str(directory)), []
    for kind, config in kinds_of_adapters().items():
        with models.adapted(base, adapter_of(directory, tmp_path / kind, config)) as model:
            known.append(model.identity()["adapter"])
    # The same weights with another strength.
    folder = tmp_path / "LoRA"
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    with models.adapted(base, folder) as model:
        known.append(model.identity()["adapter"])
    assert len(set(known)) == len(kinds_of_adapters()) + 1


@pytest.mark.parametrize("kind", ["prompt tuning", "adaption prompt"])
def test_an_adapter_beside_the_layers_is_refused_by_its_kind(directory, tmp_path, kind):
    import peft

    config = {
        "prompt tuning": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "adaption prompt": peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1),
    }[kind]
    folder = adapter_of(directory, tmp_path / "adapter", config)
    base = models.load(str(directory))
    vector, known = Embedder(base).encode(SENTENCES[0]), base.identity()
    with pytest.raises(InputError, match=f"kind {kind.replace(' ', '_').upper()}, which stands beside"):
        models.check_adapter(base, folder)
    assert (Embedder(base).encode(SENTENCES[0]) == vector).all() and base.identity() == known


def test_prompts_put_on_by_hand_are_known_too(tiny):
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    prompted = dataclasses.replace(tiny, model=get_peft_model(tiny.model, config))
    assert prompted.adapter == models.UNSAVED and prompted.identity()["adapter"] is not None


def test_what_writes_into_the_base_is_found(tiny):
    with pytest.raises(InputError, match="not what they were.*Load the model anew"), models.given_back(tiny):
        tiny.model.model.layers[1].mlp.up_proj.weight.data[-1, -1] += 1


def test_hooks_switches_and_settings_are_given_back(tiny):
    said = []
    handle = tiny.model.register_forward_hook(lambda *_: said.append("mine"))
    ids = torch.tensor([[5, 6, 7]])
    with models.given_back(tiny):
        tiny.model.register_forward_hook(lambda *_: said.append("theirs"))
        tiny.model.train()
        tiny.model.requires_grad_(False)
        tiny.model.forward = None
        tiny.model.config.use_cache = False
        tiny.model.model.layers[0].mlp = torch.nn.Identity()
        tiny.model.to(torch.float64)
    tiny.model(ids)
    assert said == ["mine"] and tiny.model.dtype == torch.float32 and tiny.model.config.use_cache
    assert not tiny.model.training and all(weight.requires_grad for weight in tiny.model.parameters())
    handle.remove()
    tiny.model(ids)
    assert said == ["mine"]


# --- what is kept is not taken for what it is not ----------------------------------------------------


def test_cosines_of_another_tokenizer_are_computed_anew(no_data, build):
    task = corpora.load_sts("mini-STS").sample(30, 42)
    for part in ("nothing", "begin token", "last row"):
        model = Embedder(changed_model(part))
        kept = sts.evaluate(model, {"mini-STS": task})["mini-STS"].score.value
        assert kept == sts.score_task(model.encode, task).score.value, part
    assert len(list((build / "sts").iterdir())) == 3


def test_a_run_of_another_chat_template_is_another_run(build, tmp_path):
    recipe = training.Recipe(micro_batch=4, epochs=2)
    training.train(changed_model("nothing"), triplets(8), recipe=recipe, folder=tmp_path / "run")
    with pytest.raises(InputError, match="another run.*tokenizer"):
        training.train(changed_model("template"), triplets(8), recipe=recipe, folder=tmp_path / "run")
    training.train(changed_model("template"), triplets(8), recipe=recipe, folder=tmp_path / "other")
    assert len(list((build / "references").iterdir())) == 2


def as_an_older_kit(folder: Path) -> None:
    """Make a run's folder what a kit left that wrote no number of its key."""
    record = json.loads((folder / training.RECORD).read_text(encoding="utf8"))
    # It wrote down the settings of all objectives, and knew of no divergence yet.
    old = record | {"fingerprint": "0123456789abcdef", "recipe": {"temperature": 0.05, **record["recipe"]}}
    del old["recipe"]["kl_weight"], old["recipe"]["gradient_caching"]
    (folder / training.RECORD).write_text(json.dumps(old), encoding="utf8")
    (folder / training.RUN).write_text('{"fingerprint": "0123456789abcdef"}', encoding="utf8")


def test_a_finished_run_of_an_older_kit_is_taken_over_once(build, tmp_path, monkeypatch, capsys):
    recipe, base, rows = training.Recipe(micro_batch=4), changed_model("nothing"), triplets(8)
    first = training.train(base, rows, recipe=recipe, folder=training.run_folder(base, rows, recipe=recipe))
    as_an_older_kit(training.run_folder(base, rows, recipe=recipe))
    training.run_folder(base, rows, recipe=recipe).rename(build / "adapters" / "0123456789abcdef")
    capsys.readouterr()
    monkeypatch.setattr(training.run, "make_trainer", lambda *_, **__: pytest.fail("trained again"))
    found = training.train(base, rows, recipe=recipe, folder=training.run_folder(base, rows, recipe=recipe))
    assert "run of an older kit" in capsys.readouterr().out
    assert found.fingerprint == first.fingerprint == training.run_fingerprint(base, rows, recipe=recipe)
    assert found.adapter_fingerprint == models.adapter_fingerprint(found.adapter)
    training.train(base, rows, recipe=recipe, folder=training.run_folder(base, rows, recipe=recipe))
    assert capsys.readouterr().out == ""


OTHERS = ["recipe", "divergence", "rows", "weights", "unfinished", "of today", "padded", "chat"]


@pytest.mark.parametrize("other", OTHERS)
def test_no_other_run_of_an_older_kit_is_taken_over(build, tmp_path, other):
    recipe, base, rows = training.Recipe(micro_batch=4), changed_model("nothing"), triplets(8)
    folder = tmp_path / "run"
    training.train(base, rows, recipe=recipe, folder=folder)
    if other != "of today":
        as_an_older_kit(folder)
    if other == "unfinished":
        (folder / training.RECORD).unlink()
    base = changed_model("last row") if other == "of today" else base
    base = models.wrap(tiny_model(seed=5), tiny_tokenizer(), name="tiny") if other == "weights" else base
    rows = dataclasses.replace(rows, fingerprint="others") if other == "rows" else rows
    if other == "padded":  # an older kit would have made trees, which are not exact there
        base.model.__dict__["sempa_ways"] = models.Ways(tree=False)
    if other == "chat":  # an older kit left the model to think before it answered
        base.tokenizer.chat_template = (
            "{% if enable_thinking is defined %}No.{% endif %}" + base.tokenizer.chat_template
        )
    recipe = recipe.changed(warmup_share=0.1) if other == "recipe" else recipe
    recipe = recipe.changed(kl_weight=1.0) if other == "divergence" else recipe
    with pytest.raises(InputError, match="another run"):
        training.train(base, rows, recipe=recipe, folder=folder)


# --- golden values ---------------------------------------------------------------------------------
# Figures of tiny random models. Where one moves, a kept figure of the same key would be wrong: then raise the
# producer's revision, and write both down here.


def of_embedding() -> dict:
    language_model = bytewise(layers=8)
    return {method: Embedder(language_model, method).encode(SENTENCES[0])[:4].tolist() for method in METHODS}


def of_sts() -> dict:
    pairs = [corpora.Pair("a", "b", 1.0), corpora.Pair("c", "a", 2.0)]
    vectors = {"a": [1.0, 2.0, -1.0], "b": [0.5, -1.0, 2.0], "c": [3.0, 1.0, 1.0]}
    return {"cosines": sts.pair_similarities(lambda texts, **_: [vectors[text] for text in texts], pairs).tolist()}


def of_geometry() -> dict:
    vectors = np.random.default_rng(7).standard_normal((40, 6)) + 0.5
    moved = torch.from_numpy(vectors + np.arange(6) / 10)
    return {
        "uniformity": geometry.uniformity(vectors),
        "isotropy": [geometry.isotropy(vectors), geometry.isotropy(vectors, sign="both")],
        "average_cosine": geometry.average_cosine(vectors),
        "effective_rank": geometry.effective_rank(vectors),
        "displacement": list(geometry.displacement(torch.from_numpy(vectors), moved)),
    }


def of_signals() -> dict:
    language_model, rows = bytewise(), triplets(6).rows
    preference = signals.preference_accuracy(language_model, rows)
    return {
        "perplexity": signals.perplexity(language_model, SENTENCES, block_length=16).nats_per_token,
        "preference": [preference.margin, preference.accuracy],
        "entropy": signals.next_token_entropy(language_model, SENTENCES).tolist(),
        "variety": [signals.distinct_n(SENTENCES), signals.self_bleu(SENTENCES)],
    }


def of_generation() -> dict:
    from sempa_utils.data.corpora import MINI_CORPUS

    language_model, found = bytewise(), {}
    for task in ("gsm8k", "mmlu", "hellaswag", "drop", "truthfulqa"):
        prepared = harness._prepare(task, MINI_CORPUS, 2, 42)
        asked = harness._requests(prepared, 42)
        found[task] = float(sum(len(str(request.args)) for request in asked))
    choices = [request for request in asked if isinstance(request.args[1], str)]
    from sempa_utils.evaluation.generation.harness_model import HarnessModel

    with harness.quiet():
        wrapped = HarnessModel(language_model.model, tokenizer=language_model.tokenizer, batch_size=4)
        found["log-likelihoods"] = [score for score, _ in wrapped.loglikelihood(choices)][:4]
    return found


def of_gold_answers() -> dict:
    from sempa_utils.data.corpora import MINI_CORPUS

    tasks = gold_answers.load(harness.Benchmarks(directory=MINI_CORPUS, limit=2))
    found = gold_answers.evaluate(bytewise(), tasks, show_progress_bar=False)
    return {name: result.value for name, result in found.items()}


def of_training(objective: str, **changes) -> dict:
    cached = {"cache_reference": True} if OBJECTIVES[objective].cacheable else {}
    recipe = training.Recipe.make(objective, micro_batch=4, learning_rate=1e-3, chunk=3, **cached, **changes)
    record = training.train(bytewise(), triplets(), recipe=recipe, folder=build_folder() / "run")
    found = {name: [getattr(point, name) for point in record.curve] for name in ("loss", "margin", "gradient_norm")}
    if recipe.kl_weight:
        found["divergence"] = [point.divergence for point in record.curve]
    weights = load_file(f"{record.adapter}/adapter_model.safetensors")
    found["weights"] = sum(float(value.norm()) for value in weights.values())
    for file in (build_folder() / "references").glob("*"):
        found["reference"] = load_file(file)["reference"][:2].flatten()[:4].tolist()
    return found


PRODUCERS = {  # what computes it, and its revision
    "embedding": (of_embedding, embedder.REVISION),
    "sts": (of_sts, sts.REVISION),
    "geometry": (of_geometry, geometry.REVISION),
    "signals": (of_signals, signals.REVISION),
    "generation": (of_generation, harness.REVISION),
    "gold answers": (of_gold_answers, gold_answers.REVISION),
    "divergence": (partial(of_training, "contrastive", kl_weight=10.0), (step.REVISION, 1)),
}
for name, kind in OBJECTIVES.items():
    PRODUCERS[name] = (partial(of_training, name), (step.REVISION, kind.revision))
GOLDEN = {  # producer: (its revision, its figures)
    "embedding": (
        1,
        {
            "mean": [-0.44498, -0.92137, -0.011034, -0.69251],
            "echo": [0.012121, -1.1947, 0.32595, -0.52321],
            "prompteol": [-1.5249, -0.70611, 0.82767, -0.67296],
            "pretended_cot": [-1.8147, 0.078021, -1.3933, 0.61658],
            "knowledge_enhancement": [-4.5714, 0.19286, -1.9769, 2.2071],
            "contrastive_prompting": [-9.1681, 2.9763, -3.5859, -2.8866],
            "token_prepending": [-6.5451, 0.49673, 1.4225, -2.6491],
        },
    ),
    "sts": (1, {"cosines": [-0.62361, 0.49237]}),
    "geometry": (
        1,
        {
            "uniformity": -2.3807,
            "isotropy": [0.73803, 0.57254],
            "average_cosine": 0.13277,
            "effective_rank": 5.4038,
            "displacement": [0.37155, 1.0],
        },
    ),
    "signals": (
        1,
        {
            "perplexity": 6.1545,
            "preference": [29.758, 1.0],
            "entropy": [4.6052, 5.0013, 5.0444],
            "variety": [1.0, 18.376],
        },
    ),
    "generation": (
        1,
        {
            "gsm8k": 4679.0,
            "mmlu": 5976.0,
            "hellaswag": 1115.0,
            "drop": 2032.0,
            "truthfulqa": 5541.0,
            "log-likelihoods": [-246.09, -260.78, -246.55, -225.09],
        },
    ),
    "gold answers": (
        1,
        {"gsm8k": -6.1799, "mmlu": -5.8467, "hellaswag": -6.1746, "drop": -5.7985, "truthfulqa": -6.0717},
    ),
    "pairwise": (
        (1, 1),
        {
            "loss": [0.69315, 0.69315, 0.38912],
            "margin": [0.0, 0.0, 0.7431],
            "gradient_norm": [8.3763, 7.4837, 4.7443],
            "weights": 46.606,
            "reference": [-104.5, -134.73, -104.01, -133.5],
        },
    ),
    "listwise": (
        (1, 1),
        {
            "loss": [1.7918, 1.7918, 1.2965],
            "margin": [0.0, 0.0, 0.45483],
            "gradient_norm": [12.959, 11.485, 8.4008],
            "weights": 46.603,
            "reference": [-104.5, -122.29, -134.73, -104.01],
        },
    ),
    "best_of_n": (
        (1, 2),
        {
            "loss": [1.6094, 1.6094, 1.5019],
            "margin": [0.0, 0.0, 0.17859],
            "gradient_norm": [3.3675, 3.0537, 1.6629],
            "weights": 46.586,
        },
    ),
    "one_word": (
        (1, 2),
        {
            "loss": [2.0794, 2.0794, 1.9363],
            "margin": [0.0, 0.0, 0.17954],
            "gradient_norm": [6.9784, 14.46, 4.5647],
            "weights": 46.504,
            "reference": [0.79255, 0.64132, 0.11882, 2.0989],
        },
    ),
    "contrastive": (
        (1, 2),
        {
            "loss": [4.6335, 6.4103, 1.4652],
            "margin": [-1.3699, -0.44776, 1.3536],
            "gradient_norm": [270.04, 198.19, 25.163],
            "weights": 46.513,
        },
    ),
    "divergence": (
        (1, 1),
        {
            "loss": [4.6335, 6.4103, 1.4943],
            "margin": [-1.3699, -0.44776, 1.3536],
            "gradient_norm": [270.04, 198.19, 25.156],
            "divergence": [0.0, 0.0, 0.0029118],
            "weights": 46.509,
        },
    ),
}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_no_arithmetic_changes_without_a_new_revision(producer, build):
    compute, revision = PRODUCERS[producer]
    written, expected = GOLDEN[producer]
    found = compute()
    advice = f"{producer}: its figures have moved. Raise its REVISION and write it into GOLDEN with {found}"
    assert found.keys() == expected.keys(), advice
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=2e-3, abs=2e-3), advice
    assert revision == written, f"{producer}: a new revision has new figures. Write both into GOLDEN: {found}"
