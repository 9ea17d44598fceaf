"""What a tokenizer must be before a model reads by it: padding, a chat template, and nothing behind a text."""

import json
import re
from typing import Any

from tokenizers import Tokenizer

from sempa_utils.checks import InputError
from sempa_utils.data.templates import PLAIN_CHAT_TEMPLATE

# Tokens that may serve as padding because ordinary text never contains them.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")
APPENDED = "sempa_appended"  # the name under which a tokenizer keeps what it put behind a text before


def prepare(tokenizer: Any, rows: int) -> None:
    """Set padding, and the plain chat template where there is none, for an embedding table of `rows` rows.

    What it appends to a text is left out. Raises `InputError` where the end token has no row.
    """
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id >= rows:
        raise InputError(
            f"The tokenizer's end token {tokenizer.eos_token!r} has the number {tokenizer.eos_token_id}, and the "
            f"embedding table {rows} rows. Take the model's own tokenizer, or resize its embeddings and save it again."
        )
    set_padding(tokenizer, rows)
    _append_nothing(tokenizer)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE


def set_padding(tokenizer: Any, rows: int | None = None) -> None:
    """Pad on the left with a token that is not the end token, where the vocabulary has such a token.

    A token beyond the `rows` of the embedding table does not serve. Padding is never attended to, so without an end
    token any other will do.
    """
    tokenizer.padding_side = "left"
    numbers = {token: number for token, number in tokenizer.get_vocab().items() if rows is None or number < rows}
    if tokenizer.pad_token in numbers and tokenizer.pad_token != tokenizer.eos_token:
        return
    reserved = sorted(token for token in numbers if re.fullmatch(r"<\|reserved_special_token_\d+\|>", token))
    candidates = (token for token in (*PAD_CANDIDATES, *reserved) if token in numbers and token != tokenizer.eos_token)
    # The last number: of ordinary words the rarest, since decoding leaves padding out.
    tokenizer.pad_token = next(candidates, tokenizer.eos_token or max(numbers, key=lambda token: numbers[token]))


def _append_nothing(tokenizer: Any) -> None:
    """Let a text end in its own last token: embeddings are read there, and answers follow it."""
    if not (token := _appended(tokenizer)):
        return
    setattr(tokenizer, APPENDED, token)
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend and _appended(tokenizer):
        rules = json.loads(backend.to_str())["post_processor"]
        for part in rules.get("processors", [rules]):
            items = part.get("single", [])
            last = max((place for place, item in enumerate(items) if "Sequence" in item), default=len(items))
            part |= {"single": items[: last + 1]} if items else {}
        empty = {"type": "BPE", "vocab": {}, "merges": []}
        rules = {"version": "1.0", "model": empty, "added_tokens": [], "post_processor": rules}
        backend.post_processor = Tokenizer.from_str(json.dumps(rules)).post_processor
    if token := _appended(tokenizer):
        raise InputError(
            f"The tokenizer appends {token!r} to every text, and embeddings are read from a text's own last token. "
            "Save it again without (add_eos_token=False)."
        )


def _appended(tokenizer: Any) -> str:
    """Return what the tokenizer puts behind a text; "" where it is nothing."""
    tokens, own = tokenizer("A")["input_ids"], tokenizer("A", add_special_tokens=False)["input_ids"]
    return "" if not own or tokens[-len(own) :] == own else tokenizer.convert_ids_to_tokens(tokens[-1])
