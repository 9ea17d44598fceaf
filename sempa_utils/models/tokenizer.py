"""What a tokenizer must have before a model reads by it: padding, and a chat template, within the embedding table."""

import re
from typing import Any

from sempa_utils.checks import InputError
from sempa_utils.data.templates import PLAIN_CHAT_TEMPLATE

# Tokens that may serve as padding because ordinary text never contains them.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")


def prepare(tokenizer: Any, rows: int) -> None:
    """Set padding, and the plain chat template where there is none, for an embedding table of `rows` rows.

    Raises `InputError` where the end token has no row.
    """
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id >= rows:
        raise InputError(
            f"The tokenizer's end token {tokenizer.eos_token!r} has the number {tokenizer.eos_token_id}, and the "
            f"embedding table {rows} rows. Take the model's own tokenizer, or resize its embeddings and save it again."
        )
    set_padding(tokenizer, rows)
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
