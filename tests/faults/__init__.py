"""Attacks on the kit's promises: a short edition in `tests/test_faults.py`, a longer one by `make faults`."""
