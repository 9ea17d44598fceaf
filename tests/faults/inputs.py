"""Bad input by the thousand: each ends in a right result or in one `InputError` that names the file and a remedy."""

import contextlib
import csv
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from faults import generators
from faults.tiny import Tiny, write
from sempa_utils import models, records
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.evaluation.generation import local_tasks, signals
from sempa_utils.models import chat

REMEDY = re.compile(
    r"\b([Gg]ive|Add|Call|Choose|Close|Complete|Convert|Correct|Delete|Export|Fetch|Fix|Free|Give|Leave|Load|Lower|Make|Move|"
    r"Name|Put|Rename|Resize|Run|Save|Set|Take|Update|Use|Write|needs|Check|Install|Pass|Read|--help)\b"
)


class Kind(NamedTuple):
    """What is attacked: its inputs, and what is done with one in an empty folder, by the name it must be told under."""

    name: str
    inputs: st.SearchStrategy
    read: Callable[[Any, Path], Any]
    named: str = ""  # what the message of a refusal must hold
    share: float = 1.0  # of the examples that are asked for


def check(error: InputError, named: str) -> None:
    """Raise an AssertionError unless a refusal is one sentence or two that name the place and a remedy."""
    text = str(error)
    assert named in text, f"{named!r} is not named: {text}"
    assert REMEDY.search(text), f"no remedy: {text}"
    assert len(text) < 1500, f"{len(text)} characters: {text[:200]}"


def attack(kind: Kind, folder: Path, *, examples: int, seed: int = 0) -> Counter:
    """Feed so many generated inputs; return how many were tried, read and refused. Raises what breaks the promise."""
    tally: Counter = Counter()
    numbers = iter(range(10**9))

    @settings(
        max_examples=max(1, round(examples * kind.share)),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(kind.inputs)
    def one(value):
        place = folder / f"{next(numbers):06d}"
        place.mkdir(parents=True)
        tally["tried"] += 1
        try:
            kind.read(value, place)
            tally["read"] += 1
        except InputError as error:
            check(error, kind.named)
            tally["refused"] += 1

    from hypothesis import seed as seeded

    seeded(seed)(one)()
    return tally


# --- sentences -----------------------------------------------------------------------------------


def _triplets(data: bytes, folder: Path) -> None:
    (folder / corpora.NLI_FILE).write_bytes(data)
    corpus = corpora.load_triplets(folder)
    assert corpus.rows and all(len(row) == 3 and all(row) for row in corpus.rows)
    kept = len(corpus) + sum(corpus.dropped.values())
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    joined = corpus.dropped.get("joined to one row by a quote", 0)
    assert kept == len(rows) - 1 or joined, f"{len(rows) - 1} rows came in and {kept} are told of"


@st.composite
def _triplet_files(draw) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(draw(st.permutations([*corpora.NLI_COLUMNS, *draw(st.lists(generators.WORDS, max_size=1))])))
    sentence = generators.SENTENCES | generators.WORDS
    for _ in range(draw(st.integers(0, 6))):
        writer.writerow(draw(st.lists(sentence, min_size=2, max_size=5) | st.lists(sentence, min_size=3, max_size=3)))
    return file.getvalue().encode()


NLI_CSV = "sent0,sent1,hard_neg\n" + "".join(f"The cat {n} sleeps.,It {n} rests.,It {n} runs.\n" for n in range(6))
RANKED = [
    {"premise": f"The cat {n} sleeps.", "hypothesis": f"It {n} {verb}.", "label": label}
    for n in range(3)
    for verb, label in (("rests", "entailment"), ("dreams", "neutral"), ("runs", "contradiction"))
]


def _ranked(data: bytes, folder: Path) -> None:
    (folder / "nli").mkdir()
    (folder / "nli" / "snli_dev.jsonl").write_bytes(data)
    corpus = corpora.load_ranked_nli(folder)
    assert all(len(set(row[1:])) == 3 and all(row) for row in corpus.rows)
    for row in corpus.rows:
        " ".join(row).encode()  # Unicode, which a tokenizer asks for


STSB = "".join(f"main\tx\ty\t{n}\t{n % 6}.0\tA man {n} eats.\tSomeone {n} eats.\n" for n in range(6))
SICK = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\n" + "".join(
    f"{n}\tA man {n} eats.\tSomeone {n} eats.\t{1 + n % 5}.5\n" for n in range(4)
)
STS13 = "".join(f"A man {n} eats.\tSomeone {n} eats.\n" for n in range(4))


def _sts(task: str, name: str, data: bytes, folder: Path, **others: bytes) -> None:
    part = {"STS-B": "STS/STSBenchmark", "SICK-R": "SICK"}.get(task, f"STS/{task}-en-test")
    home = folder / "senteval" / "downstream" / part
    home.mkdir(parents=True)
    for file, content in (others | {name: data}).items():
        (home / file).write_bytes(content)
    corpus = corpora.load_sts(task, folder)
    assert corpus.rows
    for pair in corpus.rows:
        assert pair.first and pair.second and 0 <= pair.score <= 5, pair


def _sts13(files: tuple[bytes, bytes], folder: Path) -> None:
    subsets = corpora.STS_TASKS["STS13"]
    inputs, scores = files
    whole = {f"STS.input.{name}.txt": STS13.encode() for name in subsets}
    whole |= {f"STS.gs.{name}.txt": b"1\n2.5\n\n5\n" for name in subsets}
    whole["STS.gs.FNWN.txt"] = scores
    _sts("STS13", "STS.input.FNWN.txt", inputs, folder, **whole)


# --- generation benchmarks, text -------------------------------------------------------------------


def _benchmark(task: str) -> Callable[[bytes, Path], None]:
    name, read = local_tasks.READERS[task]

    def look(data: bytes, folder: Path) -> None:
        path = folder / name
        if task == "mmlu":
            for split in ("test", "dev"):
                (path / split).mkdir(parents=True)
            source = local_tasks.MINI_ITEMS / name
            dev = (source / "dev" / "nutrition_dev.csv").read_bytes()
            (path / "dev" / "nutrition_dev.csv").write_bytes(dev)
            (path / "test" / "nutrition_test.csv").write_bytes(data)
        else:
            path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
        for splits in read(path).values():
            for rows in splits.values():
                for row in rows:
                    json.dumps(row, ensure_ascii=False).encode()

    return look


def _mini(task: str) -> bytes:
    name, _ = local_tasks.READERS[task]
    path = local_tasks.MINI_ITEMS / name
    if task == "mmlu":
        return (path / "test" / "nutrition_test.csv").read_bytes()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _mini_rows(task: str) -> list:
    return [json.loads(line) for line in _mini(task).decode().splitlines()]


def _gzipped(data: bytes, folder: Path) -> None:
    (folder / "drop_dev.jsonl.gz").write_bytes(data)
    local_tasks.read_drop(folder / "drop_dev.jsonl.gz")


def _text(data: bytes, folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / signals.TEXT_FILE).write_bytes(data)
    signals.load_text(folder)


# --- records -------------------------------------------------------------------------------------


def _record(data: bytes, folder: Path) -> None:
    (folder / "record.json").write_bytes(data)
    record = records.load_run(folder / "record.json")
    records.save_run(record.__class__(**{**vars(record), "name": "again"}), folder)  # what is read can be written


def _committed_record() -> dict:
    return json.loads((records.committed_folder() / "effect_first.json").read_text(encoding="utf8"))


# --- archives ------------------------------------------------------------------------------------

MEMBERS = st.sampled_from(
    ["senteval/downstream/STS/a.txt", "downstream/STS/x", "../out.txt", "/tmp/absolute.txt", "a/../../out", "link", "b"]
)


@st.composite
def _archives(draw) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(__file__, "downstream/STS/STSBenchmark/sts-test.csv")
        for _ in range(draw(st.integers(0, 3))):
            member = tarfile.TarInfo(draw(MEMBERS))
            member.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE]))
            member.linkname = draw(st.sampled_from(["/etc/hostname", "../../out", "downstream", "b", ""]))
            member.mode = draw(st.sampled_from([0o644, 0o000, 0o4777]))
            tar.addfile(member)
    data = file.getvalue()
    return draw(damaged_or_whole(data))


def damaged_or_whole(data: bytes):
    """Bytes as they are, or damaged."""
    return st.just(data) | generators.damaged(data)


def _unpack(data: bytes, folder: Path) -> None:
    inside = folder / "in"
    inside.mkdir()
    (inside / "senteval.tar").write_bytes(data)
    with contextlib.ExitStack() as stack:
        stack.callback(_nothing_left, folder, {"in"})
        corpora.unpack_senteval(inside / "senteval.tar", inside / "senteval")
    assert (inside / "senteval" / "downstream" / "STS").is_dir()
    for path in (inside / "senteval").rglob("*"):
        assert path.resolve().is_relative_to(inside.resolve()), f"{path} leads out of the folder"


def _nothing_left(folder: Path, expected: set[str]) -> None:
    assert {path.name for path in folder.iterdir()} == expected, "something was written outside the folder"


# --- models, adapters, chats -----------------------------------------------------------------------


def _file_of(files: dict[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """One file of a folder, with a defect."""

    def defect(name: str) -> st.SearchStrategy[bytes]:
        if not name.endswith(".json") or len(files[name]) > 20_000:
            return generators.damaged(files[name])
        return generators.json_file(json.loads(files[name]))

    return st.sampled_from(sorted(files)).flatmap(lambda name: st.tuples(st.just(name), defect(name)))


@st.composite
def safetensors_headers(draw) -> bytes:
    """A safetensors file whose header claims what the file does not hold."""
    size = draw(st.integers(0, 64))
    offsets = draw(st.lists(st.integers(-8, 2**40), min_size=0, max_size=3))
    shape = draw(st.lists(st.integers(-1, 2**33), max_size=3))
    kind = draw(st.sampled_from(["F32", "BF16", "I64", "X9", ""]))
    header = {draw(st.sampled_from(["model.embed_tokens.weight", "x"])): {"dtype": kind, "shape": shape}}
    header[next(iter(header))]["data_offsets"] = offsets
    text = generators.as_json(draw(st.just(header) | generators.changed(header)))
    claimed = draw(st.sampled_from([len(text), len(text) + 8, 2**40, 2**63, 0, 1]))
    return claimed.to_bytes(8, "little") + text + bytes(size)


CHAT_PARTS = st.sampled_from(
    [
        "{% for message in messages %}{{ message['content'] }}{% endfor %}",
        "{{ messages[0]['content'] }}",
        "{{ messages[7]['content'] }}",
        "{% if add_generation_prompt %}A:{% endif %}",
        "{{ bos_token }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ 'a' * 3 }}",
        "{{ undefined.name }}",
        "{% include 'other.jinja' %}",
        "{% import 'other.jinja' as other %}",
        "{{ messages.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ range(1000000000) | length }}",
        "{{ 'x' | no_such_filter }}",
        "{{ strftime_now('%Y') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}",
        "{{ messages | int + 'x' }}",
        "{{ 'x' | int(base=1) }}",
        "{{ '%d' | format('x') }}",
        "{{ {}['a'] }}",
        "{% endfor %}",
        "{{",
        "words",
    ]
)


def kinds(tiny: Tiny) -> list[Kind]:
    """Return all that is attacked."""

    def adapter(change: tuple[str, bytes], folder: Path) -> None:
        before = tiny.base.digest
        try:
            models.check_adapter(tiny.base, write(folder, tiny.adapter | dict([change])))
        finally:
            assert models.identity.base_digest(tiny.base.model) == before, "the base is given back as it was"

    def model(change: tuple[str, bytes], folder: Path) -> None:
        models.load(str(write(folder, tiny.model | dict([change]))))

    def header(data: bytes, folder: Path) -> None:
        models.load(str(write(folder, tiny.model | {"model.safetensors": data})))

    def index(data: bytes, folder: Path) -> None:
        files = {name: content for name, content in tiny.model.items() if name != "model.safetensors"}
        (folder.parent / "outside.safetensors").write_bytes(tiny.model["model.safetensors"])
        files |= {"model-1.safetensors": tiny.model["model.safetensors"], "model.safetensors.index.json": data}
        models.load(str(write(folder, files)))
        names = set(json.loads(data)["weight_map"].values())
        assert names == {"model-1.safetensors"}, f"read from {names}"

    def conversation(parts: list[str], _: Path) -> None:
        tokenizer = models.loading.AutoTokenizer.from_pretrained(tiny.home)
        tokenizer.chat_template = "".join(parts)
        for turns in ([{"role": "user", "content": "Hello"}], [{"role": "system", "content": "Be brief."}] * 2):
            tokens = chat.prompt_tokens(tokenizer, turns)
            assert all(isinstance(token, int) for token in tokens)

    weights = models.loading.safe_open(tiny.home / "model.safetensors", "pt")
    whole_index = {"metadata": {}, "weight_map": {name: "model-1.safetensors" for name in weights.keys()}}
    elsewhere = {"weight_map": {name: "../outside.safetensors" for name in weights.keys()}}
    indices = st.just(generators.as_json(elsewhere)) | generators.json_file(whole_index)
    sts13 = st.tuples(generators.damaged(STS13.encode()), st.just(b"1\n2.5\n\n5\n")) | st.tuples(
        st.just(STS13.encode()), generators.damaged(b"1\n2.5\n\n5\n")
    )
    triplets = _triplet_files() | generators.damaged(NLI_CSV.encode())
    stsb, sick = generators.damaged(STSB.encode()), generators.damaged(SICK.encode())
    record = _committed_record()
    truthful = json.loads(_mini("truthfulqa"))
    return [
        Kind("NLI triplets, CSV", triplets, _triplets, "nli_for_simcse", 8),
        Kind("NLI with three labels, JSON lines", generators.json_lines(RANKED), _ranked, "snli_dev.jsonl", 6),
        Kind("STS-B", stsb, partial(_sts, "STS-B", "sts-test.csv"), "sts-test.csv", 6),
        Kind("SICK-R", sick, partial(_sts, "SICK-R", "SICK_test_annotated.txt"), "SICK_test", 4),
        Kind("STS12 to STS16", sts13, _sts13, "FNWN.txt", 4),
        Kind("GSM8K", generators.json_lines(_mini_rows("gsm8k")[:4]), _benchmark("gsm8k"), "gsm8k_test", 3),
        Kind("DROP", generators.json_lines(_mini_rows("drop")[:8]), _benchmark("drop"), "drop_dev", 3),
        Kind("DROP, gzip", generators.damaged(gzip.compress(_mini("drop")[:3000], 1)), _gzipped, "drop_dev", 2),
        Kind("HellaSwag", generators.damaged(_mini("hellaswag")[:1500]), _benchmark("hellaswag"), "hellaswag_val", 3),
        Kind("MMLU", generators.damaged(_mini("mmlu")[:1500]), _benchmark("mmlu"), "nutrition_test", 3),
        Kind("TruthfulQA", generators.json_file(truthful[:3]), _benchmark("truthfulqa"), "truthfulqa_mc", 3),
        Kind("plain text", generators.damaged("Ein Satz über Käse.\n".encode() * 4), _text, "wikitext2_test.txt", 2),
        Kind("records", generators.json_file(record), _record, "record.json", 5),
        Kind("archives", _archives(), _unpack, "senteval.tar", 3),
        Kind("chat templates", st.lists(CHAT_PARTS | generators.WORDS, max_size=4), conversation, "chat template", 1),
        Kind("adapter folders", _file_of(tiny.adapter), adapter, "", 1.5),
        Kind("model folders", _file_of({name: data for name, data in tiny.model.items()}), model, "", 1),
        Kind("safetensors headers", safetensors_headers(), header, "", 1),
        Kind("indices of weights", indices, index, "", 0.5),
    ]
