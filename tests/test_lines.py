"""A file's sentences: the lines that a whole read would give, one in memory at a time, and one clear error each."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.checks import InputError, decode_text
from sempa_utils.data.lines import Lines, lines_of


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40))
def test_lines_are_those_of_the_whole_text(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(text.encode())
    whole = decode_text(path.read_bytes(), path).split("\n")
    whole = whole[:-1] if whole[-1] == "" else whole
    if whole and all(line.strip() for line in whole):
        lines = Lines(path)
        assert list(lines) == list(lines) == whole and len(lines) == len(whole)
    else:
        with pytest.raises(InputError, match="a blank line|an empty file"):
            Lines(path)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"One.\n\nThree.\n", r"lines.txt, row 2: a blank line"),
        (b"", "lines.txt: an empty file"),
        (b"\xef\xbb\xbf", "lines.txt: an empty file"),
        ("Eins.\nÄh.\n".encode("latin-1"), r"lines.txt: not UTF-8 text \(row 2: byte 0xc4"),
        ("One.\nTwo.\n".encode("utf-16"), "UTF-16"),
        ("One.\nTwo.\n".encode("utf-16-le"), "UTF-16"),
    ],
)
def test_what_is_no_list_of_sentences_is_told_by_file_and_row(tmp_path, data, says):
    path = tmp_path / "lines.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        Lines(path)


def test_no_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Lines(tmp_path / "lines.txt")


def test_standard_input_is_read_once_and_gone_through_often(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Ça va?\r\nOui.".encode()), encoding="latin-1"))
    with lines_of("-") as lines:
        assert list(lines) == list(lines) == ["Ça va?", "Oui."] and lines.name == "-"
    assert not lines.path.exists()
