"""An environment like Colab's, with libraries of other versions: every set-up cell is run there, and one notebook.

Not part of the suite: it installs some gigabytes into build/classroom/colab, once. `make classroom
CLASSROOM=tests/classroom/colab.py`.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "classroom"
NOTEBOOKS = sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
# Another version of each than the pinned one, of what Colab has, and what its kernel has loaded at the start.
BROUGHT = {
    "torch": "2.14.1",
    "numpy": "2.3.4",
    "pandas": "2.3.3",
    "transformers": "4.57.1",
    "datasets": "4.0.0",
    "scipy": "1.16.2",
    "matplotlib": "3.10.7",
    "ipykernel": "6.30.1",
    "psutil": "7.0.0",
    "tqdm": "4.67.1",
    "requests": "2.32.4",
    "scikit-learn": "1.7.2",
}
LOADED = ("numpy", "pandas", "matplotlib", "psutil", "requests")
DRIVE = "import os\ndef mount(place):\n    os.makedirs(os.path.join(place, 'MyDrive'), exist_ok=True)\n"


def cells(source: Path) -> list[str]:
    return [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of a machine with what Colab brings and no kit; the notebooks are opened on it one after the other."""
    brought = PLACE / "colab"
    if not (brought / "whole").is_file():
        venv.create(brought, with_pip=True, clear=True)
        pins = [f"{name}=={version}" for name, version in BROUGHT.items()]
        subprocess.run([brought / "bin" / "python", "-m", "pip", "install", "--quiet", *pins], check=True)
        (brought / "whole").touch()
    machine = PLACE / "machine"
    shutil.rmtree(machine, ignore_errors=True)
    shutil.copytree(brought, machine, symlinks=True, copy_function=os.link)  # pip replaces files, and writes into none
    return machine / "bin" / "python"


@pytest.fixture(scope="session")
def kit(tmp_path_factory) -> Path:
    """A repository of the kit as it stands here, to be cloned."""
    folder = tmp_path_factory.mktemp("address") / "kit"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=left_out)
    git = ["git", "-C", str(folder), "-c", "user.name=kit", "-c", "user.email=kit@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "as it stands"]):
        subprocess.run([*git, *command], check=True)
    return folder


def colab(folder: Path, python: Path, kit: Path, *, code: list[str], drive: Path | None = None) -> dict:
    """Run cells as Colab's kernel would, in an empty folder; return what became of the libraries, and what was printed.

    `drive` is mounted where it is given, in place of Colab's.
    """
    package = folder / "site" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "drive.py").write_text(DRIVE, encoding="utf8")
    setup = code[0].replace('KIT_ADDRESS = ""', f'KIT_ADDRESS = "{kit.as_uri()}"')
    if drive:
        setup = setup.replace("KEEP_ON_DRIVE = False", "KEEP_ON_DRIVE = True")
        setup = setup.replace("    import hosted\n", f"    import hosted\n    hosted.DRIVE = Path({str(drive)!r})\n")
    script = f"""
import importlib, importlib.metadata, json, sys
import google.colab
for name in {LOADED!r}:
    importlib.import_module(name)
before = {{name: sys.modules[name].__version__ for name in {LOADED!r}}}
for cell in {[setup, *code[1:]]!r}:
    exec(compile(cell, cell.splitlines()[0], "exec"), globals())
import sempa_utils
names = [*{tuple(BROUGHT)!r}, "trl", "peft", "gguf"]
now = {{name: importlib.metadata.version(name).split("+")[0] for name in names}}
print("FOUND " + json.dumps({{"before": before, "now": now, "kit": sempa_utils.__file__}}))
"""
    surroundings = os.environ | {"PYTHONPATH": str(package.parents[1]), "SEMPA_PROFILE": "smoke", "MPLBACKEND": "agg"}
    surroundings.pop("SEMPA_DATA_DIR", None)
    done = subprocess.run([python, "-c", script], cwd=folder, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    shown, found = done.stdout.split("FOUND ")
    return json.loads(found) | {"shown": shown}


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_set_up_cell_and_all_that_its_notebook_imports(tmp_path, python, kit, source):
    setup, *rest = cells(source)
    nodes = (node for cell in rest for node in ast.parse(cell).body)
    imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    found = colab(tmp_path, python, kit, code=[setup, "\n".join(imports)])
    assert found["kit"].startswith(str(tmp_path / "sempa-kit"))
    for name in ("torch", "numpy", "pandas", "scipy", "matplotlib", "psutil", "requests"):
        assert found["now"][name] == BROUGHT[name], "what is brought or loaded stays as it is"
    assert found["before"] == {name: BROUGHT[name] for name in LOADED}
    pins = (kit / "requirements.txt").read_text(encoding="utf8").splitlines()
    assert {f"{name}=={found['now'][name]}" for name in ("trl", "peft", "gguf", "transformers", "datasets")} <= set(
        pins
    )


def test_a_notebook_runs_whole_and_after_a_reset_it_finds_its_adapters_on_the_drive(tmp_path, python, kit):
    source = next(path for path in NOTEBOOKS if path.stem == "02_training")
    drive, machines = tmp_path / "drive", (tmp_path / "first", tmp_path / "after a reset")
    adapters = []
    for machine in machines:
        colab(machine, python, kit, code=cells(source), drive=drive)
        files = sorted((drive / "MyDrive" / "sempa-kit" / "adapters").glob("*/adapter/adapter_model.safetensors"))
        adapters.append({path: path.stat().st_mtime_ns for path in files})
        assert not (machine / "sempa-kit" / "build").exists(), "nothing is left on the machine that is reset"
    assert len(adapters[0]) >= 2 and adapters[0] == adapters[1], "trained once, and found again"


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
