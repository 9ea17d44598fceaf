"""Where sentences come from: NLI triplets, ranked NLI rows and STS pairs, looked up, read and checked.

Each loader looks in this order: the directory the user names (argument or `SEMPA_DATA_DIR`), the
cache, the hub, the packaged mini corpus. What it returns says which of them it was.
"""

import contextlib
import csv
import functools
import io
import lzma
import math
import os
import random
import shutil
import tarfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sempa_utils.checks import (
    InputError,
    alone,
    cache_folder,
    decode_text,
    file_sha256,
    fingerprint,
    is_full_disk,
    parse_json,
    pick,
    write_whole,
)

HUB_DATASET = "princeton-nlp/datasets-for-simcse"
NLI_FILE = "nli_for_simcse.csv"
NLI_COLUMNS = ("sent0", "sent1", "hard_neg")
UNPACKED_BYTES = 2**31  # more than this is no archive of sentences
MINI_CORPUS = Path(__file__).parent / "mini_corpus"
STS_ROOTS = ("senteval/downstream", "SentEval/data/downstream", "data/downstream", "downstream")
LAYOUT = ("nli", NLI_FILE, *STS_ROOTS, "generation", "text")  # what a named directory may hold

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
PAIR_COUNTS = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186, "STS-B": 1379, "SICK-R": 4927}
MINI_STS = "mini-STS"
HIGHEST_SCORE = 5  # of every task
SPLITS = {"STS-B": ("test", "dev", "train"), "SICK-R": ("test", "train"), MINI_STS: ("test", "dev")}  # else the test
# What choices are made on, in their order: (task, split).
DEV_TASKS = (("STS-B", "train"), ("STS-B", "dev"), ("SICK-R", "train"), (MINI_STS, "dev"))


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

    def split(self, limit: int | None, held_out: int, *, seed: int) -> tuple["Corpus", "Corpus"]:
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

    def apart_from(self, others: Iterable["Corpus"]) -> "Corpus":
        """Return the rows of which no sentence stands in `others`, case and marks apart; the rest is counted."""
        taken = {sentence for other in others for row in other.rows for sentence in sentences(row)}
        return self._where(lambda row: taken.isdisjoint(sentences(row)), "with a sentence of the dev tasks")

    def without_pairs_of(self, others: Iterable["Corpus"]) -> "Corpus":
        """Return the pairs that are none of `others`, in either order, case and marks apart; the rest is counted."""
        taken = {frozenset(sentences(pair)) for other in others for pair in other.rows}
        return self._where(lambda pair: frozenset(sentences(pair)) not in taken, "pairs of a test")

    def changed(self, rows: list, how: str) -> "Corpus":
        """Return it with other rows made of its own; `how` stands behind its name."""
        return _corpus(f"{self.name}, {how}", rows, self.source, self.dropped)

    def _where(self, keep: Callable[[Any], bool], reason: str) -> "Corpus":
        """Return the rows that are to be kept; those that are not are counted by `reason`."""
        kept = [row for row in self.rows if keep(row)]
        return _corpus(self.name, kept, self.source, self.dropped | {reason: len(self) - len(kept)})


def letters(sentence: str) -> str:
    """Return what an exact match is by: SentEval's text is lower-cased and its marks stand apart."""
    return "".join(character for character in sentence.lower() if character.isalnum())


def sentences(row: Sequence) -> list[str]:
    """Return the `letters` of a row's sentences, whatever kind of row it is."""
    return [letters(sentence) for sentence in (row[:2] if isinstance(row, Pair) else row)]


def _corpus(name: str, rows: list, source: str, dropped=None) -> Corpus:
    return Corpus(name, rows, source, fingerprint(name, len(rows), *rows), dict(dropped or {}))


def load_nli(directory: str | Path | None, limit: int | None = None, *, ranked: bool, seed: int = 42) -> Corpus:
    """Load the rows that training takes: `ranked` rows with all three labels, else triplets."""
    return (load_ranked_nli if ranked else load_triplets)(directory, limit, seed=seed)


def load_triplets(directory: str | Path | None = None, limit: int | None = None, *, seed: int = 42) -> Corpus:
    """Load NLI triplets (anchor, entailed, contradicted), `limit` of them drawn by `seed`.

    Rows with an empty cell, with equal answers, or seen before are dropped and counted. Raises
    `InputError` for a missing column, a short row or a file without rows.
    """
    for folder, source in data_folders(directory):
        for path in (folder / "nli" / NLI_FILE, folder / NLI_FILE):
            if path.is_file():
                return read_triplets(path, source).sample(limit, seed)
    require_layout(directory)
    if fetch_hub_file(NLI_FILE):
        return read_triplets(_data_cache() / NLI_FILE, f"hub ({HUB_DATASET})").sample(limit, seed)
    rows = [Triplet(row.premise, row.entailment, row.contradiction) for row in _mini_nli()]
    return _corpus("NLI triplets", rows, "mini corpus (packaged)").sample(limit, seed)


def read_triplets(path: str | Path, source: str | None = None) -> Corpus:
    """Read a CSV file with the columns sent0, sent1 and hard_neg as triplets."""
    path = Path(path)
    rows, dropped, seen = [], Counter({"with an empty cell": 0, "with equal answers": 0, "duplicate": 0}), set()
    for _, row in csv_rows(path, NLI_COLUMNS):
        triplet = Triplet._make(" ".join(row[column].split()) for column in NLI_COLUMNS)
        if joined := _joined_rows(row):
            dropped["joined to one row by a quote"] += joined
        elif not all(triplet):
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


def _joined_rows(row: dict[str, str]) -> int:
    """Return how many rows of the file a stray quote joined to this row, 0 for a row by itself.

    A cell may hold line breaks. But where more than two thirds of its lines are full rows by themselves, the quote that
    holds them together is no CSV quote: a sentence began with it.
    """
    lines = [line.split(",") for line in ",".join(row.values()).split("\n")]
    full = sum(len(cells) == len(row) and all(map(str.strip, cells)) for cells in lines)
    return len(lines) if len(lines) > 1 and 3 * full > 2 * len(lines) else 0


def load_ranked_nli(directory: str | Path | None = None, limit: int | None = None, *, seed: int = 42) -> Corpus:
    """Load premises that have an entailed, a neutral and a contradicted sentence each.

    From `nli/snli_dev.jsonl` and `nli/mnli_dev_matched.jsonl` of a named directory, else from the
    mini corpus. A premise's first sentence of each label is taken; premises without all three labels
    are dropped and counted.
    """
    for folder, source in data_folders(directory):
        files = [folder / "nli" / name for name in ("snli_dev.jsonl", "mnli_dev_matched.jsonl")]
        present = [path for path in files if path.is_file()]
        if present:
            return _read_labelled_nli(present, source).sample(limit, seed)
    require_layout(directory)
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
                row = parse_json(line, f"{path}, line {number}", remedy="Fix or remove the line.")
                premise, hypothesis, label = row["premise"].strip(), row["hypothesis"].strip(), row["label"]
            except (KeyError, AttributeError, TypeError) as error:
                what = f"not a JSON object with premise, hypothesis and label ({error})"
                raise InputError(f"{path}, line {number}: {what}. Fix or remove the line.") from error
            if premise and hypothesis and label in labels:
                by_premise.setdefault(premise, {}).setdefault(label, hypothesis)
            else:
                unlabelled += 1
    rows = [
        RankedRow._make((premise, *(answers[label] for label in labels)))
        for premise, answers in by_premise.items()
        if len(answers) == 3 and len(set(answers.values())) == 3
    ]
    dropped = {
        "lines without a sentence or one of the three labels": unlabelled,
        "premises without three different answers": len(by_premise) - len(rows),
    }
    if not rows:
        raise InputError(f"{', '.join(map(str, paths))}: no usable premise ({dropped}). Give all three labels to one.")
    return _corpus("ranked NLI rows", rows, source, dropped)


def _mini_nli() -> list[RankedRow]:
    columns = RankedRow._fields
    return [RankedRow._make(row[name] for name in columns) for _, row in csv_rows(MINI_CORPUS / "nli.csv", columns)]


def sts_tasks(directory: str | Path | None = None) -> list[str]:
    """Return the names of the STS tasks at hand: those of the seven, or else the mini corpus' task."""
    tasks = []
    for task in STS_TASKS:
        with contextlib.suppress(FileNotFoundError):
            tasks.append(load_sts(task, directory).name)
    if not tasks:
        require_layout(directory)
    return tasks or [MINI_STS]


def dev_task(directory: str | Path | None = None) -> str:
    """Return the name of the task whose dev split choices are made on: STS-B, or mini-STS where it is not at hand."""
    try:
        load_sts("STS-B", directory, split="dev")
    except FileNotFoundError:
        require_layout(directory)
        return MINI_STS
    return "STS-B"


def load_sts(task: str, directory: str | Path | None = None, *, split: str = "test") -> Corpus:
    """Load the scored pairs of one STS task as SentEval reads them; no other task's files are needed.

    `task` is one of the seven or "mini-STS"; `split` is "test", or one of `SPLITS`. SICK-R's train split is SICK's
    trial and train files; the parts of STS-B's are its genres. Pairs without a score are left out, as in SentEval.
    Raises `FileNotFoundError` when the data are nowhere, `InputError` for files that are broken.
    """
    pick(task, (*STS_TASKS, MINI_STS), what="STS task")
    pick(split, SPLITS.get(task, ("test",)), what=f"split of {task}")
    name = task if split == "test" else f"{task} {split}"
    if task == MINI_STS:
        rows = csv_rows(MINI_CORPUS / "sts.csv", ("split", "score", "sentence1", "sentence2"))
        pairs = [Pair(r["sentence1"], r["sentence2"], float(r["score"])) for _, r in rows if r["split"] == split]
        return _corpus(name, pairs, "mini corpus (packaged)")
    place = _sts_folder(task, directory) or fetch_hub_file("senteval.tar") and _sts_folder(task, directory)
    if not place:
        named = directory or os.environ.get("SEMPA_DATA_DIR") or "a named directory"
        remedy = "Set SEMPA_DATA_DIR to a folder that holds senteval/downstream, or use the task 'mini-STS'."
        raise FileNotFoundError(f"{task}: no STS data in {named}, the cache or on the hub. {remedy}")
    folder, source = place
    pairs = _read_sts(folder, task, split)
    if not pairs:
        raise InputError(f"{folder}: {task} has no scored pair. Fetch or write its files again.")
    return _corpus(name, pairs, source)


def _sts_folder(task: str, directory: str | Path | None) -> tuple[Path, str] | None:
    """Return the folder of a task's files and its origin for readers, or None where there is none."""
    part = {"STS-B": "STS/STSBenchmark", "SICK-R": "SICK"}.get(task, f"STS/{task}-en-test")
    for folder, source in data_folders(directory):
        for root in STS_ROOTS:
            if (folder / root / part).is_dir():
                return folder / root / part, source
    return None


def _read_sts(folder: Path, task: str, split: str) -> list[Pair]:
    if task == "STS-B":
        return _read_stsb(folder / f"sts-{split}.csv", by_genre=split == "train")
    if task == "SICK-R":
        parts = {"test": {"test_annotated": ""}, "train": {"trial": "trial", "train": "train"}}[split]
        return [pair for name, part in parts.items() for pair in _read_sick(folder / f"SICK_{name}.txt", part)]
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


def _read_stsb(path: Path, by_genre: bool) -> list[Pair]:
    # Not quoted CSV: a quote is a character.
    rows = [line.split("\t") for line in text_lines(path)]
    genres = [row[0] if by_genre else "" for row in rows]  # dev and test are one part, as they always were
    return [
        _pair(path, number, row[5:7], row[4] if len(row) > 4 else "", genre)
        for number, (row, genre) in enumerate(zip(rows, genres), start=1)
    ]


def _read_sick(path: Path, part: str) -> list[Pair]:
    header, *rows = [line.split("\t") for line in text_lines(path)]
    columns, pairs = ("sentence_A", "sentence_B", "relatedness_score"), []
    _require_columns(path, header, columns)
    places = [header.index(column) for column in columns]
    for number, row in enumerate(rows, start=2):
        first, second, score = (row[place] for place in places) if len(row) > max(places) else ("", "", "")
        pairs.append(_pair(path, number, [first, second], score, part))
    return pairs


def _pair(path: Path, number: int, sentences: list[str], score: str, subset: str = "", score_path=None) -> Pair:
    # SentEval splits a sentence on white space and joins it again.
    sentences = [" ".join(sentence.split()) for sentence in sentences]
    if len(sentences) != 2 or not all(sentences):
        raise InputError(f"{path}, row {number}: no two tab-separated sentences. Fix or remove the row.")
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST_SCORE:
        where = f"{score_path or path}, row {number}"
        raise InputError(f"{where}: the score {score.strip()!r} is not a number of 0 to {HIGHEST_SCORE}. Fix the row.")
    first, second = sentences
    return Pair(first, second, value, subset)


def text_lines(path: Path) -> list[str]:
    """Return a file's lines without their ends. Raises `InputError` for a missing, empty or non-UTF-8 file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. The folder's layout is that of the public release; complete it.")
    lines = decode_text(path.read_bytes(), path).split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise InputError(f"{path}: an empty file. Fetch or write it again.")
    return lines


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number, row) of a CSV file, checked for its columns; rows count from 2, as an editor shows."""
    end = "\0end"  # comes back as the last row, unless a quote before it is still open
    reader = csv.reader(io.StringIO(decode_text(path.read_bytes(), path).removesuffix("\n") + f"\n{end}"))
    try:
        header = next(reader)
        if header in ([], [end]):
            raise InputError(f"{path}: an empty file. It needs the columns {', '.join(columns)}.")
        _require_columns(path, header, columns)
        for cells in filter(None, reader):
            number = reader.line_num - sum(cell.count("\n") for cell in cells)
            short = [column for column in columns if header.index(column) >= len(cells)]
            if cells == [end]:
                return
            if end in cells[-1]:
                raise InputError(f"{path}, row {number}: a quote opens and never closes. Close it, or write it twice.")
            if short or len(cells) > len(header):
                what = f"no cell for {', '.join(short)}" if short else "more cells than columns"
                raise InputError(f"{path}, row {number}: {what}. Fix the row (a sentence with a comma needs quotes).")
            yield number, dict(zip(header, cells))
    except csv.Error as error:
        where = f"{path}, row {reader.line_num}"
        raise InputError(f"{where}: not readable as CSV ({error}). Write it again with a CSV writer.") from error


def _require_columns(path: Path, header: list[str], needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in header]
    if missing:
        there = f"no column {', '.join(missing)} among {', '.join(header)}"
        raise InputError(f"{path}, row 1: {there}. The file needs the columns {', '.join(needed)}.")


def data_folders(directory: str | Path | None) -> Iterator[tuple[Path, str]]:
    """Yield (folder, its name for readers): the one the user names, then the cache."""
    named = directory or os.environ.get("SEMPA_DATA_DIR")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise InputError(f"{folder}: no such data directory. Correct the argument or SEMPA_DATA_DIR.")
        own = folder.resolve() == MINI_CORPUS.resolve()
        yield folder, "mini corpus (packaged)" if own else f"directory {folder.resolve().name}"
    yield _data_cache(), "cache"


def require_layout(directory: str | Path | None) -> None:
    """Raise an `InputError` if the user names a directory that holds nothing of the layout.

    Else a file of another name would be passed over, and the hub's or the packaged sentences would take its place.
    """
    named = directory or os.environ.get("SEMPA_DATA_DIR")
    if named and not any((Path(named).expanduser() / part).exists() for part in LAYOUT):
        raise InputError(
            f"{named}: nothing of the layout is in it (nli/{NLI_FILE}, senteval/downstream, generation, text). "
            "Name your files so, or leave the directory out."
        )


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
        with alone(_data_cache()):
            if not (_data_cache() / "senteval").is_dir():  # nobody else has done it meanwhile
                unpack_senteval(path, _data_cache() / "senteval")
    else:
        with write_whole(_data_cache() / name) as draft:
            shutil.copyfile(path, draft)
    return True


def unpack_senteval(archive: Path, folder: Path) -> None:
    """Unpack SentEval's archive so that `folder`/downstream/STS exists, whole or not at all."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError(
            f"{archive}: Python before 3.11.4 cannot unpack it without letting names lead out of the folder. Unpack it "
            "yourself and name the folder (--data, SEMPA_DATA_DIR), or take a later Python."
        )
    with write_whole(folder) as draft:
        try:
            with tarfile.open(archive) as tar:
                if sum(member.size for member in tar) > UNPACKED_BYTES:
                    raise InputError(f"{archive}: more than {UNPACKED_BYTES:,} bytes in it. Fetch SentEval's own.")
                tar.extractall(draft, filter="data")
        except (tarfile.TarError, EOFError, OSError, KeyError, zlib.error, lzma.LZMAError) as error:
            if is_full_disk(error):
                raise
            raise InputError(f"{archive}: not a readable archive ({error}). Delete it and run again.") from error
        parent = next((path.parent for path in draft.rglob("downstream") if (path / "STS").is_dir()), None)
        if parent is None:
            raise InputError(f"{archive}: no downstream/STS inside. Delete it and run again.")
        if parent != draft:
            (parent / "downstream").rename(draft / "downstream")
