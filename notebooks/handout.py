"""Pack the kit, the class's notebooks and what a run has made into one file to hand out; `make handout` calls this."""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

from sempa_utils.checks import InputError, write_whole

ROOT = Path(__file__).parent.parent
# Of build/: what notebooks look for before they compute it again.
FOUND_AGAIN = ("adapters", "records", "references", "perplexity", "sts", "generation")
# Of a checkpoint, what only a run that goes on needs.
LEFT_OUT = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "training_args.bin",
    "trainer_state.json",
)


def main() -> int:
    """Write the archive; return 0, or 1 with one clear error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build", help="of a run that has ended"
    )
    options = parser.parse_args()
    archive = options.build / "sempa-kit.zip"
    try:
        files = contents(options.build)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with write_whole(archive) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, path in files.items():
            packed.write(path, f"sempa-kit/{name}")
    print(
        f"{archive}: {len(files)} files, {archive.stat().st_size / 2**20:.0f} MiB; unpack it, install, open notebooks/"
    )
    return 0


def contents(build: Path) -> dict[str, Path]:
    """Return {name in the archive: file}: the repository with the class's notebooks, and the finished run's results.

    Raises `InputError` where there is no repository, no run, or no edition for a class.
    """
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        raise InputError(
            f"{ROOT}: no git repository, so that nobody knows which files are the kit's. Use a clone."
        )
    if not list((build / "adapters").glob("*/adapter")):
        raise InputError(
            f"{build}: no finished adapters there. Run the notebooks first: python notebooks/run.py"
        )
    editions = sorted((build / "exercises" / "student").glob("*.ipynb"))
    if not editions:
        raise InputError(
            f"{build}: no notebooks for a class there. Write them: python notebooks/exercises.py"
        )
    files = {name: ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    files |= {f"notebooks/{path.name}": path for path in editions}
    for path in (path for part in FOUND_AGAIN for path in sorted((build / part).rglob("*"))):
        if path.is_file() and path.name not in LEFT_OUT:
            files[f"build/{path.relative_to(build).as_posix()}"] = path
    return files


if __name__ == "__main__":
    sys.exit(main())
