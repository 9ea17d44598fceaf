"""What is kept of a run, and the paper's tables: the typed results, their files, the published figures."""

from sempa_utils.records.store import (
    PUBLISHED,
    PUBLISHED_FOLDER,
    VERSIONED,
    committed_folder,
    costs,
    environment,
    load_run,
    origin,
    plain,
    published,
    published_sts,
    save_run,
    settings_table,
)
