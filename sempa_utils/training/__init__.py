"""Training: the recipe, one step of it, the memory it takes, and the run with its checkpoints."""

from sempa_utils.training.run import (
    RECORD,
    RUN,
    WHOLE,
    PeakMemory,
    Recipe,
    adapters_by_rows,
    last_whole_checkpoint,
    make_trainer,
    profile_run,
    read_record,
    run_fingerprint,
    run_folder,
    train,
    train_profile,
)
