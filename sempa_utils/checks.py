"""What every module shares: one error for bad input, nearest names, whole files, fingerprints."""

import contextlib
import difflib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

Value = TypeVar("Value")


class InputError(ValueError):
    """Something the user gave is wrong; the message names the place and the remedy."""


@overload
def pick(name: str, options: Mapping[str, Value], *, what: str) -> Value: ...
@overload
def pick(name: str, options: Collection[str], *, what: str) -> str: ...
def pick(name: Any, options: Any, *, what: str) -> Any:
    """Return `options[name]`, or raise an `InputError` that offers the nearest names.

    `options` is a mapping, or any collection of names (then the name itself is returned);
    `what` is the word used in the message, such as "template".
    """
    if name in options:
        return options[name] if isinstance(options, Mapping) else name
    near = difflib.get_close_matches(str(name), list(options), n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise InputError(f"Unknown {what} {name!r}. {hint}Choose one of: {', '.join(options)}.")


@contextlib.contextmanager
def write_whole(target: Path | str) -> Generator[Path, None, None]:
    """Yield a temporary path beside `target` and rename it to `target` when the block succeeds.

    The block may create a file or a folder there. An error leaves an older `target` as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft = workshop / target.name
        yield draft
        old = workshop / f"{target.name}.old"
        try:
            if target.is_dir():
                # A folder cannot be replaced in one step; the old one steps aside first.
                target.rename(old)
            os.replace(draft, target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def require_space(folder: Path | str, needed_bytes: int, *, purpose: str) -> None:
    """Raise an `InputError` unless `folder`'s disk has `needed_bytes` free for `purpose`."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"{folder}: {purpose} needs {needed_bytes / 1e6:,.0f} MB and the disk has "
            f"{free / 1e6:,.0f} MB free. Free some space or choose another folder."
        )


def decode_text(data: bytes, name: Path | str) -> str:
    """Return UTF-8 bytes as text, without a byte order mark and with line ends as `\\n`.

    Raises `InputError` for bytes in another encoding; it names `name` and the row.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, place = "", error.start
    else:
        place = data.find(b"\0")
    if place >= 0:
        wide = ", it seems to be UTF-16" if b"\0" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        row = data.count(b"\n", 0, place) + 1
        raise InputError(f"{name}: not UTF-8 text (row {row}: byte {data[place]:#04x}{wide}). Save it as UTF-8.")
    return io.StringIO(text, newline=None).read()


def fingerprint(*parts) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `parts`, each taken by its `str`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part).encode("utf8", "surrogatepass") + b"\x1f")
    return digest.hexdigest()[:16]


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the user's cache folder of this kit: `SEMPA_CACHE_DIR`, or the system's usual place."""
    import platformdirs

    return Path(os.environ.get("SEMPA_CACHE_DIR") or platformdirs.user_cache_dir("sempa-kit", appauthor=False))


def build_folder() -> Path:
    """Where runs leave adapters, records and pages: `SEMPA_BUILD_DIR`, or build/ beside the package."""
    repository = Path(__file__).parent.parent
    home = repository if (repository / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("SEMPA_BUILD_DIR") or home / "build")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, as a sentence to be quoted; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0][:200] if lines else type(error).__name__).rstrip(".") + "."
