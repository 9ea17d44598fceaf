"""Triplets as preference data: what a loss reads, and the plain way to score an answer.

A triplet becomes one paraphrase request (system and user turn) with the entailed sentence as the
chosen and the contradicted one as the rejected assistant turn (SemPA, section 4.2).
"""

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from sempa_utils.checks import InputError
from sempa_utils.models import LanguageModel
from sempa_utils.templates import paraphrase_request


def preference_dataset(triplets, template: str = "keep_same_meaning") -> Dataset:
    """Return TRL conversational preference data: columns prompt, chosen, rejected (lists of turns).

    `triplets` is an iterable of (anchor, positive, negative); `template` an id of the paper's Table 4.
    """
    return Dataset.from_list(
        [
            {
                "prompt": paraphrase_request(anchor, template),
                "chosen": [{"role": "assistant", "content": positive}],
                "rejected": [{"role": "assistant", "content": negative}],
            }
            for anchor, positive, negative in triplets
        ]
    )


def answer_tokens(tokenizer, request: list[dict], answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of the chat up to the answer, and of the answer with its end token.

    Raises `InputError` where the tokenizer does not keep the request's tokens as a prefix.
    """
    prompt = tokenizer.apply_chat_template(request, add_generation_prompt=True, tokenize=True, return_dict=False)
    turns = [*request, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    if whole[: len(prompt)] != prompt:
        raise InputError(
            "This tokenizer's chat template renders a request differently with and without its answer, so the "
            "answer's tokens cannot be told apart. Set a chat template whose generation prompt is a prefix."
        )
    return prompt, whole[len(prompt) :]


@torch.no_grad()
def answer_log_probs(
    language_model: LanguageModel,
    anchors: list[str],
    answers: list[str],
    template: str = "keep_same_meaning",
    batch_size: int = 16,
    show_progress_bar: bool = False,
) -> torch.Tensor:
    """Return log π(answer | request to paraphrase the anchor), summed over the answer's tokens.

    Shape (n,), float32, in nats; the end token counts. The plain computation: one full sequence per
    pair, padded on the right. To score by the reference, wrap the call in `model.disable_adapter()`.
    """
    tokenizer, device = language_model.tokenizer, language_model.device
    rows = [
        answer_tokens(tokenizer, paraphrase_request(anchor, template), answer)
        for anchor, answer in zip(anchors, answers, strict=True)
    ]
    totals = []
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
        logits = language_model.model.get_output_embeddings()(states[:, :-1][before_answer]).float()
        found = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:][before_answer][:, None])[:, 0]
        rows_of_tokens = before_answer.nonzero()[:, 0]
        totals.append(torch.zeros(len(batch), device=device).index_add_(0, rows_of_tokens, found).cpu())
    return torch.cat(totals) if totals else torch.empty(0)
