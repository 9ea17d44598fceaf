"""SemPA kit: semantic preference alignment of language models, to read, run and extend."""

import logging

__version__ = "0.1.0"

# bitsandbytes says at import that an optional package of faster kernels is missing; nothing here needs it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
