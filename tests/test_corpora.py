"""Finding, reading and checking sentences. Every small file here is written by the test that reads it."""

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
import socket
import tarfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.corpora import Corpus, Pair, RankedRow, Triplet

HEADER = "sent0,sent1,hard_neg\n"
ROW = "A dog barks.,An animal makes noise.,The dog is silent.\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf8") if isinstance(content, str) else content)
    return path


def refused(call, *arguments) -> str:
    """Return the one-line message of the `InputError` that `call` raises."""
    with pytest.raises(InputError) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def write_sts(root: Path) -> Path:
    """Write tiny files of the seven tasks in the public layout; each of the STS subsets has two pairs."""
    downstream = root / "senteval" / "downstream"
    for task, subsets in corpora.STS_TASKS.items():
        for subset in subsets:
            folder = downstream / "STS" / f"{task}-en-test"
            write(folder / f"STS.input.{subset}.txt", f"{task} {subset} a\tb\nc\td\n")
            write(folder / f"STS.gs.{subset}.txt", "5\n2.5\n")
    for split in corpora.SPLITS["STS-B"]:
        stsb = f"main\tsource\t2012\t1\t4.200\tone {split}\ttwo\nmain\tsource\t2012\t2\t0\tthree\tfour\n"
        write(downstream / "STS" / "STSBenchmark" / f"sts-{split}.csv", stsb)
    sick = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    write(downstream / "SICK" / "SICK_test_annotated.txt", sick + "7\ta\tb\t4.5\tNEUTRAL\n8\tc\td\t1\tNEUTRAL\n")
    for part in ("train", "trial"):
        write(downstream / "SICK" / f"SICK_{part}.txt", sick + f"9\tE {part}\tf\t2\tNEUTRAL\n10\tB\ta.\t3\tNEUTRAL\n")
    return downstream


def write_ranked(path: Path, premises=("A dog barks.",)) -> Path:
    lines = [
        json.dumps({"premise": premise, "hypothesis": f"{premise} {label}", "label": label})
        for premise in premises
        for label in ("entailment", "neutral", "contradiction")
    ]
    return write(path, "\n".join(lines) + "\n")


# --- The order of places -----------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch, tmp_path):
    """One folder per place, each with a triplet, a ranked row and STS files that name it; a hub without files."""
    for place in ("argument", "variable", "cache"):
        write(tmp_path / place / "nli" / corpora.NLI_FILE, HEADER + f"from {place},yes,no\n")
        write_ranked(tmp_path / place / "nli" / "snli_dev.jsonl", [f"from {place}"])
        write_sts(tmp_path / place)
    monkeypatch.delenv("SEMPA_DATA_DIR", raising=False)
    monkeypatch.setattr(corpora, "_data_cache", lambda: tmp_path / "no-cache")
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: False)
    return tmp_path


LOADERS = {
    "triplets": corpora.load_triplets,
    "ranked": corpora.load_ranked_nli,
    "STS": lambda directory=None: corpora.load_sts("STS-B", directory),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_each_place_is_looked_into_in_its_turn(places, monkeypatch, kind):
    load = LOADERS[kind]
    monkeypatch.setenv("SEMPA_DATA_DIR", str(places / "variable"))
    monkeypatch.setattr(corpora, "_data_cache", lambda: places / "cache")
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: pytest.fail("the hub was asked without need"))
    assert load(places / "argument").source == "directory argument"
    assert load(str(places / "argument")).source == "directory argument"
    assert load().source == "directory variable"
    monkeypatch.delenv("SEMPA_DATA_DIR")
    assert load().source == "cache"


def test_the_words_are_those_of_the_place_that_the_source_names(places):
    assert corpora.load_triplets(places / "argument").rows == [Triplet("from argument", "yes", "no")]
    assert corpora.load_ranked_nli(places / "variable").rows[0].premise == "from variable"


def test_a_directory_without_the_data_does_not_end_the_search(places, monkeypatch):
    (places / "bare").mkdir()
    monkeypatch.setattr(corpora, "_data_cache", lambda: places / "cache")
    assert {load(places / "bare").source for load in LOADERS.values()} == {"cache"}


def test_the_hub_comes_before_the_mini_corpus(places, monkeypatch):
    cache = places / "new-cache"

    def fetch(name):
        if name == corpora.NLI_FILE:
            write(cache / name, HEADER + ROW)
        else:
            write_sts(cache)
        return True

    monkeypatch.setattr(corpora, "_data_cache", lambda: cache)
    monkeypatch.setattr(corpora, "fetch_hub_file", fetch)
    assert corpora.load_triplets().source == "hub (princeton-nlp/datasets-for-simcse)"
    assert len(corpora.load_sts("STS12")) == 10
    # What the hub gave is found again without it.
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: False)
    assert (corpora.load_triplets().source, corpora.load_sts("STS12").source) == ("cache", "cache")


def test_the_mini_corpus_is_the_last_place(places):
    triplets, ranked = corpora.load_triplets(), corpora.load_ranked_nli()
    assert triplets.source == ranked.source == "mini corpus (packaged)"
    assert corpora.sts_tasks() == ["mini-STS"]
    assert corpora.load_sts("mini-STS").source == "mini corpus (packaged)"
    with pytest.raises(FileNotFoundError, match="STS14: no STS data.*SEMPA_DATA_DIR.*mini-STS"):
        corpora.load_sts("STS14")
    # The two views of the same sentences agree.
    assert triplets.rows == [Triplet(row.premise, row.entailment, row.contradiction) for row in ranked.rows]


def test_the_error_names_the_directory_that_was_looked_into(places, monkeypatch):
    (places / "bare").mkdir()
    monkeypatch.setenv("SEMPA_DATA_DIR", str(places / "variable"))
    with pytest.raises(FileNotFoundError, match=re.escape(str(places / "bare"))):
        corpora.load_sts("STS14", places / "bare")


@pytest.mark.parametrize("root", ["senteval/downstream", "SentEval/data/downstream", "data/downstream", "downstream"])
def test_sts_is_found_in_the_layouts_that_people_have(places, root):
    original = places / "variable" / "senteval" / "downstream"
    target = places / "other" / root
    target.parent.mkdir(parents=True)
    original.rename(target)
    assert corpora.sts_tasks(places / "other") == list(corpora.STS_TASKS)


def test_the_paper_file_may_lie_at_the_top(places):
    write(places / "flat" / corpora.NLI_FILE, HEADER + ROW)
    assert len(corpora.load_triplets(places / "flat")) == 1


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_directory_that_does_not_exist_is_an_error(places, monkeypatch, load):
    message = refused(load, places / "nowhere")
    assert str(places / "nowhere") in message and "no such data directory" in message
    monkeypatch.setenv("SEMPA_DATA_DIR", str(places / "elsewhere"))
    assert str(places / "elsewhere") in refused(load)


def test_the_source_of_the_present_directory_has_a_name(places, monkeypatch):
    monkeypatch.chdir(places / "argument")
    assert corpora.load_triplets(".").source == "directory argument"


# --- Reading triplets --------------------------------------------------------------------------


def read(tmp_path, content):
    return corpora.read_triplets(write(tmp_path / "nli.csv", content))


def test_rows_are_read_and_white_space_is_collapsed(tmp_path):
    corpus = read(tmp_path, HEADER + '"A dog,  loudly, barks.",An animal makes noise.,"The dog\nis silent."\n')
    assert corpus.rows == [("A dog, loudly, barks.", "An animal makes noise.", "The dog is silent.")]
    assert corpus.source == "file nli.csv"


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_columns_are_found_by_name(tmp_path, start):
    corpus = read(tmp_path, f"{start}hard_neg,id,sent0,sent1\nn,1,a,p\n")
    assert corpus.rows == [("a", "p", "n")]


def test_dropped_rows_are_counted_and_reported(tmp_path):
    rows = ["a,p,n", ",p,n", "a, ,n", "a,p,", "b,same,same", "a,p,n", " a ,p,n", "a,p,m"]
    corpus = read(tmp_path, HEADER + "\n".join(rows) + "\n")
    assert corpus.rows == [("a", "p", "n"), ("a", "p", "m")]
    assert corpus.dropped == {"with an empty cell": 3, "with equal answers": 1, "duplicate": 2}
    assert corpus.describe() == (
        "NLI triplets: 2 rows from file nli.csv; dropped: 3 with an empty cell, 1 with equal answers, 2 duplicate"
    )
    assert corpus.record()["dropped"] == corpus.dropped
    assert read(tmp_path, HEADER + ROW).describe().endswith("dropped: none")


CELLS = st.text(st.sampled_from("ab ,\"\n'"), max_size=4)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
def test_every_row_is_either_kept_or_counted(tmp_path_factory, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([corpora.NLI_COLUMNS, *rows])
    path = write(tmp_path_factory.mktemp("nli") / "nli.csv", text.getvalue())
    try:
        corpus = corpora.read_triplets(path)
    except InputError as error:
        assert "no usable row" in str(error)
        return
    # A row that could as well be several is counted as those.
    count = sum(corpora._joined_rows(dict(zip(corpora.NLI_COLUMNS, row))) or 1 for row in rows)
    assert len(corpus) + sum(corpus.dropped.values()) == count
    assert len(set(corpus.rows)) == len(corpus)
    assert all(all(row) and row.positive != row.negative for row in corpus.rows)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("", "an empty file", id="empty"),
        pytest.param(HEADER, "no usable row", id="header only"),
        pytest.param(HEADER + ",,\n", "no usable row", id="nothing usable"),
        pytest.param("sent0,sent1\na,b\n", "row 1: no column hard_neg", id="a column missing"),
        pytest.param("a,b,c\nd,e,f\n", "row 1: no column sent0, sent1, hard_neg", id="no header"),
        pytest.param(HEADER + ROW + "a,b\n", "row 3: no cell for hard_neg", id="short row"),
        pytest.param(HEADER + ROW + "Yes, a dog.,b,c\n", "row 3: more cells than columns", id="unquoted comma"),
        pytest.param(HEADER.encode() + b"a,b,c\xe9\n", "not UTF-8", id="not UTF-8"),
        pytest.param(HEADER + 'a,b,"' + 200_000 * "x", "not readable as CSV", id="quote without end"),
    ],
)
def test_bad_triplet_files_are_named_with_their_row(tmp_path, content, says):
    message = refused(read, tmp_path, content)
    assert message.startswith(str(tmp_path / "nli.csv"))
    assert says in message
    assert message.endswith("."), "a remedy follows"


def test_the_remedy_for_an_unquoted_comma_is_named(tmp_path):
    assert "needs quotes" in refused(read, tmp_path, HEADER + "Yes, a dog.,b,c\n")


# --- Reading ranked rows -----------------------------------------------------------------------


def line(premise, hypothesis, label):
    return json.dumps({"premise": premise, "hypothesis": hypothesis, "label": label})


def ranked(tmp_path, monkeypatch, *lines):
    monkeypatch.setattr(corpora, "_data_cache", lambda: tmp_path / "no-cache")
    write(tmp_path / "nli" / "snli_dev.jsonl", "".join(one + "\n" for one in lines))
    return corpora.load_ranked_nli(tmp_path)


def test_a_premise_needs_three_labels_and_three_answers(tmp_path, monkeypatch):
    corpus = ranked(
        tmp_path,
        monkeypatch,
        *(line("full", label, label) for label in ("neutral", "contradiction", "entailment")),
        line("full", "a second one", "entailment"),  # the first of each label is taken
        line("half", "x", "entailment"),
        *(line("equal", "x", label) for label in ("entailment", "neutral", "contradiction")),
        line("full", "x", "-"),  # people did not agree on a label
        line("full", " ", "neutral"),
    )
    assert corpus.rows == [RankedRow("full", "entailment", "neutral", "contradiction")]
    assert corpus.dropped == {
        "lines without a sentence or one of the three labels": 2,
        "premises without three different answers": 2,
    }


def test_both_files_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "_data_cache", lambda: tmp_path / "no-cache")
    write_ranked(tmp_path / "nli" / "snli_dev.jsonl", ["a"])
    write_ranked(tmp_path / "nli" / "mnli_dev_matched.jsonl", ["b"])
    assert [row.premise for row in corpora.load_ranked_nli(tmp_path).rows] == ["a", "b"]


@pytest.mark.parametrize(
    "broken",
    [
        '{"premise": "a", "hypothesis"',
        "",
        "[1, 2]",
        '"text"',
        '{"premise": "a", "label": "neutral"}',
        '{"premise": null, "hypothesis": "b", "label": "neutral"}',
    ],
)
def test_a_malformed_line_is_named(tmp_path, monkeypatch, broken):
    good = line("a", "b", "neutral")
    message = refused(ranked, tmp_path, monkeypatch, good, broken, good)
    assert message.startswith(f"{tmp_path / 'nli' / 'snli_dev.jsonl'}, line 2: ")
    assert "Fix or remove the line" in message


def test_ranked_files_without_a_usable_premise_are_refused(tmp_path, monkeypatch):
    assert "no usable premise" in refused(ranked, tmp_path, monkeypatch, line("a", "b", "neutral"))
    assert "an empty file" in refused(ranked, tmp_path, monkeypatch)


# --- Reading STS -------------------------------------------------------------------------------


@pytest.fixture
def sts(tmp_path, monkeypatch):
    """A folder with the seven tasks, two pairs a subset, which a test then spoils."""
    monkeypatch.delenv("SEMPA_DATA_DIR", raising=False)
    monkeypatch.setattr(corpora, "_data_cache", lambda: tmp_path / "no-cache")
    return write_sts(tmp_path)


def load(sts, task, split="test"):
    return corpora.load_sts(task, sts.parent.parent, split=split)


def test_the_small_files_are_read(sts):
    assert [len(load(sts, task)) for task in corpora.STS_TASKS] == [10, 6, 12, 10, 10, 2, 2]
    assert load(sts, "STS13").rows[:2] == [Pair("STS13 FNWN a", "b", 5.0, "FNWN"), Pair("c", "d", 2.5, "FNWN")]
    assert load(sts, "SICK-R").rows == [Pair("a", "b", 4.5), Pair("c", "d", 1.0)]
    assert load(sts, "STS-B").rows[0] == Pair("one test", "two", 4.2)
    assert load(sts, "STS-B", "dev").rows[0] == Pair("one dev", "two", 4.2)
    assert (load(sts, "STS-B").name, load(sts, "STS-B", "dev").name) == ("STS-B", "STS-B dev")


def test_unscored_pairs_are_left_out_and_further_columns_too(sts):
    folder = sts / "STS" / "STS15-en-test"
    write(folder / "STS.input.belief.txt", "a\tb\tc\td\ne\tf\ng\th\n")
    write(folder / "STS.gs.belief.txt", "1\n\n 3 \r\n")
    found = [pair for pair in load(sts, "STS15").rows if pair.subset == "belief"]
    assert found == [Pair("a", "b", 1.0, "belief"), Pair("g", "h", 3.0, "belief")]


def test_a_quote_in_sts_b_is_a_character(sts):
    row = 'main\ts\t2012\t1\t3.0\t"Never," said he\ta "b\tLICENCE\n'
    write(sts / "STS" / "STSBenchmark" / "sts-test.csv", 2 * row)
    assert load(sts, "STS-B").rows == 2 * [Pair('"Never," said he', 'a "b', 3.0)]


def test_only_line_feeds_end_a_row(sts):
    # U+2028 and U+0085 are characters of web text; str.splitlines would cut there.
    write(sts / "STS" / "STSBenchmark" / "sts-test.csv", "m\ts\t1\t1\t3.0\ta\u2028b\u0085c\td\r\n")
    assert load(sts, "STS-B").rows == [Pair("a b c", "d", 3.0)]


def test_sick_columns_are_found_by_name(sts):
    write(sts / "SICK" / "SICK_test_annotated.txt", "relatedness_score\tsentence_B\tsentence_A\n2\tb\ta\n")
    assert load(sts, "SICK-R").rows == [Pair("a", "b", 2.0)]


GS, INPUT = "STS/STS12-en-test/STS.gs.MSRvid.txt", "STS/STS12-en-test/STS.input.MSRvid.txt"
STSB, SICK = "STS/STSBenchmark/sts-test.csv", "SICK/SICK_test_annotated.txt"
SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\n"


@pytest.mark.parametrize(
    ("task", "file", "content", "says"),
    [
        ("STS12", GS, "5\nhigh\n", ", row 2: the score 'high' is not a number"),
        ("STS12", GS, "nan\n1\n", ", row 1: the score 'nan' is not a number"),
        ("STS12", GS, "1\ninf\n", ", row 2: the score 'inf' is not a number"),
        ("STS12", GS, "", ": an empty file"),
        ("STS12", GS, b"5\n\xff\n", ": not UTF-8 text"),
        ("STS12", GS, "5\n", " has 1. Each sentence pair needs one line"),
        ("STS12", INPUT, "a\tb\n", " has 1 rows and "),
        ("STS12", INPUT, "a\tb\nno tab\n", ", row 2: no two tab-separated sentences"),
        ("STS12", INPUT, "a\tb\nc\t \n", ", row 2: no two tab-separated sentences"),
        ("STS12", INPUT, "", ": an empty file"),
        ("STS-B", STSB, "m\ts\t1\t1\t\ta\tb\n", ", row 1: the score '' is not a number"),
        ("STS-B", STSB, "m\ts\t1\t1\t3\ta\tb\nm\ts\t1\t1\t3\ta\n", ", row 2: no two tab-separated sentences"),
        ("STS-B", STSB, "m\ts\n", ", row 1: no two tab-separated sentences"),
        ("STS-B", STSB, "", ": an empty file"),
        ("SICK-R", SICK, SICK_HEADER + "1\ta\tb\t?\n", ", row 2: the score '?' is not a number"),
        ("SICK-R", SICK, SICK_HEADER + "1\ta\tb\n", ", row 2: no two tab-separated sentences"),
        ("SICK-R", SICK, "pair_ID\tsentence_A\tsentence_B\n1\ta\tb\n", ", row 1: no column relatedness_score"),
        ("SICK-R", SICK, "", ": an empty file"),
    ],
)
def test_bad_sts_files_are_named_with_their_row(sts, task, file, content, says):
    path = write(sts / file, content)
    message = refused(load, sts, task)
    assert f"{path}{says}" in message
    assert message.endswith("."), "a remedy follows"


@pytest.mark.parametrize("file", [GS, INPUT, STSB, SICK])
def test_a_missing_sts_file_is_named(sts, file):
    (sts / file).unlink()
    task = {GS: "STS12", INPUT: "STS12", STSB: "STS-B", SICK: "SICK-R"}[file]
    assert refused(load, sts, task).startswith(f"{sts / file}: no such file")
    # A folder that is there but broken must not be passed over for the mini corpus.
    with pytest.raises(InputError, match="no such file"):
        corpora.sts_tasks(sts.parent.parent)


def test_a_task_without_a_scored_pair_is_refused(sts):
    write(sts / SICK, SICK_HEADER)
    assert "SICK-R has no scored pair" in refused(load, sts, "SICK-R")


def test_unknown_tasks_and_splits_name_the_nearest(sts):
    assert "Did you mean 'STS13'" in refused(load, sts, "STS113")
    assert "Did you mean 'SICK-R'" in refused(load, sts, "SICKR")
    assert "Unknown split of STS12 'dev'" in refused(load, sts, "STS12", "dev")
    assert "Unknown split of STS-B 'trial'. Did you mean 'train'" in refused(load, sts, "STS-B", "trial")
    assert "Unknown split of mini-STS 'train'" in refused(load, sts, "mini-STS", "train")


def test_the_train_splits_have_their_parts_and_the_others_stay_whole(sts):
    genres = "main-news\tMSRpar\t2012train\t1\t4.0\ta\tb\nmain-captions\tMSRvid\t2012train\t2\t1.0\tc\td\n"
    for split in ("train", "dev"):
        write(sts / "STS" / "STSBenchmark" / f"sts-{split}.csv", genres)
    assert load(sts, "STS-B", "train").rows == [Pair("a", "b", 4.0, "main-news"), Pair("c", "d", 1.0, "main-captions")]
    assert load(sts, "STS-B", "dev").rows == [Pair("a", "b", 4.0), Pair("c", "d", 1.0)]
    assert [pair.subset for pair in load(sts, "SICK-R", "train").rows] == ["trial", "trial", "train", "train"]
    assert load(sts, "SICK-R", "train").rows[2] == Pair("E train", "f", 2.0, "train")
    (sts / "SICK" / "SICK_trial.txt").unlink()
    assert "SICK_trial.txt: no such file" in refused(load, sts, "SICK-R", "train")


# --- Files of people: marks, encodings, quotes, a part of the layout -------------------------------


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_text(places):
    marked = places / "marked"
    shutil.copytree(places / "variable", marked)
    for path in marked.rglob("*.*"):
        if path.is_file():
            path.write_bytes(MARK + path.read_bytes())
    for load in (*LOADERS.values(), lambda directory: corpora.load_sts("STS12", directory)):
        assert load(marked).rows == load(places / "variable").rows
    assert corpora.load_sts("SICK-R", marked).rows[0] == Pair("a", "b", 4.5)


@pytest.mark.parametrize(
    ("encoding", "last", "says"),
    [
        ("latin-1", "A café opens.,b,c\n", "row 3: byte 0xe9"),
        ("utf-16", "", "row 1: byte 0xff, it seems to be UTF-16"),
        ("utf-16-le", "", "row 1: byte 0x00, it seems to be UTF-16"),
        ("utf-16-be", "A café opens.,b,c\n", "row 3: byte 0xe9, it seems to be UTF-16"),
    ],
)
def test_another_encoding_is_named_with_its_row(tmp_path, encoding, last, says):
    path = write(tmp_path / "nli.csv", (HEADER + ROW + last).encode(encoding))
    for read_file in (corpora.read_triplets, corpora.text_lines):
        assert refused(read_file, path) == f"{path}: not UTF-8 text ({says}). Save it as UTF-8."


FULL = [f"A dog {n} runs.,A dog {n} moves.,A dog {n} sits." for n in range(4)]


@pytest.mark.parametrize(
    "joined",
    [
        pytest.param(
            ['A girl calls.,"Come here, she says.', *FULL, 'A boy waits.,and no more",A boy runs.'], id="five"
        ),
        pytest.param(
            ['A girl calls.,"Come here.,She is silent.', 'A man eats.,Some" eat.,Nobody eats.'], id="next row"
        ),
        pytest.param(['A,"B.,C', "D,E,F", "G, or H,I,J", 'K,L",M'], id="a comma too many"),
        pytest.param(['"A girl,calls.,B', 'C",D,E'], id="first column"),
    ],
)
def test_rows_that_a_quote_joined_are_counted(tmp_path, joined):
    corpus = read(tmp_path, HEADER + "\n".join([ROW.strip(), *joined, "last,row,kept"]) + "\n")
    assert [row.anchor for row in corpus.rows] == ["A dog barks.", "last"]
    assert corpus.dropped["joined to one row by a quote"] == len(joined)
    assert f"{len(joined)} joined to one row by a quote" in corpus.describe()


@pytest.mark.parametrize(
    "cell", ["one\ntwo", "one,\ntwo", "red, green\nand blue", "a\nb, c, d\ne", "\n,,\n", 'he said\n"no"', "a\r\nb"]
)
@pytest.mark.parametrize("column", range(3))
def test_a_cell_of_several_lines_is_read_whole(tmp_path, cell, column):
    row = ["x", "y", "z"]
    row[column] = cell
    text = io.StringIO()
    csv.writer(text).writerows([corpora.NLI_COLUMNS, row, ["last", "row", "kept"]])
    corpus = read(tmp_path, text.getvalue())
    assert [len(corpus), sum(corpus.dropped.values())] == [2, 0]
    assert corpus.rows[0][column] == " ".join(cell.split())


@pytest.mark.parametrize("start", ['A,B,"C', '"A,B,C', 'A,"B""'])
def test_a_quote_that_never_closes_is_named_with_its_row(tmp_path, start):
    rows = "\n".join([ROW.strip(), start, *FULL])
    assert "row 3: a quote opens and never closes" in refused(read, tmp_path, f"{HEADER}{rows}\n")
    assert "row 3: a quote opens and never closes" in refused(read, tmp_path, HEADER + rows)


def test_the_task_that_is_asked_for_is_enough(places):
    only = places / "only" / "senteval" / "downstream" / "STS"
    shutil.copytree(places / "variable" / "senteval" / "downstream" / "STS" / "STSBenchmark", only / "STSBenchmark")
    assert len(corpora.load_sts("STS-B", places / "only")) == 2
    assert corpora.sts_tasks(places / "only") == ["STS-B"]
    assert corpora.dev_task(places / "only") == "STS-B"
    with pytest.raises(FileNotFoundError, match="STS12: no STS data"):
        corpora.load_sts("STS12", places / "only")
    (only / "STSBenchmark").rename(only / "STS12-en-test")
    for subset in corpora.STS_TASKS["STS12"]:
        for kind in ("input", "gs"):
            file = f"STS.{kind}.{subset}.txt"
            shutil.copyfile(
                places / "variable/senteval/downstream/STS/STS12-en-test" / file, only / "STS12-en-test" / file
            )
    assert corpora.sts_tasks(places / "only") == ["STS12"]
    assert corpora.dev_task(places / "only") == "mini-STS"


def test_a_task_is_looked_for_in_the_cache_where_the_named_directory_lacks_it(places, monkeypatch):
    monkeypatch.setattr(corpora, "_data_cache", lambda: places / "cache")
    shutil.rmtree(places / "variable" / "senteval" / "downstream" / "SICK")
    assert corpora.load_sts("SICK-R", places / "variable").source == "cache"
    assert corpora.load_sts("STS-B", places / "variable").source == "directory variable"


def test_an_archive_without_the_task_is_fetched_once(places, monkeypatch):
    fetched = []
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: fetched.append(name) or True)
    with pytest.raises(FileNotFoundError, match="SICK-R: no STS data"):
        corpora.load_sts("SICK-R")
    assert fetched == ["senteval.tar"]


@pytest.mark.parametrize("load", [corpora.load_triplets, corpora.load_ranked_nli, corpora.sts_tasks, corpora.dev_task])
def test_a_directory_without_anything_of_the_layout_is_not_passed_over(places, monkeypatch, load):
    write(places / "mine" / "train.csv", HEADER + ROW)
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: pytest.fail("fetched in the place of what was named"))
    monkeypatch.setattr(corpora, "hub_reachable", lambda: False)
    if load in (corpora.sts_tasks, corpora.dev_task):
        monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: False)
    message = refused(load, places / "mine")
    assert message.startswith(f"{places / 'mine'}: nothing of the layout is in it")
    assert "nli/nli_for_simcse.csv" in message and "leave the directory out" in message
    monkeypatch.setenv("SEMPA_DATA_DIR", str(places / "mine"))
    assert refused(load) == message
    # With any part of the layout the search goes on, as it does for what the directory lacks.
    (places / "mine" / "text").mkdir()
    monkeypatch.setattr(corpora, "fetch_hub_file", lambda name: False)
    assert "mini" in str(load())


def test_the_loader_is_chosen_in_one_place(no_data):
    assert corpora.load_nli(None, 7, ranked=False, seed=1) == corpora.load_triplets(limit=7, seed=1)
    assert corpora.load_nli(None, 7, ranked=True, seed=1) == corpora.load_ranked_nli(limit=7, seed=1)
    assert corpora.dev_task() == "mini-STS"


# --- Corpus ------------------------------------------------------------------------------------


def numbered(count: int) -> Corpus:
    rows = [Triplet(f"a{n}", f"p{n}", f"n{n}") for n in range(count)]
    return Corpus("numbers", rows, "a test", "0" * 16, {"duplicate": 3})


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_a_sample_is_drawn_without_replacement_and_by_the_seed_alone(size, limit, seed):
    whole = numbered(size)
    drawn = whole.sample(limit, seed)
    assert len(drawn) == len(set(drawn.rows)) == min(size, limit)
    assert set(drawn.rows) <= set(whole.rows)
    assert drawn == whole.sample(limit, seed)
    assert drawn.dropped == whole.dropped


def test_another_seed_draws_another_sample_with_another_fingerprint():
    one, other = numbered(100).sample(10, 0), numbered(100).sample(10, 1)
    assert set(one.rows) != set(other.rows)
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == numbered(100).sample(10, 0).fingerprint


def test_every_row_has_the_same_chance():
    counts = dict.fromkeys(numbered(10).rows, 0)
    for seed in range(1000):
        for row in numbered(10).sample(3, seed).rows:
            counts[row] += 1
    # Each is drawn 300 times on average with a standard deviation of 14.5; five of these are allowed.
    assert all(abs(count - 300) < 73 for count in counts.values())


def test_no_limit_keeps_all_in_order_and_a_sample_says_what_it_was_drawn_from():
    whole = numbered(12)
    assert whole.sample(None, 0) is whole
    assert whole.sample(12, 0) is whole
    assert "drawn from 12" in whole.sample(5, 0).source


@pytest.mark.parametrize("limit", [0, -1])
def test_a_sample_of_nothing_is_refused(limit):
    assert "at least 1" in refused(numbered(3).sample, limit, 0)


def test_without_compares_first_sentences():
    whole, some = numbered(6), numbered(2)
    left = whole.without(some)
    assert [row.anchor for row in left.rows] == ["a2", "a3", "a4", "a5"]
    assert left.name == whole.name and left.source == whole.source
    # A ranked row with a premise that was trained on is no held-out row, whatever its answers.
    premises = Corpus("ranked", [RankedRow("a1", "x", "y", "z"), RankedRow("new", "x", "y", "z")], "a test", "0")
    assert [row.premise for row in premises.without(some).rows] == ["new"]


WORDS = st.sampled_from(["A dog", "a  DOG !", "adog", "A cat", "cat", "No"])


@given(
    rows=st.lists(st.builds(Triplet, WORDS, WORDS, WORDS), max_size=12),
    pairs=st.lists(st.builds(Pair, WORDS, WORDS, st.floats(0, 5), st.just("A dog")), max_size=3),
)
def test_rows_are_apart_from_sentences_whatever_case_and_marks(rows, pairs):
    whole, others = Corpus("rows", rows, "a test", "0"), Corpus("pairs", pairs, "a test", "1")
    left = whole.apart_from([others])
    taken = {corpora.letters(text) for pair in pairs for text in (pair.first, pair.second)}
    assert left.rows == [row for row in rows if not {corpora.letters(text) for text in row} & taken]
    assert sum(left.dropped.values()) == len(rows) - len(left)
    # A part's name is no sentence, and nothing is apart from itself.
    assert not whole.apart_from([whole]).rows and whole.apart_from([]).rows == rows
    assert others.without_pairs_of([others]).rows == [] and others.without_pairs_of([]).rows == pairs


def test_a_pair_is_known_in_either_order_and_with_another_score():
    task = Corpus("task", [Pair("A b.", "c", 1.0, "x"), Pair("A b.", "d", 2.0), Pair("e", "e", 3.0)], "a test", "0")
    test = Corpus("test", [Pair("C", "a  B", 4.0), Pair("e", "f", 1.0)], "a test", "1")
    left = task.without_pairs_of([test])
    assert left.rows == task.rows[1:] and left.dropped == {"pairs of a test": 1}
    assert left.name == "task" and "1 pairs of a test" in left.describe()


@given(
    anchors=st.lists(st.integers(0, 8), min_size=3, max_size=40),
    limit=st.none() | st.integers(1, 50),
    held_out=st.integers(1, 50),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_anchors_apart_and_sizes_in_bounds(anchors, limit, held_out, seed):
    # Few anchors and many rows: in NLI data a premise stands in several triplets.
    rows = [Triplet(f"a{anchor}", f"p{index}", f"n{index}") for index, anchor in enumerate(anchors)]
    whole = Corpus("numbers", rows, "a test", "0")
    try:
        training, aside = whole.split(limit, held_out, seed=seed)
    except InputError:
        assert len(set(anchors)) <= len(rows) // 3, "refused only where the rows set aside may hold every anchor"
        return
    assert (training, aside) == whole.split(limit, held_out, seed=seed)
    assert 1 <= len(aside) <= max(1, min(held_out, len(rows) // 3))
    assert len(training) <= (limit or len(rows))
    assert not {row.anchor for row in training.rows} & {row.anchor for row in aside.rows}
    assert set(training.rows) | set(aside.rows) <= set(rows)
    assert aside.name == "numbers, held out"
    if limit is None:
        # Nothing is lost but the other rows of anchors that were set aside.
        left_out = set(rows) - set(training.rows) - set(aside.rows)
        assert {row.anchor for row in left_out} <= {row.anchor for row in aside.rows}


def test_a_single_row_cannot_be_split():
    assert "too few" in refused(lambda: numbered(1).split(5, 5, seed=0))


def test_the_loaders_limit_is_a_sample(no_data):
    assert corpora.load_triplets(limit=7, seed=1) == corpora.load_triplets().sample(7, 1)
    assert corpora.load_ranked_nli(limit=7, seed=1) == corpora.load_ranked_nli().sample(7, 1)


def test_a_record_holds_no_sentence(no_data):
    corpus = corpora.load_triplets(limit=5)
    text = json.dumps(corpus.record())
    assert corpus.record()["rows"] == 5
    assert not any(sentence in text for row in corpus.rows for sentence in row)


# --- The hub -----------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    """This process may ask a hub, as if it had not asked before; conftest.py forbids it to the other tests."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    huggingface_hub.close_session()
    corpora.hub_reachable.cache_clear()
    yield monkeypatch
    corpora.hub_reachable.cache_clear()
    huggingface_hub.close_session()


@contextlib.contextmanager
def hub_that_answers(code: int):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@contextlib.contextmanager
def hub_that_is_silent():
    """An address that takes a connection and never answers: as slow as a network can be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_answers_is_asked_once(online):
    with hub_that_answers(200) as (address, asked):
        online.setenv("HF_ENDPOINT", address)
        assert corpora.hub_reachable() and corpora.hub_reachable()
        assert len(asked) == 1


@pytest.mark.parametrize("code", [403, 407, 503])
def test_a_wall_that_answers_in_the_hubs_place_is_no_hub(online, code):
    with hub_that_answers(code) as (address, asked):
        online.setenv("HF_ENDPOINT", address)
        assert not corpora.hub_reachable()
        assert len(asked) == 1


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_the_offline_switch_asks_nobody(online, value):
    with hub_that_answers(200) as (address, asked):
        online.setenv("HF_ENDPOINT", address)
        online.setenv("HF_HUB_OFFLINE", value)
        assert not corpora.hub_reachable()
        assert not asked


def test_without_a_network_all_loaders_together_cost_less_than_five_seconds(online, tmp_path):
    online.delenv("SEMPA_DATA_DIR", raising=False)
    online.setattr(corpora, "_data_cache", lambda: tmp_path / "no-cache")
    with hub_that_is_silent() as address:
        online.setenv("HF_ENDPOINT", address)
        start = time.perf_counter()
        sources = {corpora.load_triplets().source, corpora.load_ranked_nli().source}
        tasks = corpora.sts_tasks()
        seconds = time.perf_counter() - start
    assert (sources, tasks) == ({"mini corpus (packaged)"}, ["mini-STS"])
    assert seconds < 5


@pytest.mark.parametrize(
    "address", ["http://10.255.255.1", "http://127.0.0.1:9", "http://no-such-host.invalid", "nonsense"]
)
def test_an_address_without_a_hub_is_not_reachable(online, address):
    # Unroutable, refused, without a name, no address: whatever the network makes of them, in the time given.
    online.setenv("HF_ENDPOINT", address)
    start = time.perf_counter()
    assert not corpora.hub_reachable(0.3)
    assert time.perf_counter() - start < 2


def test_a_name_look_up_that_hangs_is_not_waited_for(online):
    # The system's resolver knows no time-out of ours; behind a captive network it can take a minute.
    released = threading.Event()
    online.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(20) and [])
    online.setenv("HF_ENDPOINT", "http://hub.example")
    start = time.perf_counter()
    assert not corpora.hub_reachable(0.3)
    assert time.perf_counter() - start < 2
    released.set()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub client that keeps its files as the real one does: a link in a snapshot to a blob."""
    monkeypatch.delenv("SEMPA_DATA_DIR", raising=False)
    monkeypatch.setattr(corpora, "hub_reachable", lambda: True)
    monkeypatch.setattr(corpora, "_data_cache", lambda: tmp_path / "cache")

    class Hub:
        content = (HEADER + ROW).encode()
        etag = None  # None: the right one
        error = None
        blob, link = tmp_path / "hf" / "blobs" / "blob", tmp_path / "hf" / "snapshots" / "file"

        def metadata(self, url):
            self.url = url
            return type("Metadata", (), {"etag": self.etag or hashlib.sha256(self.content).hexdigest()})

        def download(self, repo, name, repo_type):
            assert (repo, repo_type) == ("princeton-nlp/datasets-for-simcse", "dataset")
            if self.error:
                raise self.error
            write(self.blob, self.content)
            self.link.parent.mkdir(parents=True, exist_ok=True)
            self.link.symlink_to(self.blob)
            return str(self.link)

    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    return hub


def test_a_file_whose_hash_is_right_comes_into_the_cache(hub, tmp_path):
    assert corpora.fetch_hub_file(corpora.NLI_FILE)
    assert hub.url.endswith("/datasets/princeton-nlp/datasets-for-simcse/resolve/main/nli_for_simcse.csv")
    assert (tmp_path / "cache" / corpora.NLI_FILE).read_bytes() == hub.content
    assert corpora.load_triplets().rows == [tuple(ROW.strip().split(","))]


def test_a_file_whose_hash_is_wrong_is_deleted_bytes_and_all(hub, tmp_path):
    hub.etag = 64 * "0"
    message = refused(corpora.fetch_hub_file, corpora.NLI_FILE)
    assert "nli_for_simcse.csv: SHA-256 differs" in message and "Run again" in message
    # The hub's client takes a blob that lies there for whole, so the blob must go too, not its link alone.
    assert not hub.blob.exists() and not hub.link.is_symlink()
    assert not (tmp_path / "cache").exists()
    hub.etag = None
    assert corpora.fetch_hub_file(corpora.NLI_FILE)


def test_a_small_file_without_a_sha256_is_taken(hub):
    hub.etag = 40 * "a"  # git's own name for a file that is not in large file storage
    assert corpora.fetch_hub_file(corpora.NLI_FILE)


@pytest.mark.parametrize("error", [ConnectionError("reset"), EntryNotFoundError("404"), OSError(28, "no space")])
def test_a_download_that_breaks_off_is_one_clear_error(hub, tmp_path, error):
    hub.error = error
    message = refused(corpora.load_triplets)
    assert "nli_for_simcse.csv: the download from the hub broke off" in message
    assert "HF_HUB_OFFLINE=1" in message
    assert not (tmp_path / "cache").exists()


def test_without_a_hub_nothing_is_fetched(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "hub_reachable", lambda: False)
    assert not corpora.fetch_hub_file(corpora.NLI_FILE)
    assert not (tmp_path / "cache").exists()


SAFE_TAR = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python 3.11.4 and later unpack safely")


def test_without_a_safe_way_nothing_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = write(tmp_path / "a.tar", archive_of(GOOD))
    with pytest.raises(InputError, match="a.tar: Python before 3.11.4.*Unpack it yourself and name the folder"):
        corpora.unpack_senteval(archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def archive_of(members: dict[str, str], mode="w", **links) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in links.items():
            member = tarfile.TarInfo(f"downstream/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


@SAFE_TAR
def test_an_archive_from_the_hub_is_unpacked_where_it_will_be_found(hub, tmp_path):
    folder = write_sts(tmp_path / "original")
    files = {str(path.relative_to(folder.parent)): path.read_text() for path in folder.rglob("*.*") if path.is_file()}
    hub.content = archive_of({f"SentEval/data/{name}": text for name, text in files.items()})
    assert corpora.sts_tasks() == list(corpora.STS_TASKS)
    assert len(corpora.load_sts("SICK-R")) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["senteval"]


@SAFE_TAR
@pytest.mark.parametrize("above", ["", "senteval/", "SentEval/data/"])
def test_an_archive_may_have_folders_above(tmp_path, above):
    archive = write(tmp_path / "a.tar", archive_of({f"{above}downstream/STS/x.txt": "1", f"{above}readme": "r"}))
    corpora.unpack_senteval(archive, tmp_path / "data" / "senteval")
    assert (tmp_path / "data" / "senteval" / "downstream" / "STS" / "x.txt").read_text() == "1"


GOOD = {"downstream/STS/x.txt": "1" * 20_000}


@SAFE_TAR
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no archive at all" * 100, id="not an archive"),
        pytest.param(archive_of(GOOD)[:9_000], id="cut off"),
        pytest.param(archive_of(GOOD, "w:gz")[:-20], id="compressed and cut off"),
        pytest.param(archive_of({"other/x.txt": "1"}), id="without STS"),
        pytest.param(archive_of({**GOOD, "../escaped.txt": "1"}), id="path upwards"),
        pytest.param(archive_of(GOOD, link="../../../escaped.txt"), id="link upwards"),
        pytest.param(archive_of(GOOD, link="/etc/hostname"), id="link to an absolute path"),
    ],
)
def test_a_bad_archive_leaves_nothing(tmp_path, content):
    archive = write(tmp_path / "a.tar", content)
    with pytest.raises(InputError) as refusal:
        corpora.unpack_senteval(archive, tmp_path / "data" / "senteval")
    assert str(refusal.value).startswith(str(archive))
    assert "Delete it and run again" in str(refusal.value)
    assert not list((tmp_path / "data").iterdir())
    assert not list(tmp_path.rglob("escaped*"))


@SAFE_TAR
def test_a_bad_archive_does_not_harm_what_was_unpacked_before(tmp_path):
    folder = tmp_path / "senteval"
    corpora.unpack_senteval(write(tmp_path / "a.tar", archive_of(GOOD)), folder)
    refused(corpora.unpack_senteval, write(tmp_path / "b.tar", archive_of(GOOD)[:9_000]), folder)
    assert (folder / "downstream" / "STS" / "x.txt").read_text() == GOOD["downstream/STS/x.txt"]


# --- The mini corpus keeps what its data card says ----------------------------------------------


@pytest.fixture(scope="module")
def mini():
    with open(corpora.MINI_CORPUS / "nli.csv", newline="", encoding="utf8") as file:
        nli = list(csv.DictReader(file))
    with open(corpora.MINI_CORPUS / "sts.csv", newline="", encoding="utf8") as file:
        return nli, list(csv.DictReader(file))


def words(sentence):
    return set(re.findall(r"[\w']+", sentence.lower()))


def overlap(pair) -> float:
    """Shared words by all words (Jaccard)."""
    first, second = words(pair["sentence1"]), words(pair["sentence2"])
    return len(first & second) / len(first | second)


def test_mini_premises(mini, no_data):
    nli, _ = mini
    premises = [row["premise"] for row in nli]
    assert len(premises) == len(corpora.load_triplets()) >= 300
    assert len({premise.casefold() for premise in premises}) == len(premises)
    assert all(4 <= len(premise.split()) <= 25 for premise in premises)
    assert len({row["topic"] for row in nli}) >= 30, "many everyday topics"


def test_mini_answers_are_three_and_distinct(mini):
    nli, _ = mini
    for row in nli:
        four = [row[column] for column in RankedRow._fields]
        assert len({text.casefold() for text in four}) == 4, row["premise"]
        assert all(text and text == " ".join(text.split()) for text in four), row["premise"]
    answers = [row[column] for row in nli for column in RankedRow._fields[1:]]
    assert len(set(answers)) == len(answers), "written one by one, no sentence serves twice"


def test_mini_grades_cover_the_scale(mini):
    _, pairs = mini
    grades = [float(pair["score"]) for pair in pairs]
    assert len(pairs) >= 250
    assert min(grades) == 0 and max(grades) == 5
    bins = [sum(low <= min(grade, 4.99) < low + 1 for grade in grades) for low in range(5)]
    assert sum(bins) == len(grades) and min(bins) >= 40, bins


def test_mini_pairs_are_hard(mini):
    _, pairs = mini
    same_words = [pair for pair in pairs if overlap(pair) >= 0.5 and float(pair["score"]) <= 3]
    other_words = [pair for pair in pairs if overlap(pair) <= 0.2 and float(pair["score"]) >= 4]
    assert len(same_words) >= 60
    assert len(other_words) >= 40


def test_mini_splits_share_no_sentence(mini, no_data):
    _, pairs = mini
    sentences = {"dev": set(), "test": set()}
    for pair in pairs:
        sentences[pair["split"]] |= {pair["sentence1"].casefold(), pair["sentence2"].casefold()}
    assert not sentences["dev"] & sentences["test"]
    dev, test = (corpora.load_sts("mini-STS", split=split) for split in ("dev", "test"))
    assert len(dev) + len(test) == len(pairs)
    assert dev.name == "mini-STS dev" and dev.fingerprint != test.fingerprint


def test_the_data_card_counts_right(mini):
    nli, pairs = mini
    card = (corpora.MINI_CORPUS / "README.md").read_text(encoding="utf8")
    dev = sum(pair["split"] == "dev" for pair in pairs)
    topics = len({row["topic"] for row in nli})
    assert f"{len(nli)} premises" in card
    assert f"{len(pairs)} sentence pairs graded for similarity: {dev} dev, {len(pairs) - dev} test" in card
    assert f"{topics} everyday topics" in card


# --- The real data, where SEMPA_DATA_DIR names them ---------------------------------------------

# The parts of the SemEval test sets, in SentEval's order; counted again here from the releases' descriptions.
SUBSETS = {
    "STS12": {"MSRpar": 750, "MSRvid": 750, "SMTeuroparl": 459, "surprise.OnWN": 750, "surprise.SMTnews": 399},
    "STS13": {"FNWN": 189, "headlines": 750, "OnWN": 561},
    "STS14": {"deft-forum": 450, "deft-news": 300, "headlines": 750, "images": 750, "OnWN": 750, "tweet-news": 750},
    "STS15": {"answers-forums": 375, "answers-students": 750, "belief": 375, "headlines": 750, "images": 750},
    "STS16": {"answer-answer": 254, "headlines": 249, "plagiarism": 230, "postediting": 244, "question-question": 209},
}
PUBLISHED_COUNTS = dict(zip(corpora.STS_TASKS, (3108, 1500, 3750, 3000, 1186, 1379, 4927), strict=True))


@pytest.mark.data
@pytest.mark.parametrize("task", corpora.STS_TASKS)
def test_the_real_tasks_have_their_exact_pairs(data_directory, task):
    corpus = corpora.load_sts(task, data_directory)
    assert len(corpus) == corpora.PAIR_COUNTS[task] == PUBLISHED_COUNTS[task]
    assert corpus.source.startswith("directory ")
    counts = {name: sum(pair.subset == name for pair in corpus.rows) for name in corpora.STS_TASKS[task]}
    assert counts == SUBSETS.get(task, {})
    low, high = (1, 5) if task == "SICK-R" else (0, 5)
    assert all(low <= pair.score <= high for pair in corpus.rows)
    if counts:
        assert sum(counts.values()) == len(corpus)


@pytest.mark.data
def test_the_real_sts_b_dev_set(data_directory):
    assert len(corpora.load_sts("STS-B", data_directory, split="dev")) == 1500


@pytest.mark.data
def test_the_real_train_splits(data_directory):
    stsb, sick = (corpora.load_sts(task, data_directory, split="train") for task in ("STS-B", "SICK-R"))
    parts = [Counter(pair.subset for pair in corpus.rows) for corpus in (stsb, sick)]
    assert parts == [{"main-captions": 2000, "main-forum": 450, "main-news": 3299}, {"trial": 500, "train": 4500}]


@pytest.mark.data
def test_the_real_triplets(data_directory):
    corpus = corpora.load_triplets(data_directory)
    with open(Path(data_directory) / "nli" / corpora.NLI_FILE, newline="", encoding="utf8") as file:
        rows = list(csv.reader(file))[1:]
    assert len(corpus) + sum(corpus.dropped.values()) == len(rows) == 8816
    assert "NLI triplets: 8,816 rows from directory" in corpus.describe()
    assert set(corpus.dropped) == {"with an empty cell", "with equal answers", "duplicate"}


@pytest.mark.data
def test_the_real_ranked_rows(data_directory):
    corpus = corpora.load_ranked_nli(data_directory)
    # Written out anew: the premises of both files that have each of the three labels.
    labels = {}
    for name in ("snli_dev.jsonl", "mnli_dev_matched.jsonl"):
        for text in (Path(data_directory) / "nli" / name).read_text(encoding="utf8").split("\n"):
            if text:
                row = json.loads(text)
                labels.setdefault(row["premise"].strip(), set()).add(row["label"])
    complete = [premise for premise, found in labels.items() if found >= {"entailment", "neutral", "contradiction"}]
    assert [row.premise for row in corpus.rows] == complete
    assert len(complete) == 5105
    assert corpus.dropped["premises without three different answers"] == len(labels) - 5105
