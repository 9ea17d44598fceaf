"""Write the kit's address into its notebooks and pages, with badges that open Colab and Kaggle; `make address`.

The address stands in one place: `Repository` under [project.urls] of pyproject.toml. While there is none, it is that
of the clone's remote.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE = re.compile(r'^((?:# )?KIT_ADDRESS = )"[^"]*"', re.MULTILINE)  # of a set-up cell
CELL = re.compile(r'(KIT_ADDRESS = )\\"[^"\\]*\\"')  # the same in a notebook's JSON
BADGES = re.compile(r"(<!-- badges -->\n).*?(<!-- end -->)", re.DOTALL)
HOSTS = {
    "Colab": "https://colab.research.google.com/github/{place}",
    "Kaggle": "https://kaggle.com/kernels/welcome?src=https://github.com/{place}",
}


def main() -> int:
    """Write the address; return 0, or 1 where there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    found = address()
    if not found:
        print(
            "error: this kit has no address. Write it into pyproject.toml, under [project.urls]: "
            'Repository = "https://…"; or give the clone a remote named origin.',
            file=sys.stderr,
        )
        return 1
    for path in pages():
        text = path.read_text(encoding="utf8")
        if (changed := with_address(text, found, notebooks=names())) != text:
            path.write_text(changed, encoding="utf8")
            print(path.relative_to(ROOT))
    print(f"the kit's address is {found}")
    return 0


def address(root: Path = ROOT) -> str:
    """Return the address for `git clone`: the metadata's, else the clone's remote as https; nothing without both."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))["project"]
    if named := project.get("urls", {}).get("Repository"):
        return public(named)
    try:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return ""
    return public(done.stdout.strip())


def public(remote: str) -> str:
    """Return a remote as anyone may read it: https for ssh, without a name or a password."""
    if match := re.fullmatch(r"[\w.-]+@([\w.-]+):(?!/)(.+)", remote):
        remote = f"https://{match[1]}/{match[2]}"
    parts = urllib.parse.urlsplit(remote)
    if parts.scheme not in ("https", "http", "ssh"):
        return ""  # a folder of this machine is nobody else's address
    host = (parts.hostname or "") + (
        f":{parts.port}" if parts.port and parts.scheme != "ssh" else ""
    )
    return f"https://{host}{parts.path.rstrip('/').removesuffix('.git')}"


def pages() -> list[Path]:
    """Return what has the address in it: the README, and every notebook with its source."""
    folder = ROOT / "notebooks"
    return [
        ROOT / "README.md",
        *sorted(folder.glob("source/[0-9]*.py")),
        *sorted(folder.glob("[0-9]*.ipynb")),
    ]


def names() -> list[str]:
    """Return the notebooks' names."""
    return [path.stem for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))]


def with_address(text: str, found: str, *, notebooks: list[str]) -> str:
    """Return a page or a notebook with that address in its set-up cell and its block of badges."""
    text = LINE.sub(lambda match: f'{match[1]}"{found}"', text)
    text = CELL.sub(lambda match: f'{match[1]}\\"{found}\\"', text)
    return BADGES.sub(lambda match: match[1] + badges(found, notebooks) + match[2], text)


def badges(found: str, notebooks: list[str]) -> str:
    """Return a line of Markdown links for each notebook; nothing unless the kit lies on GitHub, which hosts read."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", found)
    if not match:
        return ""
    lines = ["| notebook | opened by |", "|---|---|"]
    for name in notebooks:
        place = f"{match[1]}/blob/main/notebooks/{name}.ipynb"
        links = (f"[{host}]({link.format(place=place)})" for host, link in HOSTS.items())
        lines.append(f"| {name} | {' · '.join(links)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
