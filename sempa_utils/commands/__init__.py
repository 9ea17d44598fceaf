"""The commands of `python -m sempa_utils`: a module each, named as its command.

`add` declares the command's options, `run` does it. A new option belongs in the `add` of its command, one that several
commands take in `shared`. Heavy libraries are imported inside `run`, so that `--help` stays quick.
"""
