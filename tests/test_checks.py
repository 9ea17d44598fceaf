"""Errors that help, files that are whole or absent, and names for bytes."""

import collections
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils import checks
from sempa_utils.checks import InputError, fingerprint, pick, require_space, write_whole

OPTIONS = {"prompteol": 1, "pretended_cot": 2, "mean": 3}


# --- pick --------------------------------------------------------------------------------------


def test_pick_returns_the_value_of_a_mapping_and_the_name_of_a_collection():
    assert pick("mean", OPTIONS, what="method") == 3
    assert pick("mean", tuple(OPTIONS), what="method") == "mean"


@pytest.mark.parametrize(
    ("typed", "near"), [("promteol", "prompteol"), ("pretended-cot", "pretended_cot"), ("maen", "mean")]
)
def test_pick_offers_the_nearest_name_and_lists_all(typed, near):
    with pytest.raises(InputError) as refusal:
        pick(typed, OPTIONS, what="method")
    message = str(refusal.value)
    assert message.startswith(f"Unknown method {typed!r}. Did you mean {near!r}")
    assert message.endswith("Choose one of: prompteol, pretended_cot, mean.")


def test_pick_offers_nothing_where_nothing_is_near():
    with pytest.raises(InputError) as refusal:
        pick("zzz", OPTIONS, what="method")
    assert str(refusal.value) == "Unknown method 'zzz'. Choose one of: prompteol, pretended_cot, mean."


@pytest.mark.parametrize("wrong", ["", None, 7])
def test_pick_refuses_what_is_no_name_in_the_same_way(wrong):
    with pytest.raises(InputError, match="Unknown method"):
        pick(wrong, OPTIONS, what="method")


# --- write_whole -------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "folders" / "numbers.txt"  # the way there is made
    with write_whole(target) as draft:
        draft.write_text("1 2 3")
        assert not target.exists()
        assert draft.name == target.name, "some writers choose the format by the name's ending"
    assert target.read_text() == "1 2 3"
    assert names(target.parent) == ["numbers.txt"]


def test_a_new_file_replaces_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with write_whole(str(target)) as draft:
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["adapter", "old", "adapter.old"])
def test_a_new_folder_replaces_the_old_one(tmp_path, name):
    target = tmp_path / name
    (target / "inner").mkdir(parents=True)
    (target / "gone.txt").write_text("old")
    with write_whole(target) as draft:
        draft.mkdir()
        (draft / "there.txt").write_text("new")
    assert names(target) == ["there.txt"]
    assert names(tmp_path) == [name]


# A keyboard interrupt is no Exception, and it is what a user does to a long run.
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
def test_an_error_keeps_what_was_there_and_leaves_no_rubbish(tmp_path, before, error):
    target = tmp_path / "result"
    if before == "file":
        target.write_text("old")
    if before == "folder":
        target.mkdir()
        (target / "old.txt").write_text("old")
    expected = [] if before == "nothing" else ["result"]
    with pytest.raises(type(error)):
        with write_whole(target) as draft:
            draft.write_text("half")
            raise error
    assert names(tmp_path) == expected
    if before == "file":
        assert target.read_text() == "old"
    if before == "folder":
        assert (target / "old.txt").read_text() == "old"


@pytest.mark.parametrize("before", ["file", "folder"])
def test_a_block_that_writes_nothing_does_not_cost_the_old_one(tmp_path, before):
    target = tmp_path / "result"
    if before == "file":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError):
        with write_whole(target):
            pass
    assert names(tmp_path) == ["result"]
    assert (target if before == "file" else target / "old.txt").read_text() == "old"


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "result"
    target.mkdir()
    (target / "old.txt").write_text("old")

    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        with write_whole(target) as draft:
            draft.mkdir()
    assert names(tmp_path) == ["result"]
    assert names(target) == ["old.txt"]


def test_a_system_that_opens_and_locks_no_folder_writes_whole_files_too(tmp_path, monkeypatch):
    """As Windows: `os.open` of a folder is refused, and there is no fcntl."""
    real = os.open

    def refuse(path, *arguments, **keywords):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # nor does its rmtree open one
    monkeypatch.setattr(checks, "fcntl", None)
    for text in ("old", "new"):
        with checks.alone(tmp_path / "models"), write_whole(tmp_path / "models" / "one") as draft:
            draft.mkdir()
            (draft / "weights").write_text(text)
    with pytest.raises(KeyboardInterrupt):
        with write_whole(tmp_path / "models" / "one") as draft:
            draft.mkdir()
            raise KeyboardInterrupt
    assert names(tmp_path / "models") == ["one"] and (tmp_path / "models" / "one" / "weights").read_text() == "new"


# --- require_space -----------------------------------------------------------------------------

Usage = collections.namedtuple("Usage", "total used free")


def test_space_is_asked_of_the_disk_that_the_folder_will_be_on(tmp_path, monkeypatch):
    asked = []

    def usage(folder):
        asked.append(Path(folder))
        return Usage(100e6, 60e6, 40e6)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    require_space(tmp_path / "not" / "yet" / "there", 40_000_000, purpose="a checkpoint")  # exactly enough
    with pytest.raises(InputError) as refusal:
        require_space(tmp_path / "not", 40_000_001, purpose="a checkpoint")
    assert asked == [tmp_path, tmp_path]
    message = str(refusal.value)
    assert all(part in message for part in (str(tmp_path), "a checkpoint needs 40 MB", "40 MB free", "another folder"))
    assert not (tmp_path / "not").exists()


# --- fingerprints ------------------------------------------------------------------------------


def test_a_fingerprint_is_what_it_says():
    expected = hashlib.sha256(b"a\x1f1\x1f").hexdigest()[:16]
    assert fingerprint("a", 1) == expected
    assert fingerprint("a", "1") == expected, "each part is taken by its str"


WORDS = st.lists(st.text(st.characters(exclude_characters="\x1f")), max_size=4)


@given(WORDS, WORDS)
def test_a_fingerprint_tells_parts_apart_and_where_they_end(first, second):
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)


def test_a_fingerprint_of_text_that_is_no_unicode():
    # A lone surrogate stands where a file name was not UTF-8.
    assert fingerprint("\udcff") != fingerprint("\udcfe")


def test_file_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The first test vector of FIPS 180.
    assert checks.file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- folders -----------------------------------------------------------------------------------


def test_the_user_can_move_cache_and_build(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    assert (checks.cache_folder(), checks.build_folder()) == (tmp_path / "cache", tmp_path / "build")
    monkeypatch.setenv("SEMPA_CACHE_DIR", "")
    monkeypatch.delenv("SEMPA_BUILD_DIR")
    assert checks.cache_folder().name == "sempa-kit", "empty means the usual place"
    assert checks.build_folder() == Path(checks.__file__).parents[1] / "build"
