"""The command line: the notebooks' runs without a notebook. `python -m sempa_utils --help`."""

import argparse
import sys
import warnings

from sempa_utils.checks import InputError, is_full_disk
from sempa_utils.commands import (
    analyse,
    benchmark,
    doctor,
    encode,
    evaluate,
    export,
    fetch,
    plan,
    report,
    reproduce,
    shared,
    train,
)

# In the order of --help.
COMMANDS = (doctor, fetch, train, plan, encode, evaluate, analyse, benchmark, reproduce, export, report)

EPILOGUE = """\
examples
  python -m sempa_utils doctor
  python -m sempa_utils train --profile cpu --output build/adapters/mine
  python -m sempa_utils encode --adapter build/adapters/mine/adapter --input lines.txt --output vectors.npy
  python -m sempa_utils evaluate --methods mean,prompteol --tasks STS-B --data DIRECTORY
  python -m sempa_utils export --adapter build/adapters/mine/adapter --output build/exported

environment
  SEMPA_DATA_DIR   a directory with nli/ and senteval/, looked into first
  SEMPA_CACHE_DIR  where the packaged model and fetched data are kept
  SEMPA_PROFILE    the default of --profile
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing one clear error."""
    try:
        options = _parser().parse_args(arguments)
        # Between the libraries, about their next releases; the pins hold them where they are.
        warnings.filterwarnings("ignore", category=FutureWarning)
        return options.run(options) or 0
    except Exception as error:
        if not (told := _told(error)):
            raise
        _end_bars()
        print(f"error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _end_bars()
        print("\ninterrupted; the same command goes on from the last whole checkpoint", file=sys.stderr)
        return 130


def _end_bars() -> None:
    """End the lines of progress bars that are still drawn, so that what is said stands on a line of its own."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):  # there is none before the first bar
        bar.close()


def _told(error: Exception) -> str | None:
    """Return what is said of an error of input or disk; None for a fault of ours, which shows its traceback."""
    if isinstance(error, InputError):
        return str(error)
    if is_full_disk(error):
        return "The disk is full, or your share of it. Free some space and run the same command again: it goes on."
    if isinstance(error, OSError):
        place = f"{error.filename}: {error.strerror}. Name another place, or see who may read and write there."
        return place if error.filename else str(error)
    return None


def _parser() -> shared.Parser:
    parser = shared.Parser(
        "python -m sempa_utils",
        description="Train, use and score sentence embeddings by semantic preference alignment (SemPA).",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
