"""`encode` and `evaluate` by several processes: what one gives, written once, and goes on where it stopped."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import __main__ as command_line
from sempa_utils.embedding import Embedder, chunks
from sempa_utils.embedding.sharing import Shared

SENTENCES = [f"The {animal} sleeps {'very ' * n}well." for n in range(6) for animal in ("cat", "dog", "old clock")]
SCRIPT = """
import sys
from sempa_utils import __main__ as command_line, models
from sempa_utils.embedding import Embedder, chunks
assert models.processes().num_processes == 2
chunks.CHUNK, encode, asked = 4, Embedder.encode, []
def counted(self, sentences, *given, **how):
    asked.append(len(sentences))
    return encode(self, sentences, *given, **how)
Embedder.encode = counted
folder, rank = sys.argv[1], models.processes().process_index
common = ["--model", folder + "/model", "--precision", "float32"]
for output in ("vectors.npy", "vectors.jsonl"):
    paths = ["--input", folder + "/lines.txt", "--output", folder + "/" + output]
    assert command_line.main(["encode", *common, *paths]) == 0
assert asked == ([4, 4, 2] if rank == 0 else [4]) * 2, asked  # the second chunk was there before
assert command_line.main(["evaluate", *common, "--methods", "mean", "--tasks", "mini-STS", "--limit", "40"]) == 0
assert command_line.main(["encode", *common, "--output", folder + "/none.npy"]) == 1
"""


def test_two_processes_write_what_one_does_once(no_data, tmp_path, capsys, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf8")
    (tmp_path / "launch.py").write_text(SCRIPT, encoding="utf8")
    monkeypatch.setattr(chunks, "CHUNK", 4)
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    common = ["--model", str(tmp_path / "model"), "--precision", "float32"]
    lines = ["--input", str(tmp_path / "lines.txt")]
    for output in ("one.npy", "one.jsonl"):
        assert command_line.main(["encode", *common, *lines, "--output", str(tmp_path / output)]) == 0
    assert command_line.main(["evaluate", *common, "--methods", "mean", "--tasks", "mini-STS", "--limit", "40"]) == 0
    table = capsys.readouterr().out
    # What an interrupted run left: one chunk of each output.
    embedder = Embedder(str(tmp_path / "model"))
    for output in ("vectors.npy", "vectors.jsonl"):
        how = {"file": "lines.txt", "kept": tmp_path / f"{output}.part"}
        interrupted = chunks.encoded(embedder, SENTENCES, **how)
        next(interrupted), next(interrupted)
        (next((tmp_path / f"{output}.part").glob("*/000000000.safetensors"))).unlink()

    surroundings = {name: value for name, value in os.environ.items() if name != "SEMPA_DATA_DIR"}
    surroundings |= {"SEMPA_CACHE_DIR": str(tmp_path / "no-cache"), "SEMPA_BUILD_DIR": str(tmp_path / "build of two")}
    surroundings |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(tmp_path / "launch.py"), str(tmp_path)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), np.load(tmp_path / "one.npy"), atol=1e-6)
    assert (tmp_path / "vectors.jsonl").read_text(encoding="utf8").count("\n") == len(SENTENCES)
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "none.npy").exists()
    assert done.stdout == table, "one table, and the same one"
    assert "2 processes cannot share standard input" in done.stderr


def test_each_process_encodes_its_part_and_gets_all(tiny, monkeypatch):
    from types import SimpleNamespace

    asked, embedder = [], Embedder(tiny)
    encode, sentences = embedder.encode, [*SENTENCES, SENTENCES[0], "Rain."]
    monkeypatch.setattr(embedder, "encode", lambda part, **how: asked.append(part) or encode(part))

    def gathered(own):
        """Run the other processes' parts here."""
        distinct = sorted(set(sentences))
        return [encode(part) for part in (distinct[:6], distinct[6:12], distinct[12:]) if part]

    monkeypatch.setattr("sempa_utils.embedding.sharing.gather_object", gathered)
    for rank in range(3):
        state = SimpleNamespace(num_processes=3, process_index=rank)
        monkeypatch.setattr("sempa_utils.embedding.sharing.processes", lambda state=state: state)
        shared = Shared(embedder)
        np.testing.assert_allclose(shared.encode(sentences), encode(sentences), atol=1e-5)
        assert shared.identity() == embedder.identity()
    assert sorted(text for part in asked for text in part) == sorted(set(sentences))
