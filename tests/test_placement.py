"""Nothing is left on the CPU that belongs on the card: the kit runs on a simulated one, with the same figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_model, tiny_tokenizer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str | None]:
    folder = tmp_path_factory.mktemp("placement")
    tiny_model().save_pretrained(folder / "Tiny")
    tiny_tokenizer().save_pretrained(folder / "Tiny")
    # A process of its own: a back end is registered for good.
    command = [sys.executable, HERE / "on_the_simulated_card.py", folder / "Tiny"]
    surroundings = os.environ | {"SEMPA_BUILD_DIR": str(folder / "build")}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_case_gives_the_figures_of_the_cpu(found):
    assert len(found) > 20 and {name: fault for name, fault in found.items() if fault} == {}


def test_training_embedding_speech_and_the_harness_are_among_them(found):
    kinds = {name.split()[0].rstrip(",") for name in found}
    assert {"training", "embedding", "perplexity", "paraphrases", "harness"} <= kinds
