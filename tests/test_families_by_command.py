"""Each command on a saved model of a family of each kind: it succeeds, and its vectors are those of a plain forward."""

import numpy as np
import pytest
import torch
from exactness import SENTENCES, TOKENIZER, plain_vector
from families import random_model

from sempa_utils import models
from sempa_utils.__main__ import main
from sempa_utils.embedding import Embedder

pytest.importorskip("sentence_transformers", reason='pip install -e ".[evaluation]"')

# Usual, convolutions beside attention, a cap on logits, scaled logits, padded on the right, no rotary positions.
KINDS = ("llama", "lfm2", "gemma2", "granite", "recurrent_gemma", "gpt2")


@pytest.mark.parametrize("family", KINDS)
def test_every_command_takes_the_family(family, tmp_path, capsys, no_data, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    random_model(family).save_pretrained(tmp_path / family)
    TOKENIZER.save_pretrained(tmp_path / family)
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf8")
    model = ["--model", str(tmp_path / family), "--profile", "smoke", "--precision", "float32"]
    adapter = ["--adapter", str(tmp_path / "run" / "adapter")]

    def run(*arguments: str) -> str:
        assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    train = ["--triplets", 8, "--micro-batch", 4, "--learning-rate", 1e-2, "--output", tmp_path / "run"]
    assert "loss 0.6931" in run("train", *model, *train)
    run("encode", *model, *adapter, "--input", tmp_path / "lines.txt", "--output", tmp_path / "vectors.npy")
    adapted = models.load(str(tmp_path / family), adapter=tmp_path / "run" / "adapter", device="cpu")
    with torch.no_grad():
        method = Embedder(adapted).method
        plain = np.stack([plain_vector(adapted, method, sentence=sentence).numpy() for sentence in SENTENCES])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), plain, atol=1e-3, rtol=1e-3)
    evaluated = run("evaluate", *model, *adapter, "--limit", 20, "--methods", "prompteol")
    assert "prompteol + adapter" in evaluated
    assert "hellaswag" in run("benchmark", *model, *adapter, "--tasks", "hellaswag,truthfulqa", "--limit", 2)
    run("export", *model[:2], *adapter, "--output", tmp_path / "exported")
    exported = SentenceTransformer(str(tmp_path / "exported"), device="cpu").encode(SENTENCES)
    np.testing.assert_allclose(exported, plain, atol=1e-3, rtol=1e-3)
