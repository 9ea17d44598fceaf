"""Make Colab or Kaggle ready for a notebook: its set-up cell calls this, once the kit is fetched.

Nothing is imported here but Python's own library: what a notebook needs is not installed yet.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"
# What a notebook needs beside the core.
HARNESSES = {"05_generation": ("lm_eval",)}
# These stay in whatever version the machine brings; with the others, the kit's figures depend on the pinned one.
BROUGHT = (
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "seaborn",
    "tqdm",
    "psutil",
    "platformdirs",
    "pydantic",
)
DRIVE = Path("/content/drive")


def prepare(notebook: str, *, keep_on_drive: bool = False) -> None:
    """Install what a notebook needs; with `keep_on_drive`, leave what runs make on the reader's Google Drive.

    What is loaded in this kernel is not replaced, nor what the machine brings of torch, numpy and their like.
    Raises SystemExit, which says what to do, where a loaded library is to be replaced or pip fails.
    """
    if keep_on_drive:
        from google.colab import drive

        drive.mount(str(DRIVE))
        os.environ["SEMPA_BUILD_DIR"] = str(DRIVE / "MyDrive" / "sempa-kit")
    install(missing(notebook))
    importlib.invalidate_caches()
    print(
        f"ready; runs are kept in {os.environ.get('SEMPA_BUILD_DIR') or REQUIREMENTS.parent / 'build'}"
    )


def missing(notebook: str) -> list[str]:
    """Return the pins that a notebook needs and this machine does not meet.

    Raises SystemExit where a library that is loaded already would have to be replaced.
    """
    wanted = []
    for name, version in pins(notebook).items():
        brought = installed(name)
        if brought and (name in BROUGHT or brought == version):
            continue
        if brought and name in loaded():
            raise SystemExit(
                f"{name} {brought} is loaded already, and this notebook needs {version}. Restart the session "
                "(on Colab: Runtime, Restart session) and run this cell before any other."
            )
        wanted.append(f"{name}=={version}")
    return wanted


def pins(notebook: str) -> dict[str, str]:
    """Return {library: version} of requirements.txt: the core's, and the harness of a notebook that needs one."""
    text = REQUIREMENTS.read_text(encoding="utf8")
    core, rest = text.split("# Notebooks")  # what a notebook runs in is there
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", core, re.MULTILINE))
    extras = dict(re.findall(r"^([\w-]+)==([^\s;]+);", rest, re.MULTILINE))
    return pinned | {name: extras[name] for name in HARNESSES.get(notebook, ())}


def installed(name: str) -> str | None:
    """Return the version of a library on this machine, without a build's mark such as +cu130."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def loaded() -> set[str]:
    """Return the names of the libraries of which this kernel has loaded something."""
    owners = importlib.metadata.packages_distributions()
    modules = {name.partition(".")[0] for name in list(sys.modules)}
    return {owner for module in modules for owner in owners.get(module, ())}


def install(wanted: list[str]) -> None:
    """Install with pip, all that is loaded or brought held as it is. Raises SystemExit where pip cannot."""
    if not wanted:
        return
    held = sorted(loaded().union(BROUGHT, ("pandas", "pyarrow")))
    lines = [f"{name}=={importlib.metadata.version(name)}" for name in held if installed(name)]
    print(f"installing {', '.join(wanted)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(lines), encoding="utf8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--constraint",
            str(constraints),
            *wanted,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"pip could not install what this notebook needs:\n{done.stderr.strip()[-1500:]}\n"
            "Check that the session has internet (on Kaggle: Settings, Internet), restart it and run this cell first."
        )
