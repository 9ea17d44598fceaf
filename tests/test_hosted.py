"""Colab and Kaggle: what a set-up cell fetches and installs there; the address that leads a reader to the kit."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parent.parent
NAMES = [path.stem for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))]

sys.path.insert(0, str(ROOT / "notebooks"))
import address  # noqa: E402
import hosted  # noqa: E402


def set_up_cell(name: str) -> str:
    notebook = jupytext.read(ROOT / "notebooks" / "source" / f"{name}.py")
    return next(cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))


def stand_in(folder: Path) -> Path:
    """Write a `google.colab` whose Drive is a folder; return where it is imported from."""
    package = folder / "site" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "drive.py").write_text(
        "import os\ndef mount(place):\n    os.makedirs(os.path.join(place, 'MyDrive'), exist_ok=True)\n"
    )
    return folder / "site"


@pytest.fixture
def repository(tmp_path):
    """A repository of the kit as it stands in this folder, to be cloned."""
    folder = tmp_path / "repository"
    for part in ("sempa_utils", "notebooks", "results"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("adapters", "__pycache__", "*.png"))
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    git = ["git", "-C", str(folder), "-c", "user.name=kit", "-c", "user.email=kit@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "as it stands"]):
        subprocess.run([*git, *command], check=True)
    return folder


def test_the_set_up_cell_runs_as_on_colab_and_the_notebook_reads_the_fetched_kit(tmp_path, repository):
    """In another process and folder; here everything is installed as it is pinned, so that pip has nothing to do."""
    drive = tmp_path / "drive"
    code = set_up_cell("05_generation").replace('KIT_ADDRESS = ""', f'KIT_ADDRESS = "{repository.as_uri()}"')
    code = code.replace("KEEP_ON_DRIVE = False", "KEEP_ON_DRIVE = True")
    script = f"""
import sys
sys.path.insert(0, {str(stand_in(tmp_path))!r})
import google.colab
import numpy
code = {code!r}
before, after = code.split("    hosted.prepare")
exec(before + f"    import pathlib; hosted.DRIVE = pathlib.Path({str(drive)!r})\\n    hosted.prepare" + after)
import sempa_utils
from sempa_utils import checks, records
print("from", sempa_utils.__file__)
print("build", checks.build_folder())
print(records.costs("05_generation"))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"from {tmp_path / 'sempa-kit' / 'sempa_utils'}" in done.stdout
    assert f"build {drive / 'MyDrive' / 'sempa-kit'}" in done.stdout and "installing" not in done.stdout
    assert re.search(r"\| cpu \|.* min \|", done.stdout), "the fetched kit's records"


def test_without_an_address_the_cell_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with pytest.raises(SystemExit, match="address into KIT_ADDRESS"):
        exec(set_up_cell(NAMES[0]).replace(f'"{address.address()}"', '""'), {})


def test_on_the_readers_own_machine_the_cell_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a command was run"))
    before = list(sys.path)
    exec(set_up_cell(NAMES[0]), {})
    assert sys.path == before and not list(tmp_path.iterdir())


class Machine:
    """A machine with these libraries, of which some are loaded; it keeps what pip was asked for."""

    def __init__(self, monkeypatch, versions: dict[str, str], loaded: set[str], returncode: int = 0):
        def version(name):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        def run(command, **_):
            self.asked = command[command.index("--constraint") + 2 :]
            self.held = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf8").splitlines()
            return subprocess.CompletedProcess(command, returncode, "", "ERROR: no network")

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(hosted, "loaded", lambda: loaded)
        monkeypatch.setattr(subprocess, "run", run)
        self.asked, self.held = [], []


BROUGHT = {"torch": "2.9.0+cu126", "numpy": "2.0.2", "pandas": "2.2.2", "transformers": "4.57.1", "requests": "2.32.4"}


def test_what_is_brought_or_loaded_stays_and_the_model_libraries_are_the_pinned_ones(monkeypatch):
    machine = Machine(monkeypatch, BROUGHT, {"requests", "numpy"})
    hosted.prepare("01_theory")
    asked = dict(pin.split("==") for pin in machine.asked)
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert asked.items() <= pinned.items() and {"transformers", "trl", "gguf", "scipy"} <= asked.keys()
    assert not {"torch", "numpy", "jupyterlab", "ipykernel", "pytest", "lm_eval"} & asked.keys()
    kept = {"torch==2.9.0+cu126", "numpy==2.0.2", "pandas==2.2.2", "requests==2.32.4"}
    assert set(machine.held) == kept, "the build's mark stays, and transformers is free"


def test_the_fifth_notebook_gets_its_harness_and_no_other_notebook(monkeypatch):
    for name in NAMES:
        machine = Machine(monkeypatch, BROUGHT, set())
        hosted.prepare(name)
        assert any(pin.startswith("lm_eval==") for pin in machine.asked) == (name == "05_generation")
        source = (ROOT / "notebooks" / "source" / f"{name}.py").read_text(encoding="utf8")
        assert ("evaluation import generation" in source) == (name == "05_generation"), "who uses the harness"


def test_a_loaded_library_is_not_replaced_behind_the_kernels_back(monkeypatch):
    machine = Machine(monkeypatch, BROUGHT, {"transformers"})
    with pytest.raises(SystemExit, match=r"transformers 4\.57\.1 is loaded already.*Restart"):
        hosted.prepare("01_theory")
    assert not machine.asked


def test_where_pip_fails_its_words_are_shown(monkeypatch):
    Machine(monkeypatch, BROUGHT, set(), returncode=1)
    with pytest.raises(SystemExit, match=r"(?s)no network.*internet"):
        hosted.prepare("01_theory")


# --- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://github.com/someone/kit.git", "https://github.com/someone/kit"),
        ("git@github.com:someone/kit.git", "https://github.com/someone/kit"),
        ("ssh://git@github.com:22/someone/kit", "https://github.com/someone/kit"),
        ("https://name:secret@example.org:8443/kit/", "https://example.org:8443/kit"),
        ("/home/someone/kit", ""),
        ("../kit", ""),
        ("", ""),
    ],
)
def test_a_remote_is_shown_as_anyone_may_read_it(remote, shown):
    assert address.public(remote) == shown


def test_the_metadata_comes_before_the_remote(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "kit"\n')
    assert address.address(tmp_path) == ""
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", "git@example.org:a/kit.git"], check=True)
    assert address.address(tmp_path) == "https://example.org/a/kit"
    project.write_text('[project]\nname = "kit"\n[project.urls]\nRepository = "https://github.com/b/kit"\n')
    assert address.address(tmp_path) == "https://github.com/b/kit"


def test_the_address_goes_into_source_notebook_and_readme_and_again_without_change():
    found = "https://github.com/someone/kit"
    for path in address.pages():
        text = path.read_text(encoding="utf8")
        written = address.with_address(text, found, notebooks=NAMES)
        assert address.with_address(written, found, notebooks=NAMES) == written
        if path.suffix == ".md":
            for name in NAMES:
                place = f"someone/kit/blob/main/notebooks/{name}.ipynb"
                assert f"https://colab.research.google.com/github/{place}" in written
                assert f"src=https://github.com/{place}" in written
        else:
            notebook = jupytext.reads(written, fmt=path.suffix[1:])
            code = next(cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
            assert f'KIT_ADDRESS = "{found}"' in code
    assert address.badges("https://example.org/kit", NAMES) == "", "a host opens what lies on GitHub"


def test_the_committed_pages_have_the_metadatas_address():
    """No page may lead elsewhere than the metadata does; while that names nothing, no page has an address."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    named = project.get("urls", {}).get("Repository", "")
    for path in address.pages():
        text = path.read_text(encoding="utf8")
        assert address.with_address(text, address.public(named), notebooks=NAMES) == text, f"{path.name}: make address"
