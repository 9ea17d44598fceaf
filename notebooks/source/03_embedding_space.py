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
# # 03 · The embedding space in pictures and numbers
#
# A language model writes one word at a time. Ask it for a sentence *in one word*, and the state from which
# it would write that word is an embedding of the sentence. The paper argues that training makes this space
# less of a narrow cone: its Figure 4, its Tables 5 and 7. Here you see what happens on the model in front of
# you, and what each picture and number can and cannot say.
#
# **You will learn**
# - where a sentence embedding sits in a language model, and how to read it off in two lines;
# - to project anchors, positives and negatives on a plane, and how far to trust such a picture;
# - what the cosines of entailed, neutral and contradicted pairs say that the picture does not;
# - what *uniformity* and *isotropy* measure, why in a cone they are one number told twice, and which of the
#   paper's unstated choices its own table gives away;
# - to hear which words an embedding stands next to, and what the share of them that the sentence holds means.
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

    hosted.prepare("03_embedding_space", keep_on_drive=KEEP_ON_DRIVE)

# %% tags=["parameters"]
from IPython.display import Markdown, display
from sempa_utils import profiles, records

PROFILE = os.environ.get("SEMPA_PROFILE", "cpu")  # all sizes: cpu, t4, 24gb or paper
MODEL = os.environ.get("SEMPA_MODEL", "packaged")  # "packaged" (135M), a hub id, or a directory
SEED = 42

profile = profiles.get(PROFILE)
display(Markdown(records.costs("03_embedding_space")))

# %% [markdown]
# ## 1 · One word for a sentence
#
# PromptEOL wraps a sentence in `This sentence : "…" means in one word:"` and takes the last token's state
# after the final norm. That place, where the model is about to write its one word, is the *slot*. Written out for
# one sentence:

# %%
import numpy as np
import torch
from IPython.display import HTML
from sempa_utils import checks, models, training
from sempa_utils.data import corpora
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import geometry
from sempa_utils.plots import interactive
from sempa_utils.plots import space as space_plots

# The adapters of notebook 02 are found, or trained now, before a model is loaded to look at.
RUNS = {"SemPA": {"seed": SEED}, "one word": {"seed": SEED, "objective": "one_word"}}
trained = training.train_profiles(MODEL, profile, runs=RUNS)
(record, training_rows, _), (words_record, _, _) = trained.values()
base = models.load(MODEL, profile.evaluation_precision)
exact = profile.evaluation_precision == "float32"

# %%
sentence = "The match was called off because of the heavy rain."
prompt = fill(EXTRACTION_TEMPLATES["prompteol"], prepare_sentence(sentence))
tokens = base.tokenizer(prompt, return_tensors="pt").to(base.device)
with torch.no_grad():
    output = base.model(**tokens, output_hidden_states=True)
by_hand = output.hidden_states[-1][0, -1].float().cpu()
by_package = Embedder(base, "prompteol").encode(sentence, convert_to_tensor=True)
worst = (by_hand - by_package).abs().max()
print(f"vector of {len(by_hand)} numbers; largest difference to the package {worst:.1e}")
assert torch.allclose(by_hand, by_package, atol=1e-4 if exact else 0.1)

likely = output.logits[0, -1].topk(8).indices
words = ", ".join(map(repr, geometry.decode(base.tokenizer, likely)))
print(f"the words the model would say: {words}")

# %% [markdown]
# ## 2 · Before and after
#
# Four ways to a vector, at least. On the base: **mean pooling** and **PromptEOL**. Read as PromptEOL, through
# an adapter: **SemPA**, the paper's objective over sentences (`pairwise`), and **one word**, this kit's
# objective over words, both as notebook 02 trained them on the same few rows, with the recipes below: they differ in
# more than the objective. Finished adapters, trained on
# more, are further spaces where the kit has any for this model; what each was trained for stands in its card,
# under `sempa_utils/adapters/`. The adapters lie beside the base weights, so one model in memory gives all
# spaces. None of the sentences below was trained on by notebook 02; a finished adapter may have seen them if
# they come from a data directory of yours.

# %%
adapters = {"SemPA": record.adapter, "one word": words_record.adapter}
for name, folder in models.finished_adapters(base).items():
    adapters[f"{name.replace('_', ' ')}, finished"] = folder


def each_space():
    """Yield (name, language model, method), one adapter on the base at a time."""
    yield "mean pooling", base, "mean"
    yield "PromptEOL", base, "prompteol"
    for name, folder in adapters.items():
        with models.adapted(base, folder) as adapted:
            yield name, adapted, "prompteol"


runs = {name: run.record for name, run in trained.items()}
table = {name: (run.recipe, run.data["rows"]) for name, run in runs.items()}
display(Markdown(records.recipe_table(table)))

# %%
ranked = corpora.load_ranked_nli().without(training_rows).sample(profile.picture_triplets, SEED)
print(training_rows.describe())
print(ranked.describe())

roles = ("anchor", "positive", "neutral", "negative")  # premise, entailed, neutral, contradicted
texts = dict(zip(roles, (list(column) for column in zip(*ranked.rows))))
sentences = sum(texts.values(), [])
vectors, inner, descriptions = {}, {}, {}
for name, language_model, method in each_space():
    # Index 0 is the embedding table, no layer yet; for the curves of section 7 some will do.
    states = Embedder(language_model, method).encode_layers(sentences)[1:]
    vectors[name] = dict(zip(roles, np.split(states[-1].numpy(), len(roles))))
    inner[name] = states[:, :: max(1, len(sentences) // 400)].clone()
    descriptions[name] = language_model.describe()
everything = {name: np.concatenate(list(parts.values())) for name, parts in vectors.items()}

# %% [markdown]
# **Principal components, as in the paper's Figure 4.** The axes are fitted on the base alone, and all panels have the
# same frame, so what one sees is what training moved. Lines join a few anchors to their positive (solid) and their
# negative (dotted). (The paper's panels have axes of their own each: then a tight cluster and a wide one look alike,
# for each fills its frame, and a point that seems to move may have stayed.)

# %%
read_alike = {
    name: {role: parts[role] for role in space_plots.ROLES}
    for name, parts in vectors.items()
    if name != "mean pooling"  # its states are read elsewhere: the axes are not its own
}
on_base = geometry.projections(read_alike, base="PromptEOL")
display(space_plots.projections(on_base, common=True))
shift = {
    name: geometry.displacement(everything["PromptEOL"], everything[name])[0] for name in adapters
}
for name, moved in shift.items():
    print(f"{name}: a vector moved by {100 * moved:.1f} % of its length on average")

# %% [markdown]
# **How to read it.** Look at the lengths of solid and dotted lines: in a good space the solid ones are short.
# **Where it misleads:** two axes hold only the share of the variance that they state, here a small one, so points
# close on the plane need not be close in the space; and what moved at right angles to the base's axes is not seen.
# A cloud looks much the same whatever the space can tell apart. For that, go on to section 4.
#
# **Whose point is it?** In a live notebook, hover over a point and its sentence is shown. On a saved page some
# points that lie far apart are told (1a, 2a, …), each with its nearest neighbour on the plane (1b, 2b, …). What do the
# two have in common: the meaning, the topic, the first word, the length?

# %%
SHOWN = list(adapters)[-1]  # any adapter's name
interactive.scatter(
    {role: on_base[SHOWN][role] for role in space_plots.ROLES},
    {role: texts[role] for role in space_plots.ROLES},
)


# %%
def same_premise(points: np.ndarray) -> float:
    """The share of sentences whose nearest neighbour belongs to the same premise, in per cent."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    premise = np.arange(len(points)) % len(ranked)
    return 100 * (premise[apart.argmin(axis=1)] == premise).mean()


def stacked(parts):
    return np.concatenate([parts[role] for role in space_plots.ROLES])


on_plane, in_space = same_premise(stacked(on_base[SHOWN])), same_premise(stacked(vectors[SHOWN]))
print(f"the nearest neighbour is of the same premise: on the plane for {on_plane:.0f} %", end=", ")
print(f"in the whole space for {in_space:.0f} % of {3 * len(ranked)} sentences")

# %% [markdown]
# Where the first share is low, neighbours on the plane mostly have nothing in common that you could name: what the
# whole space knows of topics, two directions do not show. The gap between the two shares is what the picture hides.
#
# ## 3 · On the way
#
# The same measure at the checkpoints that each run left: how far a vector has moved from the base's, as a share of its
# length, and how much of the (squared) movement is one and the same step for all sentences. A common step changes
# every cosine alike; what tells sentences apart is the rest.

# %%
few = min(40, len(ranked))
some = [one for role in space_plots.ROLES for one in texts[role][:few]]
start, on_the_way = Embedder(base, "prompteol").encode(some), {}
for name, run in runs.items():
    for seen, folder in training.adapters_by_rows(run).items():
        with models.adapted(base, folder) as adapted:
            far, alike = geometry.displacement(start, Embedder(adapted, "prompteol").encode(some))
        step = {"moved, % of its length": 100 * far, "of that the same for all, %": 100 * alike}
        on_the_way[f"{name}, {seen:,} triplets"] = step
display(Markdown(records.table(on_the_way, digits=0)))

# %% [markdown]
# **How to read it.** A run whose rows hardly change did not move the embedding, whatever its loss did. **Where it
# misleads:** a checkpoint is a point on one run's way, at a learning rate that is still high; a run of that many
# triplets alone would have come to its end.

# %% [markdown]
# ## 4 · What a cosine tells apart
#
# A picture shows two directions of many. The cosine uses all of them. For premises with an entailed, a
# neutral and a contradicted sentence: how do the three kinds of pairs separate? Two numbers say it.
#
# - **AUC**, the area under the ROC curve: take any entailed and any contradicted pair; how often has the
#   entailed one the higher cosine? 1 is perfect, 0.5 is chance, below 0.5 the order is upside down.
# - **Misplaced**: put one threshold between the two kinds as well as you can, the entailed pairs above it; add up the
#   shares that stay on the wrong side. 0 % do not touch; 100 %: no threshold is better than none, as when the order is
#   upside down.
#
# AUC counts pairs of pairs, and forgives nothing and nobody; the second number is what one decision at one cosine
# costs.

# %%
kinds = {"entailed": "positive", "neutral": "neutral", "contradicted": "negative"}


def cosines_of_rows(first, second) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / lengths


cosines = {
    name: {kind: cosines_of_rows(parts["anchor"], parts[role]) for kind, role in kinds.items()}
    for name, parts in vectors.items()
}
entailed, contradicted = (cosines["PromptEOL"][kind] for kind in ("entailed", "contradicted"))
area = (entailed[:, None] > contradicted).mean()
# Equal cosines count half in the package.
assert abs(area - geometry.area_under_curve(entailed, contradicted)) < 1e-3

# %%
separation = {
    name: {
        "auc": geometry.area_under_curve(parts["entailed"], parts["contradicted"]),
        "auc_neutral": geometry.area_under_curve(parts["entailed"], parts["neutral"]),
        "misplaced": geometry.misplaced(parts["entailed"], parts["contradicted"]),
        "rows": float((parts["entailed"] > parts["contradicted"]).mean()),
    }
    for name, parts in cosines.items()
}
notes = {
    name: f"AUC {row['auc']:.2f}\nmisplaced {100 * row['misplaced']:.0f} %"
    for name, row in separation.items()
}
display(space_plots.cosine_distributions(cosines, notes))

# %%
from sempa_utils.evaluation import shortcuts

told = {}
for name, parts in cosines.items():
    means = {f"mean cosine, {kind}": values.mean() for kind, values in parts.items()}
    first = {"entailed first, within a premise": f"{100 * separation[name]['rows']:.0f} %"}
    told[name] = means | {"AUC over neutral": separation[name]["auc_neutral"]} | first
display(Markdown(records.table(told, digits=dict.fromkeys(means, 3))))
print(shortcuts.words_of(ranked.rows))

# %% [markdown]
# **How to read it.** A high mean cosine everywhere is called a *narrow cone*: all sentences point almost the
# same way, and what tells them apart is a small remainder. A wider spread is no gain in itself: what counts is
# whether the kinds move apart, so read the two numbers and not the width. **Where it misleads:** the last
# column compares the entailed with the contradicted sentence of one premise, AUC those of all premises, and
# some premises have higher cosines with anything. The packaged contradictions are hard on purpose: they repeat more
# of the premise's words than the entailed sentences do, and a space that follows the words puts them nearer, with an
# AUC below 0.5. The line below the table turns this round: whoever picks the sentence with *fewer* shared words, or the
# shorter one, is right that often without a model. A share in the last column says something about meaning where it
# is higher than that.

# %% [markdown]
# ## 5 · Two numbers for a cone
#
# **Uniformity** is $\log \mathbb{E}\, e^{-2\lVert f(x) - f(y) \rVert^2}$ over all pairs of distinct
# sentences, on unit vectors (Wang & Isola, 2020): 0 when all vectors are one, lower as they spread. Its partner
# **alignment**, $\mathbb{E}\, \lVert f(x) - f(x^+) \rVert^2$, is small when a sentence and what follows from
# it lie close. **Isotropy** (Mu & Viswanath, 2018) is $\min_j Z(u_j) / \max_j Z(u_j)$ with
# $Z(c) = \sum_s e^{c \cdot v_s}$ and $u_j$ the eigenvectors of $V^\top V$: 1 when no direction is favoured.
#
# The paper does not say whether the $v_s$ have unit length, nor which of an eigenvector's two directions is
# meant, $u$ or $-u$. Written out with unit vectors and the direction in which the vectors point on the whole:

# %%
unit = everything["PromptEOL"] / np.linalg.norm(everything["PromptEOL"], axis=1, keepdims=True)
unit = unit.astype(float)
pairs = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
uniformity = np.log(np.exp(-2 * (2 - 2 * pairs)).mean())

_, eigenvectors = np.linalg.eigh(unit.T @ unit)
along = unit @ eigenvectors
Z = np.exp(along * np.sign(along.sum(axis=0))).sum(axis=0)
print(f"by hand     uniformity {uniformity:.4f}, isotropy {Z.min() / Z.max():.4f}")
ours = geometry.uniformity(unit), geometry.isotropy(unit)
print(f"in the package         {ours[0]:.4f},          {ours[1]:.4f}")
assert np.allclose(ours, (uniformity, Z.min() / Z.max()), atol=1e-6)

# %%
table = {
    name: {
        "alignment": geometry.alignment(vectors[name]["anchor"], vectors[name]["positive"]),
        "uniformity": geometry.uniformity(parts),
        "average_cosine": geometry.average_cosine(parts),
        "isotropy": geometry.isotropy(parts),
        "isotropy_both": geometry.isotropy(parts, sign="both"),
        "isotropy_raw": geometry.isotropy(parts, normalise=False),
        "isotropy_raw_both": geometry.isotropy(parts, normalise=False, sign="both"),
        "effective_rank": geometry.effective_rank(parts),
    }
    for name, parts in everything.items()
}
lengths_kept = table["PromptEOL"]["isotropy_raw"]
print(f"isotropy of PromptEOL with the vectors' lengths kept: {lengths_kept:.0e}")

# %%
COLUMNS = {"uniformity": "uniformity", "isotropy": "isotropy", "isotropy_both": "both signs"}
COLUMNS |= {"average_cosine": "average cosine", "alignment": "alignment"}
told = {name: {COLUMNS[key]: row[key] for key in COLUMNS} for name, row in table.items()}
published = {}
for row in records.published("table5_geometry"):
    both = row["uniformity"], row["isotropy"]
    published.setdefault(row["model"], {})[row["method"]] = both
    name = f"{row['model']}, {row['method']}, *published*"
    told[name] = dict(zip(("uniformity", "isotropy"), both))
display(Markdown(records.table(told, digits=3)))

# %% [markdown]
# **One number told twice.** Suppose the vectors fill a cone: every pair has the cosine $c$, and beside the
# cone's axis no direction is favoured. Then uniformity is $4c - 4$. Along the axis each vector reaches
# $\sqrt{c}$, across it about 0, so isotropy is about $e^{-\sqrt{c}}$, or $e^{-2\sqrt{c}}$ if both signs take
# part. One number, $c$, gives both. The two curves below are this cone; the hollow marks are the paper's Table 5.

# %%
both_signs = {
    sign: {name: (row["uniformity"], row[key]) for name, row in table.items()}
    for sign, key in (("positive", "isotropy"), ("both", "isotropy_both"))
}
display(space_plots.uniformity_against_isotropy(both_signs, published))
apart = [
    isotropy - np.exp(-np.sqrt(1 + one / 4))
    for methods in published.values()
    for one, isotropy in methods.values()
]
print(
    f"published isotropy less the cone's at the same uniformity: {min(apart):+.3f} to {max(apart):+.3f}"
)

# %% [markdown]
# **How to read it.** The published points lie on the upper curve. So the paper's figures are those of unit
# vectors and the positive sign, unless by accident, and its two columns are hardly independent findings: where both
# move in one direction, each says that the average cosine fell. They are not the same to the last digit: on LLaMA2
# from mean pooling to PromptEOL, *published*, uniformity gets better while isotropy gets a little worse. **Where it misleads:** neither number has a point that means *good*. Random vectors
# are very uniform and isotropic and know nothing; read them beside alignment and section 4. With the lengths
# kept, isotropy is a power of $e$ whose exponent is a vector's length: it measures the norm's scale.
#
# The published figures come from models fifty times as large and from other sentences (the paper does not say
# which). The order of the rows can be compared, their values cannot.

# %% [markdown]
# ## 6 · In how many directions?
#
# A cone's axis can be taken off by subtracting the mean. What is left is the covariance: its eigenvalues'
# shares are the **spectrum**, and $e$ to the power of their entropy is the **effective rank** (Roy &
# Vetterli, 2007), the number of directions that the vectors vary in, counted by how much.

# %%
shares = {name: geometry.spectrum(parts) for name, parts in everything.items()}
entropy = -(shares["PromptEOL"] * np.log(np.maximum(shares["PromptEOL"], 1e-300))).sum()
assert abs(np.exp(entropy) - table["PromptEOL"]["effective_rank"]) < 1e-6
ranks = {name: row["effective_rank"] for name, row in table.items()}
display(space_plots.spectra(shares, ranks))
width = base.model.config.hidden_size
directions = min(len(sentences) - 1, width)
print(f"{len(sentences)} vectors of {width} numbers: at most {directions} directions")

# %% [markdown]
# **How to read it.** The flatter the curve, the more directions are in use. **Where it misleads:** the rank
# grows with the number of sentences, so compare spaces on the same ones only. And a space may be narrow in the
# sense of section 5 and of high rank here, or the reverse: the mean is in the one and not in the other.

# %% [markdown]
# ## 7 · Layer by layer
#
# The same measures at each layer's own state of the same token (for mean pooling, of the same tokens), base
# and adapters. Beside them Table 5's *published* values, which are of the last layer.

# %%
MEASURES = {
    "uniformity": geometry.uniformity,
    "isotropy": geometry.isotropy,
    "average cosine": geometry.average_cosine,
    "effective rank": geometry.effective_rank,
}
curves = {
    measure: {name: [function(layer) for layer in states] for name, states in inner.items()}
    for measure, function in MEASURES.items()
}
layers = list(range(1, 1 + base.model.config.num_hidden_layers))
beside = {
    measure: {
        model: {method: values[place] for method, values in methods.items()}
        for model, methods in published.items()
    }
    for place, measure in enumerate(("uniformity", "isotropy"))
}
display(space_plots.layer_curves(curves, layers, published=beside))

# %% [markdown]
# **How to read it.** See where an adapter's curve leaves the base's: a change that appears in the last layers
# alone is one of the way out, not of what is understood on the way. See also how much the last layer, which has
# the final norm behind it, differs from the one before. **Where it misleads:** a few coordinates of huge size,
# which inner states of many models have, look like a cone, and hide what the other coordinates do. A low
# effective rank in the middle of the model may be no more than that.

# %% [markdown]
# ## 8 · The words that an embedding stands next to
#
# The head compares a state with every token of the vocabulary, by a dot product. The ten tokens of the largest products
# are the sentence's *aligned tokens* (Nie et al., 2025; the paper's Table 7). We call them the nearest, though a long
# output vector has a large product at a wide angle too. They are what the model would say next, so one line checks
# the package against section 1. Put in your own sentences.

# %%
YOUR_SENTENCES = [
    "The match was called off because of the heavy rain.",
    "Nobody in the village believed that the bridge would be repaired before winter.",
    "My sister plays the cello.",
]
assert (
    geometry.aligned_tokens(base, by_hand[None], top_k=8)[0].tolist() == likely.tolist()
    or not exact
)

nearest = {one: {} for one in YOUR_SENTENCES}
for name, language_model, method in each_space():
    own = Embedder(language_model, method).encode(YOUR_SENTENCES)
    for one, row in zip(YOUR_SENTENCES, geometry.aligned_tokens(language_model, own)):
        words = geometry.decode(base.tokenizer, row)
        nearest[one][name] = [(word, geometry.match(word, one)) for word in words]
display(HTML(space_plots.aligned_tokens(nearest)))

# %% [markdown]
# **How to read it.** A space that stands next to the sentence's own words keeps what the sentence is about; one
# next to *the*, *a* or single letters keeps how an answer would begin. **Where it misleads:** a paraphrase in
# other words counts as no match, a word such as *the* as a full one, and a token is often no word but its
# beginning. The rule for *stem* knows no grammar (see `geometry.match`).

# %% [markdown]
# **GAR** makes it one number over many sentences: of all tokens $T_i$ that the sentences hold, the share that is
# among the ten nearest $A_i$ of a sentence that holds it:
#
# $$\text{GAR} = \frac{\lvert \bigcup_i (A_i \cap T_i) \rvert}{\lvert \bigcup_i T_i \rvert}$$
#
# The formula compares token by token. But PromptEOL's answer follows a quotation mark, so it begins without a
# space, and a sentence's words follow a space: for many tokenizers two different tokens. The lighter bars leave
# space and case aside.

# %%
TEXT_FILE = Path(os.environ.get("SEMPA_DATA_DIR") or "nowhere") / "text" / "wikitext2_test.txt"


def wikipedia_sentences(path: Path) -> corpora.Corpus:
    """Whole sentences of 5 to 40 words from a file of WikiText."""
    lines = path.read_text(encoding="utf8").split("\n")
    parts = [part for line in lines if not line.startswith(" =") for part in line.split(" . ")]
    rows = [f"{part.strip()} ." for part in parts if "<unk>" not in part]
    rows = [row for row in rows if 5 <= len(row.split()) <= 40]
    return corpora.Corpus("Wikipedia sentences", rows, TEXT_FILE.name, checks.fingerprint(*rows))


if TEXT_FILE.is_file():
    text = wikipedia_sentences(TEXT_FILE).sample(4 * profile.picture_triplets, SEED)
else:  # the sentences of the pictures
    text = corpora.Corpus("sentences of the pictures", sentences, ranked.source, ranked.fingerprint)
print(text.describe())


# %%
def aligned_of(vectors):
    """The ten nearest tokens of each sentence, and those of another sentence in its place."""
    aligned = geometry.aligned_tokens(base, vectors)  # the head has no adapter: one serves all
    return aligned, aligned.roll(len(aligned) // 2, dims=0)


gar = {}
for name, language_model, method in each_space():
    own = Embedder(language_model, method).encode(text.rows)
    gar[name] = {
        what: tuple(
            geometry.gar(base, text.rows, aligned=rows, fold=fold) for rows in aligned_of(own)
        )
        for what, fold in (("by number", False), ("folded", True))
    }

# %%
# SemPA, section 6: LLaMA2-7B, 10,000 Wikipedia sentences, K = 10.
published_gar = {row["method"]: row["gar"] for row in records.published("table7_gar")}
display(space_plots.gar_bars(gar, published_gar, published_model="LLaMA2-7B"))

# %% [markdown]
# **How to read it.** The tick on a bar is the control: each sentence with another sentence's nearest tokens.
# What lies beyond it is about *this* sentence; what lies before it are words that any sentence has. **Where it
# misleads:** a token counts once for all sentences, so frequent ones are matched sooner or later and the figure
# depends on how many sentences there are. The published pair is of 10,000 Wikipedia sentences and of a model
# with another vocabulary: compare the direction of the step, never the height.

# %% [markdown]
# ## Exercises
#
# Write the function, run the cell, and read what the checker says: it recognises common slips and names
# them. ★ follows from a definition, ★★ needs a thought, ★★★ needs an idea from the text.

# %%
from sempa_utils import exercises

display(Markdown(exercises.overview("space")))

# %% [markdown]
# **1 · Cosines** (★, 5 minutes). What section 4 compares, for all pairs at once.


# %%
def cosines_of(vectors):
    raise NotImplementedError


exercises.check("cosines_of", cosines_of)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def cosines_of(vectors):
#     unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
#     return unit @ unit.T
# ```
# </details>
#
# **2 · Uniformity** (★★, 10 minutes). Section 5 has it in three lines. Write it from the formula, then
# compare.


# %%
def uniformity_of(vectors):
    raise NotImplementedError


exercises.check("uniformity_of", uniformity_of)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def uniformity_of(vectors):
#     unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
#     cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]  # each pair once, none with itself
#     return np.log(np.exp(-2 * (2 - 2 * cosines)).mean())
# ```
# </details>
#
# **3 · Isotropy, with both signs** (★★★, 20 minutes). The choices that the paper leaves open, as an
# argument. How far apart are the two figures for one cone?


# %%
def isotropy_of(vectors, both):
    raise NotImplementedError


exercises.check("isotropy_of", isotropy_of)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def isotropy_of(vectors, both):
#     unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
#     _, axes = np.linalg.eigh(unit.T @ unit)
#     along = unit @ axes
#     along = along * np.sign(along.sum(axis=0))
#     sides = np.hstack([along, -along]) if both else along
#     totals = np.exp(sides).sum(axis=0)
#     return totals.min() / totals.max()
# ```
# </details>
#
# **4 · PCA by SVD** (★★, 10 minutes). The plane behind every picture of section 2.


# %%
def plane(vectors):
    raise NotImplementedError


exercises.check("plane", plane)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def plane(vectors):
#     centred = vectors - vectors.mean(axis=0)
#     left, singular, _ = np.linalg.svd(centred, full_matrices=False)
#     return left[:, :2] * singular[:2]
# ```
# </details>
#
# **5 · Build a cone** (★★★, 15 minutes). Section 5's cone: every vector has one part along a common
# axis, and one across it in a direction of its own. How long must the first be for a mean cosine of c?


# %%
def build_cone(count, width, cosine, generator):
    raise NotImplementedError


exercises.check("build_cone", build_cone)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def build_cone(count, width, cosine, generator):
#     across = generator.normal(size=(count, width - 1))
#     across /= np.linalg.norm(across, axis=1, keepdims=True)
#     along = np.full((count, 1), np.sqrt(cosine))
#     return np.hstack([along, np.sqrt(1 - cosine) * across])
# ```
# Two vectors that reach √c along the axis have the dot product √c · √c = c there, and about 0 across
# it.
# </details>
#
# **6 · AUC with ties, and upside down** (★★, 10 minutes). Section 4's measure. Cosines in half
# precision are often equal, so ties matter.


# %%
def roc_area(higher, lower):
    raise NotImplementedError


exercises.check("roc_area", roc_area)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def roc_area(higher, lower):
#     return ((higher[:, None] > lower) + (higher[:, None] == lower) / 2).mean()
# ```
# </details>
#
# **7 · Aligned tokens** (★, 5 minutes). What stands behind section 8, and what "nearest" means there.


# %%
def nearest_words(states, head, count):
    raise NotImplementedError


exercises.check("nearest_words", nearest_words)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def nearest_words(states, head, count):
#     return np.argsort(-states @ head.T, axis=1)[:, :count]
# ```
# </details>
#
# **8 · Lie with a projection** (★★, 15 minutes). Nothing tells these two groups apart: the labels are a
# coin's. Draw a picture in which everybody sees two groups all the same.


# %%
def flattering_axis(points, labels):
    raise NotImplementedError


exercises.check("flattering_axis", flattering_axis)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def flattering_axis(points, labels):
#     axis = points[labels == 1].mean(axis=0) - points[labels == 0].mean(axis=0)
#     return axis / np.linalg.norm(axis)
# ```
# With more dimensions than points some axis separates any labels. A projection that was chosen with the
# labels has to be shown on points that had no part in the choice.
# </details>
#
# **9 · GAR and its control** (★★, 15 minutes). The formula of section 8 over sets of token numbers, and
# the tick on its bars.


# %%
def gar_and_control(nearest, tokens):
    raise NotImplementedError


exercises.check("gar_and_control", gar_and_control)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def gar_and_control(nearest, tokens):
#     def gar(nearest):
#         found = [near & held for near, held in zip(nearest, tokens)]
#         return len(set().union(*found)) / len(set().union(*tokens))
#
#     return gar(nearest), gar(nearest[1:] + nearest[:1])
# ```
# What a sentence shares with a stranger's nearest tokens are words that any sentence has.
# </details>

# %% [markdown]
# ## The paper's setting and this run's

# %%
drawn = f"{len(ranked)} premises with three sentences each, not trained on by notebook 02"
ours = {"model": base.name, "training rows": f"{len(training_rows):,}, {training_rows.source}"}
others = [
    ("sentences in the pictures", "0.2 % of the NLI data (about 550 triplets)", drawn),
    ("axes of the projection", "not stated", "one fit, on the base"),
    ("sentences of Table 5", "not stated", f"the same {len(sentences)}"),
    ("lengths of vectors in isotropy", "not stated", "unit, and kept"),
    ("sign of an eigenvector", "not stated", "positive, and both"),
    ("sentences of GAR", "10,000 from Wikipedia", text.describe()),
    ("tokens compared in GAR", "not stated", "by number, and without space and case"),
    ("precision when embeddings are read", "not stated", profile.evaluation_precision),
]
display(Markdown(records.settings_table(records.paper_settings(ours) + others)))

# %%
mean_cosine = {
    name: {kind: values.mean() for kind, values in parts.items()} for name, parts in cosines.items()
}
figures = {
    "geometry": table,
    "separation": separation,
    "mean_cosine": mean_cosine,
    "explained_variance": next(iter(on_base.values()))["explained"],
    "mean_relative_shift": shift,
    "on_the_way": on_the_way,
    "by_layer": curves,
    "gar": gar,
}

# %%
shown = ["PromptEOL", *adapters]
cosine = ", ".join(f"{table[name]['average_cosine']:.2f} ({name})" for name in shown)
areas = ", ".join(f"{separation[name]['auc']:.2f}" for name in shown)
shares = ", ".join(f"{gar[name]['folded'][0]:.2f}" for name in shown)
data = [training_rows.record(), ranked.record(), text.record()]
settings = {"adapters": {name: descriptions[name]["adapter"] for name in adapters}}
record_of_run = records.run_record(
    "notebook_03_embedding_space",
    figures=figures,
    headline=f"average cosine {cosine}; AUC of entailed against contradicted {areas}; GAR {shares}",
    origin=records.Origin(model=descriptions["PromptEOL"], data=data, settings=settings, seed=SEED),
)
records.save_run(record_of_run)
print("next: 04_sts")
