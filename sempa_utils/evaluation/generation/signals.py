"""Cheap signals that a model still speaks: minutes on a laptop, where the benchmarks take hours.

How surprised it is by a text, whether it prefers what follows from a sentence to what contradicts it, what its
paraphrases look like, and how it spreads its bets on the next token. Each function takes a `LanguageModel`, with an
adapter or without; its result depends on the batch size only by rounding.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from sempa_utils import objectives
from sempa_utils.checks import InputError, decode_text, fingerprint
from sempa_utils.data import corpora
from sempa_utils.data.templates import paraphrase_request
from sempa_utils.models import LanguageModel, chat, greedy
from sempa_utils.objectives.answers import Pairwise

REVISION = 1  # of the signals; raised with every change that moves one
TEXT_FILE = Path("text") / "wikitext2_test.txt"
CHUNK = 128  # states whose logits exist at the same time

LONGEST_LOOP = 8  # words
FAULTS = ("unfinished", "empty", "copied", "looping")


# --- perplexity ----------------------------------------------------------------------------------


def load_text(directory: str | Path | None = None) -> corpora.Corpus:
    """Return WikiText-2's test text as one row, or the mini corpus' sentences as a row each where it is not found.

    Looked for as `text/wikitext2_test.txt` in the named directory (argument or `SEMPA_DATA_DIR`), then in the cache.
    """
    for folder, source in corpora.data_folders(directory):
        if (folder / TEXT_FILE).is_file():
            rows = [decode_text((folder / TEXT_FILE).read_bytes(), folder / TEXT_FILE).strip()]
            if not rows[0]:
                raise InputError(f"{folder / TEXT_FILE}: an empty file. Fetch it again or delete it.")
            return corpora.Corpus("WikiText-2 test", rows, source, fingerprint(*rows))
    corpora.require_layout(directory)
    mini = corpora.packaged_ranked_nli()
    rows = [sentence for row in mini.rows for sentence in row]
    return corpora.Corpus("mini corpus' sentences", rows, mini.source, fingerprint(*rows))


class Perplexity(NamedTuple):
    """How surprised a model is by a text: the mean of −log π(token | those before it), its exponential, the tokens."""

    nats_per_token: float
    value: float
    tokens: int


def perplexity(
    language_model: LanguageModel,
    texts: str | list[str],
    *,
    block_length: int = 512,
    limit: int | None = None,
    batch_size: int = 8,
    show_progress_bar: bool = False,
) -> Perplexity:
    """Return the mean surprise at the texts' tokens in nats, its exponential, and the number of tokens.

    Each text is tokenised as the tokenizer does it by itself and cut into blocks of `block_length` tokens that do not
    overlap. A block's first token is read and not scored, the others are, each after those of its block alone; all
    scored tokens weigh the same. `limit` keeps the first blocks that score that many tokens, or a few more.
    Raises `InputError` for a block the model cannot read, or nothing to score.
    """
    longest = getattr(language_model.config, "max_position_embeddings", block_length)
    if not 2 <= block_length <= longest:
        raise InputError(f"Blocks of {block_length} tokens: this model reads 2 to {longest}. Choose such a length.")
    texts = [texts] if isinstance(texts, str) else list(texts)
    rows = language_model.tokenizer(texts, verbose=False)["input_ids"] if texts else []
    blocks = [row[start : start + block_length] for row in rows for start in range(0, len(row), block_length)]
    blocks = [block for block in blocks if len(block) > 1]
    blocks = blocks[: _blocks_within(blocks, limit)]
    blocks.sort(key=len)  # in a batch of equal lengths little is padding
    if not blocks:
        raise InputError("Perplexity needs a text of two tokens or more. Give another text.")
    total, tokens = 0.0, sum(len(block) - 1 for block in blocks)
    batch_size = _together(language_model, batch_size, longest=max(map(len, blocks)))
    for start in tqdm(range(0, len(blocks), batch_size), desc="perplexity", disable=not show_progress_bar):
        batch = blocks[start : start + batch_size]
        ids, attention = _padded(language_model, batch)
        states = _states(language_model, ids, attention)[:, :-1][attention[:, 1:].bool()]
        targets = ids[:, 1:][attention[:, 1:].bool()]
        for part, target in zip(states.split(CHUNK), targets.split(CHUNK)):
            total -= _log_probs(language_model, part).gather(-1, target[:, None]).double().sum().item()
    return Perplexity(total / tokens, math.exp(total / tokens), tokens)


def _blocks_within(blocks: list[list[int]], limit: int | None) -> int:
    scored = 0
    for count, block in enumerate(blocks, start=1):
        scored += len(block) - 1
        if limit is not None and scored >= limit:
            return count
    return len(blocks)


# --- preferences ---------------------------------------------------------------------------------


class PreferenceAccuracy(NamedTuple):
    """The share of rows whose entailed sentence is the likelier one, its standard error, the mean margin in nats."""

    accuracy: float
    standard_error: float
    margin: float
    rows: int


@torch.no_grad()
def preference_accuracy(
    language_model: LanguageModel,
    rows,
    *,
    template: str = "keep_same_meaning",
    max_length: int = 512,
    batch_size: int = 8,
    show_progress_bar: bool = False,
) -> PreferenceAccuracy:
    """Return in what share of NLI rows the entailed sentence is the likelier paraphrase than the contradicted one.

    `rows` have the anchor first, the entailed sentence second and the contradicted one last; give rows held out from
    training. A sentence's likelihood is its summed log-probability as the answer to a paraphrase request, end token
    included, so a short sentence has an advantage; no reference is taken off. Raises `InputError` where no row fits
    into `max_length` tokens.
    """
    ways, device = language_model.ways, language_model.device
    tokenised = objectives.tokenised(
        Pairwise(template=template), language_model.tokenizer, rows=rows, max_length=max_length
    )
    margins = []
    for start in tqdm(range(0, len(tokenised), batch_size), desc="preferences", disable=not show_progress_bar):
        batch = tokenised[start : start + batch_size]
        parts = ways.answers(batch["prompt"], batch["answers"])
        scores = torch.cat([ways.log_probs(language_model.model, part.to(device)) for part in parts]).view(-1, 2)
        margins.append((scores[:, 0] - scores[:, 1]).double().cpu())
    margins = torch.cat(margins)
    accuracy = (margins > 0).double().mean().item()
    error = math.sqrt(accuracy * (1 - accuracy) / len(margins))
    return PreferenceAccuracy(accuracy, error, margins.mean().item(), len(margins))


# --- paraphrases ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a model wrote: the text, its tokens without the end token, and whether it came to an end by itself."""

    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: at temperature 0 the most likely one at each step, else drawn by the seed."""

    temperature: float = 0.0
    seed: int = 42
    max_new_tokens: int = 64

    def __post_init__(self):
        if self.temperature < 0:
            raise InputError(f"A temperature of {self.temperature} draws nothing. Give 0 (most likely token) or more.")


@torch.no_grad()
def paraphrases(
    language_model: LanguageModel,
    sentences: list[str],
    *,
    template: str = "keep_same_meaning",
    sampling: Sampling | None = None,
    batch_size: int = 16,
    show_progress_bar: bool = False,
) -> list[Answer]:
    """Let the model paraphrase `sentences` in the words in which it was trained to; return an answer to each.

    At temperature 0 what all requests begin with is read once, where that is exact for the model; what is drawn above
    it depends on the batch size. Raises `InputError` for an unknown template.
    """
    tokenizer, model, sampling = language_model.tokenizer, language_model.model, sampling or Sampling()
    prompts = [_prompt_tokens(tokenizer, paraphrase_request(sentence, template)) for sentence in sentences]
    ends = _end_tokens(language_model)
    # Neutral values, stated, so that a model's own generation settings do not mix in.
    how = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "do_sample": sampling.temperature > 0}
    how |= {"temperature": sampling.temperature, "top_p": 1.0, "top_k": 0} if sampling.temperature else {}
    how |= {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    rows, bar = [], tqdm(total=len(prompts), desc="paraphrasing", disable=not show_progress_bar)
    longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
    if prompts and not sampling.temperature and greedy.is_exact(model, language_model.ways, longest=longest):
        most = {"most": sampling.max_new_tokens, "together": max(batch_size, greedy.TOGETHER)}
        rows = greedy.continuations(model, prompts, ended=lambda row: row[-1] in ends, progress=bar.update, **most)
    with torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        batch_size = _together(language_model, batch_size, longest=longest, left=True)
        for start in range(len(rows), len(prompts), batch_size):
            ids, attention = _padded(language_model, prompts[start : start + batch_size], left=True)
            rows += model.generate(input_ids=ids, attention_mask=attention, **how)[:, ids.shape[1] :].tolist()
            bar.update(len(ids))
    bar.close()
    return [_answer(tokenizer, row, ends) for row in rows]


def _answer(tokenizer, row: list[int], ends: list[int]) -> Answer:
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    return Answer(tokenizer.decode(row[:length], skip_special_tokens=True).strip(), length, length < len(row))


def faults(answer: Answer, sentence: str) -> list[str]:
    """Return which of `FAULTS` an answer to a paraphrase request has; a well-formed one has none.

    unfinished: no end token within the limit. empty: not one letter or digit. copied: the sentence itself, or all of
    the request, whatever case and punctuation. looping: one to eight words that stand three times in a row.
    """
    request = paraphrase_request(sentence)
    words, requested = _words(answer.text), _words(request if isinstance(request, str) else request[-1]["content"])
    faulty = {
        "unfinished": not answer.ended,
        "empty": not words,
        "copied": bool(words) and words in (_words(sentence), requested),
        "looping": _loops(words),
    }
    return [fault for fault in FAULTS if faulty[fault]]


def well_formed(answers: list[Answer], sentences: list[str]) -> float:
    """Return the share of answers without a fault."""
    pairs = zip(answers, sentences, strict=True)
    return sum(not faults(answer, sentence) for answer, sentence in pairs) / len(sentences)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("'", "").replace("’", ""))


def _loops(words: list[str]) -> bool:
    for length in range(1, LONGEST_LOOP + 1):
        for start in range(len(words) - 3 * length + 1):
            first, second, third = (words[start + k * length : start + (k + 1) * length] for k in range(3))
            if first == second == third:
                return True
    return False


# --- variety -------------------------------------------------------------------------------------


def distinct_n(texts: list[str], n: int = 2) -> float:
    """Return the share of different ones among all runs of `n` words of all texts; 0 if there is none.

    Case and punctuation do not count. The more text, the lower: compare equally many answers. Source: Li et al. 2016.
    """
    grams = [gram for text in texts for gram in _grams(_words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: list[str], order: int = 4) -> float:
    """Return the mean BLEU of each text with all others as its references, in 0 to 100; high where all sound alike.

    Over words, runs of 1 to `order` of them as far as the text is long enough, counts above one word smoothed by adding
    one (Lin & Och 2004), the brevity penalty by the reference nearest in length. Raises `InputError` for fewer than
    two texts. Source: Zhu et al. 2018.
    """
    if len(texts) < 2:
        raise InputError(f"Self-BLEU compares texts with each other; {len(texts)} is too few. Give two or more.")
    rows = [_words(text) for text in texts]
    return sum(_bleu(row, rows[:place] + rows[place + 1 :], order) for place, row in enumerate(rows)) / len(rows)


def _bleu(words: list[str], references: list[list[str]], order: int) -> float:
    if not words:
        return 0.0
    logarithms = []
    for n in range(1, min(order, len(words)) + 1):
        allowed = Counter()
        for reference in references:
            allowed |= Counter(_grams(reference, n))  # of each run the most that one reference has
        right = (Counter(_grams(words, n)) & allowed).total()
        all_of_them = len(words) - n + 1
        if n > 1:
            right, all_of_them = right + 1, all_of_them + 1
        if not right:
            return 0.0
        logarithms.append(math.log(right / all_of_them))
    nearest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    brevity = min(0.0, 1 - nearest / len(words))
    return 100 * math.exp(brevity + sum(logarithms) / len(logarithms))


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


# --- the next token ------------------------------------------------------------------------------


def next_token_log_probs(language_model: LanguageModel, prompts: list, *, batch_size: int = 16) -> torch.Tensor:
    """Return log π(token | prompt) for every token of the vocabulary: (prompts, vocabulary), float32, on the CPU.

    A prompt is a text, taken as it is, or a chat (a list of turns), taken up to where the assistant begins.
    """
    rows = [_prompt_tokens(language_model.tokenizer, prompt) for prompt in prompts]
    log_probs = []
    batch_size = _together(language_model, batch_size, longest=max(map(len, rows)))
    for start in range(0, len(rows), batch_size):
        ids, attention = _padded(language_model, rows[start : start + batch_size])
        states = _states(language_model, ids, attention)
        last = states[torch.arange(len(ids), device=ids.device), attention.sum(dim=1) - 1]
        log_probs.append(_log_probs(language_model, last).cpu())
    return torch.cat(log_probs)


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Return −Σ p log p over the last axis, in nats."""
    return torch.special.entr(log_probs.double().exp()).sum(dim=-1)


def divergence(log_probs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the Kullback–Leibler divergence Σ p (log p − log q) over the last axis, in nats; p is the first."""
    log_probs, other = log_probs.double(), other.double()
    return (log_probs.exp() * (log_probs - other)).sum(dim=-1)


def next_token_entropy(language_model: LanguageModel, prompts: list, *, batch_size: int = 16) -> torch.Tensor:
    """Return the entropy of the next token after each prompt, in nats: (prompts,), float64.

    0 is certainty, log of the vocabulary's size no idea at all. Prompts as in `next_token_log_probs`.
    """
    return entropy(next_token_log_probs(language_model, prompts, batch_size=batch_size))


# --- all of it -----------------------------------------------------------------------------------


def open_sentences(sentences: list[str]) -> list[str]:
    """Return the first half of each sentence's words: a text that wants to go on."""
    halves = [sentence.split()[: max(1, len(sentence.split()) // 2)] for sentence in sentences]
    return [" ".join(words) for words in halves]


def signals(
    language_model: LanguageModel,
    texts: str | list[str],
    *,
    rows,
    answers: list[Answer] | None = None,
    limit: int | None = None,
    show_progress_bar: bool = False,
) -> dict[str, float]:
    """Return all cheap signals of one model as numbers: `SIGNALS` says what each is.

    `texts` are for the perplexity (`limit` tokens of them), `rows` NLI rows held out from training: their preference
    is scored, their anchors are paraphrased (`answers`, if that was done before) and broken off half-way.
    """
    anchors = [row[0] for row in rows]
    shared = {"batch_size": 8, "show_progress_bar": show_progress_bar}
    surprise = perplexity(language_model, texts, limit=limit, **shared)
    preference = preference_accuracy(language_model, rows, **shared)
    answers = paraphrases(language_model, anchors, **shared) if answers is None else answers
    written = [answer.text for answer in answers]
    faults_of_each = [faults(answer, anchor) for answer, anchor in zip(answers, anchors, strict=True)]
    next_tokens = next_token_entropy(language_model, open_sentences(anchors), batch_size=8)
    return {
        "perplexity": surprise.value,
        "preference": 100 * preference.accuracy,
        "preference_standard_error": 100 * preference.standard_error,
        "well_formed": 100 * well_formed(answers, anchors),
        **{fault: 100 * sum(fault in faulty for faulty in faults_of_each) / len(answers) for fault in FAULTS},
        "length": sum(answer.tokens for answer in answers) / len(answers),
        "distinct_2": 100 * distinct_n(written, 2),
        "self_bleu": self_bleu(written),
        "entropy": next_tokens.mean().item(),
    }


SIGNALS = {
    "perplexity": "perplexity of the text",
    "preference": "entailed likelier than contradicted, % of rows",
    "preference_standard_error": "± one standard error",
    "well_formed": "paraphrases without a fault, %",
    "unfinished": "… unfinished within the limit, %",
    "empty": "… without a word, %",
    "copied": "… a copy of the sentence, %",
    "looping": "… with words three times in a row, %",
    "length": "tokens of a paraphrase",
    "distinct_2": "distinct-2: different pairs of words among all, %",
    "self_bleu": "self-BLEU: likeness of the paraphrases to each other",
    "entropy": "entropy of the next token in broken-off sentences, nats",
}


# --- shared --------------------------------------------------------------------------------------


def _prompt_tokens(tokenizer, prompt) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return chat.prompt_tokens(tokenizer, prompt)


def _end_tokens(language_model: LanguageModel) -> list[int]:
    """Where an answer ends: the tokenizer's end token, its chat template's, and those of the model's own settings."""
    tokenizer, named = language_model.tokenizer, language_model.model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    ends = (tokenizer.eos_token_id, chat.end_token(tokenizer), *named)
    return sorted({token for token in ends if token is not None})


def _together(language_model: LanguageModel, batch_size: int, *, longest: int, left: bool = False) -> int:
    """Return how many rows may be padded to one length: one where padding there would change the states."""
    return batch_size if language_model.ways.together(longest, left=left) else 1


def _padded(language_model: LanguageModel, rows: list[list[int]], left: bool = False):
    """Return (token ids, attention mask), both (rows, longest), padded on the right, or on the `left`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), language_model.tokenizer.pad_token_id)
    attention = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        attention[index, place] = 1
    return ids.to(language_model.device), attention.to(language_model.device)


@torch.no_grad()
def _states(language_model: LanguageModel, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return the last layer's states after the final norm: (rows, tokens, width)."""
    return language_model.decoder(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state


@torch.no_grad()
def _log_probs(language_model: LanguageModel, states: torch.Tensor) -> torch.Tensor:
    return language_model.ways.logits(language_model.model, states).log_softmax(dim=-1)
