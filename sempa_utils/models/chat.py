"""A chat as token ids, whatever a model's own template makes of it.

Some templates have no system role, some let the model think before it answers, some write today's date. What a template
does is seen in the text that it renders, so no list of names is kept.
"""

import datetime
import os.path

from sempa_utils.checks import InputError, first_line

# Thinking off, by the switches that templates have for it, and one date for all days (the one that Llama's names).
FIXED = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}
DAY, CODES = datetime.datetime(2024, 7, 26), "%d %m %y %Y %b %B %a %A %j %H %I %M %S".split()
DATE = {code: DAY.strftime(code) for code in CODES} | {"%-d": "26", "%-m": "7"}
REPLACED = "".join(f" | replace('{code}', '{text}')" for code, text in DATE.items())
DATE_MACRO = "{% macro strftime_now(format) %}{{ format" + REPLACED + " }}{% endmacro %}"
PROBES = ("A", "7")  # answers that share no beginning


def prompt_tokens(tokenizer, turns: list[dict]) -> list[int]:
    """Return the token ids of a chat up to where its answer begins: those of `answer_tokens`."""
    turns, before, _ = _rendered(tokenizer, turns, PROBES[0])
    return _tokens(tokenizer, _frame(tokenizer, turns, before) or before)


def answer_tokens(tokenizer, turns: list[dict], *, answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of a chat up to its answer, and of the answer with what the template closes it by.

    The first depend on the turns alone. Raises `InputError` where the template does not let them be told apart.
    """
    turns, before, whole = _rendered(tokenizer, turns, answer)
    before = _frame(tokenizer, turns, before)
    prompt, tokens = _tokens(tokenizer, before), _tokens(tokenizer, whole)
    if before and whole.startswith(before) and tokens[: len(prompt)] != prompt:  # a token reaches over the seam
        tokens = prompt + _tokens(tokenizer, whole[len(before) :])
    if not prompt or tokens[: len(prompt)] != prompt or len(tokens) == len(prompt):
        raise InputError(
            "This tokenizer's chat template renders a request differently with and without its answer, so the "
            "answer's tokens cannot be told apart. Set a chat template whose generation prompt is a prefix."
        )
    return prompt, tokens[len(prompt) :]


def is_plain(tokenizer, turns: list[dict]) -> bool:
    """Whether a chat is what the template makes of it by itself: system words, thinking and dates as they stand."""
    try:
        plain = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except Exception:  # as in `_text`
        return False
    return prompt_tokens(tokenizer, turns) == _tokens(tokenizer, plain)


def end_token(tokenizer) -> int | None:
    """Return the special token by which the template closes an answer; None where it has none."""
    try:
        first, second = (answer_tokens(tokenizer, [_turn("user", "?")], answer=probe)[1] for probe in PROBES)
    except InputError:
        return None
    tail = os.path.commonprefix([first[::-1], second[::-1]])[::-1]
    return next((token for token in tail if token in tokenizer.added_tokens_decoder), None)


def _rendered(tokenizer, turns: list[dict], answer: str) -> tuple[list[dict], str, str]:
    """Return turns that the template shows, their text up to the answer, and with it ("" where it cannot be).

    Where it refuses the system's words or leaves them out, they begin the user's turn, as the makers of such models
    advise.
    """
    texts = [_text(tokenizer, turns), _text(tokenizer, turns, answer)]
    if turns[0]["role"] == "system" and len(turns) > 1:
        words, user = (turn["content"] for turn in turns[:2])
        words = words.strip()
        elsewhere = sum(turn["content"].count(words) for turn in [*turns[1:], _turn("assistant", answer)])
        if not texts[0] or any(text and text.count(words) <= elsewhere for text in texts):
            turns = [_turn("user", f"{words}\n\n{user}"), *turns[2:]]
            texts = [_text(tokenizer, turns), _text(tokenizer, turns, answer)]
    if not texts[0]:
        try:
            _render(tokenizer, turns)
        except Exception as error:  # as in `_text`
            reason = first_line(error)
            raise InputError(f"The tokenizer's chat template renders no request: {reason} Set another one.") from error
    return turns, texts[0], texts[1]


def _frame(tokenizer, turns: list[dict], before: str) -> str:
    """Return the text behind which every answer stands; "" where none is to be seen.

    It is what the chats of two answers have in common: the generation prompt `before`, but for its end where a model
    thinks, or names a channel, before it answers.
    """
    frame = os.path.commonprefix([_text(tokenizer, turns, probe) for probe in PROBES])
    if frame.startswith(before) and not frame[len(before) :].strip():
        return before
    frame = frame.rstrip(" ")  # a word's space is part of its token
    return frame if before.startswith(frame) or frame.startswith(before) else ""


def _text(tokenizer, turns: list[dict], answer: str | None = None) -> str:
    try:
        return _render(tokenizer, turns, answer)
    except Exception:  # a template is a program, and fails in as many ways
        return ""


def _render(tokenizer, turns: list[dict], answer: str | None = None) -> str:
    turns = turns if answer is None else [*turns, _turn("assistant", answer)]
    template = tokenizer.get_chat_template()
    template = DATE_MACRO + template if "strftime_now" in template else template
    how = {"chat_template": template, "add_generation_prompt": answer is None, "tokenize": False}
    return tokenizer.apply_chat_template(turns, **how, **FIXED)


def _tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}
