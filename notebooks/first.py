"""Train what the notebooks share, SemPA first, and write down at once what it did; `notebooks/run.py` calls this.

The notebooks find all of it again: adapters, cosines, perplexities. What was found stands in build/records/first.json
and, as a picture, in build/first.png.
"""

import os
import sys

from sempa_utils import models, profiles, records, training
from sempa_utils.checks import build_folder, write_whole
from sempa_utils.experiments import effect
from sempa_utils.plots.training import objectives_compared

SEED = 42
# As the notebooks name them; contrastive is the paper's baseline, which nothing holds to the base.
FIRST = {"SemPA": {}}
OTHERS = {
    "one word": {"objective": "one_word"},
    "contrastive": {"objective": "contrastive", "kl_weight": 0.0},
    "listwise SemPA": {"objective": "listwise"},
    "SemPA without KL": {"kl_weight": 0.0},
}


def main() -> int:
    """Train and score SemPA and write it down; then the others, and write all of it down."""
    train_and_score(FIRST)
    train_and_score(FIRST | OTHERS)
    return 0


def train_and_score(runs: dict[str, dict]) -> None:
    """Train or find the runs, score them beside the base, and leave record and picture of it."""
    profile, name = profiles.get(), os.environ.get("SEMPA_MODEL", models.PACKAGED)
    changes = {row: one | {"seed": SEED} for row, one in runs.items()}
    trained = training.train_profiles(name, profile, runs=changes)
    run, rows, _ = trained["SemPA"]
    base = models.load(name, profile.evaluation_precision)
    adapters = {row: one.record.adapter for row, one in trained.items()}
    if len(runs) > 1:
        adapters |= models.finished_adapters(base)
    found = effect.effects(base, adapters, trained_on=rows, profile=profile, seed=SEED)
    with write_whole(build_folder() / "first.png") as draft:
        bars = {row: (one.before, one.difference) for row, one in found.items()}
        objectives_compared(bars).savefig(draft, format="png", dpi=110)
    headline = f"SemPA, {len(rows):,} triplets: {found['SemPA'].words()}"
    origin = records.Origin(base.describe(), rows.record(), run.recipe, SEED)
    records.save_run(records.run_record("first", found, headline=headline, origin=origin))
    print(headline, flush=True)


if __name__ == "__main__":
    sys.exit(main())
