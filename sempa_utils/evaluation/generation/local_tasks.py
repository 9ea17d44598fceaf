"""Local benchmark files in the layout of the public releases, as rows in the schema of the harness' hub data.

Only where the rows come from is ours: prompts, few-shots, filters and metrics stay the harness' own.
"""

import contextlib
import gzip
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from sempa_utils.checks import InputError, decode_text, parse_json
from sempa_utils.data import corpora

MINI_ITEMS = corpora.MINI_CORPUS / "generation"
MINI_SOURCE = "mini corpus (packaged), generation"
DROP_SHOTS_SHARE = 1 / 20  # of the DROP rows, set aside for few-shots
DROP_SHOTS_LEAST = 4  # three shots, and the one more that the harness draws


@dataclass(frozen=True)
class Documents:
    """Rows in the hub's schema by the harness' task and split, and where they come from."""

    source: str
    splits: dict[str, dict[str, list[dict]]]
    dropped: dict[str, int] = field(default_factory=dict)


def find(task: str, directory: str | Path | None = None) -> Documents | None:
    """Return a task's local rows, or None where the hub's are to be taken.

    Looked for in this order: the directory named (argument or `SEMPA_DATA_DIR`), the cache, the hub, the
    packaged mini items. Raises `InputError` for a folder of benchmark files that lacks this task's, and for
    a malformed file.
    """
    name, read = READERS[task]
    for folder, source in corpora.data_folders(directory):
        for root in (folder / "generation", folder):
            if any((root / file).exists() for file, _ in READERS.values()):
                if not (root / name).exists():
                    raise InputError(
                        f"{root / name}: no such file, so there is no {task} here. Add it in the layout of the "
                        "public release, or leave the task out."
                    )
                origin = f"directory {root.name}" if source.startswith("directory") else source
                return _documents(read, root / name, origin)
    corpora.require_layout(directory)
    if corpora.hub_reachable():
        return None
    return _documents(read, MINI_ITEMS / name, MINI_SOURCE)


def _documents(read, path: Path, source: str) -> Documents:
    splits = read(path)
    if read is not read_drop:
        return Documents(source, splits)
    return Documents(source, splits, {"set aside for few-shots": len(splits["drop"]["train"])})


def read_gsm8k(path: Path) -> dict[str, dict[str, list[dict]]]:
    """Read gsm8k_test.jsonl: an object a line with question and answer, which ends in "#### number"."""
    rows = list(_json_lines(path, ("question", "answer")))
    for number, row in rows:
        if not re.search(r"#### \S", row["answer"]):
            raise InputError(f"{path}, line {number}: the answer does not end in '#### number'. Fix the line.")
    return {"gsm8k_cot": {"test": [row for _, row in rows]}}


def read_hellaswag(path: Path) -> dict[str, dict[str, list[dict]]]:
    """Read hellaswag_val.txt: six lines an item, namely "label: context", the gold index and four endings.

    The hub keeps the context in two parts, of which the harness capitalises the second: the words that the
    ending goes on from, after the last whole sentence. A context that is whole (WikiHow's) has no such part.
    """
    lines, rows = corpora.text_lines(path), []
    if len(lines) % 6:
        raise InputError(
            f"{path}, line {len(lines)}: {len(lines)} lines are no multiple of six. Complete the last item."
        )
    for start in range(0, len(lines), 6):
        heading, gold, *endings = lines[start : start + 6]
        label, colon, context = heading.partition(": ")
        if not colon or not context.strip():
            raise InputError(f"{path}, line {start + 1}: no 'activity label: context'. Fix the line.")
        if gold.strip() not in ("0", "1", "2", "3"):
            raise InputError(f"{path}, line {start + 2}: the gold index {gold!r} is none of 0 to 3. Fix the line.")
        blank = [place for place, ending in enumerate(endings) if not ending.strip()]
        if blank:
            raise InputError(f"{path}, line {start + 3 + blank[0]}: an empty ending. Fix the line.")
        whole, broken_off = _split_context(context.strip())
        rows.append(
            {"activity_label": label, "ctx_a": whole, "ctx_b": broken_off, "endings": endings, "label": gold.strip()}
        )
    return {"hellaswag": {"train": [], "validation": rows}}


def _split_context(context: str) -> tuple[str, str]:
    if context.endswith("."):
        return context, ""
    ends = [match.end() for match in re.finditer(r"[.!?] ", context)]
    return (context[: ends[-1] - 1], context[ends[-1] :]) if ends else ("", context)


def read_mmlu(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """Read mmlu/test/SUBJECT_test.csv and mmlu/dev/SUBJECT_dev.csv, whose first five rows are the few-shots."""
    columns = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
    splits = {}
    for path in sorted((folder / "test").glob("*_test.csv")):
        subject, rows = path.name.removesuffix("_test.csv"), {}
        dev = folder / "dev" / f"{subject}_dev.csv"
        if not dev.is_file():
            raise InputError(f"{dev}: no such file. The few-shots of {path.name} belong there; add it.")
        for split, file in (("test", path), ("dev", dev)):
            rows[split] = []
            for number, row in corpora.csv_rows(file, columns):
                if row["answer"] not in ("0", "1", "2", "3"):
                    raise InputError(f"{file}, row {number}: the answer {row['answer']!r} is none of 0 to 3. Fix it.")
                choices = [row[column] for column in columns[1:5]]
                rows[split].append({"question": row["question"], "choices": choices, "answer": int(row["answer"])})
        if not rows["test"] or len(rows["dev"]) < 5:
            short = path if not rows["test"] else dev
            raise InputError(f"{short}: too few rows. A subject needs one test row and five dev rows; add them.")
        splits[f"mmlu_{subject}"] = rows
    if not splits:
        raise InputError(f"{folder / 'test'}: no SUBJECT_test.csv in it. Add the subjects' files.")
    return splits


def read_truthfulqa(path: Path) -> dict[str, dict[str, list[dict]]]:
    """Read truthfulqa_mc_task.json: a list of objects with question and mc1_targets, {answer: 1 or 0}.

    The hub has the one true answer first, and the harness takes the first for the true one.
    """
    items = parse_json(decode_text(path.read_bytes(), path), path)
    rows = []
    for number, item in enumerate(items if isinstance(items, list) else [items], start=1):
        item = item if isinstance(item, dict) else {}
        question, targets = item.get("question"), item.get("mc1_targets")
        targets = targets if isinstance(targets, dict) else {}
        labels = list(targets.values())
        one_true = len(labels) > 1 and all(label in (0, 1) for label in labels) and sum(labels) == 1
        if not (one_true and isinstance(question, str) and question):
            raise InputError(
                f"{path}, item {number}: not an object with a question and mc1_targets of which one is 1 and the "
                "others 0. Fix the item."
            )
        choices = sorted(targets, key=targets.__getitem__, reverse=True)  # stable: the others stay in their order
        labels = [targets[choice] for choice in choices]
        rows.append({"question": question, "mc1_targets": {"choices": choices, "labels": labels}})
    if not rows:
        raise InputError(f"{path}: no item in it. Fetch or write it again.")
    return {"truthfulqa_mc1": {"validation": rows}}


def read_drop(path: Path) -> dict[str, dict[str, list[dict]]]:
    """Read drop_dev.jsonl.gz: an object a line with context ("Passage: …\\nQuestion: …\\nAnswer:") and ref_text.

    `ref_text` holds the accepted answers between bars, the spans of one answer joined by "and", which is not
    undone. The harness draws few-shots from a training split that is not among the files: the first passages,
    with a twentieth of the rows, take its place and are not scored.
    """
    rows = []
    for number, row in _json_lines(path, ("context", "ref_text")):
        parts = re.fullmatch(r"Passage: (.+)\nQuestion: (.+)\nAnswer:\s*", row["context"], re.DOTALL)
        answers = list(dict.fromkeys(answer.strip() for answer in row["ref_text"].split("|") if answer.strip()))
        if not parts or not answers:
            what = "ref_text" if parts else "context in the form 'Passage: …\\nQuestion: …\\nAnswer:'"
            raise InputError(f"{path}, line {number}: no {what}. Fix the line.")
        first, *others = [_EMPTY_ANSWER | {"spans": [answer]} for answer in answers]
        others = {key: [answer[key] for answer in others] for key in first}
        passage, question = parts.groups()
        row = {"query_id": f"line {number}", "passage": passage, "question": question}
        rows.append(row | {"answer": first, "validated_answers": others})
    aside, least = set(), max(DROP_SHOTS_LEAST, DROP_SHOTS_SHARE * len(rows))
    shots = []
    for passage in dict.fromkeys(row["passage"] for row in rows):
        if len(shots) >= least:
            break
        aside.add(passage)
        shots = [row for row in rows if row["passage"] in aside]
    scored = [row for row in rows if row["passage"] not in aside]
    if len(shots) < DROP_SHOTS_LEAST or not scored:
        raise InputError(
            f"{path}: {len(rows)} rows of {len(aside)} passages are too few. The first passages, with "
            f"{DROP_SHOTS_LEAST} rows or more, serve as few-shots; add rows of other passages."
        )
    return {"drop": {"train": shots, "validation": scored}}


# The fields of an answer on the hub, in their order.
_EMPTY_ANSWER = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": [], "worker_id": "", "hit_id": ""}

READERS = {
    "gsm8k": ("gsm8k_test.jsonl", read_gsm8k),
    "mmlu": ("mmlu", read_mmlu),
    "hellaswag": ("hellaswag_val.txt", read_hellaswag),
    "drop": ("drop_dev.jsonl.gz", read_drop),
    "truthfulqa": ("truthfulqa_mc_task.json", read_truthfulqa),
}


def _json_lines(path: Path, columns: tuple[str, ...]):
    """Yield (line number, object) of a JSON-lines file, gzipped or not; each object has text in all `columns`."""
    number = 0
    with contextlib.ExitStack() as stack:
        try:
            opener = gzip.open if path.suffix == ".gz" else open
            file = stack.enter_context(opener(path, "rt", encoding="utf-8-sig"))
            for number, line in enumerate(file, start=1):
                row = parse_json(line, f"{path}, line {number}", remedy="Fix or remove the line.")
                if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in columns):
                    raise InputError(
                        f"{path}, line {number}: not an object with {' and '.join(columns)}. Fix the line."
                    )
                yield number, row
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise InputError(
                f"{path}, after line {number}: not readable ({error}). Fetch or write it again."
            ) from error
    if not number:
        raise InputError(f"{path}: an empty file. Fetch or write it again.")
