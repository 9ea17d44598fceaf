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
# # 05 · Does it still speak?
#
# A model that was trained to embed is still asked to talk. The paper's second claim is that SemPA's
# preferences leave the generator whole, while contrastive learning on the same sentences breaks it. Both
# sides of that claim are measured here: what the embedding gains, and what the speech loses.
#
# **You will learn**
# - what five generation benchmarks ask, how their answers are read, and what a standard error on them means;
# - to compare models on the same items, so that the difference is sharper than the two figures;
# - cheap signals that show a loss in minutes: perplexity, preferences, the shape of what is written;
# - the picture that the paper argues in words: STS gained against generation lost;
# - why a contrastive loss does not notice when the words go, and a preference loss does.

# %% [markdown]
# ## Set-up

# %% tags=["setup"]
# On your own machine `make run` or `pip install -e .` has installed the kit. On Colab this cell
# does it, all but what Colab brings and has loaded already: torch is never installed again.
import subprocess
import sys
from pathlib import Path

KIT_ADDRESS = ""  # only on Colab: the git address from which you have this kit

if "google.colab" in sys.modules:
    if not Path("sempa-kit").is_dir():
        if not KIT_ADDRESS:
            raise SystemExit(
                "Write the git address of the kit into KIT_ADDRESS and run this cell again."
            )
        subprocess.run(["git", "clone", "--depth", "1", KIT_ADDRESS, "sempa-kit"], check=True)
    pins = Path("sempa-kit/requirements.txt").read_text().split("# Notebooks")[0].splitlines()
    brought = ("#", "torch", "numpy", "scipy", "matplotlib", "tqdm")
    pins = [pin for pin in pins if pin and not pin.startswith(brought)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *pins], check=True)
    sys.path.insert(0, "sempa-kit")

# %% tags=["parameters"]
import os

from IPython.display import Markdown, display
from sempa_utils import profiles, records

PROFILE = os.environ.get("SEMPA_PROFILE", "cpu")  # all sizes: cpu, t4, 24gb or paper
MODEL = os.environ.get("SEMPA_MODEL", "packaged")  # "packaged" (135M), a hub id, or a directory
SEED = 42

profile = profiles.get(PROFILE)

from sempa_utils.experiments import effect

display(Markdown(effect.at_first_sight()))
display(Markdown(records.costs("05_generation")))

# %% [markdown]
# ## 1 · Models from the same rows
#
# Four adapters on the same base, trained on the same rows at the same rate: the paper's pairwise preference
# (SemPA, notebook 02's adapter), the ranking of three sentences that the paper names as an open step, and the
# contrastive baseline, which nothing holds to the base. What the KL term does for SemPA, the same run without it
# tells. What is trained already is found again.

# %%
from sempa_utils import models, training
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import generation, sts
from sempa_utils.evaluation.generation import signals
from sempa_utils.plots import generation as generation_plots

BASE = "base"
RUNS = {
    "contrastive": {"objective": "contrastive", "kl_weight": 0.0},
    "SemPA": {},
    "listwise SemPA": {"objective": "listwise"},
}
WITHOUT_KL = {"SemPA without KL": {"kl_weight": 0.0}}

every = {row: changes | {"seed": SEED} for row, changes in (RUNS | WITHOUT_KL).items()}
trained = training.train_profiles(MODEL, profile, runs=every)
runs = {row: one.record for row, one in trained.items()}
adapters = {row: run.adapter for row, run in runs.items()}
training_rows, held_out = trained["SemPA"].corpus, trained["SemPA"].held_out

base = models.load(MODEL, profile.evaluation_precision)
finished = models.finished_adapters(base)  # what this kit brings for this base, if anything
adapters |= {row: path for row, path in finished.items() if row not in adapters}
rows = [BASE, *(row for row in adapters if row not in WITHOUT_KL)]

anchors = [[one[0] for one in corpus.rows] for _, corpus, _ in trained.values()]
same = "the same" if all(one == anchors[0] for one in anchors) else "not all the same"
print(f"trained here on {len(anchors[0])} rows each, {same} anchors: {training_rows.source}")
for row, record in runs.items():
    losses = record.curve[0].loss, record.last_quarter.loss
    how = f"rate {record.recipe['learning_rate']:g}, KL weight {record.recipe['kl_weight']:g}"
    print(
        f"{row:<16} {how:<26} steps {record.steps}, its own loss {losses[0]:.2f} → {losses[1]:.2f}"
    )
print("finished adapters of the kit:", ", ".join(finished) or "none for this base")

# %% [markdown]
# ## 2 · Five benchmarks
#
# They run in EleutherAI's lm-evaluation-harness, which writes the prompts, reads the answers and scores
# them, as in the paper's Table 6.
#
# | benchmark | asks for | examples before the question | counted as right |
# |---|---|---|---|
# | GSM8K | the steps and the result of a sum in words, *written* | 8, worked | the number behind `The answer is` |
# | MMLU | one of four letters, from school to profession | 5 | the likeliest letter |
# | HellaSwag | which of four endings goes on with a scene | 0 | the ending likeliest per character |
# | DROP | a number or words out of a passage, *written* | 3 | F1 of the words |
# | TruthfulQA | which answer to a question that invites a false one | 0 | the likeliest answer |
#
# Two of them make the model write, and three only ask what it finds likelier. A model can lose the first
# and keep the second; that is why the paper shows both kinds.
#
# The items are looked for as all data here: a named directory, the cache, the hub, and else a few of our
# own, packaged with the kit, which only show that everything runs.

# %%
from sempa_utils.evaluation.generation.local_tasks import MINI_SOURCE

results, benchmarks = {}, generation.Benchmarks(limit=profile.generation_items, seed=SEED)
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        results[row] = generation.evaluate(model, benchmarks)

items = {task: result.items for task, result in results[BASE].items()}
data = {task: result.data for task, result in results[BASE].items()}
ours = {task: one["source"] == MINI_SOURCE for task, one in data.items()}
for task, one in data.items():
    print(
        f"{generation.TASKS[task].label:<20} {items[task]:,} of {one['rows']:,} items: {one['source']}"
    )
if any(ours.values()):
    print(
        "our own items are no benchmark: compare the models with each other, never with the paper"
    )
elif any(items[task] < data[task]["rows"] for task in data):
    print("samples of the benchmarks: not the published measure")

# %% [markdown]
# One of our own items for each, whole but for the examples before it, and what each model made of it.
# Where the model chooses, its choice is shown; where it writes, what it wrote.

# %%
import textwrap

shown = results
if not all(ours.values()):  # others' items are not ours to show
    shown, two = {}, generation.Benchmarks(directory=corpora.MINI_CORPUS, limit=2, seed=SEED)
    for row in rows:
        with models.adapted(base, adapters.get(row)) as model:
            shown[row] = generation.evaluate(model, two)


def show(name: str, words: str) -> None:
    """Print a text behind a name, in lines that a page can hold."""
    for place, line in enumerate(textwrap.wrap(" ".join(words.split()), 78) or [""]):
        print(f"{name if place == 0 else '':>16} │ {line}")


for task, result in shown[BASE].items():
    sample = result.samples[0]
    print(f"── {result.metric}, {result.shots} examples before it ──")
    for line in sample.prompt.rsplit("\n\n", 1)[-1].splitlines():
        print(textwrap.fill(line, 96))
    show("right", sample.target)
    for row in rows:
        sample = shown[row][task].samples[0]
        show(row, f"{sample.answer.strip()[:300]}  {'✓' if sample.score == 100 else ''}")
    print()

# %% [markdown]
# ## 3 · The table
#
# The standard error says how far a figure would move with other items of the same kind. All models answer
# the *same* items, so what an easy or a hard draw does to both cancels in the difference: its own standard
# error is that of the item-by-item differences.

# %%
compared = generation.comparison(results, against=BASE)
names = {task: generation.TASKS[task].label for task in results[BASE]} | {"mean": "mean"}


def signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def cell(score: records.TaskScore) -> str:
    text = f"{score.value:.1f}\u00a0±\u00a0{score.standard_error:.1f}"
    if less := score.difference:
        text += f"<br>{signed(less.value)}\u00a0±\u00a0{less.standard_error:.1f}"
    return text


lines = [f"| | {' | '.join(names.values())} |", "|---|" + "---|" * len(names)]
for row, figures in compared.rows.items():
    lines.append(f"| **{row}** | {' | '.join(cell(figures.columns[task]) for task in names)} |")
published = records.published("table6_generation")
columns = {task: generation.TASKS[task].column for task in results[BASE]} | {"mean": "Avg"}
for one in published:
    before = next(r for r in published if (r["model"], r["variant"]) == (one["model"], "base"))
    cells = [f"{one[column]:.1f}" for column in columns.values()]
    if one is not before:
        apart = [signed(one[column] - before[column]) for column in columns.values()]
        cells = [f"{cell}<br>{less}" for cell, less in zip(cells, apart)]
    variant = one["variant"].split(" (")[0]
    lines.append(f"| *published*: {variant}, {one['model']} | {' | '.join(cells)} |")
display(Markdown("\n".join(lines)))
print("second line of a cell: difference from the base of the same model, ± its standard error")

# %%
guessing = {"mmlu": 25.0, "hellaswag": 25.0}
display(
    generation_plots.task_scores(
        compared,
        {task: name.split(",")[0] for task, name in names.items() if task != "mean"},
        chance=guessing,
    )
)
fewest = min(items.values())
print(f"{fewest} items: one more right is {100 / fewest:.1f} points;", end=" ")
print(
    f"none of {fewest} right still allows up to {min(100, 300 / fewest):.0f} % (the rule of three)"
)

# %% [markdown]
# **How to read it.** Hold a difference against its own error: within about two errors of zero nothing was
# seen, which is not the same as *nothing happened*. An error of 0 means that all items came out alike, not
# that the figure is certain. And a figure at the guessing line cannot fall: a model that could not do a task
# before training has nothing to lose on it. Small models often sit there on GSM8K and MMLU, and a loss of speech
# shows elsewhere first, in the signals below.

# %% [markdown]
# ## 4 · Gained and lost
#
# The claim in one picture: up is a better embedding, left is lost speech. STS is scored as in notebook 04,
# PromptEOL at the last layer, every model on the same pairs.

# %%
tasks = sts.load_tasks(limit=profile.sts_pairs, seed=SEED)
embedded = {}
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        embedded[row] = sts.evaluate(Embedder(model, "prompteol"), tasks)
sts_compared = sts.summary(embedded, against=BASE, seed=SEED)

points = {}  # of each model, what generation and STS gain
for row in rows[1:]:
    spoken, read = (each.rows[row].mean.difference for each in (compared, sts_compared))
    points[row] = spoken, read
    print(f"{row:<16} STS {signed(read.value)}, generation {signed(spoken.value)}")

theirs = {}
for model in ("LLaMA2-7B", "LLaMA3-8B"):
    averages = {
        one["variant"].split(" (")[0]: one["Avg"] for one in published if one["model"] == model
    }
    gain = (
        records.published_sts(model, "SemPA")["Avg"]
        - records.published_sts(model, "PromptEOL")["Avg"]
    )
    for variant, sts_gain in (("SemPA", gain), ("contrastive learning", None)):
        apart = averages[variant] - averages["base"]
        theirs[f"{variant},\n{model}"] = apart, sts_gain

sts_name = "mean of seven STS tasks" if len(tasks) > 1 else next(iter(tasks))
display(
    generation_plots.gained_and_lost(
        points,
        theirs,
        generation=f"mean of {len(items)} benchmarks",
        sts=f"{sts_name}, ρ × 100",
    )
)

# %% [markdown]
# The paper's table has no STS of its contrastive model, so only how far left it stands is known. The
# published points are of other models on whole benchmarks: they say what was claimed, not what ours should
# match.

# %% [markdown]
# ## 5 · Cheap signals
#
# A benchmark needs thousands of items before it sees a small loss. These need minutes, because they look at
# every token instead of at right or wrong:
#
# - **perplexity** of a text that training did not touch: $\exp\left(-\frac1T\sum_t \log\pi(w_t \mid w_{<t})\right)$;
# - **preference**: is the sentence that follows the likelier paraphrase than the one that contradicts? (on
#   triplets held out from training, log-probabilities summed over the whole answer, no reference taken off:
#   a shorter sentence has an advantage, and so has one that keeps the request's words);
# - **paraphrases** as the model writes them: the share without a fault (unfinished, empty, copied, looping),
#   their length, the share of different word pairs (*distinct-2*), and how alike they are to each other
#   (*self-BLEU*: high where the model says the same to everything).

# %%
some = held_out.sample(profile.generation_items and 3 * profile.generation_items, SEED)
text, tokens = effect.unseen_text(training_rows), profile.text_tokens
rewritten, measured = {}, {}
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        rewritten[row] = signals.paraphrases(model, [one.anchor for one in some.rows])
        measured[row] = signals.signals(
            model, text.rows, rows=some.rows, answers=rewritten[row], limit=tokens
        )
print(
    f"perplexity: {'all' if tokens is None else f'{tokens:,}'} tokens of {text.name}, {text.source}"
)
print(f"preferences and paraphrases: {len(some)} of {held_out.name}, {held_out.source}")

lines = [f"| | {' | '.join(rows)} |", "|---|" + "---|" * len(rows)]
for name, meaning in signals.SIGNALS.items():
    cells = [f"{measured[row][name]:.1f}" for row in rows]
    lines.append(f"| {meaning} | {' | '.join(cells)} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# **Gained and paid, and what the KL term is worth.** Up is a better embedding, right is more surprise at text that
# training did not touch. The arrow that the term is meant to bend is the one from *SemPA without KL* to *SemPA*.

# %%
found = effect.effects(base, adapters, trained_on=training_rows, profile=profile, seed=SEED)
for row, one in found.items():
    print(f"{row:<16} {one.words()}")
ends = {
    row: [records.FrontierPoint(run.data["rows"], found[row].after, found[row].perplexity)]
    for row, run in runs.items()
}
start = records.FrontierPoint(0, found["SemPA"].before, found["SemPA"].perplexity_before)
display(generation_plots.frontier(ends, start, text=text.name, gained=sts_name))

# %% [markdown]
# The same request, answered by all (the likeliest token at each step):

# %%
for place, one in enumerate(some.rows[:2]):
    show("request", one.anchor)
    for row in rows:
        faults = ", ".join(signals.faults(rewritten[row][place], one.anchor))
        show(row, f"{rewritten[row][place].text}  {f'[{faults}]' if faults else ''}")
    print()

# %% [markdown]
# ## 6 · Why a contrastive model may stop speaking
#
# The contrastive loss looks at the states $h$ through their cosines alone. Turn all states by one and the
# same rotation $Q$, and no cosine changes:
#
# $$\cos(Qh_i, Qh_j) = \cos(h_i, h_j), \qquad \text{but the next word is read from } W Q h \text{ instead of } W h.$$
#
# So there are directions in which the loss is flat and the words are lost. Nothing says that training goes
# there; nothing holds it back either. An extreme case, to see it: the base's own states of our sentences,
# and the same states rotated at random.

# %%
import torch
from sempa_utils.objectives import slots

sentences = [one.anchor for one in some.rows[:50]]
follow = [one.positive for one in some.rows[:50]]
temperature = runs["contrastive"].recipe["temperature"]
embedder = Embedder(base, "prompteol")
states, others = (
    embedder.encode(one, convert_to_tensor=True).float().cpu() for one in (sentences, follow)
)
generator = torch.Generator().manual_seed(SEED)
rotation, _ = torch.linalg.qr(torch.randn(states.shape[1], states.shape[1], generator=generator))
head = base.model.get_output_embeddings()


def contrastive_loss(anchors, candidates) -> float:
    return slots.in_batch_loss(
        slots.cosine_scores(anchors, candidates, temperature=temperature)
    ).loss.item()


@torch.no_grad()
def words_after(states) -> torch.Tensor:
    """Log-probabilities of the next token, read from states by the base's own head."""
    return head(states.to(base.device, head.weight.dtype)).float().log_softmax(dim=-1).cpu()


before, after = (
    contrastive_loss(states, others),
    contrastive_loss(states @ rotation, others @ rotation),
)
straight, turned = words_after(states), words_after(states @ rotation)


def likeliest(log_probs: torch.Tensor, count: int = 8) -> generation_plots.NextTokens:
    values, numbers = log_probs.exp().topk(count)
    words = [base.tokenizer.decode([number]) for number in numbers.tolist()]
    return generation_plots.NextTokens(words, values.tolist(), signals.entropy(log_probs).item())


print(f"contrastive loss {before:.4f}, of the rotated states {after:.4f}")
print(f"KL(base ‖ rotated) of the next word {signals.divergence(straight, turned).mean():.1f} nats")
show("sentence", sentences[0])
show("said in one word", ", ".join(map(repr, likeliest(straight[0], 5).tokens)))
show("rotated", ", ".join(map(repr, likeliest(turned[0], 5).tokens)))
assert abs(before - after) < 1e-2

# %% [markdown]
# A preference is different: its score *is* a log-probability, $\beta \log \pi/\pi_\text{ref}$, read through
# $W$, of whole sentences, against the base itself. It cannot improve by losing the words that it is made
# of. (It can still make them worse elsewhere: the loss knows two answers, and no other text.)
#
# How far did the models here go? The next token after three kinds of prompt, made of the same held-out
# sentences: a sentence broken off half-way, a request to paraphrase it, and the slot of
# `"…" means in one word:"`, where the contrastive loss works. First how *sure* each model is.

# %%
from sempa_utils.data.templates import (
    EXTRACTION_TEMPLATES,
    fill,
    paraphrase_request,
    prepare_sentence,
)

prompts = {
    "a sentence, half-way": signals.open_sentences(sentences),
    "a paraphrase request": [paraphrase_request(sentence) for sentence in sentences],
    "in one word": [
        fill(EXTRACTION_TEMPLATES["prompteol"], prepare_sentence(sentence))
        for sentence in sentences
    ],
}
next_token = {kind: {} for kind in prompts}
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        for kind, of_kind in prompts.items():
            next_token[kind][row] = signals.next_token_log_probs(model, of_kind)
entropies = {
    kind: {row: signals.entropy(one).numpy() for row, one in of_rows.items()}
    for kind, of_rows in next_token.items()
}
display(generation_plots.spread_by_prompt(entropies))

# %% [markdown]
# A low entropy is no virtue by itself: a model that always says the same is very sure. So also how far each
# model's next token is from the base's, in nats: $\mathrm{KL}(\pi_\text{base} \,\|\, \pi) = \sum_w \pi_\text{base}(w) \log \frac{\pi_\text{base}(w)}{\pi(w)}$.

# %%
divergences = {
    kind: {row: signals.divergence(of_rows[BASE], of_rows[row]).numpy() for row in rows[1:]}
    for kind, of_rows in next_token.items()
}
display(generation_plots.spread_by_prompt(divergences, "KL(base ‖ model) of the next token (nats)"))

# %% [markdown]
# And the words themselves, for one sentence broken off and for the slot:

# %%
PROMPT = 0  # which sentence: change it
for kind in ("a sentence, half-way", "in one word"):
    display(
        generation_plots.next_tokens(
            prompts[kind][PROMPT] + " …",
            {row: likeliest(one[PROMPT]) for row, one in next_token[kind].items()},
        )
    )

# %%
for kind, of_rows in divergences.items():
    order = sorted(of_rows, key=lambda row: -float(of_rows[row].mean()))
    print(f"{kind:<22} farthest from the base first: ", end="")
    print(", ".join(f"{row} {of_rows[row].mean():.3f}" for row in order))

# %% [markdown]
# **What to take from it.** Compare the first column with the last. At the slot an objective that moves the
# embedding moves the words, since they are read from the same state. The question is how much of that spills
# over to ordinary text, the first column: that is what the perplexity above adds up. It grows with the
# learning rate and the number of rows, so a run of few steps shows little of it. A term that holds the next
# words to the base's can be added to any objective: `--kl-weight` of `python -m sempa_utils train`.

# %% [markdown]
# ## Exercises
#
# Write the function, run the cell, and read what the checker says: it recognises common slips and names
# them. ★ follows from a definition, ★★ needs a thought, ★★★ needs an idea from the text.

# %%
from sempa_utils import exercises

display(Markdown(exercises.overview("generation")))

# %% [markdown]
# **1 · Perplexity of sentences of unequal length** (★, 5 minutes). The first signal of section 5, for a
# text that comes in pieces.


# %%
def perplexity_of(sentences):
    raise NotImplementedError


exercises.check("perplexity_of", perplexity_of)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def perplexity_of(sentences):
#     tokens = [one for sentence in sentences for one in sentence]
#     return torch.tensor(tokens).mean().neg().exp()
# ```
# </details>
#
# **2 · A choice scored by likelihood** (★, 5 minutes). HellaSwag in section 2 makes the model write
# nothing. What does it divide by, and who would win without?


# %%
def choose_ending(log_probs, endings):
    raise NotImplementedError


exercises.check("choose_ending", choose_ending)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def choose_ending(log_probs, endings):
#     per_character = [sum(own) / len(ending) for own, ending in zip(log_probs, endings)]
#     return per_character.index(max(per_character))
# ```
# </details>
#
# **3 · A paired difference** (★, 10 minutes). The second line of a cell in section 3. Try it on a model
# and itself: is 0 ± 0 a proof of anything?


# %%
def paired_difference(one, other):
    raise NotImplementedError


exercises.check("paired_difference", paired_difference)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def paired_difference(one, other):
#     apart = one - other
#     return apart.mean(), apart.std(ddof=1) / len(apart) ** 0.5
# ```
# An error of 0 says that all differences seen are alike. Of the items not seen it says nothing, least
# of all after four of them.
# </details>
#
# **4 · None of four** (★★, 10 minutes). All four answers are wrong, and the error that a table prints
# is 0. How good may the model be all the same?


# %%
def none_right(count, level):
    raise NotImplementedError


exercises.check("none_right", none_right)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def none_right(count, level):
#     return 1 - level ** (1 / count)
# ```
# With a share s, none of n are right with the probability (1 − s)ⁿ; set this to the level and solve for
# s.
# </details>
#
# **5 · KL's direction** (★, 5 minutes). Section 6 measures KL(base ‖ model). Which words of the
# vocabulary decide it, and which would decide the other direction?


# %%
def divergence_from_base(base, model):
    raise NotImplementedError


exercises.check("divergence_from_base", divergence_from_base)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def divergence_from_base(base, model):
#     return (base.exp() * (base - model)).sum(dim=-1)
# ```
# What the base says and the model has lost costs much in this direction, and next to nothing in the
# other.
# </details>
#
# **6 · Turn it unnoticed** (★★, 15 minutes). Section 6's extreme case: a contrastive loss sees nothing,
# and the words are gone.


# %%
def turn_unnoticed(states, head):
    raise NotImplementedError


exercises.check("turn_unnoticed", turn_unnoticed)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def turn_unnoticed(states, head):
#     width = states.shape[1]
#     rotation, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
#     return states @ rotation.numpy()
# ```
# The shortest answer is `-states`: every cosine stays, and the likeliest word becomes the least likely.
# </details>
#
# **7 · A KL leash** (★★, 15 minutes). A term that keeps a model speaking as the base does, while its
# embedding may move. Where does it belong?


# %%
def leashed_loss(preference, base, model, at_slot, weight):
    raise NotImplementedError


exercises.check("leashed_loss", leashed_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def leashed_loss(preference, base, model, at_slot, weight):
#     divergence = (base.exp() * (base - model)).sum(dim=-1)
#     return preference + weight * divergence[~at_slot].mean()
# ```
# At the slot the next word is read from the very state that is the embedding, so a leash there holds
# the embedding, and leaves the speech where it likes.
# </details>

# %% [markdown]
# ## The paper's setting and this run's

# %%
settings = records.settings_table(
    [
        ("model", "LLaMA-2-7B, LLaMA-3-8B", base.name),
        (
            "training rows",
            "40,000 to 80,000, the same for both objectives",
            f"{len(anchors[0]):,}, {same} anchors, {training_rows.source}",
        ),
        (
            "contrastive baseline",
            "InfoNCE on the PromptEOL embedding; rate and temperature not stated",
            f"the same; rate {runs['contrastive'].recipe['learning_rate']:g}, "
            f"τ {runs['contrastive'].recipe['temperature']:g}, no KL term",
        ),
        ("SemPA's learning rate", "1e-4", f"{runs['SemPA'].recipe['learning_rate']:g}"),
        (
            "KL(base ‖ model) on plain text",
            "none",
            f"weight {runs['SemPA'].recipe['kl_weight']:g}, and 0 beside it",
        ),
        (
            "benchmarks",
            "GSM8K, MMLU, HellaSwag, DROP, TruthfulQA, whole",
            "; ".join(
                f"{name.split(',')[0]}: {items[t]} items, {data[t]['source']}"
                for t, name in names.items()
                if t != "mean"
            ),
        ),
        (
            "examples before a question",
            "8, 5, 0, 3, 0",
            ", ".join(str(result.shots) for result in results[BASE].values()),
        ),
        (
            "harness",
            "lm-evaluation-harness, DROP repaired",
            "the same, 0.4.13; DROP's prompt repaired (README)",
        ),
        ("uncertainty", "none", "standard errors, paired for differences"),
        ("STS", "seven tasks", f"{', '.join(tasks)}, {profile.sts_pairs or 'all'} pairs each"),
        ("precision", "bfloat16", base.precision),
    ]
)
display(Markdown(settings))

# %%
best = {row: one.brief() for row, one in found.items() if row != "SemPA"}
record_of_run = records.run_record(
    "notebook_05_generation",
    figures={
        "benchmarks": compared,
        "all_metrics": {
            row: {task: result.all_metrics for task, result in of_row.items()}
            for row, of_row in results.items()
        },
        "sts": {row: figures.mean for row, figures in sts_compared.rows.items()},
        "signals": measured,
        "effects": found,
        "entropy": {
            kind: {row: one.mean() for row, one in of_rows.items()}
            for kind, of_rows in entropies.items()
        },
        "divergence": {
            kind: {row: one.mean() for row, one in of_rows.items()}
            for kind, of_rows in divergences.items()
        },
        "adapters": {row: models.adapter_fingerprint(path) for row, path in adapters.items()},
    },
    headline=(
        f"SemPA, {len(training_rows):,} triplets: {found['SemPA'].words()}; beside it "
        + "; ".join(f"{row} {words}" for row, words in best.items())
        + f"; {len(items)} benchmarks, {sum(items.values())} items, mean: "
        + ", ".join(f"{row} {figures.mean.value:.1f}" for row, figures in compared.rows.items())
    ),
    origin=records.Origin(
        model=base.describe(),
        data=[training_rows.record(), some.record(), text.record(), *data.values()],
        settings={
            "items": profile.generation_items,
            "text_tokens": tokens,
            "pairs": profile.sts_pairs,
        },
        seed=SEED,
    ),
)
records.save_run(record_of_run)
print("that was the last notebook; `python -m sempa_utils --help` does the same without one")
