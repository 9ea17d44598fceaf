"""SemPA kit: semantic preference alignment of language models, to read, run and extend."""

__version__ = "0.1.0"
