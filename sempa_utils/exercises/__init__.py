"""Exercises that mark themselves, a module for each notebook.

    >>> from sempa_utils import exercises
    >>> exercises.check("dpo_loss", my_dpo_loss)
    dpo_loss ★: 4 of 4 checks passed. Well done.

A checker calls the reader's function on small inputs, compares with what follows from the definition, and says what
passed. It never fails itself: an exception in the reader's function is part of the report. A new exercise goes into the
module of its notebook.
"""

from sempa_utils.exercises import generation, space, sts, theory, training
from sempa_utils.exercises.checker import EXERCISES, Exercise, Report, check, overview
