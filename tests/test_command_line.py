"""The command line: what it prints, what it writes, and one clear error for each wrong thing."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import __main__ as command_line
from sempa_utils import checks, records
from sempa_utils.commands import doctor
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.training import read_record

COMMANDS = list(command_line._parser()._subparsers._group_actions[0].choices)


@pytest.fixture
def directory(tmp_path):
    """A tiny model as a local directory, so that commands are fast."""
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def call(capsys, *arguments) -> tuple[int, str, str]:
    code = command_line.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_help_names_every_command_and_variable():
    shown = subprocess.run([sys.executable, "-m", "sempa_utils", "--help"], capture_output=True, text=True, check=True)
    for word in (
        "doctor",
        "fetch",
        "train",
        "plan",
        "encode",
        "evaluate",
        "analyse",
        "export",
        "benchmark",
        "reproduce",
        "report",
        "SEMPA_DATA_DIR",
        "SEMPA_CACHE_DIR",
    ):
        assert word in shown.stdout


def test_help_imports_no_library_of_models():
    # The options of train and plan are the settings of objectives, which compute.
    light = [[], *([command] for command in COMMANDS if command not in ("train", "plan"))]
    script = f"""
import contextlib, sys
from sempa_utils import __main__ as command_line
for command in {light}:
    with contextlib.suppress(SystemExit):
        command_line.main([*command, "--help"])
heavy = {{"torch", "transformers", "trl", "peft", "datasets", "numpy", "scipy", "matplotlib"}} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(light)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as done:
        command_line.main([command, "--help"])
    assert done.value.code == 0
    parser = command_line._parser()._subparsers._group_actions[0].choices[command]
    assert all(action.help for action in parser._actions)


@pytest.mark.model
def test_doctor_says_ok_per_part_and_fails_with_a_broken_one(capsys, no_data, monkeypatch):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    for part in ("python", "torch", "trl", "device", "memory", "NF4", "model", "NLI", "STS"):
        assert f"OK    {part:<14}" in out
    assert "none  hub" in out and "FAIL" not in out
    monkeypatch.setattr("sempa_utils.models.check_nf4", lambda _: doctor._raise("no kernel"))
    code, out, _ = call(capsys, "doctor")
    assert code == 1 and "FAIL  NF4            no kernel" in out


def test_the_pins_are_those_of_the_requirements():
    text = Path("requirements.txt").read_text(encoding="utf8")
    assert checks.pins() == dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE)) and "torch" in checks.pins()
    assert checks.pins("evaluation").keys() == {"lm_eval", "mteb", "sentence-transformers"}
    assert checks.installing("torch") == f"python -m pip install torch=={checks.pins()['torch']}"


def test_train_then_encode_and_evaluate_with_the_adapter(capsys, no_data, directory, tmp_path):
    run = tmp_path / "run"
    model = ("--model", directory, "--profile", "smoke", "--precision", "float32")
    code, out, _ = call(capsys, "train", *model, "--output", run, "--triplets", 16, "--learning-rate", 1e-3)
    assert code == 0 and "16 rows from mini corpus" in out and "loss 0.6931" in out
    adapter = run / "adapter"

    lines = tmp_path / "lines.txt"
    lines.write_text("The kettle is on.\nRain again\n", encoding="utf8")
    code, _, err = call(
        capsys, "encode", *model, "--adapter", adapter, "--input", lines, "--output", tmp_path / "v.npy"
    )
    assert code == 0 and "2 sentences" in err
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (2, 32) and vectors.dtype == np.float32
    expected = Embedder(directory, adapter=adapter).encode(["The kettle is on.", "Rain again"])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)

    code, _, _ = call(
        capsys, "encode", *model, "--input", lines, "--output", tmp_path / "v.jsonl", "--method", "mean", "--normalise"
    )
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf8").splitlines()]
    assert code == 0 and [row["sentence"] for row in rows] == ["The kettle is on.", "Rain again"]
    assert all(abs(np.linalg.norm(row["embedding"]) - 1) < 1e-5 for row in rows)

    code, out, _ = call(capsys, "evaluate", *model, "--adapter", adapter, "--limit", 40, "--methods", "mean,prompteol")
    assert code == 0
    table = [line.split() for line in out.splitlines() if not line.startswith(("mean,", "mini-STS,"))]
    names = [" ".join(row[:-2]) for row in table if row and row[0] in ("mean", "prompteol") and len(row) > 2]
    assert names == ["mean", "prompteol", "mean + adapter", "prompteol + adapter"]
    assert "mini-STS" in out and "40 pairs a task" in out


def test_train_says_which_rate_it_takes_and_the_papers_is_a_word_away(capsys, no_data, directory, tmp_path):
    model = ("--model", directory, "--profile", "smoke", "--precision", "float32", "--triplets", 8)
    said = {
        (): (2e-3, 10.0, "learning rate 0.002, KL weight 10: fitted to model and rows (--recipe paper"),
        ("--recipe", "paper"): (1e-4, 0.0, "learning rate 0.0001, KL weight 0: the paper's"),
        ("--kl-weight", "2"): (2e-3, 2.0, "learning rate 0.002, KL weight 2: fitted"),
    }
    for number, (options, (rate, weight, line)) in enumerate(said.items()):
        code, out, _ = call(capsys, "train", *model, *options, "--output", tmp_path / str(number))
        recipe = read_record(tmp_path / str(number)).recipe
        assert code == 0 and line in "\n".join(out.splitlines()[:2])
        assert (recipe["learning_rate"], recipe["kl_weight"]) == (rate, weight)


def test_every_objective_trains_and_several_adapters_stand_in_one_table(capsys, no_data, directory, tmp_path):
    model = ("--model", directory, "--profile", "smoke", "--precision", "float32")
    size = ("--triplets", 16, "--ranked", "--micro-batch", 8)
    for objective in ("listwise", "best_of_n", "one_word", "contrastive"):
        code, out, _ = call(capsys, "train", *model, *size, "--objective", objective, "--output", tmp_path / objective)
        assert code == 0 and f"{objective}, 16 rows" in out and "ranked NLI rows" in out
        recipe = json.loads((tmp_path / objective / "training.json").read_text(encoding="utf8"))["recipe"]
        assert recipe["objective"] == objective
    adapters = [part for name in ("listwise", "one_word") for part in ("--adapter", tmp_path / name / "adapter")]
    code, out, _ = call(capsys, "evaluate", *model, *adapters, "--limit", 40, "--methods", "prompteol")
    assert code == 0
    for name in ("prompteol + listwise", "prompteol + one_word", "mini-STS, prompteol + one_word, less prompteol:"):
        assert name in out
    twice = ("--adapter", tmp_path / "listwise" / "adapter") * 2
    code, _, err = call(capsys, "evaluate", *model, *twice[:2], "--adapter", tmp_path / "x/../listwise/adapter")
    assert code == 1 and "adapter" in err


def test_several_models_layers_from_dev_and_the_row_to_compare_with(capsys, no_data, directory, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    other = tmp_path / "other"
    tiny_model(layers=4, seed=3).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    run = tmp_path / "run"
    call(capsys, "train", "--model", other, "--profile", "smoke", "--precision", "float32", "--output", run)
    both = ("evaluate", "--model", directory, "--model", other, "--limit", 30, "--adapter", run / "adapter")
    code, out, _ = call(
        capsys, *both, "--methods", "token_prepending,mean", "--layer", "dev", "--against", "tiny: mean"
    )
    assert code == 0
    rows = [line.split("  ")[0] for line in out.splitlines() if line.startswith(("tiny: ", "other: "))]
    expected = [f"{model}: {method}" for model in ("tiny", "other") for method in ("token_prepending", "mean")]
    expected += [f"other: {method} + adapter" for method in ("token_prepending", "mean")]
    assert rows[:6] == expected
    assert out.count("chosen on dev") == 6 and "less tiny: mean" in out
    code, _, err = call(capsys, *both[:5], "--model", tmp_path / "run", "--adapter", run / "adapter", "--limit", 30)
    assert code == 1 and "without config.json" in err
    code, _, err = call(capsys, *both[:3], "--model", "packaged", "--adapter", run / "adapter")
    assert code == 1 and "an adapter for other" in err


def test_an_adapter_is_scored_with_the_base_that_its_weights_fit(capsys, no_data, directory, tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    models = {"tiny": tmp_path / "tiny", "wider": tmp_path / "wider", "alike": tmp_path / "alike"}
    for name, made in (("wider", tiny_model(width=64)), ("alike", tiny_model(seed=7))):
        made.save_pretrained(models[name])
        tiny_tokenizer().save_pretrained(models[name])
    folder, scored = tmp_path / "run" / "adapter", {}
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(directory), config).save_pretrained(folder)
    saved = json.loads((folder / "adapter_config.json").read_text(encoding="utf8"))
    assert saved["base_model_name_or_path"] == directory, "a path, as PEFT writes it"
    for named in (directory, "/content/drive/gone"):
        (folder / "adapter_config.json").write_text(json.dumps(saved | {"base_model_name_or_path": named}))
        several = [part for model in models.values() for part in ("--model", model)]
        options = ("--adapter", folder, "--limit", 30, "--methods", "mean")
        code, out, err = call(capsys, "evaluate", *several, *options)
        assert code == 0, err
        lines = [line.split("  ")[0] for line in out.splitlines() if line.split("  ")[0].endswith("mean + adapter")]
        scored[named] = list(dict.fromkeys(lines))
        code, _, err = call(
            capsys, "benchmark", "--model", directory, "--tasks", "hellaswag", "--limit", 3, *options[:2]
        )
        assert code == 0, err
    # Of two that it fits, the one that it names.
    assert scored[directory] == ["tiny: mean + adapter"]
    assert scored["/content/drive/gone"] == ["tiny: mean + adapter", "alike: mean + adapter"]
    code, _, err = call(capsys, "benchmark", "--model", models["wider"], "--tasks", "hellaswag", *options[:2])
    assert code == 1 and "another base model than wider" in err


def test_an_analysis_and_an_export_from_the_command_line(capsys, no_data, directory, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    model = ("--model", directory, "--profile", "smoke", "--precision", "float32")
    figure = tmp_path / "curve.png"
    code, out, _ = call(capsys, "analyse", "data-size", *model, "--figure", figure)
    assert code == 0 and '"triplets": 8' in out and "mini-STS dev ρ × 100" in out
    assert figure.read_bytes()[:4] == b"\x89PNG"
    code, _, err = call(capsys, "analyse", "seeds", *model, "--folder", tmp_path)
    assert code == 1 and "Leave it out" in err
    adapter = next((tmp_path / "build" / "adapters").glob("*/adapter"))
    code, out, _ = call(capsys, "export", *model, "--adapter", adapter, "--output", tmp_path / "exported")
    assert code == 0 and "SentenceTransformer(" in out
    assert (tmp_path / "exported" / "modules.json").is_file()


def test_benchmarks_compare_a_base_with_its_adapter(capsys, no_data, directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    train = (
        "train",
        "--model",
        directory,
        "--profile",
        "smoke",
        "--output",
        tmp_path / "run",
        "--precision",
        "float32",
    )
    assert call(capsys, *train)[0] == 0
    arguments = ("benchmark", "--model", directory, "--tasks", "truthfulqa,hellaswag", "--limit", 3)
    code, out, _ = call(capsys, *arguments, "--adapter", tmp_path / "run" / "adapter", "--record", "spoken")
    assert code == 0 and "not the published measure" in out
    figures = records.load_run(tmp_path / "results" / "spoken.json", records.Comparison).figures
    assert set(figures.rows) == {"base", "adapter"} and figures.against == "base"
    assert figures.rows["adapter"].tasks["hellaswag"].count == 3
    assert figures.rows["adapter"].mean.difference.standard_error is not None
    gold = ("--gold-answers", "--adapter", tmp_path / "run" / "adapter", "--record", "likely")
    code, out, _ = call(capsys, *arguments, *gold)
    assert code == 0 and "nats per token" in out
    likely = records.load_run(tmp_path / "results" / "likely.json", records.Comparison).figures.rows["adapter"]
    assert likely.tasks["hellaswag"].value < 0 and likely.tasks["hellaswag"].difference.standard_error
    other = tmp_path / "Other"
    tiny_model(seed=5).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    code, _, err = call(capsys, *arguments[:2], other, *arguments[3:], "--adapter", tmp_path / "run" / "adapter")
    assert code == 1 and "an adapter for tiny" in err


def test_a_plan_names_every_part_and_what_fits(capsys, tmp_path):
    arguments = ("plan", "--model", "packaged", "--precision", "float32", "--micro-batch", 1)
    code, out, _ = call(capsys, *arguments, "--capacity", 1.5, "--figure", tmp_path / "plan.png")
    assert code == 0
    found = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()[1:8]}
    parts = ("weights", "adapter", "optimiser", "gradients", "activations", "logits")
    assert found["total"] == pytest.approx(sum(found[part] for part in parts), abs=0.04)
    assert found["weights"] == pytest.approx(134.5e6 * 4 / 2**30, abs=0.02)
    assert "the card has 1.50 GiB" in out
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"


def test_a_record_on_demand_holds_numbers_and_no_path(capsys, no_data, directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = call(capsys, "evaluate", "--model", directory, "--methods", "mean", "--limit", 30, "--record", "trial")
    text = (tmp_path / "results" / "trial.json").read_text(encoding="utf8")
    record = records.load_run(tmp_path / "results" / "trial.json", records.Comparison)
    assert code == 0 and str(tmp_path) not in text
    assert record.figures.rows["mean"].tasks["mini-STS"].count == 30
    assert record.versions["torch"] and record.data[0]["fingerprint"]
    training = ("train", "--model", directory, "--profile", "smoke", "--precision", "float32", "--output", "run")
    code, _, _ = call(capsys, *training, "--record", "trained")
    assert code == 0 and str(tmp_path) not in (tmp_path / "results" / "trained.json").read_text(encoding="utf8")
    trained = records.load_run(tmp_path / "results" / "trained.json", records.TrainingRecord)
    run = read_record(tmp_path / "run")
    assert records.plain(trained.figures) == records.plain(run)
    assert trained.figures.adapter == Path() and run.adapter == tmp_path / "run" / "adapter"
    assert (trained.settings, trained.data) == (run.recipe, run.data) and run.curve


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--output", "x", "--profile", "cpuu"], "'cpu'"),
        (["train", "--output", "x", "--template", "keep_meaning", "--profile", "smoke"], "keep_main_meaning"),
        (["train", "--output", "x", "--beta", "0"], "beta must be greater than 0"),
        (["train", "--output", "x", "--objective", "pairs"], "'pairwise'"),
        (["train", "--output", "x", "--objective", "best_of_n", "--candidates", "20"], "20 candidates"),
        (["plan", "--model", "./nowhere"], "no such directory"),
        (["plan", "--precision", "int8"], "precision 'int8'"),
        (["train", "--output", "x", "--data", "no/such/place"], "no such data directory"),
        (["encode", "--output", "vectors.csv"], ".npy or .jsonl"),
        (["encode", "--output", "v.npy", "--method", "promptol"], "'prompteol'"),
        (["encode", "--output", "v.npy", "--input", "no-such.txt"], "no such file"),
        (["evaluate", "--methods", "mean,prompt"], "method 'prompt'"),
        (["benchmark", "--tasks", "gsm8k,hellaswg"], "'hellaswag'"),
        (["benchmark", "--adapter", "./nowhere"], "adapter_config.json: no such file"),
        (["benchmark", "--data", "no/such/place"], "no such data directory"),
        (["reproduce", "--runs", "pairs"], "'pairwise'"),
        (["reproduce", "--state", "--ship", "mine"], "--runs contrastive_kl"),
        (["evaluate", "--layer", "best"], "neither a number nor 'dev'"),
        (["evaluate", "--adapter", "./nowhere"], "adapter_config.json: no such file"),
        (["evaluate", "--tasks", "STS17"], "'STS1"),
        (["evaluate", "--dev", "--split", "dev"], "Leave --tasks and --split out"),
        (["evaluate", "--tasks", "STS12"], "mini-STS"),
        (["evaluate", "--tasks", "mini-STS", "--split", "train"], "split of mini-STS"),
        (["evaluate", "--tasks", "mini-STS", "--model", "./nowhere"], "no such directory"),
    ],
)
def test_bad_input_gives_one_clear_error(capsys, no_data, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train":  # what is wrong with a recipe is told before
        monkeypatch.setattr("sempa_utils.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_a_blank_line_is_named_by_its_row(capsys, directory, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("One.\n\nThree.\n", encoding="utf8")
    code, _, err = call(capsys, "encode", "--model", directory, "--input", lines, "--output", tmp_path / "v.npy")
    assert code == 1 and "row 2" in err and not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_encode_reads_past_a_byte_order_mark(capsys, directory, tmp_path, monkeypatch, source):
    vectors = {}
    for name, start in (("plain", b""), ("marked", b"\xef\xbb\xbf")):
        data, lines = start + "The kettle is on.\r\nÇa va?\n".encode(), tmp_path / f"{name}.txt"
        lines.write_bytes(data)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
        place = lines if source == "file" else "-"
        output = tmp_path / f"{name}.npy"
        code, _, err = call(capsys, "encode", "--model", directory, "--input", place, "--output", output)
        assert code == 0 and "2 sentences" in err
        vectors[name] = np.load(output)
    np.testing.assert_array_equal(vectors["plain"], vectors["marked"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_encode_refuses_another_encoding(capsys, directory, tmp_path, encoding):
    lines = tmp_path / "lines.txt"
    lines.write_bytes("A cat sleeps.\nA café opens.\n".encode(encoding))
    code, _, err = call(capsys, "encode", "--model", directory, "--input", lines, "--output", tmp_path / "v.npy")
    row = 1 if encoding == "utf-16" else 2
    assert code == 1 and f"{lines}: not UTF-8 text (row {row}: " in err and err.count("\n") == 1
    assert not (tmp_path / "v.npy").exists()


def test_dev_tasks_are_scored_and_kept_out_of_training(capsys, no_data, directory, tmp_path, monkeypatch):
    code, out, _ = call(capsys, "evaluate", "--model", directory, "--methods", "mean", "--dev", "--limit", 30)
    assert code == 0 and "dev tasks, 30 pairs a task" in out and "mini-STS dev" in out
    known = corpora.load_sts("mini-STS", split="dev").rows[2].first.upper()
    rows = [corpora.Triplet(known, "Something else.", "Nothing of it."), *corpora.load_triplets().rows[:8]]
    monkeypatch.setattr(corpora, "load_triplets", lambda *_, **__: corpora._corpus("NLI triplets", rows, "made here"))
    options = ["train", "--model", directory, "--profile", "smoke", "--precision", "float32", "--triplets", 0]
    code, out, _ = call(capsys, *options, "--apart-from-dev", "--output", tmp_path / "run")
    assert code == 0
    assert out.startswith("NLI triplets: 8 rows from made here; dropped: 1 with a sentence of the dev tasks\n")


def test_one_task_is_enough_for_evaluate_and_doctor(capsys, no_data, directory, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    folder = tmp_path / "only" / "senteval" / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    for split in ("test", "dev"):
        rows = [f"m\tx\ty\t{n}\t{n % 5}.0\tA {split} man {n} eats.\tSomeone {n % 7} eats.\n" for n in range(40)]
        (folder / f"sts-{split}.csv").write_text("".join(rows), encoding="utf8")
    data = ("--data", tmp_path / "only")
    code, out, _ = call(capsys, "evaluate", "--model", directory, "--methods", "mean", "--layer", "dev", *data)
    assert code == 0 and "STS-B" in out and "chosen on dev" in out and "mini-STS" not in out
    _, out, _ = call(capsys, "doctor", *data)
    assert f"OK    {'STS':<14} STS-B\n" in out
    (tmp_path / "mine").mkdir()
    _, out, _ = call(capsys, "doctor", "--data", tmp_path / "mine")
    assert f"FAIL  {'NLI':<14} {tmp_path / 'mine'}: nothing of the layout is in it" in out
