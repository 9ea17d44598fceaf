# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Preference data and 4-bit DPO training
#
# SemPA changes nothing in a language model's architecture. It asks the model to paraphrase a sentence,
# shows it one answer that follows from the sentence and one that contradicts it, and trains a small
# adapter until the model prefers the first. Here that happens on the machine in front of you.
#
# **You will learn**
# - how natural-language-inference triplets become preference data, down to which tokens count;
# - what 4-bit quantisation (NF4) does to a weight matrix, what LoRA adds, and why it stays in float32;
# - the DPO loss in five lines, checked against the package and against its known first value, ln 2;
# - how a batch can be a tree, in which each distinct prefix token is computed once;
# - to read a DPO training curve: why the margin counts and not the chosen reward;
# - why few rows and a small model want another rate than the paper's, and what holds the words meanwhile;
# - the same likelihood over *words* instead of sentences, and what each does to the embedding;
# - how much memory a 7–8B model takes on your card, before you start it.
#
# Words that are new to you stand in the [glossary](01_theory.ipynb#Glossary) of notebook 01.

# %% [markdown]
# ## Set-up
#
# On your own machine, where the kit is installed (`make run`, or pip as the README says), this cell does nothing.
# On Colab and Kaggle it fetches the kit and installs what this notebook needs; what is loaded already, and torch,
# stay as they are. A hosted machine forgets all when it is reset: with `KEEP_ON_DRIVE` what is trained lies on your
# Google Drive, and the notebook finds it there again, an interrupted training run at its last checkpoint.

# %% tags=["setup"]
import os
import subprocess
import sys
from pathlib import Path

KIT_ADDRESS = ""  # where this kit lies, for `git clone`; `make address` fills it in
KEEP_ON_DRIVE = False  # on Colab: True

if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    if not Path("sempa-kit").is_dir():
        if not KIT_ADDRESS:
            raise SystemExit("Write the kit's address into KIT_ADDRESS and run this cell again.")
        subprocess.run(["git", "clone", "--depth", "1", KIT_ADDRESS, "sempa-kit"], check=True)
    sys.path[:0] = [str(Path("sempa-kit", part).resolve()) for part in (".", "notebooks")]
    import hosted

    hosted.prepare("02_training", keep_on_drive=KEEP_ON_DRIVE)

# %% tags=["parameters"]
from IPython.display import Markdown, display
from sempa_utils import profiles, records

PROFILE = os.environ.get("SEMPA_PROFILE", "cpu")  # all sizes: cpu, t4, 24gb or paper
MODEL = os.environ.get("SEMPA_MODEL", "packaged")  # "packaged" (135M), a hub id, or a directory
SEED = 42

profile = profiles.get(PROFILE)
TRAIN_AGAIN = False  # True: train anew what is already there

from sempa_utils.experiments import effect

display(Markdown(effect.at_first_sight()))
display(Markdown(records.costs("02_training")))

# %% [markdown]
# ## 1 · From triplets to preferences
#
# A row of the paper's data set has a premise (the *anchor*), a sentence that follows from it (the
# *positive*) and one that contradicts it (the *negative*).

# %%
from sempa_utils.data import corpora

triplets = corpora.load_triplets()
print(triplets.describe())
training_rows, held_out = triplets.split(profile.triplets, profile.picture_triplets, seed=SEED)
print(f"{len(training_rows):,} rows to train on; {len(held_out)} set aside, with other anchors")
for triplet in training_rows.rows[:3]:
    print(
        f"\nanchor    {triplet.anchor}\npositive  {triplet.positive}\nnegative  {triplet.negative}"
    )

# %% [markdown]
# Behind the triplets stand premises to which people wrote sentences of three labels. Two things in them are
# a warning. If one label's sentences were longer, a preference could be learned from length alone. And if a
# contradiction repeats more of the premise's words, it can be told from those. So what rules without a model
# reach on these rows is printed below the picture: an accuracy has to beat it before it speaks of meaning. The
# packaged rows are not balanced in this respect.

# %%
from sempa_utils.evaluation import shortcuts
from sempa_utils.plots import training as training_plots

ranked = corpora.load_ranked_nli()
labels = ("premise", "entailment", "neutral", "contradiction")
words = {
    label: [len(sentence.split()) for sentence in column]
    for label, column in zip(labels, zip(*ranked.rows))
}
display(training_plots.length_histogram(words, unit="words"))
print(ranked.describe())
print(shortcuts.words_of(ranked.rows))

# %% [markdown]
# The anchor goes into a paraphrase request, the paper's default template. Positive and negative become
# the *chosen* and the *rejected* answer of an assistant. This is TRL's conversational preference format:

# %%
from sempa_utils.objectives.preferences import preference_dataset

preferences = preference_dataset(training_rows.rows)
for turn in preferences[0]["prompt"] + preferences[0]["chosen"]:
    print(f"{turn['role']:>9}: {turn['content']}")
print(f" rejected: {preferences[0]['rejected'][0]['content']}")

# %% [markdown]
# The model reads *tokens*, pieces of words. Only the answer's tokens enter the loss, the end token among them; the request
# is context. Below, one row as the model sees it: grey is read, colour is scored.

# %%
from IPython.display import HTML
from sempa_utils import models
from sempa_utils.data.templates import paraphrase_request
from sempa_utils.objectives.preferences import answer_tokens

base = models.load(MODEL, profile.precision)


# %%
def request_and_answer(anchor, answer):
    """The tokens of a paraphrase request, and those of an answer to it."""
    return answer_tokens(base.tokenizer, paraphrase_request(anchor), answer=answer)


def spelt(tokens):
    return [base.tokenizer.decode([token]) for token in tokens]


first = training_rows.rows[0]
prompt, chosen = map(spelt, request_and_answer(first.anchor, first.positive))
answers = {"chosen": chosen, "rejected": spelt(request_and_answer(first.anchor, first.negative)[1])}
display(HTML(training_plots.coloured_tokens(prompt, answers)))

# %% [markdown]
# ## 2 · Four bits
#
# NF4 stores each weight as one of 16 levels times a scale per block of 64 weights. The levels are placed where a
# *standard normal* variable would have equal shares. A block is divided by its largest magnitude, so that it fills
# −1 to 1; that is a normal sample no longer, and the shares of the levels, printed below, are not equal. Double
# quantisation stores the scales themselves in 8 bits. The base is frozen, so the rounding happens once; the gradient
# flows through it into the adapter. The adapter stays in float32: its updates are small beside its weights, and in
# 16 bits many of them would round to nothing.
#
# (The packaged model comes as a file of 4 bits a weight already, in another format, and is brought back to float32
# when it is loaded. What is rounded here are those weights.)

# %%
import bitsandbytes.functional as bnb
import torch
from sempa_utils import training

matrix, weight = models.read_matrix(MODEL)  # from the file: no second model in memory
weight = weight.to(base.device)
packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
restored = bnb.dequantize_4bit(packed, state).float()
stored = packed.numel() * packed.element_size()
stored += state.absmax.numel() * state.absmax.element_size()
bits, relative = 8 * stored / weight.numel(), (restored - weight).norm() / weight.norm()
print(f"{matrix}, {tuple(weight.shape)}: {bits:.2f} bits a weight instead of 32")
print(f"relative error ‖W − W₄‖ / ‖W‖ = {100 * relative:.1f} %")
assert bits < 4.3 and relative < 0.15

# %%
blocks = weight.flatten().view(-1, 64)
scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()
levels, errors = state.code.float(), ((restored - weight) / weight.std()).flatten()
nearest = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
shares = 100 * torch.bincount(nearest.cpu(), minlength=16) / len(scaled)
print(
    f"a level has {shares.min():.1f} to {shares.max():.1f} % of the weights (equal shares: 6.2 %)"
)
sizes = {"float32": 4 * weight.numel(), "bfloat16": 2 * weight.numel(), "nf4": stored}
display(
    training_plots.four_bits(
        scaled.cpu(), levels.cpu(), errors=errors.cpu(), bytes_by_precision=sizes
    )
)

# %% [markdown]
# Is that much? A matrix does not tell; the model does. So here is its perplexity in four bits: e to the mean
# surprise at a token of a text that training will not touch. Section 8 sets beside it the same base without
# rounding, when that is loaded.

# %%
text = effect.unseen_text(training_rows)
in_four_bits = effect.perplexity(base, text, limit=profile.text_tokens)
print(f"perplexity of {text.name} in {base.precision}: {in_four_bits:.1f}")

# %% [markdown]
# Into the frozen, rounded $W$ training puts a second path of low rank, $W x + \frac{\alpha}{r} B A x$, and
# trains $A$ and $B$ alone. $B$ starts at zero, so at first the model is the base, to the last bit.

# %%
rank = training.Recipe().lora_rank
wide, narrow = weight.shape
display(
    training_plots.lora_sketch(
        narrow,
        wide,
        rank=rank,
        frozen_weights=weight.numel(),
        trained_weights=rank * (wide + narrow),
    )
)

# %% [markdown]
# ## 3 · The loss, in five lines
#
# Let $\pi$ be the model with its adapter and $\pi_\text{ref}$ the same model with the adapter off. The
# *implicit reward* of an answer is $\beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)}$, with the
# log-probability summed over the answer's tokens, and the loss is
#
# $$\mathcal{L} = -\log \sigma\left(\beta \log \frac{\pi(y_w \mid x)}{\pi_\text{ref}(y_w \mid x)} - \beta \log \frac{\pi(y_l \mid x)}{\pi_\text{ref}(y_l \mid x)}\right).$$
#
# A new adapter adds nothing, so both rewards are 0 and the first loss is $-\log\sigma(0) = \ln 2$.

# %%
import math
from dataclasses import replace

from peft import get_peft_model
from sempa_utils.objectives.preferences import answer_log_probs
from sempa_utils.theory import plackett_luce
from sempa_utils.training import lora_config


def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    chosen_reward = beta * (policy_chosen - reference_chosen)
    rejected_reward = beta * (policy_rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(chosen_reward - rejected_reward).mean()


recipe = training.profile_run(profile, parameters=base.parameters, seed=SEED).recipe
beta, few = recipe.objective.beta, training_rows.rows[:4]
anchors, positives, negatives = (list(column) for column in zip(*few))
with_adapter = get_peft_model(base.model, lora_config(recipe))
policy = replace(base, model=with_adapter)


# %%
def both_answers(policy):
    """Log-probabilities of the chosen and of the rejected answers of a few rows."""
    return [answer_log_probs(policy, anchors, answers=each) for each in (positives, negatives)]


scored = both_answers(policy)
with with_adapter.disable_adapter():
    reference = both_answers(policy)
ours = dpo_loss(*scored, *reference, beta).item()
chosen, rejected = reference
package = plackett_luce.dpo_loss(
    *scored, reference_chosen=chosen, reference_rejected=rejected, beta=beta
).item()
print(f"loss of an untrained adapter: {ours:.6f} here, {package:.6f} in the package")
print(f"ln 2 = {math.log(2):.6f}")
assert abs(ours - math.log(2)) < 1e-3 and abs(ours - package) < 1e-6

# %% [markdown]
# ## 4 · A batch as a tree
#
# Every request opens with the same instruction, and each stands before two answers. A stock batch
# computes all of it again for every answer. A *prefix tree* puts the whole batch into one sequence: the
# instruction once, each anchor once, the answers behind it. A mask lets a token attend to its ancestors
# alone, and a token's position is its depth, so each answer's log-probability is what it would be by
# itself.

# %%
from sempa_utils.models import prefix_tree


def tree_of(rows):
    """Rows of triplets as one tree, the chosen answer of each before the rejected one."""
    pairs = [[request_and_answer(row.anchor, answer) for answer in row[1:]] for row in rows]
    return prefix_tree.build(
        [pair[0][0] for pair in pairs], [[answer for _, answer in pair] for pair in pairs]
    )


tree = tree_of(few)
parts = prefix_tree.parts(tree)  # what each token is, from who shares it
display(training_plots.part_bars(parts.in_tree, parts.in_stock))

# %% [markdown]
# The mask of that tree. A row is a token, and what it may look at is coloured by the part that it belongs
# to: an answer sees the instruction, its own anchor and itself, and never its sibling. Where both answers of a row
# begin with the same word, that word is computed once as well, and both see it.

# %%
display(training_plots.tree_mask(tree.may_attend, parts.of, labels=list(prefix_tree.PARTS)))

# %%
with torch.no_grad():
    by_tree = prefix_tree.log_probs(with_adapter, tree.to(base.device))
plain = torch.stack(scored, dim=1).flatten()
worst = (by_tree.cpu() - plain).abs().max().item()
print("log-probabilities by tree ", [f"{value:.3f}" for value in by_tree.tolist()[:4]], "…")
print("one sequence per answer   ", [f"{value:.3f}" for value in plain.tolist()[:4]], "…")
print(f"largest difference {worst:.1e} (tolerance: 1e-3 of a nat in float32, 1 in half precision)")
assert worst < (1e-3 if base.device.type == "cpu" and profile.precision != "bfloat16" else 1.0)

# %% [markdown]
# ## 5 · Training
#
# The paper's recipe: LoRA of rank 8 on all linear layers but the head, AdamW with 5 % warm-up and cosine decay, one
# epoch. It does not state β; ours is 0.1, the default of the trainer that it used. Two things are fitted to the size.
# The paper's rate of 1e-4 is for 7–8B models and 40,000 rows: a few dozen steps of it leave a small model where it was.
# So the rate is higher here. It would move the next words of ordinary text as well; a second term holds these, where
# $z$ are some of the batch's anchors as plain text, and the sum runs over their tokens:
#
# $$\mathcal{L} + \lambda \cdot \frac{1}{T} \sum_t \mathrm{KL}\big(\pi_\text{ref}(\cdot \mid z_{<t}) \,\|\, \pi(\cdot \mid z_{<t})\big).$$
#
# The table `FITS` in `training/recipe.py` has the rate and the weight $\lambda$ for a size; `Recipe.of_profile` and
# `train --recipe paper` take the paper's. A finished run of the same base, data and recipe is found again under
# `build/adapters/`; an interrupted one goes on from its last checkpoint.
#
# **Your part: change the recipe.** Whatever you write into `CHANGES`, the rest of the notebook follows: it trains anew
# and shows what that did.

# %%
CHANGES = {}  # for example {"learning_rate": 5e-4}, {"beta": 0.5}, {"kl_weight": 0.0}

sizes = {"parameters": base.parameters, "seed": SEED}
recipe = training.profile_run(profile, **sizes, **CHANGES).recipe
beta = recipe.objective.beta
recipes = {"the paper's rate": training.Recipe.of_profile(profile, seed=SEED), "this run": recipe}
print(f"{base.parameters / 1e6:.0f} M weights")
count = len(training_rows)
shown = {name: (one.settings(), count) for name, one in recipes.items()}
display(Markdown(records.recipe_table(shown)))

# %%
del base, policy, with_adapter  # one model in memory at a time


def train_with_live_curve(objective: str, **changes):
    picture = display(Markdown("training …"), display_id=True)

    def show(so_far):  # called every few seconds while it trains
        picture.update(training_plots.training_curve(so_far))

    changes |= {"objective": objective, "seed": SEED}
    outcome = training.train_profile(MODEL, profile, again=TRAIN_AGAIN, on_curve=show, **changes)
    show(outcome[0])
    return outcome


record, training_rows, held_out = train_with_live_curve("pairwise", **CHANGES)
curve = record.curve
assert abs(curve[0].loss - math.log(2)) < 1e-3, "the first loss: the adapter starts at zero"

# %%
trained, weights = record.trainable_parameters / 1e6, record.model["parameters"] / 1e6
print(f"{record.data['rows']:,} triplets in {record.steps} steps, {record.seconds:.0f} s")
print(f"{trained:.1f} M trained of {weights:.0f} M weights")
print(f"peak memory {record.peak_memory_bytes / 2**30:.1f} GiB")

# %% [markdown]
# **How to read it.** The loss starts at ln 2, where the model has no preference yet. What must grow is
# the *margin* between the two rewards. The chosen reward by itself may rise or fall: the loss knows only
# the difference, and a fall of both, the rejected one further, lowers it as well. A falling chosen reward
# is no fault of the run. The accuracy of the first step is 0 %: all rewards are 0 there, and a tie is counted
# as wrong.

# %%
mean = record.last_quarter
print(
    f"over the last quarter: loss {mean.loss:.3f}, margin {mean.margin:.3f}, accuracy {mean.accuracy:.2f}"
)

# %% [markdown]
# ## 6 · Did it learn, or remember?
#
# Loss on training rows can be memory. On triplets whose anchors were never trained on, the share where
# the adapter's reward of the chosen answer is above that of the rejected one tells more. At 50 % nothing
# was learned. But more than 50 % need not be *meaning*: beside it stands what a rule reaches that only counts
# shared words or letters. What the model may have learned is that rule, as long as it is not clearly better.

# %%
base = models.load(MODEL, profile.precision)
print(held_out.describe())


@torch.no_grad()
def scores(language_model, rows, batch: int = 8):
    """Log-probabilities of chosen and rejected answers, shape (rows, 2), by prefix trees."""
    log_probs = []
    for start in range(0, len(rows), batch):
        tree = tree_of(rows[start : start + batch]).to(base.device)
        log_probs.append(prefix_tree.log_probs(language_model.model, tree).view(-1, 2))
    return torch.cat(log_probs)


before = scores(base, held_out.rows)
with models.adapted(base, record.adapter) as trained:
    after = scores(trained, held_out.rows)
rewards = beta * (after - before)

# %%
right = (rewards[:, 0] > rewards[:, 1]).float()
held_out_accuracy = right.mean().item()
error = math.sqrt(held_out_accuracy * (1 - held_out_accuracy) / len(held_out))
without_a_model = shortcuts.accuracies(held_out.rows)
print(f"held-out preference accuracy {100 * held_out_accuracy:.0f} % (± {100 * error:.0f})")
print(shortcuts.words_of(held_out.rows))
ahead = (held_out_accuracy - max(without_a_model.values())) / max(error, 1e-9)
verdict = "more than the rules explain" if ahead > 2 else "no more than the best rule explains"
print(f"{ahead:+.1f} standard errors from the best rule: {verdict}")

# %% [markdown]
# ## 7 · The same likelihood, over words
#
# The paper's loss asks which *sentence* the model would rather say. An embedding is read elsewhere: from
# the state in which the model is about to say the sentence in *one word* (`"…" means in one word:"`). So
# let the answers be single words in that place. For an anchor $x$ and candidates $y_1 \dots y_N$, its own
# entailed sentence first and the other sentences of the batch behind it,
#
# $$q_j(w) = \pi_\text{ref}(w \mid y_j), \qquad s_j = \beta \sum_w q_j(w) \log \frac{\pi(w \mid x)}{\pi_\text{ref}(w \mid x)}, \qquad \mathcal{L} = -\log \frac{e^{s_1}}{\sum_j e^{s_j}}.$$
#
# It is DPO's implicit reward, averaged over the words that the base itself would say for a candidate, in
# the likelihood of notebook 01 with $N$ candidates instead of two. This objective is this kit's, not the
# paper's. The sum over the vocabulary has a short form: with logits $W h$ it is
# $s_j = \beta \, e_j \cdot (h - h_\text{ref})$ plus something that is the same for all candidates, where
# $e_j = \sum_w q_j(w) W_w$ is the average output embedding of the candidate's words. The loss moves the
# anchor's state towards the words of what follows from it. (The short form says also why the scores that a
# curve shows may all sink together: what is the same for all candidates, the normalising term of $\pi$, moves
# their scores and not the loss.)

# %%
from sempa_utils.objectives import slots

states = torch.randn(3, 16)  # an anchor with and without adapter, a candidate
head = torch.nn.Linear(16, 50, bias=False)
with torch.no_grad():
    policy_words, reference_words, candidate = head(states).log_softmax(dim=-1)
    over_words = (candidate.exp() * (policy_words - reference_words)).sum()
    short = (candidate.exp() @ head.weight) @ (states[0] - states[1])
    short -= head(states[0]).logsumexp(0) - head(states[1]).logsumexp(0)
    words = slots.expected_words(head, states[2:])
    package = slots.one_word_scores(
        head, states[:1], reference=states[1:2], words=words, beta=1.0
    ).item()
print(f"summed over the vocabulary {over_words:.6f}, short form {short:.6f}, package {package:.6f}")
assert abs(over_words - short) < 1e-4 and abs(over_words - package) < 1e-4

# %% [markdown]
# The same rows and the same LoRA, but not only another objective: the batch is larger, for the candidates come
# from it (each row brings two sentences, so 16 rows make 32 candidates), and β is another. The table under the curve
# has all that differs. The first loss is again that of chance, now among all candidates of a batch.

# %%
del base, trained
words_record, _, _ = train_with_live_curve("one_word")
candidates, first_loss = words_record.candidates, words_record.curve[0].loss
print(f"{candidates} candidates: first loss {first_loss:.4f}", end=", ")
print(f"ln {candidates} = {math.log(candidates):.4f}")
assert abs(first_loss - math.log(candidates)) < 0.02 * math.log(candidates)
runs = {"pairwise": record, "one word": words_record}
table = {name: (run.recipe, run.data["rows"]) for name, run in runs.items()}
display(Markdown(records.recipe_table(table)))

# %% [markdown]
# ## 8 · What each did to the embedding
#
# The measure is Spearman's ρ between the cosine of two sentences' embeddings and the similarity that
# people gave them, on pairs of the development split: choices are made there, never on the test. The
# interval is a paired bootstrap over the same pairs: it says what other pairs might have given, not what another
# seed of the training might.

# %%
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts

task = corpora.dev_task()
pairs = corpora.load_sts(task, split="dev").sample(profile.sts_pairs, SEED)
print(pairs.describe())
base = models.load(MODEL, profile.evaluation_precision)
human = [pair.score for pair in pairs.rows]
before = sts.pair_similarities(Embedder(base).encode, pairs.rows)
effects, rho = {}, sts.spearman(before, human)

# %%
for name, run in runs.items():
    with models.adapted(base, run.adapter) as adapted:
        after = sts.pair_similarities(Embedder(adapted).encode, pairs.rows)
    difference = sts.paired_difference(after, before, scores=human, seed=SEED)
    effects[name] = rho, difference
    interval = f"{difference.interval.low:+.2f} to {difference.interval.high:+.2f}"
    verdict = "" if difference.shown else "; the interval holds 0: no effect can be shown"
    print(f"{name:>9}: {rho:.2f} → {rho + difference.value:.2f}", end=" ")
    print(f"({difference.value:+.2f}, {interval}{verdict})")
display(training_plots.objectives_compared(effects))

# %% [markdown]
# The first asks for a sentence, and the embedding may follow; the second asks the very state that *is* the
# embedding. Which of them gains more cannot be read off here: two recipes differ in more than the objective, and a
# hundred pairs say little. Trials that swap rate and batch, on thousands of rows, stand in
# [the findings](../results/findings.md#rate-objective-or-prompt), with the runs on seven tasks in
# [the records](../results/README.md#the-grid).
#
# These were pairs of the development split. Once, at the end, the test split, and what the words cost: the
# perplexity of sentences that training did not touch.

# %%
found = effect.effects(
    base, {"SemPA": record.adapter}, trained_on=training_rows, profile=profile, seed=SEED
)["SemPA"]
print(f"SemPA, {len(training_rows):,} triplets: {found.words()}")
whole, rounding = found.perplexity_before, 100 * (in_four_bits / found.perplexity_before - 1)
print(f"and what four bits cost (section 2): perplexity {whole:.1f} in {base.precision},", end=" ")
print(f"{in_four_bits:.1f} in {profile.precision} ({rounding:+.1f} %)")

# %% [markdown]
# The same run without the KL term, and other objectives on the same rows, each with its price, stand in notebook 05.
# What the model writes is the next question.

# %% [markdown]
# ## 9 · What the model says now
#
# The same requests, answered by the base and by both trained models (the most likely word at each step).


# %%
@torch.no_grad()
def paraphrase(language_model, sentence: str) -> str:
    tokenizer, as_tensors = language_model.tokenizer, {"return_tensors": "pt", "return_dict": True}
    chat = tokenizer.apply_chat_template(
        paraphrase_request(sentence), add_generation_prompt=True, **as_tensors
    ).to(language_model.device)
    end = {"pad_token_id": tokenizer.pad_token_id}
    written = language_model.model.generate(**chat, max_new_tokens=40, do_sample=False, **end)
    answer = written[0, chat["input_ids"].shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


# %%
speakers = {"base": None} | {name: run.adapter for name, run in runs.items()}
paraphrases = {row.anchor: {} for row in held_out.rows[:2]}
for name, adapter in speakers.items():
    with models.adapted(base, adapter) as speaker:
        for sentence, answers in paraphrases.items():
            answers[name] = paraphrase(speaker, sentence)
for sentence, answers in paraphrases.items():
    print(f"request   {sentence}")
    for name, answer in answers.items():
        print(f"{name:<9} {answer}")
    print()

# %% [markdown]
# Read them closely: a paraphrase can be fluent and say something else, and a model of this size copies
# more than it rephrases. DPO was shown which of two given answers is better, never how to write one.

# %% [markdown]
# ## 10 · What it takes on your card
#
# The same run with a model of 7–8B parameters, counted before anything is loaded: the planner builds the
# model without its weights, lets it read a batch of typical length, and adds up what training keeps. These
# are plans, not measurements; `python -m sempa_utils plan --help` makes one for your model and card.

# %%
from sempa_utils.training import memory


def planned(shape, name):
    size, compute = profiles.get(name), torch.float16 if name == "t4" else torch.bfloat16
    recipe = training.Recipe.of_profile(size)
    model = memory.shape(shape)
    return memory.plan(model, size.precision, recipe=recipe, compute_dtype=compute)


plans = {
    f"{shape}, {name}": planned(shape, name)
    for shape in ("llama-3-8b", "llama-2-7b")
    for name in ("t4", "24gb")
}
display(training_plots.memory_bars(plans))

# %% [markdown]
# ## Exercises
#
# Write the function, run the cell, and read what the checker says: it recognises common slips and names
# them. ★ follows from a definition, ★★ needs a thought, ★★★ needs an idea from the text.

# %%
from sempa_utils import exercises

display(Markdown(exercises.overview("training")))

# %% [markdown]
# **1 · Which tokens count** (★, 5 minutes). The row of section 1 as numbers: grey is read, colour is
# scored. Mind the two ends of the answer.


# %%
def scored_tokens(tokens, prompt_length, end_token):
    raise NotImplementedError


exercises.check("scored_tokens", scored_tokens)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def scored_tokens(tokens, prompt_length, end_token):
#     end = tokens.index(end_token, prompt_length)
#     return [prompt_length <= place <= end for place in range(len(tokens))]
# ```
# Who masks every padding id instead loses the end token with it, and trains a model that never stops.
# </details>
#
# **2 · An answer's log-probability** (★★, 10 minutes). What DPO compares. The logits at a token are the
# model's opinion of the *next* one.


# %%
def answer_log_prob(logits, tokens, scored):
    raise NotImplementedError


exercises.check("answer_log_prob", answer_log_prob)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_log_prob(logits, tokens, scored):
#     log_probs = logits[:-1].log_softmax(dim=-1)
#     of_tokens = log_probs.gather(-1, tokens[1:, None])[:, 0]
#     return of_tokens[scored[1:]].sum()
# ```
# </details>
#
# **3 · DPO from tokens** (★★, 10 minutes). The loss of section 3, one step earlier: sum over tokens,
# subtract the reference, compare the two.


# %%
def pair_loss(policy, reference, scored, beta):
    raise NotImplementedError


exercises.check("pair_loss", pair_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def pair_loss(policy, reference, scored, beta):
#     chosen, rejected = ((policy - reference) * scored).sum(dim=-1)
#     return -torch.nn.functional.logsigmoid(beta * (chosen - rejected))
# ```
# </details>
#
# **4 · What β does** (★★, 15 minutes). AdamW divides a gradient by its own size, so the factor β in
# front of it is lost. What stays is how the push is shared among the pairs of a batch. Compare a small
# β with a large one on the same margins.


# %%
def gradient_shares(margins, beta):
    raise NotImplementedError


exercises.check("gradient_shares", gradient_shares)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def gradient_shares(margins, beta):
#     slopes = torch.sigmoid(-beta * margins)
#     return slopes / slopes.sum()
# ```
# With a small β all slopes are near ½ and every pair pushes alike, however large its margin; with a
# large one the pairs that are still wrong do nearly all of it.
# </details>
#
# **5 · NF4 by hand** (★★, 15 minutes). The rounding of section 2. The levels of bitsandbytes are given;
# the scales are yours to find.


# %%
def four_bits(weights, levels, block):
    raise NotImplementedError


exercises.check("four_bits", four_bits)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def four_bits(weights, levels, block):
#     blocks = weights.reshape(-1, block)
#     scales = blocks.abs().amax(dim=1, keepdim=True)
#     scaled = blocks / scales.clamp(min=1e-30)  # a block of zeros stays one
#     nearest = (scaled[..., None] - levels).abs().argmin(dim=-1)
#     return (levels[nearest] * scales).reshape(weights.shape)
# ```
# </details>
#
# **6 · LoRA's two paths** (★, 5 minutes). The sketch of section 2 as one line.


# %%
def lora_forward(x, weight, a, b, alpha):
    raise NotImplementedError


exercises.check("lora_forward", lora_forward)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def lora_forward(x, weight, a, b, alpha):
#     return x @ weight.T + alpha / len(a) * (x @ a.T) @ b.T
# ```
# Two narrow products are cheaper than one with the wide matrix B A.
# </details>
#
# **7 · LoRA at step zero** (★★★, 15 minutes). B starts at zero, so the model starts as the base. Which
# of the two matrices can move in the first step?


# %%
def first_gradients(x, a, alpha, upstream):
    raise NotImplementedError


exercises.check("first_gradients", first_gradients)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def first_gradients(x, a, alpha, upstream):
#     return torch.zeros_like(a), alpha / len(a) * upstream.T @ (x @ a.T)
# ```
# B moves first, A from the second step on. With both at zero neither would ever move.
# </details>
#
# **8 · The tree's mask** (★★, 10 minutes). The picture of section 4, for a tree of any shape.


# %%
def tree_mask(parents):
    raise NotImplementedError


exercises.check("tree_mask", tree_mask)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def tree_mask(parents):
#     mask = torch.eye(len(parents), dtype=torch.bool)
#     for place, parent in enumerate(parents):
#         if parent >= 0:
#             mask[place] |= mask[parent]  # what the parent may see, and itself
#     return mask
# ```
# </details>
#
# **9 · The tree's positions** (★, 5 minutes). What rotary embeddings must be told, so that a token
# feels as if its sequence stood there alone.


# %%
def tree_positions(parents):
    raise NotImplementedError


exercises.check("tree_positions", tree_positions)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def tree_positions(parents):
#     positions = []
#     for parent in parents:
#         positions.append(positions[parent] + 1 if parent >= 0 else 0)
#     return positions
# ```
# </details>
#
# **10 · A cheat to hold against DPO** (★, 10 minutes). Two sentences, one premise: which one follows?
# Write a rule that would work as well in a language that you cannot read. Then look again at what a
# preference accuracy can show.


# %%
def cheat(premise, first, second):
    raise NotImplementedError


exercises.check("cheat", cheat)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def cheat(premise, first, second):
#     def shared(sentence):
#         return len(set(premise.lower().split()) & set(sentence.lower().split()))
#
#     return int(shared(second) < shared(first))
# ```
# The packaged contradictions repeat more of the premise's words, on purpose. So an accuracy above one
# half shows that something was learned, and not that it was meaning: hold it against the best cheat.
# </details>

# %% [markdown]
# ## The paper's setting and this run's

# %%
lora = f"LoRA r {recipe.lora_rank}, α {recipe.lora_alpha}, the same layers"
rate = f"AdamW, **{recipe.learning_rate:g}**, {recipe.warmup_share:.0%} warm-up, cosine"
ours = {
    "model": base.name,
    "training rows": f"{len(training_rows):,}, {training_rows.source}",
    "batch": f"{recipe.batch} ({recipe.micro_batch} × {recipe.accumulation})",
    "adapter": lora,
    "optimiser": rate,
    "KL(base ‖ model) on plain text": f"weight **{recipe.kl_weight:g}**",
    "β": beta,
}
clipping = f"{recipe.max_gradient_norm:g}, {recipe.weight_decay:g}"
others = [
    ("precision of the base", "bfloat16", record.model["precision"]),
    ("longest sequence", "1024 tokens", f"{recipe.max_length} tokens"),
    ("gradient clipping, weight decay", "not stated", clipping),
    ("hardware", "4 × RTX 5090", records.environment()["machine"]["gpu"] or "CPU"),
]
display(Markdown(records.settings_table(records.paper_settings(ours) + others)))

# %%
differences = {name: difference for name, (_, difference) in effects.items()}
figures = {
    "first_loss": curve[0].loss,
    "last_quarter": mean,
    "held_out_accuracy": held_out_accuracy,
    "accuracy_without_a_model": without_a_model,
    "held_out_rows": len(held_out),
    "effects": {"task": pairs.record(), "before": rho, "differences": differences},
    "sempa": found,
    "planned_bytes": {name: memory.total(plan) for name, plan in plans.items()},
    "nf4_bits_per_weight": bits,
    "nf4_relative_error": relative,
    "nf4_perplexity": in_four_bits,
    "tree_difference": worst,
    "training": {run.objective: run for run in (record, words_record)},
}

# %%
reached = ", ".join(f"{rho + gain.value:.1f} {name}" for name, gain in differences.items())
accuracy = (
    f"preference accuracy on {len(held_out)} held-out triplets {100 * held_out_accuracy:.0f} %"
)
data = [training_rows.record(), held_out.record()]
record_of_run = records.run_record(
    "notebook_02_training",
    figures=figures,
    headline=(
        f"SemPA, {len(training_rows):,} triplets: {found.words()}; {accuracy} (the best rule without a "
        f"model: {100 * max(without_a_model.values()):.0f} %); {task} dev ρ × 100 {rho:.1f} → {reached}"
    ),
    origin=records.Origin(model=record.model, data=data, settings=record.recipe, seed=SEED),
)
records.save_run(record_of_run)
print("next: 03_embedding_space")
