"""Full and odd disks: a small tmpfs under a command, a read-only cache, file systems and clocks of all kinds."""

import ctypes
import fcntl
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from faults import kills
from faults.kills import Command

ROOM = "256m"  # of a small disk that was given room again
WAS_FULL = 10  # the code of a fork in which the disk was full
OWN_MOUNTS = 0x00020000  # CLONE_NEWNS: what is mounted in a fork goes with it, however it ends


def can_mount() -> bool:
    """Tell whether a fork may mount file systems of its own here."""
    return (
        os.name == "posix" and ctypes.CDLL(None).geteuid() == 0 and kills.wait(kills.fork(_own, Path.cwd())).code == 0
    )


def _own() -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(OWN_MOUNTS):
        return 1
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def fill(command: Command, folder: Path, *, times: int) -> tuple[int, int]:
    """Run a command on disks of growing size, all smaller than what it writes, and then with room: the same bytes.

    Returns how many disks there were, and how many of them were full before it had ended.
    """
    expected, _ = kills.quiet_run(command, folder / "quiet")
    written = sum(4096 + path.stat().st_size for path in (folder / "quiet").rglob("*"))
    full = 0
    for number in range(times):
        place = folder / str(number)
        place.mkdir()

        def on_small_disk(place=place, size=8192 + written * number // times) -> int:
            assert _own() == 0
            _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
            ended = kills.wait(kills.fork(kills.work(command), place))
            was_full = kills.check_full(command, ended)
            _mount("-o", f"remount,size={ROOM}", str(place))
            kills.compare(command, place, expected)
            return WAS_FULL if was_full else 0

        ended = kills.wait(kills.fork(on_small_disk, folder / "here"))
        assert ended.code in (0, WAS_FULL), ended.said
        full += ended.code == WAS_FULL
    return times, full


def read_only_cache(fetch: Command, reads: Command, folder: Path) -> None:
    """Let a command read a model in a cache that cannot be written, and `fetch` meet one that is empty."""
    expected, _ = kills.quiet_run(reads, folder / "quiet")
    place = folder / "read-only"

    def on_read_only_cache() -> int:
        assert _own() == 0
        kills.quiet_run(fetch, place)
        cache, empty = place / "cache", place / "empty"
        (empty / "cache").mkdir(parents=True)
        for one in (cache, empty / "cache"):
            _mount("--bind", str(one), str(one))
            _mount("-o", "remount,bind,ro", str(one))
        kills.compare(reads, place, expected)
        ended = kills.wait(kills.fork(kills.work(fetch), empty))
        errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
        assert ended.code == 1 and len(errors) == 1 and "Read-only" in errors[0], ended.said
        assert "Traceback" not in ended.said, ended.said
        return 0

    ended = kills.wait(kills.fork(on_read_only_cache, folder / "here"))
    assert ended.code == 0, ended.said


def _refuse(*_, **__):
    raise PermissionError(1, os.strerror(1))


def without_links() -> None:
    """Be a file system that knows neither links nor locks, as those of memory cards and of some networks."""
    os.link = os.symlink = fcntl.flock = _refuse


def slow() -> None:
    """Be a disk on which a file that is renamed is long under way."""
    replace = os.replace

    def late(*given, **how):
        time.sleep(0.05)
        return replace(*given, **how)

    os.replace = late


def jumping_clock() -> None:
    """Be a clock that is set forward and back, by up to a year, whenever it is looked at."""
    now, chance = time.time, random.Random(0)
    time.time = lambda: now() + chance.uniform(-3e7, 3e7)


ODD: dict[str, Callable[[], None]] = {
    "no links, no locks": without_links,
    "a slow disk": slow,
    "a clock that jumps": jumping_clock,
}


def odd(command: Command, folder: Path) -> int:
    """Run a command in odd surroundings, to the same bytes; return in how many."""
    expected, _ = kills.quiet_run(command, folder / "quiet")
    for name, make in ODD.items():

        def work(make=make) -> int:
            make()
            return kills.work(command)()

        place = folder / name.replace(", ", "-").replace(" ", "-")
        ended = kills.wait(kills.fork(work, place))
        assert ended.code == 0, f"{command.name} with {name} ends with {ended.code}: {ended.said}"
        found = command.outcome(place)
        unlike = [part for part in expected | found if found.get(part) != expected.get(part)]
        assert not unlike, f"{command.name} with {name} has other bytes in {unlike}"
    return len(ODD)
