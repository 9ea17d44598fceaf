"""What is exact for a model is measured: every family gives what a plain forward gives, or ends in one clear error."""

import math

import pytest
import torch
from conftest import tiny_tokenizer
from families import FAMILIES, NO_CACHE, NO_TREE, OWN_LOGITS, random_model

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.templates import fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation.generation import signals
from sempa_utils.models import Ways
from sempa_utils.objectives import OBJECTIVES, tokenised
from sempa_utils.training import Recipe, lora_config
from sempa_utils.training.step import Step

TOKENIZER = tiny_tokenizer()
RIGHT = {"rwkv", "recurrent_gemma"}
ROWS = [row for row in corpora.packaged_ranked_nli().rows[:40] if max(map(len, row)) < 60][:4]


def wrapped(name: str) -> models.LanguageModel:
    return models.wrap(random_model(name), TOKENIZER, name=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ways_that_are_taken_are_those_that_are_exact(name):
    ways = wrapped(name).ways
    assert ways.tree == (name not in NO_TREE)
    assert ways.plain_head == (name not in OWN_LOGITS)
    assert ways.prefix_cache == (name not in NO_CACHE)
    assert ways.padding == ("right" if name in RIGHT else "left") and ways.window is None
    assert len(ways.lines()) == (not ways.tree) + (not ways.plain_head) + (not ways.prefix_cache) + (name in RIGHT)


def plainly(model, row, template="keep_same_meaning"):
    """Each answer's log-probability, each sentence's one-word state and logits: one whole forward each."""
    decoder = models.prefix_tree.causal(model)

    def log_prob(prompt, answer):
        ids = torch.tensor([prompt + answer])
        logits = decoder(input_ids=ids).logits[0, :-1].float().log_softmax(dim=-1)
        return logits[len(prompt) - 1 :].gather(-1, ids[0, len(prompt) :, None]).sum()

    def state(tokens):
        return decoder.get_decoder()(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1].float()

    def words(tokens):
        return decoder(input_ids=torch.tensor([tokens])).logits[0].float().log_softmax(dim=-1)

    return log_prob, state, words


def plain_loss(model, recipe, rows) -> torch.Tensor:
    """The objective's own loss of values that one forward a sequence gives."""
    objective = recipe.objective
    log_prob, state, words = plainly(model, rows)

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


@pytest.mark.parametrize("objective", ["pairwise", "one_word", "contrastive"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_those_of_a_forward_a_sequence(name, objective):
    from peft import get_peft_model

    recipe = Recipe.make(objective, micro_batch=4, chunk=5, kl_weight=2.0 if objective == "pairwise" else 0.0)
    base = wrapped(name)
    ways = base.ways
    model = get_peft_model(base.model, lora_config(recipe, base.model.config.model_type)).train(name == "rwkv")
    torch.manual_seed(3)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.05)
    rows = list(tokenised(recipe.objective, base.tokenizer, rows=ROWS, max_length=400))
    step, trained = Step(recipe, ways), [p for p in model.parameters() if p.requires_grad]

    def gradient(loss) -> torch.Tensor:
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, trained)])

    ours = step.compute(model, step.collate(rows)).loss
    plain = plain_loss(model, recipe, rows)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-3, rel=1e-3)
    assert abs(ours.item() - math.log(2)) > 1e-4, "the adapter must move it away from chance"
    one, other = gradient(ours), gradient(plain)
    assert other.norm() > 1e-6 and (one - other).norm() < 2e-3 * other.norm() + 1e-6


LONG = "A cat sleeps on the warm mat near the window while it rains, and nobody else is there."
SENTENCES = ["The shop opens at nine.", LONG, "Two men play chess."]


@pytest.mark.parametrize("method", ["prompteol", "mean"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_vector_is_that_of_a_plain_forward_whatever_its_batch(name, method):
    base = wrapped(name)
    embedder = Embedder(base, method)
    for sentence, vector in zip(SENTENCES, embedder.encode(SENTENCES, convert_to_tensor=True)):
        text = fill(embedder.method.template, prepare_sentence(sentence))
        with torch.no_grad():
            states = base.decoder(input_ids=torch.tensor([TOKENIZER(text)["input_ids"]])).last_hidden_state[0]
        plain = states[-1] if method == "prompteol" else states.mean(dim=0)
        torch.testing.assert_close(vector, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_signals_and_likelihoods_are_the_models_own(name):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from sempa_utils.evaluation.generation.harness_model import HarnessModel

    base = wrapped(name)
    text = " ".join(SENTENCES)
    ids = torch.tensor([TOKENIZER(text)["input_ids"]])
    with torch.no_grad():
        log_probs = base.model(input_ids=ids).logits[0].float().log_softmax(dim=-1)
    own = log_probs[:-1].gather(-1, ids[0, 1:, None]).mean()
    assert signals.perplexity(base, [text]).nats_per_token == pytest.approx(-own.item(), abs=1e-3)
    entropy = signals.next_token_entropy(base, [text, SENTENCES[0]])[0]
    assert entropy == pytest.approx(torch.special.entr(log_probs[-1].exp()).sum().item(), abs=1e-3)
    rows = [
        ("A man is cooking in the kitchen. He", end) for end in (" stirs the pot.", " flies to the moon.", " sings.")
    ]
    asked = [Instance("loglikelihood", {}, row, index) for index, row in enumerate(rows)]
    how = {"tokenizer": TOKENIZER, "batch_size": 2, "max_length": 256}
    stock = [score for score, _ in HFLM(base.model, **how | {"batch_size": 1}).loglikelihood(asked, disable_tqdm=True)]
    ours = HarnessModel(base.model, ways=base.ways, **how).loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in ours] == pytest.approx(stock, abs=1e-3)


def test_a_model_that_looks_ahead_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = BertLMHeadModel(config).eval().to(dtype)
        with pytest.raises(InputError, match="no causal language model: a state depends on the tokens behind it"):
            _ = models.wrap(model, TOKENIZER, name="bert").ways


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_takes_the_same_ways(name):
    exact = wrapped(name).ways
    assert models.wrap(random_model(name).to(torch.bfloat16), TOKENIZER, name=name, precision="bfloat16").ways == exact


def test_padding_that_is_never_exact_computes_one_by_one():
    ways = Ways(tree=False, prefix_cache=False, padding="none")
    base = wrapped("llama")
    prompts, answers = [[5, 6, 7], [5, 6, 8, 9]], [[[10, 11, 2], [12, 2]], [[13, 2], [10, 14, 15, 2]]]
    parts = ways.answers(prompts, answers)
    assert len(parts) == 4
    one = torch.cat([ways.log_probs(base.model, part) for part in parts])
    whole = Ways().log_probs(base.model, Ways().answers(prompts, answers)[0])
    torch.testing.assert_close(one, whole, atol=1e-4, rtol=1e-4)
    texts = [[5, 6, 7], [5, 6, 8], [5, 6]]
    each = torch.cat([ways.states(base.model, part) for part in ways.texts(texts)])
    assert len(each) == 4
    torch.testing.assert_close(each, Ways().states(base.model, Ways().texts(texts)[0]), atol=1e-4, rtol=1e-4)


def test_a_path_longer_than_a_window_that_no_mask_follows_is_padded():
    prompts, answers = [[1, *range(3, 30)]], [[[40, 41], [42, 43]]]
    ways = Ways(window=16)
    assert type(ways.answers(prompts, answers)[0]).__name__ == "PaddedBatch"
    assert type(ways.answers([[3, 4]], answers)[0]).__name__ == "PrefixTree"
    assert OBJECTIVES
