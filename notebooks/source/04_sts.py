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
# # 04 · Semantic textual similarity
#
# People graded how alike two sentences are. A good embedding orders the pairs as they did. This notebook
# scores three ways to read an embedding off the same model: mean pooling, PromptEOL, and PromptEOL with
# the SemPA adapter.
#
# **You will learn**
# - what the STS benchmarks measure, from two sentences up to a table;
# - the `all` rule by which papers' figures are computed, and why another rule gives other figures;
# - to put an interval on a figure before you believe a difference;
# - how the published table compares, and what may not be compared.

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
from sempa_utils import profiles, results

PROFILE = os.environ.get("SEMPA_PROFILE", "cpu")  # all sizes: cpu, t4, 24gb or paper
MODEL = os.environ.get("SEMPA_MODEL", "packaged")  # "packaged" (135M), a hub id, or a directory
SEED = 42

profile = profiles.get(PROFILE)
display(Markdown(results.costs("04_sts")))

# %% [markdown]
# ## 1 · Two sentences, and a few more
#
# Each cell is the cosine of two sentences. Which pairs mean the same?

# %%
from sempa_utils import corpora, models, sts, training
from sempa_utils.embedding import Embedder
from sempa_utils.plots import scores as score_plots
from sempa_utils.plots import space as space_plots

# The adapter of notebook 02 is found, or trained now, before a model is loaded to score.
record, training_rows, _ = training.train_profile(MODEL, profile, SEED)
base = models.load(MODEL, profile.evaluation_precision)
sentences = [
    "The shop opens at nine.",
    "You can go in from nine o'clock.",
    "The shop closes at nine.",
    "My sister plays the cello.",
    "A string instrument is what she practises.",
    "The cat slept through the storm.",
]
embedder = Embedder(base, "prompteol")
vectors = embedder.encode(sentences)
display(
    space_plots.similarity_heat_map(
        embedder.similarity(vectors, vectors), sentences, "PromptEOL, base model"
    )
)

# %% [markdown]
# ## 2 · From pairs to one number
#
# A test set is many such pairs, each with a human score. **Spearman's ρ** compares two orders: rank the
# pairs by cosine, rank them by score, correlate the ranks. Written out, and held against the package:

# %%
import numpy as np
from scipy import stats

tasks = corpora.sts_tasks()
small = corpora.load_sts(corpora.MINI_STS)
print(small.describe())
cosines = sts.pair_similarities(embedder.encode, small.rows)
human = np.array([pair.score for pair in small.rows])


def spearman(one, other):
    one, other = (stats.rankdata(values) for values in (one, other))
    one, other = one - one.mean(), other - other.mean()
    return 100 * (one @ other) / np.sqrt((one @ one) * (other @ other))


print(
    f"ρ × 100 = {spearman(cosines, human):.2f} here, {sts.spearman(cosines, human):.2f} in the package"
)
assert abs(spearman(cosines, human) - sts.spearman(cosines, human)) < 1e-6

# %% [markdown]
# ## 3 · Three ways to read the same model

# %%
print(training_rows.describe())
adapted = models.add_adapter(base, record["adapter"])


def similarities_of(language_model, method: str) -> np.ndarray:
    return sts.pair_similarities(Embedder(language_model, method).encode, small.rows)


with adapted.model.disable_adapter():
    similarities = {
        "mean pooling": similarities_of(adapted, "mean"),
        "PromptEOL": similarities_of(adapted, "prompteol"),
    }
similarities["SemPA"] = similarities_of(adapted, "prompteol")
display(score_plots.agreement(similarities, human))

# %%
lines = [f"| mini-STS, {len(small)} pairs of ours | ρ × 100 | 95 % interval |", "|---|---|---|"]
mini = {}
for name, values in similarities.items():
    low, high = sts.spearman_interval(values, human, seed=SEED)
    mini[name] = {"spearman": sts.spearman(values, human), "low": low, "high": high}
    lines.append(f"| {name} | {mini[name]['spearman']:.1f} | {low:.1f} to {high:.1f} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# The mini corpus is hard on purpose: many of its pairs share their words and not their meaning, or the
# reverse. And it is small: read the intervals before the figures. Two methods are scored on the *same*
# pairs, so their difference is sharper than the two intervals suggest. Resample the pairs, score both
# methods on each resample, and look at the difference:

# %%
difference, low, high = sts.paired_difference(
    similarities["SemPA"], similarities["PromptEOL"], human, seed=SEED
)
mini["SemPA − PromptEOL"] = {"spearman": difference, "low": low, "high": high}
print(f"SemPA − PromptEOL: {difference:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
print("a difference is seen" if low > 0 or high < 0 else "no difference is seen on these pairs")

# %% [markdown]
# ## 4 · The seven tasks
#
# STS12–16, STS-B and SICK-R, as SentEval reads and scores them. Where the task has several parts, its
# figure is ρ over all its pairs put together (SentEval's `all`), not the mean of the parts' ρ.
# The two rules differ wherever parts lie at different levels, as in this toy of two parts, each in perfect
# order by itself:

# %%
part_one, part_two = ([0.90, 0.92, 0.94], [0, 1, 2]), ([0.50, 0.52, 0.54], [3, 4, 5])
mean_of_parts = (sts.spearman(*part_one) + sts.spearman(*part_two)) / 2
together = sts.spearman(part_one[0] + part_two[0], part_one[1] + part_two[1])
print(f"mean of the parts' ρ × 100: {mean_of_parts:.1f}; SentEval's `all`: {together:.1f}")
assert mean_of_parts > together

# %% [markdown]
# The seven
# tasks run if their files are found (a directory named by `SEMPA_DATA_DIR`, the cache, or the hub);
# otherwise the packaged task stands in, and says so.

# %%
print("tasks here:", ", ".join(tasks))
scores = {}
with adapted.model.disable_adapter():
    for name, method in (("mean pooling", "mean"), ("PromptEOL", "prompteol")):
        scores[name] = sts.evaluate(
            Embedder(adapted, method), tasks, limit=profile.sts_pairs, seed=SEED
        )
scores["SemPA"] = sts.evaluate(
    Embedder(adapted, "prompteol"), tasks, limit=profile.sts_pairs, seed=SEED
)

sampled = any(
    result["pairs"] < corpora.PAIR_COUNTS.get(task, 0) for task, result in scores["SemPA"].items()
)
figures = {
    name: {task: result["spearman"] for task, result in found.items()}
    | {"mean": sts.mean_score(found)}
    for name, found in scores.items()
}
if len(tasks) == 1:  # the mean of one task says nothing new
    figures = {name: {tasks[0]: found[tasks[0]]} for name, found in figures.items()}
for task, result in scores["SemPA"].items():
    print(f"{task}: {result['pairs']:,} pairs from {result['data']['source']}")
if sampled:
    print("samples of the tasks: not the published measure")

# %%
rows = {"mean pooling": "Mean Pooling", "PromptEOL": "PromptEOL", "SemPA": "SemPA"}
published = {
    f"{ours}, LLaMA2-7B": {
        ("mean" if task == "Avg" else task): figure
        for task, figure in results.published_sts("LLaMA2-7B", theirs).items()
    }  # fmt: skip
    for ours, theirs in rows.items()
}
display(score_plots.sts_bars(figures, published))

# %% [markdown]
# ## 5 · Beside the published table

# %%
columns = [*corpora.STS_TASKS, "mean"]
lines = [
    "| model | method | " + " | ".join(columns) + " | source |",
    "|---|---|" + "---|" * (len(columns) + 1),
]
for model in ("LLaMA2-7B", "LLaMA3-8B"):
    for theirs in rows.values():
        row = results.published_sts(model, theirs)
        cells = [f"{row['Avg' if column == 'mean' else column]:.2f}" for column in columns]
        lines.append(f"| {model} | {theirs} | " + " | ".join(cells) + " | *published* |")
if len(tasks) > 1:
    for name, found in figures.items():
        cells = [f"{found[column]:.2f}" for column in columns]
        lines.append(
            f"| {base.name} | {name} | "
            + " | ".join(cells)
            + f" | this run{', sampled' if sampled else ''} |"
        )
display(Markdown("\n".join(lines)))
if len(tasks) == 1:
    display(
        Markdown(
            f"The seven tasks were not found, so this run has no row in that table: its figures on **{tasks[0]}** "
            "are of another test and may not be compared with any of these."
        )
    )

# %% [markdown]
# ## The paper's setting and this run's

# %%
settings = results.settings_table(
    [
        ("model", "LLaMA-2-7B, LLaMA-3-8B", base.name),
        (
            "training rows",
            "40,000 to 80,000, the number chosen on STS-B dev",
            f"{len(training_rows):,}, {training_rows.source}",
        ),
        ("tasks", "STS12–16, STS-B, SICK-R", ", ".join(tasks)),
        ("pairs per task", "all", profile.sts_pairs if sampled else "all"),
        (
            "text",
            "SentEval's, lower-cased and tokenised",
            "SentEval's" if len(tasks) > 1 else "as written",
        ),
        ("measure", "Spearman ρ × 100, SentEval's `all`", "the same"),
    ]
)
display(Markdown(settings))

# %%
score = {name: found.get("mean", found.get(tasks[0])) for name, found in figures.items()}
results.save_run(
    "notebook_04_sts",
    figures={"tasks": figures, "mini_sts": mini},
    headline=(
        f"{'mean of seven tasks' if len(tasks) > 1 else tasks[0]}{', sampled' if sampled else ''}, ρ × 100: "
        + ", ".join(f"{name} {value:.1f}" for name, value in score.items())
    ),
    model=adapted.describe(),
    data=[training_rows.record(), *(result["data"] for result in scores["SemPA"].values())],
    settings={"pairs_per_task": profile.sts_pairs},
    seed=SEED,
)
print("that was the last notebook; `python -m sempa_utils --help` does the same without one")
