"""Sentences of a text file, a line each."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

from sempa_utils.checks import InputError, decode_text


class Lines:
    """A file's sentences, looked through once and read anew by everybody who goes through them.

    Memory holds one at a time. Raises `InputError` for a file that is not there, is empty or not UTF-8, and for a blank
    line; it calls the file `name`.
    """

    def __init__(self, path: Path | str, name: str | None = None):
        self.path, self.name, self.count = Path(path), name or str(path), 0
        if not self.path.is_file():
            raise InputError(f"{self.name}: no such file. Name a text file with a sentence a line, or - .")
        wanted = "Each line must hold a sentence, so that rows and vectors agree."
        try:
            for line in self:
                self.count += 1
                if "\0" in line:
                    decode_text(self.path.read_bytes(), self.name)
                if not line.strip():
                    raise InputError(f"{self.name}, row {self.count}: a blank line. {wanted}")
        except UnicodeDecodeError:
            decode_text(self.path.read_bytes(), self.name)  # which says where
        if not self.count:
            raise InputError(f"{self.name}: an empty file. {wanted}")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        with open(self.path, encoding="utf-8-sig") as file:
            for line in file:
                yield line.removesuffix("\n")


@contextlib.contextmanager
def lines_of(source: str) -> Generator[Lines, None, None]:
    """Give the lines of a file, or of standard input for "-", which is kept on the disk for the `with` block."""
    if source != "-":
        yield Lines(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield Lines(path, source)
