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
# sides of that claim are looked at here: what the embedding gains, and what the speech loses.
#
# **You will learn**
#
# - what five generation benchmarks ask, how their answers are read, and what a standard error on them means;
# - to compare models on the same items, so that the difference is sharper than the two figures;
# - when a benchmark *cannot* show a loss, and what to read instead: how likely the right answers are;
# - cheap signals that show a loss in minutes: perplexity, preferences, the shape of what is written;
# - the picture that the paper argues in words: STS gained against generation lost;
# - why a contrastive loss does not notice when the words go, and what a preference loss notices.
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

    hosted.prepare("05_generation", keep_on_drive=KEEP_ON_DRIVE)

# %% tags=["parameters"]
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
# Four adapters on the same base, trained on the same rows: the paper's pairwise preference (SemPA, notebook 02's
# adapter), the ranking of three sentences that the paper names as an open step, and the contrastive baseline, which
# nothing holds to the base. What the KL term does for SemPA, the same run without it tells. The rows are the same, not
# the whole budget: the table says what else differs. What is trained already is found again.

# %%
from sempa_utils import models, training
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import generation
from sempa_utils.evaluation.generation import gold_answers, signals
from sempa_utils.experiments import report
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

# %%
runs = {row: one.record for row, one in trained.items()}
training_rows, held_out = trained["SemPA"].corpus, trained["SemPA"].held_out
base = models.load(MODEL, profile.evaluation_precision)
finished = models.finished_adapters(base)  # what this kit brings for this base, if anything
adapters = {row: run.adapter for row, run in runs.items()}
adapters |= {row: path for row, path in finished.items() if row not in adapters}
rows = [BASE, *(row for row in adapters if row not in WITHOUT_KL)]
anchors = [[one[0] for one in corpus.rows] for _, corpus, _ in trained.values()]
same = "the same" if all(one == anchors[0] for one in anchors) else "not all the same"
print(f"trained here on {len(anchors[0])} rows each, {same} anchors: {training_rows.source}")
table = {row: (run.recipe, run.data["rows"]) for row, run in runs.items()}
display(Markdown(records.recipe_table(table)))
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
# Whole, they take hours, so no cell runs them: the figures below are recorded runs of the kit on the packaged model and
# public items, beside the paper's. `python -m sempa_utils benchmark --adapter FOLDER` makes your own.

# %%
recorded = report.recorded_runs()
display(Markdown(report.generation(recorded)))

# %% [markdown]
# ## 3 · What a standard error says
#
# It says how far a figure would move with other items of the same kind. All models answer the *same* items, so what an
# easy or a hard draw does to both cancels in the difference: its own standard error, in brackets above, is that of the
# item-by-item differences. In the picture, a dashed line is what guessing gets.

# %%
having = {
    run: one.figures.generation.scores
    for run, one in recorded.items()
    if one and one.figures.generation
}
tasks = {task: one.label.split(",")[0] for task, one in generation.TASKS.items()}
benchmarks = records.Comparison(BASE, having)
display(generation_plots.task_scores(benchmarks, tasks, chance=generation.CHANCE))
items = having[BASE].tasks["gsm8k"].count
print(f"{items} items: one more right is {100 / items:.1f} points; none of {items} right", end=" ")
print(f"still allows up to {100 * (1 - 0.05 ** (1 / items)):.1f} % (19 times in 20)")

# %% [markdown]
# **How to read it.** Hold a difference against its own error: within about two errors of zero nothing was
# seen, which is not the same as *nothing happened*. An error of 0 means that all items came out alike, not
# that the figure is certain. And a figure at the guessing line cannot fall: a model that could not do a task
# before training has nothing to lose on it. Small models sit there on GSM8K, MMLU and TruthfulQA. Only HellaSwag
# has room to fall here, and 40 items of it show nothing of a few points. More items of two tasks, for the base and the
# finished contrastive adapter, which was trained with a KL term:

# %%
display(Markdown(report.on_many_items(recorded)))
path = records.committed_folder() / "generation_limit_817.json"
many = records.load_run(path, records.Comparison).figures
for task, score in many.rows["adapter"].tasks.items():
    before, less = many.rows[BASE].tasks[task].value, score.difference
    largest = max(0.0, -100 * less.bounds.low / before)
    print(f"{tasks[task]}: a loss of up to {largest:.1f} % of the base's figure is not excluded")

# %% [markdown]
# So *no loss was shown* is all that may be said, and of this adapter: HellaSwag excludes a loss of more than the printed
# share, TruthfulQA lies near guessing and excludes less.

# %% [markdown]
# ## 4 · Gained and lost
#
# The claim in one picture, from the recorded runs: up is a better embedding, left is lost speech. STS is the mean of
# the seven tasks, read with PromptEOL at the last layer, every model on the same pairs. The runs differ in more than
# their objective; the table has it.

# %%
points = {}  # of each recorded run, what generation and STS gain
for run, one in recorded.items():
    if run in having and one.figures.sts and run != BASE:
        gains = having[run].mean.difference, one.figures.sts.scores.mean.difference
        points[run] = gains
        shown = " and ".join(
            f"{what} {gain.value:+.1f}{'' if gain.shown else ' (0 is not excluded)'}"
            for what, gain in zip(("generation", "STS"), gains)
        )
        print(f"{run:<16} {shown}")
display(Markdown(report.recipes(recorded)))

# %%
table6 = {
    (one["model"], one["variant"].split(" (")[0]): one["Avg"]
    for one in records.published("table6_generation")
}
theirs = {}
for model in ("LLaMA2-7B", "LLaMA3-8B"):
    rho = [records.published_sts(model, method)["Avg"] for method in ("PromptEOL", "SemPA")]
    for variant, gain in (("SemPA", rho[1] - rho[0]), ("contrastive learning", None)):
        less = table6[model, variant] - table6[model, "base"]
        theirs[f"{variant},\n{model}"] = less, gain
display(
    generation_plots.gained_and_lost(
        points,
        theirs,
        generation=f"mean of five benchmarks, {items} items each",
        sts="mean of seven STS tasks, ρ × 100",
    )
)

# %% [markdown]
# The paper's table has no STS of its contrastive model, so only how far left it stands is known. The
# published points are of other models on whole benchmarks: they say what was claimed, not what ours should
# match. What our own points say of speech is little: the intervals across hold zero.
#
# **One signal that is live.** Where accuracy lies on the floor, the *likelihood* of the right answer can still fall:
# how many nats does a token of the benchmark's own answer take, behind its question? Every item counts, not only those
# that were right. These are a dozen items a benchmark, written for this kit: too few for a finding about a model, enough
# to see what an item is and what is read of it.

# %%
own = gold_answers.load(
    generation.Benchmarks(directory=corpora.MINI_CORPUS, limit=profile.gold_items, seed=SEED)
)
for task, drawn in own.items():
    item = drawn.items[0]
    print(f"── {gold_answers.LABELS[task]}, {len(drawn.items)} items ──")
    print(f"{item.prompt}\n→ {item.answer.strip()}\n")

# %%
likelihoods = {}
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        likelihoods[row] = gold_answers.evaluate(model, own, show_progress_bar=False)
answers = generation.comparison(likelihoods, against=BASE)
apart = {
    row: {task: score.difference for task, score in one.columns.items()}
    for row, one in answers.rows.items()
    if row != BASE
}
display(generation_plots.differences(apart, tasks | {"mean": "mean"}))
in_words = {row: {tasks[task]: one.value for task, one in likelihoods[row].items()} for row in rows}
display(Markdown(records.table(in_words, corner="nats a token")))

# %% [markdown]
# **How to read it.** To the left of zero the model finds the right answers less likely than the base does. A hollow mark
# has an interval that holds 0. GSM8K's answer is a whole worked solution, the others are a few words, so its mark is the
# steadiest.

# %% [markdown]
# ## 5 · Cheap signals
#
# These too need minutes, because they look at every token instead of at right or wrong:
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
how_many = "all" if tokens is None else f"{tokens:,}"
print(f"perplexity: {how_many} tokens of {text.name}, {text.source}")
print(f"preferences and paraphrases: {len(some)} of {held_out.name}, {held_out.source}")

# %%
from sempa_utils.evaluation import shortcuts

told = {
    meaning: {row: f"{measured[row][name]:.1f}" for row in rows}
    for name, meaning in signals.SIGNALS.items()
}
display(Markdown(records.table(told)))
print("preference", shortcuts.words_of(some.rows))

# %% [markdown]
# Where the text is our own short sentences, perplexity is far above the README's 30 or so of the same base: that one is
# of running text, WikiText-2, where a token has hundreds before it; here each sentence begins with nothing before it.
# Two texts cannot be compared, and two models on one text can.

# %% [markdown]
# **Gained and paid, and what the KL term is worth.** Up is a better embedding, right is more surprise at text that
# training did not touch. Hold *SemPA without KL* against *SemPA*: what lies between the two is the term's doing, for
# nothing else differs.

# %%
found = effect.effects(base, adapters, trained_on=training_rows, profile=profile, seed=SEED)
for row, one in found.items():
    print(f"{row:<16} {one.words()}")
ends = {
    row: [records.FrontierPoint(run.data["rows"], found[row].after, found[row].perplexity)]
    for row, run in runs.items()
}
start = records.FrontierPoint(0, found["SemPA"].before, found["SemPA"].perplexity_before)
display(generation_plots.frontier(ends, start, text=text.name, gained=found["SemPA"].task))

# %% [markdown]
# After so few rows the contrastive run need not stand out. Its harm grows with them. The recorded runs, on thousands of
# triplets, have the same signals; see `contrastive` in the columns perplexity and looping, and what the KL term makes of
# it:

# %%
display(Markdown(report.speech(recorded)))

# %% [markdown]
# The same request, answered by all (the likeliest token at each step):

# %%
import textwrap


def show(name: str, words: str) -> None:
    """Print a text behind a name, in lines that a page can hold."""
    for place, line in enumerate(textwrap.wrap(" ".join(words.split()), 78) or [""]):
        print(f"{name if place == 0 else '':>16} │ {line}")


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

sentences, follow = ([one[side] for one in some.rows[:50]] for side in (0, 1))
temperature = runs["contrastive"].recipe["temperature"]
embedder = Embedder(base, "prompteol")
states, others = (
    embedder.encode(one, convert_to_tensor=True).float().cpu() for one in (sentences, follow)
)
generator = torch.Generator().manual_seed(SEED)
rotation, _ = torch.linalg.qr(torch.randn(states.shape[1], states.shape[1], generator=generator))


# %%
def contrastive_loss(turn) -> float:
    scores = slots.cosine_scores(states @ turn, others @ turn, temperature=temperature)
    return slots.in_batch_loss(scores).loss.item()


before, after = contrastive_loss(torch.eye(len(rotation))), contrastive_loss(rotation)


# %%
head = base.model.get_output_embeddings()


@torch.no_grad()
def words_after(states) -> torch.Tensor:
    """Log-probabilities of the next token, read from states by the base's own head."""
    return head(states.to(base.device, head.weight.dtype)).float().log_softmax(dim=-1).cpu()


def likeliest(log_probs: torch.Tensor, count: int = 8) -> generation_plots.NextTokens:
    values, numbers = log_probs.exp().topk(count)
    words = [base.tokenizer.decode([number]) for number in numbers.tolist()]
    return generation_plots.NextTokens(words, values.tolist(), signals.entropy(log_probs).item())


# %%
straight, turned = words_after(states), words_after(states @ rotation)
print(f"contrastive loss {before:.4f}, of the rotated states {after:.4f}")
print(f"KL(base ‖ rotated) of the next word {signals.divergence(straight, turned).mean():.1f} nats")
show("sentence", sentences[0])
show("said in one word", ", ".join(map(repr, likeliest(straight[0], 5).tokens)))
show("rotated", ", ".join(map(repr, likeliest(turned[0], 5).tokens)))
assert abs(before - after) < 1e-2

# %% [markdown]
# A preference is different: its score *is* a log-probability, $\beta \log \pi/\pi_\text{ref}$, read through
# $W$, of whole sentences, against the base itself. No rotation leaves it unchanged. But it holds only the *difference*
# of two answers: both may become unlikely, as section 8 of notebook 01 has it, and of any other text the loss knows
# nothing. So it does not keep the words by itself. The recorded run of the paper's objective without a KL term pays in
# perplexity too (section 5), less than the contrastive one.
#
# How far did the models here go? The next token after three kinds of prompt, made of the same held-out
# sentences: a sentence broken off half-way, a request to paraphrase it, and the slot of
# `"…" means in one word:"`, where the contrastive loss works. First how *sure* each model is.

# %%
from sempa_utils.data import templates

frame = templates.EXTRACTION_TEMPLATES["prompteol"]
prompts = {
    "a sentence, half-way": signals.open_sentences(sentences),
    "a paraphrase request": [templates.paraphrase_request(sentence) for sentence in sentences],
    "in one word": [templates.fill(frame, templates.prepare_sentence(one)) for one in sentences],
}
next_token = {kind: {} for kind in prompts}
for row in rows:
    with models.adapted(base, adapters.get(row)) as model:
        for kind, of_kind in prompts.items():
            next_token[kind][row] = signals.next_token_log_probs(model, of_kind)

# %%
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
# **What to take from it.** Compare the three panels. At the slot an objective that moves the
# embedding moves the words, since they are read from the same state. The question is how much of that spills
# over to ordinary text, the first panel: that is what the perplexity above adds up. It grows with the
# learning rate and the number of rows, so a run of few steps shows little of it. After a paraphrase request, which is
# what SemPA trains on, its words move most: they are meant to.
#
# A term that holds the next words of *plain text* to the base's can be added to any objective: `--kl-weight` of
# `python -m sempa_utils train`. It was tried with the pairwise and the contrastive one, and kept the perplexity of both
# near the base's. It does not hold what the model says after a paraphrase request or at the slot, as the second and third
# panel show of the finished adapters, which were trained with it.
#
# So, does it still speak? In plain text, as far as perplexity and HellaSwag can tell, what was trained with the term does,
# and what was trained without it on thousands of rows does so less well: the tables above say by how much. What a model
# *writes* when it is asked for a paraphrase has changed with all of them, for better with the paper's objective and with
# loops with the contrastive one. No more has been shown here, and nothing of models of 7B parameters.

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
recipe, sempa = runs["contrastive"].recipe, runs["SemPA"].recipe
ours = {
    "model": base.name,
    "training rows": f"{len(anchors[0]):,}, {same} anchors, {training_rows.source}",
    "optimiser": f"AdamW, peak {sempa['learning_rate']:g}, warm-up, cosine",
    "KL(base ‖ model) on plain text": f"weight {sempa['kl_weight']:g}, and 0 beside it",
}
baseline = f"the same; rate {recipe['learning_rate']:g}, τ {recipe['temperature']:g}, no KL term"
theirs = "InfoNCE on the PromptEOL embedding; rate and temperature not stated"
errors = "standard errors, paired for differences; of items, not of seeds"
pairs = f"{found['SemPA'].task}, {profile.sts_pairs or 'all'} pairs each"
others = [
    ("contrastive baseline", theirs, baseline),
    ("benchmarks", "five, whole", f"recorded, {items} items each; two of them on 817"),
    ("harness", "lm-evaluation-harness, DROP repaired", "the same (README)"),
    ("uncertainty", "none", errors),
    ("STS", "seven tasks", pairs),
]
display(Markdown(records.settings_table(records.paper_settings(ours) + others)))

# %%
figures = {
    "gold_answers": answers,
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
}

# %%
beside = "; ".join(f"{row} {one.brief()}" for row, one in found.items() if row != "SemPA")
nats = ", ".join(f"{row} {one.mean.value:.2f}" for row, one in answers.rows.items())
sources = [drawn.data for drawn in own.values()]
sizes = {"items": profile.generation_items, "text_tokens": tokens, "pairs": profile.sts_pairs}
record_of_run = records.run_record(
    "notebook_05_generation",
    figures=figures,
    headline=(
        f"SemPA, {len(training_rows):,} triplets: {found['SemPA'].words()}; beside it {beside}; "
        f"right answers of five benchmarks, nats a token: {nats}"
    ),
    origin=records.Origin(
        model=base.describe(),
        data=[training_rows.record(), some.record(), text.record(), *sources],
        settings=sizes,
        seed=SEED,
    ),
)
records.save_run(record_of_run)
print("that was the last notebook; `python -m sempa_utils --help` does the same without one")
