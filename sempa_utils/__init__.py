"""SemPA kit: semantic preference alignment of language models, to read, run and extend.

A newcomer's path: where a new thing goes, and the one line that makes it known.

| a new … | its file | its line |
|---|---|---|
| objective | `objectives/NAME.py` | `OBJECTIVES` in `objectives/__init__.py` |
| extraction method | `embedding/NAME.py` | `METHODS` in `embedding/embedder.py` |
| STS task | `data/corpora.py` | `STS_TASKS` in `data/corpora.py` |
| generation task | `evaluation/generation/harness.py` | `TASKS` in `evaluation/generation/harness.py` |
| figure | `plots/NAME.py` | `PICTURES` in `experiments/report.py` |
| command | `commands/NAME.py` | `COMMANDS` in `__main__.py` |
| table | `experiments/report.py` | `TABLES` in `experiments/report.py` |
"""

import logging
import os

__version__ = "0.1.0"

# torch reads it when it is loaded: a thread that waits for another one sleeps. Else a training step beside a busy
# program takes many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# bitsandbytes says at import that an optional package of faster kernels is missing; nothing here needs it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
