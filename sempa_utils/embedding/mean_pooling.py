"""Mean pooling: the sentence as it is; the vector is the mean over its tokens' states.

The tokenizer's own begin token counts as one of them where there is one; padding never does.
"""

from sempa_utils.embedding.method import Method


def mean(config) -> Method:
    """Return mean pooling over all tokens of the bare sentence."""
    return Method("{x}", reads="all")
