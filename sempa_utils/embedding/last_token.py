"""Last-token read-out: the state from which the model would say the sentence's one word.

PromptEOL (Jiang et al. 2024), and Pretended CoT and Knowledge Enhancement (Zhang et al. 2024), differ
in the template, and the last one in the layer that is read.
"""

from sempa_utils.data.templates import EXTRACTION_TEMPLATES
from sempa_utils.embedding.method import Method


def prompteol(config) -> Method:
    """Return PromptEOL: the last token of '… means in one word:"', the last layer."""
    return Method(EXTRACTION_TEMPLATES["prompteol"])


def pretended_cot(config) -> Method:
    """Return Pretended CoT: PromptEOL that pretends to think step by step first."""
    return Method(EXTRACTION_TEMPLATES["pretended_cot"])


def knowledge_enhancement(config) -> Method:
    """Return Knowledge Enhancement: PromptEOL behind a remark on what matters in a sentence; the last layer but one."""
    return Method(EXTRACTION_TEMPLATES["knowledge_enhancement"], layer=-2)
