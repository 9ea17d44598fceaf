"""Echo embeddings: the sentence twice, the vector is the mean over the second copy's states.

A causal model reads the second copy knowing the whole sentence from the first. Source: Springer et al.
(ICLR 2025), who leave the words around the copies to the user.
"""

from sempa_utils.checks import InputError
from sempa_utils.embedding.method import Method

FRAME = "Rewrite the sentence: {x}\nThe rewritten sentence: {x}"


def echo(config, frame: str = FRAME) -> Method:
    """Return Echo with `frame` around the two copies; the frame's own tokens are not averaged."""
    if frame.count("{x}") != 2:
        raise InputError(f"Echo: the frame {frame!r} must hold {{x}} twice, once for each copy.")
    return Method(frame, reads="second")
