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
# # 03 · The embedding space in pictures
#
# A language model writes one word at a time. Ask it for a sentence *in one word*, and the state from which
# it would write that word is an embedding of the sentence. This notebook looks at that space: before
# training, and after semantic preference alignment.
#
# **You will learn**
# - where a sentence embedding sits in a language model, and how to read it off in two lines;
# - to project anchors, positives and negatives on a plane, and how far to trust such a picture;
# - what the cosines of entailed, neutral and contradicted pairs say that the picture does not;
# - what *uniformity* measures, and the paper's figures beside this run's.

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
display(Markdown(results.costs("03_embedding_space")))

# %% [markdown]
# ## 1 · One word for a sentence
#
# PromptEOL wraps a sentence in `This sentence : "…" means in one word:"` and takes the last token's state
# after the final norm. Written out for one sentence:

# %%
import torch
from sempa_utils import corpora, geometry, models, training
from sempa_utils.embedding import Embedder
from sempa_utils.plots import space as space_plots
from sempa_utils.templates import EXTRACTION_TEMPLATES, prepare_sentence

# The adapter of notebook 02 is found, or trained now, before a model is loaded to look at.
record, training_rows, held_out = training.train_profile(MODEL, profile, SEED)
base = models.load(MODEL, profile.evaluation_precision)
sentence = "The match was called off because of the heavy rain."

prompt = EXTRACTION_TEMPLATES["prompteol"].replace("{x}", prepare_sentence(sentence))
tokens = base.tokenizer(prompt, return_tensors="pt").to(base.device)
with torch.no_grad():
    output = base.model(**tokens, output_hidden_states=True)
by_hand = output.hidden_states[-1][0, -1].float().cpu()

embedder = Embedder(base, "prompteol")
by_package = embedder.encode(sentence, convert_to_tensor=True)
print(
    f"vector of {len(by_hand)} numbers; largest difference to the package {(by_hand - by_package).abs().max():.1e}"
)
assert torch.allclose(
    by_hand, by_package, atol=1e-4 if profile.evaluation_precision == "float32" else 0.1
)

likely = output.logits[0, -1].topk(8).indices
print(
    "the words the model would say:",
    ", ".join(repr(base.tokenizer.decode([i]).strip()) for i in likely),
)

# %% [markdown]
# ## 2 · Before and after
#
# The adapter is that of notebook 02: found if it is there, trained otherwise. It stays beside the base
# weights, so one model in memory gives both spaces. The sentences below were not trained on.

# %%
adapted = models.add_adapter(base, record["adapter"])
print(training_rows.describe())
print(held_out.describe())

# %%
roles = {"anchor": 0, "positive": 1, "negative": 2}
texts = {role: [row[place] for row in held_out.rows] for role, place in roles.items()}


def embed(language_model, method: str) -> dict:
    own = Embedder(language_model, method)
    return {role: own.encode(sentences) for role, sentences in texts.items()}


with adapted.model.disable_adapter():
    vectors = {"mean pooling": embed(adapted, "mean"), "PromptEOL": embed(adapted, "prompteol")}
vectors["SemPA"] = embed(adapted, "prompteol")

# %% [markdown]
# **Principal components.** Each panel has axes of its own, fitted on all its points. Lines join a few
# anchors to their positive (solid) and their negative (dotted). Two components hold only the share of the
# variance that the axes state, so points close here need not be close in the space.

# %%
import numpy as np

spaces = {}
for name, found in vectors.items():
    mean, axes, explained = geometry.principal_components(np.concatenate(list(found.values())))
    spaces[name] = {role: geometry.project(points, mean, axes) for role, points in found.items()}
    spaces[name]["explained"] = explained
display(space_plots.projections(spaces))

# %% [markdown]
# **One projection for both.** With the axes of the base used for both spaces, one sees what training
# moved, and not merely that PCA chose other axes.

# %%
mean, axes, explained = geometry.principal_components(
    np.concatenate(list(vectors["PromptEOL"].values()))
)
common = {
    title: {role: geometry.project(points, mean, axes) for role, points in vectors[name].items()}
    | {"explained": explained}
    for title, name in (
        ("PromptEOL (axes fitted here)", "PromptEOL"),
        ("SemPA, on the same axes", "SemPA"),
    )
}
display(space_plots.projections(common))
moved = np.linalg.norm(vectors["SemPA"]["anchor"] - vectors["PromptEOL"]["anchor"], axis=1)
size = np.linalg.norm(vectors["PromptEOL"]["anchor"], axis=1)
shift = float((moved / size).mean())
print(f"training moved an anchor's vector by {100 * shift:.0f} % of its length on average")

# %% [markdown]
# ## 3 · What a cosine tells apart
#
# A picture shows two directions of many. The cosine uses all of them. For premises with an entailed, a
# neutral and a contradicted sentence: how do the three kinds of pairs separate?

# %%
ranked = corpora.load_ranked_nli().without(training_rows).sample(profile.picture_triplets, SEED)
print(ranked.describe())
kinds = {"entailed": 1, "neutral": 2, "contradicted": 3}


def pair_cosines(language_model, method: str) -> dict:
    own = Embedder(language_model, method)
    premises = own.encode([row.premise for row in ranked.rows], normalize_embeddings=True)
    return {
        kind: (
            premises * own.encode([row[place] for row in ranked.rows], normalize_embeddings=True)
        ).sum(axis=1)
        for kind, place in kinds.items()
    }


with adapted.model.disable_adapter():
    cosines = {
        "mean pooling": pair_cosines(adapted, "mean"),
        "PromptEOL": pair_cosines(adapted, "prompteol"),
    }
cosines["SemPA"] = pair_cosines(adapted, "prompteol")
display(space_plots.cosine_distributions(cosines))

# %%
lines = [
    "| | entailed | neutral | contradicted | entailed above contradicted |",
    "|---|---|---|---|---|",
]
order = {}
for name, found in cosines.items():
    order[name] = 100 * float((found["entailed"] > found["contradicted"]).mean())
    means = " | ".join(f"{found[kind].mean():.3f}" for kind in kinds)
    lines.append(f"| {name} | {means} | {order[name]:.0f} % of premises |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# A high mean cosine everywhere is called a *narrow cone*: all sentences point almost the same way, and what
# tells them apart is a small remainder. On the packaged sentences the contradicted pairs lie nearer than
# the entailed ones for most premises: these contradictions repeat more of the premise's words, and a small
# model's state follows the words. That is the gap which training is meant to close.

# %% [markdown]
# ## 4 · Uniformity
#
# $\log \mathbb{E}\, e^{-2\lVert f(x) - f(y) \rVert^2}$ over all pairs of distinct sentences, on unit vectors
# (Wang & Isola, 2020). It is 0 when all vectors are one and falls as they spread over the sphere. The
# number has no zero point that means "good": a random space is very uniform and knows nothing.

# %%
measured = {
    name: geometry.uniformity(np.concatenate(list(found.values())))
    for name, found in vectors.items()
}
published = {
    (row["model"], row["method"]): row["uniformity"] for row in results.published("table5_geometry")
}
lines = ["| | this run | LLaMA2-7B, *published* | LLaMA3-8B, *published* |", "|---|---|---|---|"]
for ours, theirs in (
    ("mean pooling", "Mean Pooling"),
    ("PromptEOL", "PromptEOL"),
    ("SemPA", "SemPA"),
):
    cells = " | ".join(f"{published[model, theirs]:.2f}" for model in ("LLaMA2-7B", "LLaMA3-8B"))
    lines.append(f"| {ours} | {measured[ours]:.2f} | {cells} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# The published figures come from models fifty times as large and from other sentences: the order of the
# rows can be compared, their values cannot.

# %% [markdown]
# ## The paper's setting and this run's

# %%
settings = results.settings_table(
    [
        ("model", "LLaMA-2-7B, LLaMA-3-8B", base.name),
        ("training rows", "40,000 to 80,000", f"{len(training_rows):,}, {training_rows.source}"),
        (
            "sentences in the pictures",
            "0.2 % of the NLI data (about 550 triplets)",
            f"{len(held_out)} triplets, held out",
        ),
        ("axes of the projection", "not stated", "one fit per space, and one common fit"),
        ("precision when embeddings are read", "not stated", profile.evaluation_precision),
    ]
)
display(Markdown(settings))

# %%
results.save_run(
    "notebook_03_embedding_space",
    figures={
        "uniformity": measured,
        "entailed_above_contradicted_percent": order,
        "mean_cosine": {
            name: {kind: values.mean() for kind, values in found.items()}
            for name, found in cosines.items()
        },
        "explained_variance": {name: found["explained"] for name, found in spaces.items()},
        "mean_relative_shift": shift,
    },
    headline=(
        f"uniformity {measured['PromptEOL']:.2f} (PromptEOL) → {measured['SemPA']:.2f} (SemPA); entailed above "
        f"contradicted for {order['PromptEOL']:.0f} % → {order['SemPA']:.0f} % of held-out premises"
    ),
    model=adapted.describe(),
    data=[training_rows.record(), held_out.record(), ranked.record()],
    seed=SEED,
)
print("next: 04_sts")
