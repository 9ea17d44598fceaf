"""NLI rows as preference data: what an objective reads, and the plain way to score an answer.

A row becomes one paraphrase request (system and user turn) with its sentences as assistant turns, the
entailed one chosen and the contradicted one rejected (SemPA, section 4.2); or its sentences in a
template that asks for them in one word.
"""

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from sempa_utils.checks import InputError
from sempa_utils.data.templates import PLAIN_CHAT_TEMPLATE, paraphrase_request
from sempa_utils.models import LanguageModel, chat


def preference_dataset(triplets, template: str = "keep_same_meaning") -> Dataset:
    """Return TRL conversational preference data: columns prompt, chosen, rejected (lists of turns).

    `triplets` is an iterable of rows whose first sentence is the anchor, whose second is entailed and
    whose last is contradicted; `template` an id of the paper's Table 4, or of an extraction template: then
    the columns are plain text.
    """
    requests = [(paraphrase_request(row[0], template), row[1], row[-1]) for row in triplets]
    return Dataset.from_list(
        [
            {"prompt": request, "chosen": _answered(request, chosen), "rejected": _answered(request, rejected)}
            for request, chosen, rejected in requests
        ]
    )


def _answered(request: list[dict] | str, answer: str) -> list[dict] | str:
    return answer if isinstance(request, str) else [{"role": "assistant", "content": answer}]


def answer_tokens(tokenizer, request: list[dict] | str, *, answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of the chat up to the answer, and of the answer with its end token.

    A plain text and its answer are tokenised apart, so that the last token is the one that embeddings are read
    from. Raises `InputError` where the tokenizer does not keep a chat's tokens as a prefix, or has no end token.
    """
    if tokenizer.eos_token is None and (isinstance(request, str) or tokenizer.chat_template == PLAIN_CHAT_TEMPLATE):
        raise InputError(
            "This tokenizer has no end token, so an answer would have no end. Set its eos_token and save it again, or "
            "train an objective without answers (one_word, contrastive)."
        )
    if isinstance(request, str):
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return tokenizer(request)["input_ids"], [*answer_ids, tokenizer.eos_token_id]
    return chat.answer_tokens(tokenizer, request, answer=answer)


@torch.no_grad()
def answer_log_probs(
    language_model: LanguageModel,
    anchors: list[str],
    *,
    answers: list[str],
    template: str = "keep_same_meaning",
    batch_size: int = 16,
    show_progress_bar: bool = False,
) -> torch.Tensor:
    """Return log π(answer | request to paraphrase the anchor), summed over the answer's tokens.

    Shape (n,), float32, in nats; the end token counts. The plain computation: one full sequence per
    pair, padded on the right. To score by the reference, wrap the call in `model.disable_adapter()`.
    """
    tokenizer, device, ways = language_model.tokenizer, language_model.device, language_model.ways
    rows = [
        answer_tokens(tokenizer, paraphrase_request(anchor, template), answer=answer)
        for anchor, answer in zip(anchors, answers, strict=True)
    ]
    longest = max((len(prompt) + len(answer) for prompt, answer in rows), default=0)
    batch_size, totals = batch_size if ways.together(longest) else 1, []
    for start in tqdm(range(0, len(rows), batch_size), desc="scoring answers", disable=not show_progress_bar):
        batch = rows[start : start + batch_size]
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        is_answer = torch.zeros_like(ids, dtype=torch.bool)
        attention = torch.zeros_like(ids)
        for index, (prompt, answer) in enumerate(batch):
            length = len(prompt) + len(answer)
            ids[index, :length] = torch.tensor(prompt + answer)
            attention[index, :length] = 1
            is_answer[index, len(prompt) : length] = True
        ids, attention, is_answer = ids.to(device), attention.to(device), is_answer.to(device)
        states = language_model.decoder(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
        # Position t predicts token t + 1; only positions before an answer token go through the head.
        before_answer = is_answer[:, 1:]
        logits = ways.logits(language_model.model, states[:, :-1][before_answer])
        found = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:][before_answer][:, None])[:, 0]
        rows_of_tokens = before_answer.nonzero()[:, 0]
        totals.append(torch.zeros(len(batch), device=device).index_add_(0, rows_of_tokens, found).cpu())
    return torch.cat(totals) if totals else torch.empty(0)
