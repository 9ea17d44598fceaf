"""Where sentences come from: NLI triplets, ranked NLI rows and STS pairs, found, read and checked.

Each loader looks in this order: the directory the user names (argument or `SEMPA_DATA_DIR`), the
cache, the hub, the packaged mini corpus. What it returns says which one it was.
"""

import contextlib
import csv
import functools
import json
import math
import os
import random
import shutil
import tarfile
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from sempa_utils.checks import InputError, cache_folder, file_sha256, fingerprint, pick, write_whole

HUB_DATASET = "princeton-nlp/datasets-for-simcse"
NLI_FILE = "nli_for_simcse.csv"
NLI_COLUMNS = ("sent0", "sent1", "hard_neg")
MINI_CORPUS = Path(__file__).parent / "mini_corpus"

# The seven tasks with SentEval's subsets (its STS13 has three) and their numbers of scored pairs.
STS_TASKS = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
    "STS-B": (),
    "SICK-R": (),
}
PAIR_COUNTS = {
    "STS12": 3108,
    "STS13": 1500,
    "STS14": 3750,
    "STS15": 3000,
    "STS16": 1186,
    "STS-B": 1379,
    "SICK-R": 4927,
}
MINI_STS = "mini-STS"


class Triplet(NamedTuple):
    """An anchor, a sentence that follows from it, and one that contradicts it."""

    anchor: str
    positive: str
    negative: str


class RankedRow(NamedTuple):
    """A premise and three sentences in falling order of preference."""

    premise: str
    entailment: str
    neutral: str
    contradiction: str


class Pair(NamedTuple):
    """Two sentences and the similarity that people gave them, in the task's own scale (0–5 or 1–5)."""

    first: str
    second: str
    score: float
    subset: str = ""


@dataclass(frozen=True)
class Corpus:
    """Rows with their origin: `source` for readers, `fingerprint` for records, `dropped` rows by reason."""

    name: str
    rows: list
    source: str
    fingerprint: str
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> str:
        """Return one line: what, how many rows, from where, what was dropped."""
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count)
        return f"{self.name}: {len(self):,} rows from {self.source}; dropped: {dropped or 'none'}"

    def record(self) -> dict:
        """Return what a run's record keeps of the data: no sentence, only counts and fingerprint."""
        return {
            "name": self.name,
            "rows": len(self),
            "source": self.source,
            "fingerprint": self.fingerprint,
            "dropped": dict(self.dropped),
        }

    def sample(self, limit: int | None, seed: int) -> "Corpus":
        """Return `limit` rows drawn without replacement by `seed`, in the order drawn; None keeps all."""
        if limit is not None and limit < 1:
            raise InputError(f"{self.name}: {limit} rows cannot be drawn. Give a number of at least 1.")
        if limit is None or limit >= len(self):
            return self
        chosen = random.Random(seed).sample(self.rows, limit)
        return _corpus(self.name, chosen, f"{self.source}, drawn from {len(self):,}", self.dropped)

    def split(self, limit: int | None, held_out: int, seed: int) -> tuple["Corpus", "Corpus"]:
        """Return (training rows, held-out rows) by `seed`; no first sentence stands in both.

        `held_out` rows, but no more than a third, are set aside first; `limit` of the rest are drawn.
        Raises `InputError` if nothing is left to train on.
        """
        aside = self.sample(max(1, min(held_out, len(self) // 3)), seed)
        rest = self.without(aside)
        if not rest.rows:
            raise InputError(f"{self.name}: {len(self)} rows are too few to hold some out. Give more rows.")
        return rest.sample(limit, seed), replace(aside, name=f"{self.name}, held out")

    def without(self, other: "Corpus") -> "Corpus":
        """Return the rows whose first sentence (anchor or premise) is no row's first sentence in `other`."""
        taken = {row[0] for row in other.rows}
        kept = [row for row in self.rows if row[0] not in taken]
        return _corpus(self.name, kept, self.source, self.dropped)


def _corpus(name: str, rows: list, source: str, dropped=None) -> Corpus:
    return Corpus(name, rows, source, fingerprint(name, len(rows), *rows), dict(dropped or {}))


def load_triplets(directory: str | Path | None = None, limit: int | None = None, seed: int = 42) -> Corpus:
    """Load NLI triplets (anchor, entailed, contradicted), `limit` of them drawn by `seed`.

    Rows with an empty cell, with equal answers, or seen before are dropped and counted. Raises
    `InputError` for a missing column, a short row or a file without rows.
    """
    for folder, source in data_folders(directory):
        for path in (folder / "nli" / NLI_FILE, folder / NLI_FILE):
            if path.is_file():
                return read_triplets(path, source).sample(limit, seed)
    if fetch_hub_file(NLI_FILE):
        return read_triplets(_data_cache() / NLI_FILE, f"hub ({HUB_DATASET})").sample(limit, seed)
    rows = [Triplet(row.premise, row.entailment, row.contradiction) for row in _mini_nli()]
    return _corpus("NLI triplets", rows, "mini corpus (packaged)").sample(limit, seed)


def read_triplets(path: str | Path, source: str | None = None) -> Corpus:
    """Read a CSV file with the columns sent0, sent1 and hard_neg as triplets."""
    path = Path(path)
    rows, dropped, seen = [], Counter({"with an empty cell": 0, "with equal answers": 0, "duplicate": 0}), set()
    for _, row in csv_rows(path, NLI_COLUMNS):
        triplet = Triplet(*(" ".join(row[column].split()) for column in NLI_COLUMNS))
        if not all(triplet):
            dropped["with an empty cell"] += 1
        elif triplet.positive == triplet.negative:
            dropped["with equal answers"] += 1
        elif triplet in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(triplet)
            rows.append(triplet)
    if not rows:
        raise InputError(f"{path}: no usable row ({dict(dropped)}). Give a file with at least one full triplet.")
    return _corpus("NLI triplets", rows, source or f"file {path.name}", dropped)


def load_ranked_nli(directory: str | Path | None = None, limit: int | None = None, seed: int = 42) -> Corpus:
    """Load premises that have an entailed, a neutral and a contradicted sentence each.

    From `nli/snli_dev.jsonl` and `nli/mnli_dev_matched.jsonl` of a named directory, else from the
    mini corpus. A premise's first sentence of each label is taken; premises without all three labels
    are dropped and counted.
    """
    for folder, source in data_folders(directory):
        files = [folder / "nli" / name for name in ("snli_dev.jsonl", "mnli_dev_matched.jsonl")]
        found = [path for path in files if path.is_file()]
        if found:
            return _read_labelled_nli(found, source).sample(limit, seed)
    return packaged_ranked_nli().sample(limit, seed)


def packaged_ranked_nli() -> Corpus:
    """Return the mini corpus' premises with their entailed, neutral and contradicted sentences."""
    return _corpus("ranked NLI rows", _mini_nli(), "mini corpus (packaged)")


def _read_labelled_nli(paths: list[Path], source: str) -> Corpus:
    labels = ("entailment", "neutral", "contradiction")
    by_premise: dict[str, dict[str, str]] = {}
    unlabelled = 0
    for path in paths:
        for number, line in enumerate(text_lines(path), start=1):
            try:
                row = json.loads(line)
                premise, hypothesis, label = row["premise"].strip(), row["hypothesis"].strip(), row["label"]
            except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not a JSON object with premise, hypothesis and label ({error}). "
                    "Mend or remove the line."
                ) from error
            if premise and hypothesis and label in labels:
                by_premise.setdefault(premise, {}).setdefault(label, hypothesis)
            else:
                unlabelled += 1
    rows = [
        RankedRow(premise, *(found[label] for label in labels))
        for premise, found in by_premise.items()
        if len(found) == 3 and len(set(found.values())) == 3
    ]
    dropped = {
        "lines without a sentence or one of the three labels": unlabelled,
        "premises without three different answers": len(by_premise) - len(rows),
    }
    if not rows:
        raise InputError(f"{', '.join(map(str, paths))}: no usable premise ({dropped}). Give all three labels to one.")
    return _corpus("ranked NLI rows", rows, source, dropped)


def _mini_nli() -> list[RankedRow]:
    path = MINI_CORPUS / "nli.csv"
    return [RankedRow(*(row[column] for column in RankedRow._fields)) for _, row in csv_rows(path, RankedRow._fields)]


def sts_tasks(directory: str | Path | None = None) -> list[str]:
    """Return the STS tasks that can be had here: the seven, or the mini corpus' one."""
    for task in STS_TASKS:
        try:
            load_sts(task, directory)
        except FileNotFoundError:
            return [MINI_STS]
    return list(STS_TASKS)


def load_sts(task: str, directory: str | Path | None = None, split: str = "test") -> Corpus:
    """Load the scored pairs of one STS task as SentEval reads them.

    `task` is one of the seven or "mini-STS"; `split` is "test", or "dev" for STS-B and mini-STS.
    Pairs without a score are left out, as in SentEval. Raises `FileNotFoundError` when the data are
    nowhere to be had, `InputError` for files that are broken.
    """
    pick(task, (*STS_TASKS, MINI_STS), "STS task")
    pick(split, ("test", "dev") if task in ("STS-B", MINI_STS) else ("test",), f"split of {task}")
    name = task if split == "test" else f"{task} {split}"
    if task == MINI_STS:
        rows = csv_rows(MINI_CORPUS / "sts.csv", ("split", "score", "sentence1", "sentence2"))
        pairs = [Pair(r["sentence1"], r["sentence2"], float(r["score"])) for _, r in rows if r["split"] == split]
        return _corpus(name, pairs, "mini corpus (packaged)")
    for folder, source in data_folders(directory):
        for root in ("senteval/downstream", "SentEval/data/downstream", "data/downstream", "downstream"):
            if (folder / root / "STS").is_dir():
                pairs = _read_sts(folder / root, task, split)
                if not pairs:
                    raise InputError(f"{folder / root}: {task} has no scored pair. Fetch or write its files again.")
                return _corpus(name, pairs, source)
    if fetch_hub_file("senteval.tar"):
        return load_sts(task, directory, split)
    raise FileNotFoundError(
        f"{task}: no STS data in {directory or os.environ.get('SEMPA_DATA_DIR') or 'a named directory'}, the cache "
        "or on the hub. Set SEMPA_DATA_DIR to a folder that holds senteval/downstream, or use the task 'mini-STS'."
    )


def _read_sts(root: Path, task: str, split: str) -> list[Pair]:
    if task == "STS-B":
        return _read_stsb(root / "STS" / "STSBenchmark" / f"sts-{split}.csv")
    if task == "SICK-R":
        return _read_sick(root / "SICK" / "SICK_test_annotated.txt")
    folder = root / "STS" / f"{task}-en-test"
    pairs = []
    for subset in STS_TASKS[task]:
        inputs, scores = folder / f"STS.input.{subset}.txt", folder / f"STS.gs.{subset}.txt"
        sentences, gold = text_lines(inputs), text_lines(scores)
        if len(sentences) != len(gold):
            raise InputError(
                f"{inputs} has {len(sentences)} rows and {scores} has {len(gold)}. "
                "Each sentence pair needs one line in the score file (blank for an unscored pair)."
            )
        for number, (line, score) in enumerate(zip(sentences, gold, strict=True), start=1):
            if score.strip():
                pairs.append(_pair(inputs, number, line.split("\t")[:2], score, subset, scores))
    return pairs


def _read_stsb(path: Path) -> list[Pair]:
    # Not quoted CSV: a quote is a character.
    rows = [line.split("\t") for line in text_lines(path)]
    return [_pair(path, n, row[5:7], row[4] if len(row) > 4 else "") for n, row in enumerate(rows, start=1)]


def _read_sick(path: Path) -> list[Pair]:
    rows = [line.split("\t") for line in text_lines(path)]
    columns = ("sentence_A", "sentence_B", "relatedness_score")
    _require_columns(path, rows[0], columns)
    first, second, score = (rows[0].index(column) for column in columns)
    width = max(first, second, score)
    return [
        _pair(
            path, number, [row[first], row[second]] if len(row) > width else [], row[score] if len(row) > width else ""
        )
        for number, row in enumerate(rows[1:], start=2)
    ]


def _pair(path: Path, number: int, sentences: list[str], score: str, subset: str = "", score_path=None) -> Pair:
    # SentEval splits a sentence on white space and joins it again.
    sentences = [" ".join(sentence.split()) for sentence in sentences]
    if len(sentences) != 2 or not all(sentences):
        raise InputError(f"{path}, row {number}: no two tab-separated sentences. Mend or remove the row.")
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{score_path or path}, row {number}: the score {score.strip()!r} is not a number. Mend the row."
        )
    return Pair(*sentences, value, subset)


def text_lines(path: Path) -> list[str]:
    """Return a file's lines without their ends. Raises `InputError` for a missing, empty or non-UTF-8 file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. The folder's layout is that of the public release; complete it.")
    try:
        lines = path.read_text(encoding="utf8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Convert the file.") from error
    lines = [line.removesuffix("\r") for line in lines]
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise InputError(f"{path}: an empty file. Fetch or write it again.")
    return lines


def csv_rows(path: Path, columns):
    """Yield (row number, row) of a CSV file, checked for its columns; rows count from 2, as an editor shows."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise InputError(f"{path}: an empty file. It needs the columns {', '.join(columns)}.")
            _require_columns(path, reader.fieldnames, columns)
            for row in reader:
                short = [column for column in columns if row[column] is None]
                if short or None in row:  # DictReader puts cells beyond the header under None
                    what = f"no cell for {', '.join(short)}" if short else "more cells than columns"
                    raise InputError(
                        f"{path}, row {reader.line_num}: {what}. Mend the row (a sentence with a comma needs quotes)."
                    )
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Convert the file.") from error
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV ({error}). Write it again with a CSV writer.") from error


def _require_columns(path: Path, found, needed) -> None:
    missing = [column for column in needed if column not in found]
    if missing:
        raise InputError(
            f"{path}, row 1: no column {', '.join(missing)}; found {', '.join(map(str, found))}. "
            f"The file needs the columns {', '.join(needed)}."
        )


def data_folders(directory: str | Path | None):
    """Yield (folder, its name for readers): the one the user names, then the cache."""
    named = directory or os.environ.get("SEMPA_DATA_DIR")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise InputError(f"{folder}: no such data directory. Correct the argument or SEMPA_DATA_DIR.")
        yield folder, f"directory {folder.resolve().name}"
    yield _data_cache(), "cache"


def _data_cache() -> Path:
    return cache_folder() / "data"


@functools.cache
def hub_reachable(seconds: float = 3.0) -> bool:
    """Tell whether the hub answers within `seconds`; asked once in a process."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    from huggingface_hub.utils import get_session  # the client, proxies and certificates of the download itself

    answered = []

    def ask():
        with contextlib.suppress(Exception):  # any failure means: not reachable, a firewall's refusal too
            address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
            get_session().head(address, timeout=seconds).raise_for_status()
            answered.append(True)

    # A thread, because a name look-up has no time-out of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def fetch_hub_file(name: str) -> bool:
    """Fetch one file of the paper's hub data set into the cache; False without a network.

    The bytes are held against the SHA-256 that the hub states; an archive is unpacked with a filter.
    """
    if not hub_reachable():
        return False
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        expected = get_hf_file_metadata(hf_hub_url(HUB_DATASET, name, repo_type="dataset")).etag
        path = Path(hf_hub_download(HUB_DATASET, name, repo_type="dataset"))
    except Exception as error:  # the hub's client fails in many ways: connection, status, disk
        raise InputError(
            f"{name}: the download from the hub broke off ({type(error).__name__}: {error}). "
            "Run again, or go on without the hub: HF_HUB_OFFLINE=1."
        ) from error
    if expected and len(expected) == 64 and file_sha256(path) != expected:
        # In the hub's cache the path is a link; the bytes it points to would be taken for whole next time.
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise InputError(f"{name}: SHA-256 differs from the hub's; the broken download was deleted. Run again.")
    if name.endswith(".tar"):
        unpack_senteval(path, _data_cache() / "senteval")
    else:
        with write_whole(_data_cache() / name) as draft:
            shutil.copyfile(path, draft)
    return True


def unpack_senteval(archive: Path, folder: Path) -> None:
    """Unpack SentEval's archive so that `folder`/downstream/STS exists, whole or not at all."""
    with write_whole(folder) as draft:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(draft, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"{archive}: not a readable archive ({error}). Delete it and run again.") from error
        found = next((path.parent for path in draft.rglob("downstream") if (path / "STS").is_dir()), None)
        if found is None:
            raise InputError(f"{archive}: no downstream/STS inside. Delete it and run again.")
        if found != draft:
            (found / "downstream").rename(draft / "downstream")
