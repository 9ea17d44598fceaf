"""Train SemPA and write down at once what it did; `notebooks/run.py` calls this before anything else.

The notebooks find all of it again: adapter, cosines, perplexity. What was found stands in build/records/effect_first.json
and, as a picture, in build/first.png.
"""

import os
import warnings

from sempa_utils import models, profiles, records, training
from sempa_utils.checks import build_folder, write_whole
from sempa_utils.experiments import effect
from sempa_utils.plots.training import objectives_compared

# Between the libraries, about their next releases; the pins hold them where they are.
warnings.filterwarnings("ignore", category=FutureWarning)
SEED = 42
SEMPA = {"SemPA": {}}  # {row: what its recipe changes}, as the notebooks have it


def train_and_score(runs: dict[str, dict], record: str, *, finished: bool = False) -> None:
    """Train or find the runs, score them beside the base, and leave record and picture under a name."""
    profile, name = profiles.get(), os.environ.get("SEMPA_MODEL", models.PACKAGED)
    changes = {row: one | {"seed": SEED} for row, one in runs.items()}
    trained = training.train_profiles(name, profile, runs=changes)
    run, rows, _ = trained["SemPA"]
    base = models.load(name, profile.evaluation_precision)
    adapters = {row: one.record.adapter for row, one in trained.items()}
    if finished:
        brought = models.finished_adapters(base)
        adapters |= {f"finished: {label}": folder for label, folder in brought.items()}
    found = effect.effects(base, adapters, trained_on=rows, profile=profile, seed=SEED)
    with write_whole(build_folder() / f"{record}.png") as draft:
        bars = {row: (one.before, one.difference) for row, one in found.items()}
        objectives_compared(bars).savefig(draft, format="png", dpi=110)
    headline = f"SemPA, {len(rows):,} triplets: {found['SemPA'].words()}"
    if len(found) > 1:
        headline = "; ".join(f"{row} {one.brief()}" for row, one in found.items())
    origin = records.Origin(base.describe(), rows.record(), run.recipe, SEED)
    records.save_run(
        records.run_record(f"effect_{record}", found, headline=headline, origin=origin)
    )
    print(headline, flush=True)


if __name__ == "__main__":
    train_and_score(SEMPA, "first")
