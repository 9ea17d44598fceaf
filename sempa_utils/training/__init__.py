"""Training: the recipe, one step of it, the memory it takes, and the run with its checkpoints."""

from sempa_utils.training.recipe import Recipe, lora_config
from sempa_utils.training.run import (
    RECORD,
    RUN,
    WHOLE,
    PeakMemory,
    adapters_by_rows,
    last_whole_checkpoint,
    make_trainer,
    profile_run,
    read_record,
    run_fingerprint,
    run_folder,
    train,
    train_profile,
    train_profiles,
)
