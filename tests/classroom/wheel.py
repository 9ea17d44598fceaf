"""A wheel of the kit, installed where no repository is: its commands run, and what they say holds there.

Not part of the suite: it installs the kit's libraries into build/classroom/wheel, once. `make classroom
CLASSROOM=tests/classroom/wheel.py`.
"""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "classroom" / "wheel"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that has the kit as it stands here, from a wheel, without an extra."""
    python = PLACE / "bin" / "python"
    if not python.exists():
        venv.create(PLACE, with_pip=True)
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [python, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
    [wheel] = wheels.glob("*.whl")
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "sempa-kit", "lm_eval"], check=True)
    subprocess.run([*pip, "install", "--quiet", wheel], check=True)
    return python


@pytest.fixture(scope="module")
def run(python, tmp_path_factory):
    """Return a function that runs a command in a folder that is nobody's repository: (exit code, all that it said)."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "lines.txt").write_text("The kettle is on.\nRain again\n", encoding="utf8")
    ours = ("PYTHONPATH", "SEMPA_DATA_DIR", "SEMPA_BUILD_DIR")
    surroundings = {key: value for key, value in os.environ.items() if key not in ours}

    def call(*arguments) -> tuple[int, str]:
        command = [python, "-m", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert "make " not in said and str(ROOT) not in said, said
        return done.returncode, said

    call.folder = folder
    return call


def test_doctor_finds_the_pinned_libraries_and_says_what_is_missing(run):
    code, said = run("sempa_utils", "doctor")
    assert code == 0 and "FAIL" not in said and "pinned" not in said, said
    assert re.search(r"none +lm_eval +not installed: python -m pip install lm_eval==\d", said), said


def test_train_encode_evaluate_and_what_comes_with_the_kit(run):
    small = ("--profile", "smoke", "--triplets", 8)
    code, said = run("sempa_utils", "train", "--output", "run", *small)
    assert code == 0 and (run.folder / "run" / "adapter").is_dir(), said
    code, said = run(
        "sempa_utils", "encode", "--adapter", "run/adapter", "--input", "lines.txt", "--output", "vectors.npy"
    )
    assert code == 0 and np.load(run.folder / "vectors.npy").shape == (2, 576), said
    code, said = run(
        "sempa_utils", "evaluate", "--methods", "prompteol", "--adapter", "smollm2-135m-sempa", "--limit", 20
    )
    assert code == 0 and "mini-STS" in said, said
    assert (run.folder / "build").is_dir(), "what is kept lies in the folder in which one works"


def test_benchmark_says_how_to_get_its_harness_and_then_runs(run):
    benchmark = ("sempa_utils", "benchmark", "--tasks", "hellaswag", "--limit", 4)
    code, said = run(*benchmark)
    assert code == 1, said
    told = re.search(r"Run: python -m (pip install \S+)$", said.strip())
    assert told, said
    assert run(*told[1].split(), "--quiet")[0] == 0
    code, said = run(*benchmark)
    assert code == 0 and "hellaswag" in said.lower(), said


def test_what_needs_the_repository_says_so(run):
    code, said = run("sempa_utils", "report")
    assert code == 1 and "Run it in a clone" in said and "Traceback" not in said


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
