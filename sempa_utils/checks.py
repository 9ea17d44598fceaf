"""What every module shares: one error for bad input, nearest names, whole files, locks, fingerprints."""

import contextlib
import difflib
import errno
import glob
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

try:
    import fcntl
except ImportError:  # Windows, which opens no folder either
    fcntl = None

Value = TypeVar("Value")
OLD = ".old"  # behind the name of a folder that steps aside for a new one


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


def check_seed(seed: int) -> None:
    """Raise an `InputError` unless a seed is one that every generator takes."""
    if not 0 <= seed < 2**32:
        raise InputError(f"The seed {seed} is no whole number from 0 to {2**32 - 1:,}. Choose another one.")


def check_name(name: str, *, what: str) -> str:
    """Return what is to be a file's or a folder's name. Raises `InputError` for a path, which would lead elsewhere."""
    if name in ("", ".", "..") or name != Path(name).name:
        raise InputError(f"{what.capitalize()} {name!r} is a path or nothing, and no plain name. Choose one.")
    return name


@contextlib.contextmanager
def write_whole(target: Path | str) -> Generator[Path, None, None]:
    """Yield a temporary path beside `target` and rename it to `target` when the block succeeds.

    The block may create a file or a folder there. An error leaves an older `target` as it was.
    """
    target = Path(target)
    with workshop(target) as folder:
        draft, old = folder / target.name, folder / f"{target.name}{OLD}"
        yield draft
        try:
            if target.is_dir():
                # A folder cannot be replaced in one step; the old one steps aside first.
                target.rename(old)
            os.replace(draft, target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise


@contextlib.contextmanager
def workshop(target: Path | str) -> Generator[Path, None, None]:
    """Yield an empty folder beside `target`, which is gone after the block.

    A process that is killed leaves its own behind; the next one that works on `target` clears it away. Whether
    somebody is still at work in one is told by a lock, which the system takes from a process that ends in any way;
    Windows locks no folders, and there what a killed process leaves stays.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_away(target)
    folder, number = _new_workshop(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if number is not None:
            os.close(number)


def _new_workshop(target: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        if fcntl is None:
            return folder, None
        with contextlib.suppress(FileNotFoundError):
            number = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):
                _lock(number, wait=True)
            if folder.is_dir():  # else it was taken for left behind before it was locked
                return folder, number
            os.close(number)


def _clear_away(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}-*") if fcntl else ():
        with contextlib.suppress(OSError):
            number = os.open(left, os.O_RDONLY)
            try:
                if _lock(number, wait=False):
                    old = left / f"{target.name}{OLD}"
                    if old.exists() and not target.exists():  # killed between two renames
                        old.rename(target)
                    shutil.rmtree(left)
            finally:
                os.close(number)


@contextlib.contextmanager
def alone(folder: Path | str) -> Generator[None, None, None]:
    """Let one process at a time into the block for `folder`; the others wait, and then find what it made there.

    On a file system without locks nobody waits; what `write_whole` writes is whole there too.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            if not _lock(number, wait=False):
                print(f"{folder}: another process is at work here; waiting for it", file=sys.stderr, flush=True)
                _lock(number, wait=True)
        yield
    finally:
        os.close(number)


def _lock(number: int, *, wait: bool) -> bool:
    """Take the lock of an open folder; False where another process has it. Raises OSError where there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks on this system")
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


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


def is_full_disk(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, is that of a full disk, a used-up share or a limit of files."""
    numbers = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    # Libraries that write by themselves keep the system's words, or have their own: `torch.save` three of them.
    of_torch = "PytorchStreamWriter failed writing", "] . unexpected pos ", "basic_ios::clear: iostream error"
    texts = *map(os.strerror, numbers), *of_torch
    while error is not None:
        if getattr(error, "errno", None) in numbers or any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def parse_json(text: str, place: Path | str, *, remedy: str = "Fetch or write it again.") -> Any:
    """Return what JSON text says. Raises `InputError`, which names `place`, for anything else, and for no Unicode."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half a character can be written so, and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode("utf8")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not readable as JSON ({error}). {remedy}") from error
    return value


def read_table(path: Path | str, *, remedy: str = "Fetch or write it again.") -> dict[str, Any]:
    """Return a JSON file's object as a table. Raises `InputError` for a file that holds none."""
    table = parse_json(decode_text(Path(path).read_bytes(), path), path, remedy=remedy)
    if not isinstance(table, dict):
        raise InputError(f"{path}: no JSON object, but {type(table).__name__}. {remedy}")
    return table


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


def pins(extra: str | None = None) -> dict[str, str]:
    """Return the pinned version of each library of the core, or of an extra, from the kit's own metadata."""
    try:
        needed = importlib.metadata.requires("sempa-kit") or []
    except importlib.metadata.PackageNotFoundError:  # a clone that is not installed, as on Colab
        needed = (Path(__file__).parents[1] / "requirements.txt").read_text(encoding="utf8").splitlines()
    pattern = re.compile(r'([\w.-]+)==([\w.]+)\s*(?:;\s*extra == "(\w+)")?\s*$')
    found = (match.groups() for line in needed if (match := pattern.match(line)))
    return {name: version for name, version, belongs in found if belongs == extra}


def installing(name: str, extra: str | None = None) -> str:
    """Return the command that installs a library as it is pinned, wherever the kit itself came from."""
    return f"python -m pip install {name}=={pins(extra)[name]}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, as a sentence to be quoted; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0][:200] if lines else type(error).__name__).rstrip(".") + "."
