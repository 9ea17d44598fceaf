"""What the kit computes of a model beside what one plain forward gives, a whole unpadded sequence each."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from conftest import tiny_tokenizer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import get_peft_model

from sempa_utils import models
from sempa_utils.data import corpora
from sempa_utils.data.templates import fill, paraphrase_request, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.embedding.method import Method
from sempa_utils.evaluation.generation import signals
from sempa_utils.evaluation.generation.harness_model import HarnessModel
from sempa_utils.objectives import tokenised
from sempa_utils.objectives.preferences import answer_log_probs, answer_tokens
from sempa_utils.training import Recipe, lora_config
from sempa_utils.training.step import Step

TOKENIZER = tiny_tokenizer()
ROWS = [row for row in corpora.packaged_ranked_nli().rows[:40] if max(map(len, row)) < 60][:4]
LONG = "A cat sleeps on the warm mat near the window while it rains, and nobody else is there."
SENTENCES = ["The shop opens at nine.", LONG, "Two men play chess."]
CHOICES = [
    ("A man is cooking in the kitchen. He", end) for end in (" stirs the pot.", " flies to the moon.", " sings.")
]
OBJECTIVES = ("pairwise", "one_word", "contrastive")
METHODS = ("prompteol", "mean")
TOLERANCE = 1e-3  # of a difference in float32, absolute, and relative to what is large


class Compared(NamedTuple):
    """Two values of one thing: as the kit computes it, and by plain forwards; (N,) each."""

    ours: torch.Tensor
    plain: torch.Tensor

    @property
    def apart(self) -> float:
        """The largest difference, relative where a value is above one."""
        return float(((self.ours - self.plain).abs() / self.plain.abs().clamp(min=1)).max())


class Training(NamedTuple):
    """A batch's loss and its gradient."""

    loss: Compared
    gradient: Compared

    @property
    def gradient_apart(self) -> float:
        """Length of the difference of the gradients beyond rounding, 1e-6, relative to the plain one's."""
        apart = ((self.gradient.ours - self.gradient.plain).norm() - 1e-6).clamp(min=0)
        return float(apart / self.gradient.plain.norm().clamp(min=1e-6))


def training(base: models.LanguageModel, name: str) -> Training:
    """Compare the loss of an objective on a batch of `ROWS`, and its gradient with respect to a random adapter.

    `pairwise` has the divergence on plain text in it, too.
    """
    recipe = Recipe.make(name, micro_batch=4, chunk=5, kl_weight=2.0 if name == "pairwise" else 0.0)
    rows = list(tokenised(recipe.objective, base.tokenizer, rows=ROWS, max_length=400))
    step = Step(recipe, base.ways)
    with models.given_back(base):
        model = get_peft_model(base.model, lora_config(recipe, base.model)).train()
        torch.manual_seed(3)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def gradient(loss) -> torch.Tensor:
            found = torch.autograd.grad(loss, trained, allow_unused=True)
            return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, trained)])

        losses = step.compute(model, step.collate(rows)).loss, plain_loss(model, recipe, rows=rows)
        gradients = Compared(*map(gradient, losses))
        model.eval()
    return Training(Compared(*(loss.detach()[None] for loss in losses)), gradients)


def plain_loss(model, recipe: Recipe, *, rows: list) -> torch.Tensor:
    """Return the objective's own loss of values that one forward a sequence gives."""
    objective, bare = recipe.objective, models.prefix_tree.causal(model)

    def words(tokens):
        return bare(input_ids=torch.tensor([tokens])).logits[0].float().log_softmax(dim=-1)

    def log_prob(prompt, answer):
        predicted = words(prompt + answer[:-1])[len(prompt) - 1 :]  # the last token is never read
        return predicted.gather(-1, torch.tensor(answer)[:, None]).sum()

    def state(tokens):
        return models.identity.decoder_of(bare)(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1].float()

    def values(columns=None):
        if hasattr(objective, "template"):
            answers = objective.shared([row["answers"] for row in rows])
            return torch.stack([log_prob(row["prompt"], a) for row, mine in zip(rows, answers) for a in mine])
        return torch.stack([state(row[column]) for column in columns for row in rows])

    policy = values(getattr(objective, "moved", None))
    reference = None
    if objective.reference:
        with torch.no_grad(), model.disable_adapter():
            reference = objective.by_row(values(("anchor", "preferred", "rejected")), len(rows))

    def head(states):
        return models.certificate.own_logits(model, states)

    loss = objective.loss(policy, reference, head=head).loss
    if recipe.kl_weight:
        seen, total = set(), []
        for row in rows[: recipe.kl_texts]:
            ours = words(row["plain"])
            with torch.no_grad(), model.disable_adapter():
                theirs = words(row["plain"])
            for place in range(len(row["plain"])):
                if tuple(row["plain"][: place + 1]) not in seen:
                    seen.add(tuple(row["plain"][: place + 1]))
                    total.append((theirs[place].exp() * (theirs[place] - ours[place])).sum())
        loss = loss + recipe.kl_weight * torch.stack(total).mean()
    return loss


@torch.no_grad()
def vectors(base: models.LanguageModel, method: str) -> Compared:
    """Compare the vectors of sentences of several lengths, read together."""
    embedder = Embedder(base, method)
    plain = [plain_vector(base, embedder.method, sentence=sentence) for sentence in SENTENCES]
    return Compared(embedder.encode(SENTENCES, convert_to_tensor=True).flatten(), torch.cat(plain))


def plain_vector(base: models.LanguageModel, method: Method, *, sentence: str) -> torch.Tensor:
    """Return a sentence's vector by one forward of it alone."""
    ids = base.tokenizer(fill(method.template, prepare_sentence(sentence)))["input_ids"]
    states = base.decoder(input_ids=torch.tensor([ids])).last_hidden_state[0].float()
    return states[-1] if method.reads == "last" else states.mean(dim=0)


@torch.no_grad()
def perplexity(base: models.LanguageModel) -> Compared:
    """Compare a text's nats per token, and the entropy of what comes after it."""
    text = " ".join(SENTENCES)
    ids = torch.tensor([base.tokenizer(text)["input_ids"]])
    log_probs = base.model(input_ids=ids).logits[0].float().log_softmax(dim=-1)
    surprise = -log_probs[:-1].gather(-1, ids[0, 1:, None]).mean()
    entropy = torch.special.entr(log_probs[-1].exp()).sum()
    ours = [signals.perplexity(base, [text]).nats_per_token]
    ours.append(signals.next_token_entropy(base, [text, SENTENCES[0]])[0].item())
    return Compared(torch.tensor(ours), torch.stack([surprise, entropy]))


def likelihoods(base: models.LanguageModel) -> Compared:
    """Compare log-likelihoods of answers as benchmarks read them with the harness' own, one by one."""
    asked = [Instance("loglikelihood", {}, row, index) for index, row in enumerate(CHOICES)]
    how = {"tokenizer": base.tokenizer, "max_length": 256}
    stock = HFLM(base.model, batch_size=1, backend="causal", **how).loglikelihood(asked, disable_tqdm=True)
    ours = HarnessModel(base.model, batch_size=2, **how).loglikelihood(asked, disable_tqdm=True)
    return Compared(*(torch.tensor([score for score, _ in scores]) for scores in (ours, stock)))


@torch.no_grad()
def answers(base: models.LanguageModel) -> Compared:
    """Compare the log-probabilities of sentences as answers to a request."""
    anchors, entailed = [row[0] for row in ROWS], [row[1] for row in ROWS]
    plain = []
    for anchor, answer in zip(anchors, entailed):
        prompt, tokens = answer_tokens(base.tokenizer, paraphrase_request(anchor), answer=answer)
        predicted = base.model(input_ids=torch.tensor([prompt + tokens])).logits[0].float().log_softmax(dim=-1)
        plain.append(predicted[len(prompt) - 1 : -1].gather(-1, torch.tensor(tokens)[:, None]).sum())
    return Compared(answer_log_probs(base, anchors, answers=entailed), torch.stack(plain))


COMPARISONS: dict[str, Callable[[models.LanguageModel], Compared]] = {
    **{f"vectors, {method}": lambda base, method=method: vectors(base, method) for method in METHODS},
    "perplexity": perplexity,
    "likelihoods": likelihoods,
    "answers": answers,
}
