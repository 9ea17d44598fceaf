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
# # 01 · Theory that computes: one likelihood, two losses
#
# SemPA trains a language model to *prefer* a sentence that follows from another over one that
# contradicts it, and finds better sentence embeddings. Why should a lesson about answers improve
# vectors? The paper's §4.4 replies that preference alignment and contrastive learning are the same
# statistical model with two scores. This notebook turns each step of that argument into a number that
# you can change, and ends at the point where the two part.
#
# **You will learn**
#
# - what the Plackett–Luce model says about rankings, how to sample from it and how to fit it;
# - that InfoNCE and DPO maximise the same likelihood, and what differs: the score;
# - where DPO's score comes from: the best policy on a KL leash, computed exactly in a small world;
# - what β and the temperature τ do to the gradient;
# - a third score on the same likelihood, over one-word answers, and why it needs no sampling;
# - what is *not* the same, measured on a real model: equal objectives do not mean equal geometry;
# - why the chosen reward may fall while training goes well, and how pairs become lists.
#
# Words that are new to you stand in the [glossary](01_theory.ipynb#Glossary) below.
#
# Every numbered claim is followed by a cell that checks it and prints what was compared, and with
# what tolerance.

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

    hosted.prepare("01_theory", keep_on_drive=KEEP_ON_DRIVE)

# %% tags=["parameters"]
from IPython.display import Markdown, display
from sempa_utils import profiles, records

PROFILE = os.environ.get("SEMPA_PROFILE", "cpu")  # all sizes: cpu, t4, 24gb or paper
MODEL = os.environ.get("SEMPA_MODEL", "packaged")  # "packaged" (135M), a hub id, or a directory
SEED = 42

profile = profiles.get(PROFILE)
display(Markdown(records.costs("01_theory")))

# %%
import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import scipy.stats
import torch
from sempa_utils.evaluation import shortcuts
from sempa_utils.plots import interactive, theory
from sempa_utils.theory import plackett_luce
from torch.nn.functional import logsigmoid, normalize


def numbers(*shape, seed=0):
    """Standard normal numbers in float64; `seed` counts from the notebook's."""
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# %%
figures, claims = {}, set()  # the numbers that this run records, and the claims that it has checked


def claim(number, what, value, expected, tolerance=1e-12):
    """Print the largest difference of two numbers or tensors, and stop if it is above the tolerance."""
    value, expected = torch.as_tensor(value), torch.as_tensor(expected)
    difference = (value - expected).detach().abs().max().item()
    at_most(number, f"{what}; largest difference", difference, tolerance)


def at_most(number, what, value, limit):
    """Print a number with the limit that the claim allows, and stop if it is above."""
    print(f"Claim {number} · {what}: {float(value):.2g} (at most {limit:.2g})")
    assert value <= limit, f"claim {number} does not hold"
    claims.add(number)


# %% [markdown]
# ## 1 · One picture: choosing the best of N
#
# A judge reads a sentence and N candidates. Each candidate $y_j$ has a score $s_j$; the judge picks
# $y_j$ as the best with probability
#
# $$P(y_j \text{ is best of } N \mid x) = \frac{\exp s_j}{\sum_{i=1}^{N} \exp s_i}.$$
#
# We know which candidate *should* win. The loss is the surprise when it does: $-\ln P$. All of
# SemPA's theory is this picture; only the origin of the scores will change. In a live notebook, move
# the number of candidates and the sharpness, a factor on all scores, that will return as β and as
# $1/\tau$. (The scores here are made up; real ones follow in section 7.)

# %%
ANCHOR = "A girl is feeding the ducks by the pond."
CANDIDATES = [
    "A child gives some food to birds.",
    "Nobody is anywhere near the water.",
    "The pond has frozen over.",
    "A girl is riding a bicycle.",
    "Ducks can fly long distances.",
    "The last train left at midnight.",
]
SCORES = torch.tensor([1.8, 1.1, 0.2, 0.6, 0.4, -1.0], dtype=torch.float64)


def draw_best_of_n(candidates=4, sharpness=1.0):
    scores = sharpness * SCORES[:candidates]
    return theory.best_of_n(
        CANDIDATES[:candidates], scores, probabilities=scores.softmax(0), anchor=ANCHOR
    )


interactive.sliders(draw_best_of_n, candidates=(2, 6, 4), sharpness=(0.0, 5.0, 1.0))

# %% [markdown]
# ## 2 · Plackett–Luce: the best, then the best of the rest
#
# A judge who ranks all N repeats the choice: the best first, then the best of those left, and so on.
# A ranking $\sigma$ that places $y_{(1)}$ before $y_{(2)}$ and so forth has the probability
#
# $$P(\sigma \mid x) = \prod_{k=1}^{N} \frac{\exp s_{(k)}}{\sum_{j \ge k} \exp s_{(j)}}.$$
#
# In code it is one line a factor:


# %%
def ranking_log_prob(scores, ranking):
    ordered = scores[ranking]
    return sum(ordered[k] - ordered[k:].logsumexp(0) for k in range(len(ordered)))


scores = SCORES[:4]
rankings = torch.tensor(list(itertools.permutations(range(4))))
ours = torch.stack([ranking_log_prob(scores, ranking) for ranking in rankings])
package = plackett_luce.ranking_log_prob(scores, rankings)

# %% [markdown]
# **Claim 1.** It is a distribution: the probabilities of all N! rankings sum to one. The package's
# batched function gives the same numbers as the line above.

# %%
claim(1, "sum of the probabilities of all 24 rankings, and 1", ours.exp().sum(), 1)
claim(1, "24 log-probabilities, here and in the package", ours, package)

# %% [markdown]
# **Claim 2.** The first factor forgets nothing: adding up all rankings that begin with $y_1$ leaves
# the softmax of section 1. To ask only for the best is to sum over every opinion about the rest.

# %%
headed_by_first = package[rankings[:, 0] == 0].exp().sum()
claim(2, "the 6 rankings headed by 1, and softmax(s)₁", headed_by_first, scores.softmax(0)[0])

# %% [markdown]
# **Claim 3.** *Luce's axiom.* The odds of two candidates do not depend on who else stands there: with
# two candidates or with six, $P(y_1)/P(y_2) = e^{s_1 - s_2}$. This is a strong assumption, and the
# reason why negatives may be sampled.

# %%
log_odds = [
    plackett_luce.best_of_log_prob(SCORES[:n], 0) - plackett_luce.best_of_log_prob(SCORES[:n], 1)
    for n in (2, 4, 6)
]
claim(
    3,
    "log-odds among 2, 4 and 6 candidates, and s₁ − s₂",
    torch.stack(log_odds),
    SCORES[0] - SCORES[1],
)

# %% [markdown]
# **Sampling** needs no probabilities. Add to each score a number of Gumbel noise, $g = -\ln(-\ln u)$
# with $u$ uniform in (0, 1), and sort. **Claim 4.** The sorted order is a draw from Plackett–Luce.
# The χ² statistic over all 24 rankings must stay below the value that a right sampler exceeds once in
# 10,000 runs.

# %%
draws = 5_000
generator = torch.Generator().manual_seed(SEED)
uniform = torch.rand(draws, 4, dtype=torch.float64, generator=generator)
samples = (scores - (-uniform.log()).log()).argsort(dim=-1, descending=True)
samples_of_package = plackett_luce.sample_ranking(scores, seed=SEED, num_samples=draws)


def counts_of(samples):
    return (samples[:, None] == rankings).all(-1).sum(0).double()


expected, limit = draws * package.exp(), scipy.stats.chi2.isf(1e-4, df=23)
for where, drawn in {"here": samples, "in the package": samples_of_package}.items():
    statistic = ((counts_of(drawn) - expected) ** 2 / expected).sum()
    at_most(4, f"χ² of {draws:,} rankings drawn {where}", statistic, limit)

# %%
p_value = scipy.stats.chisquare(counts_of(samples).numpy(), expected.numpy()).pvalue
figures["gumbel_chi_squared_p"] = p_value
names = ["".join("ABCD"[item] for item in ranking) for ranking in rankings.tolist()]
theory.sampled_rankings(names, counts_of(samples), probabilities=package.exp(), p_value=p_value)

# %% [markdown]
# **Claim 5.** The way back: from rankings alone, maximum likelihood returns the scores (up to a
# shift, which no ranking can show). The errors shrink with $1/\sqrt{\text{rankings}}$; five standard
# errors of this sample are allowed, from the curvature of the likelihood at its maximum.

# %%
fitted = plackett_luce.fit_log_worths(samples)
centred = scores - scores.mean()
curvature = torch.func.hessian(lambda s: -plackett_luce.ranking_log_prob(s, samples).sum())(fitted)
standard_errors = torch.linalg.pinv(curvature).diagonal().sqrt()
print("true scores  ", np.round(centred.numpy(), 3), "\nfrom rankings", np.round(fitted.numpy(), 3))
print("std. errors  ", np.round(standard_errors.numpy(), 3))
claim(
    5,
    "fitted and true scores, in standard errors",
    fitted / standard_errors,
    centred / standard_errors,
    5,
)

# %% [markdown]
# ## 3 · Two scores, one likelihood
#
# Keep the first factor, put the candidate that should win in front, and take minus the logarithm.
# That is the loss, *both* losses. The paper's Table 2, with a third column that section 6 derives:
#
# | | contrastive learning (InfoNCE) | preference alignment (DPO) | one word (this kit's) |
# |---|---|---|---|
# | model | encoder $e$ | policy $\pi_\theta$, reference $\pi_\text{ref}$ | policy, reference |
# | candidates | $y^+$ and $N-1$ negatives | $y_w$ and $y_l$, so $N = 2$ | $y^+$ and $N-1$ negatives |
# | score $s(x, y)$ | $\dfrac{\cos(e(x), e(y))}{\tau}$ | $\beta \ln\dfrac{\pi_\theta(y \mid x)}{\pi_\text{ref}(y \mid x)}$ | $\beta \sum_w q_y(w) \ln\dfrac{\pi_\theta(w \mid x)}{\pi_\text{ref}(w \mid x)}$ |
# | what the score compares | two vectors | one answer under two models | one distribution over words with two others |
# | sharpness | $1/\tau$ | $\beta$ | $\beta$ |
# | loss | $-\ln \text{softmax}(s)_1$ | $-\ln \text{softmax}(s)_1$ | $-\ln \text{softmax}(s)_1$ |
#
# In the last column the candidate is no answer but a distribution over *words*: $q_y(w)$ is how likely
# the reference says the word $w$ when it is asked for the sentence $y$ in one word. The prompt
# `This sentence : "…" means in one word:"` is PromptEOL's, and the place where the word would stand is
# the *slot*: the state there is the sentence's embedding. Until section 6 the first two columns are all
# you need.
#
# Side by side in code, the last line is the same function:


# %%
def best_of_n_loss(scores):  # (batch, N), the right candidate first
    return (scores.logsumexp(-1) - scores[:, 0]).mean()


def contrastive_scores(anchor, candidates, temperature):  # (batch, D), (batch, N, D)
    return (normalize(anchor, dim=-1)[:, None] * normalize(candidates, dim=-1)).sum(
        -1
    ) / temperature


def preference_scores(policy, reference, beta):  # log-probabilities (batch, N)
    return beta * (policy - reference)


# %% [markdown]
# **Claim 6.** With the contrastive score this is InfoNCE, **claim 7**, with the preference score it
# is DPO. DPO is usually written with a sigmoid of the margin, $-\ln\sigma(s_w - s_l)$ (the paper's
# equation 2); a softmax of two is a sigmoid of the difference (equation 3).

# %%
anchor, candidates = numbers(8, 16, seed=1), numbers(8, 5, 16, seed=2)
here = best_of_n_loss(contrastive_scores(anchor, candidates, temperature=0.05))
package = plackett_luce.info_nce_loss(
    anchor, candidates[:, 0], negatives=candidates[:, 1:], temperature=0.05
)
claim(6, "best-of-N loss of cosine / τ, and info_nce_loss", here, package)

# %%
policy, reference = 10 * numbers(8, 2, seed=3) - 40, 10 * numbers(8, 2, seed=4) - 40
rewards = preference_scores(policy, reference, beta=0.1)
here = best_of_n_loss(rewards)
package = plackett_luce.dpo_loss(
    policy[:, 0],
    policy[:, 1],
    reference_chosen=reference[:, 0],
    reference_rejected=reference[:, 1],
    beta=0.1,
)
claim(7, "best-of-N loss of β × log-ratio, and dpo_loss", here, package)
sigmoid_form = -logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
claim(7, "two-way softmax, and log-sigmoid of the margin", here, sigmoid_form)

# %% [markdown]
# ## 4 · Where DPO's score comes from
#
# A cosine as a score needs no defence. Why a log-ratio of two models? Suppose that people reward
# answers with $r(x, y)$, and that we want a policy of high reward that stays near the reference:
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}[r(x, y)] - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}).$$
#
# Write $\pi^*(y) = \frac{1}{Z(x)}\, \pi_\text{ref}(y)\, e^{r(x,y)/\beta}$, with $Z(x)$ the sum that
# normalises. Then $r = \beta \ln\frac{\pi^*}{\pi_\text{ref}} + \beta \ln Z$, and putting this into
# $J$ gives
#
# $$J(\pi) = \beta \ln Z(x) - \beta\, \text{KL}(\pi \,\|\, \pi^*).$$
#
# The first term does not depend on $\pi$, and the second is at most zero, and zero for $\pi = \pi^*$
# alone. So $\pi^*$ is the best policy, and read backwards, *a policy is a reward*:
# $\beta \ln \frac{\pi(y)}{\pi_\text{ref}(y)}$ is the reward that it is best for, up to
# $\beta \ln Z(x)$, which all answers to one prompt share, and which drops out of every softmax over
# them. That is DPO's score.
#
# A world of three prompts with five answers each is small enough to compute everything exactly.

# %%
beta = 0.5
world_reference = numbers(3, 5, seed=5).softmax(-1)
world_reward = numbers(3, 5, seed=6) + torch.tensor(
    [[0.0], [2.0], [-2.0]]
)  # the judges of prompt 2 praise, of 3 blame

unnormalised = world_reference * (world_reward / beta).exp()
partition = unnormalised.sum(-1, keepdim=True)
best_policy = unnormalised / partition
implicit_reward = plackett_luce.implicit_reward(best_policy.log(), world_reference.log(), beta=beta)


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def objective(policy):
    return (policy * world_reward).sum(-1) - beta * kl(policy, world_reference)


# %% [markdown]
# **Claim 8.** No policy beats $\pi^*$, and any other falls short by exactly
# $\beta\,\text{KL}(\pi \| \pi^*)$. **Claim 9.** Its implicit reward is the true reward minus one
# constant per prompt, $\beta \ln Z$.

# %%
others = (2 * numbers(1000, 3, 5, seed=7)).softmax(-1)
shortfall = objective(best_policy) - objective(others)
claim(8, "J(π*) − J(π), and β KL(π ‖ π*)", shortfall, beta * kl(others, best_policy))
assert shortfall.min() > 0, "no policy may beat the best"
constant = world_reward - implicit_reward
claim(9, "true minus implicit reward, and β ln Z", constant, beta * partition.log())
theory.kl_world(
    "ABCDE",
    world_reference,
    optimal=best_policy,
    reward=world_reward,
    implicit_reward=implicit_reward,
    beta=beta,
)

# %% [markdown]
# **Claim 10.** DPO finds this policy without ever seeing a reward. People who compare two answers
# prefer $y_i$ to $y_j$ with probability $\sigma(r_i - r_j)$: Plackett–Luce with N = 2 on the true
# rewards. Minimise DPO's loss, averaged over exactly these preferences, over all policies (a table of
# logits), and $\pi^*$ appears.

# %%
pairs = torch.tensor(list(itertools.permutations(range(5), 2)))  # (20, 2): chosen, rejected
chosen, rejected = pairs[:, 0], pairs[:, 1]
preferred = (world_reward[:, chosen] - world_reward[:, rejected]).sigmoid()  # (3, 20)


def expected_dpo_loss(log_policy, preferred):
    """DPO's loss over all pairs of the world, each as often as it is preferred this way round."""
    log_reference = world_reference.log()
    of_each = plackett_luce.dpo_loss(
        log_policy[:, chosen],
        log_policy[:, rejected],
        reference_chosen=log_reference[:, chosen],
        reference_rejected=log_reference[:, rejected],
        beta=beta,
        reduction="none",
    )
    return (preferred * of_each).sum()


# %%
def trained(preferred, iterations):
    """Logarithms of the policy after so many iterations from the uniform one."""
    logits = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    exact = {"tolerance_grad": 1e-10, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimiser = torch.optim.LBFGS([logits], max_iter=iterations, **exact)

    def loss_and_gradient():
        optimiser.zero_grad()
        loss = expected_dpo_loss(logits.log_softmax(-1), preferred)
        loss.backward()
        return loss

    optimiser.step(loss_and_gradient)
    return logits.detach().log_softmax(-1)


claim(10, "policy trained by DPO, and π*", trained(preferred, 200).exp(), best_policy, 1e-5)

# %% [markdown]
# **What that needs, and training does not have.** The pairs must cover all answers, and people must
# sometimes disagree. A data set has one label a pair, the same each time. Then every pair wants a larger
# margin, the loss has no lowest point, and no β holds the policy near the reference: *how long one trains*
# does, and the rank of the adapter. The same world with labels in the place of probabilities:

# %%
labels = (preferred > 0.5).double()  # the same judges, of one mind every time
for iterations in (2, 5, 20):
    ratios = trained(labels, iterations) - world_reference.log()
    smallest = beta * (ratios[:, chosen] - ratios[:, rejected])[labels == 1].min()
    print(
        f"{iterations:2d} iterations: the smallest margin of a labelled pair is {smallest:.1f} nats"
    )
ratios = best_policy.log() - world_reference.log()
smallest = beta * (ratios[:, chosen] - ratios[:, rejected])[labels == 1].min()
print(f"the best policy stops at {smallest:.1f}")

# %% [markdown]
# ## 5 · β against temperature
#
# Both factors multiply a raw score, so both set how sharply the softmax decides. What they do to
# training shows in the gradient. For DPO the pull on the log-ratio of the chosen answer is
#
# $$-\frac{\partial \mathcal{L}}{\partial \ln\pi(y_w)} = \beta\,\sigma(-\beta\,\Delta), \qquad
# \Delta = \ln\frac{\pi(y_w)}{\pi_\text{ref}(y_w)} - \ln\frac{\pi(y_l)}{\pi_\text{ref}(y_l)}.$$
#
# A small β pulls for long: at $\beta = 0.1$ a pair still pulls with a quarter of its first strength at
# $\Delta \approx 20$ nats; a large β stops early. The factor β in front would also make the pull gentle
# in plain gradient descent. Training uses AdamW, which divides each step by the gradient's own size, so
# a common factor cancels: what β changes there is the *relative* weight of pairs, those that have had
# enough against those that have not. For InfoNCE the push on
# a negative is its softmax share over τ: **a small τ pushes the hard negatives alone**, those nearest
# to the anchor.

# %%
margins = torch.linspace(-20, 40, 241, dtype=torch.float64)
cosines = torch.linspace(-0.1, 0.8, 10, dtype=torch.float64)


def pair_weight(beta, margin=margins):
    return beta * (-beta * margin).sigmoid()


def negative_share(temperature):
    return (cosines / temperature).softmax(-1)


# %%
def draw_weights(beta=0.5, tau=0.2):
    weights = {b: pair_weight(b) for b in sorted({0.05, 0.1, beta})}
    shares = {t: negative_share(t) for t in sorted({0.05, tau, 1.0})}
    return theory.gradient_weights(margins, weights, cosines=cosines, negative_shares=shares)


interactive.sliders(draw_weights, beta=(0.01, 1.0, 0.5), tau=(0.01, 1.0, 0.2))

# %% [markdown]
# **Claim 11.** The curves are the gradients of the package's losses. **Claim 12.** *At equal scores
# the two losses have equal gradients*: give InfoNCE an anchor, a positive and one negative in the
# plane, with cosines $c_+$ and $c_-$; give DPO log-ratios of the same size; let $\beta = 1/\tau$.
# Loss and gradients agree. Only from here on, from the score down to the weights, do the two methods
# differ.

# %%
ratio, zero = margins.clone().requires_grad_(), torch.zeros_like(margins)
plackett_luce.dpo_loss(
    ratio, zero, reference_chosen=zero, reference_rejected=zero, beta=0.1, reduction="sum"
).backward()
claim(11, "β σ(−βΔ), and autograd through dpo_loss", pair_weight(0.1), -ratio.grad)

# %%
tau, first_axis = 0.2, torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def at_cosine(cosine):  # a unit vector of the plane whose cosine with the first axis this is
    return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=-1)


positive = at_cosine(torch.tensor([0.9], dtype=torch.float64))
negative_cosines = cosines.clone()[None].requires_grad_()
plackett_luce.info_nce_loss(
    first_axis, positive, negatives=at_cosine(negative_cosines), temperature=tau
).backward()
push = negative_cosines.grad[0] / negative_cosines.grad.sum()
claim(11, "shares of the push, and autograd through info_nce_loss", negative_share(tau), push)

# %%
equal_scores = torch.tensor([[0.7, 0.4], [0.2, 0.5]], dtype=torch.float64)  # (pairs, 2)
as_cosines, as_ratios = (equal_scores.clone().requires_grad_() for _ in range(2))
zero = torch.zeros(2, dtype=torch.float64)
contrastive = plackett_luce.info_nce_loss(
    first_axis.expand(2, 2),
    at_cosine(as_cosines[:, 0]),
    negatives=at_cosine(as_cosines[:, 1]),
    temperature=tau,
)
preference = plackett_luce.dpo_loss(
    as_ratios[:, 0], as_ratios[:, 1], reference_chosen=zero, reference_rejected=zero, beta=1 / tau
)

# %%
contrastive.backward(), preference.backward()
print("gradients by score, InfoNCE:", as_cosines.grad.numpy().round(6).tolist())
print("gradients by score, DPO:    ", as_ratios.grad.numpy().round(6).tolist())
claim(12, "losses of InfoNCE and DPO at equal scores", contrastive, preference, 1e-6)
claim(12, "their gradients", as_cosines.grad, as_ratios.grad, 1e-6)
figures["equal_score_gradient_difference"] = (as_cosines.grad - as_ratios.grad).abs().max()

# %% [markdown]
# ## 6 · A third score: one-word answers
#
# PromptEOL reads a sentence's embedding at the place where the model would say the sentence *in one
# word*. DPO's score on long answers touches that place only in passing. What if the answers were
# single words? For an anchor $x$ and a word $w$ the implicit reward is $\beta\, r(w)$ with
# $r(w) = \ln\frac{\pi_\theta(w \mid x)}{\pi_\text{ref}(w \mid x)}$. A candidate sentence $y$ is no
# word; but the reference itself can say it in one word, $w \sim q_y = \pi_\text{ref}(\cdot \mid y)$.
# Average DPO's score over the words it would use:
#
# $$s(x, y) = \mathbb{E}_{w \sim q_y}[\beta\, r(w)] = \beta \sum_w q_y(w) \ln \frac{\pi_\theta(w \mid x)}{\pi_\text{ref}(w \mid x)}.$$
#
# The sum runs over the vocabulary that the softmax has computed anyway: no sampling, no noise. Add
# and subtract $\sum_w q_y \ln q_y$, and it becomes a comparison of distributions,
#
# $$s(x, y) = \beta\,\big[\text{KL}(q_y \,\|\, \pi_\text{ref}(\cdot \mid x)) - \text{KL}(q_y \,\|\, \pi_\theta(\cdot \mid x))\big]:$$
#
# *how much nearer has the anchor's word distribution moved to the candidate's?* For once DPO's score
# is a similarity, and it sits at the very state that is the embedding.

# %%
beta, words = 2.0, 200
word_probs = (2 * numbers(3, words, seed=8)).softmax(-1)  # q of three candidates
reference_words = (2 * numbers(words, seed=9)).log_softmax(-1)
policy_words = (reference_words + 0.5 * numbers(words, seed=10)).log_softmax(-1)

word_rewards = beta * (policy_words - reference_words)
exact = word_probs @ word_rewards
deviation = (word_probs @ word_rewards**2 - exact**2).sqrt()  # of one word's reward, per candidate

# %% [markdown]
# **Claim 13.** The exact sum is what sampled words average to: 20,000 words per candidate stay within
# five standard errors. **Claim 14.** It equals the difference of divergences, and the package's
# `one_word_scores`.

# %%
generator = torch.Generator().manual_seed(SEED)
drawn = torch.multinomial(word_probs, 20_000, replacement=True, generator=generator)
sampled = word_rewards[drawn].mean(-1)
error = deviation / math.sqrt(20_000)
claim(13, "exact and sampled scores, in standard errors", exact / error, sampled / error, 5)

divergences = beta * (kl(word_probs, reference_words.exp()) - kl(word_probs, policy_words.exp()))
package = plackett_luce.one_word_scores(
    word_probs, policy_words, reference_log_probs=reference_words, beta=beta
)
claim(14, "expected log-ratio, and difference of divergences", exact, divergences)
claim(14, "the sum above, and one_word_scores", exact, package)

# %%
sizes, estimates = np.array([1, 3, 10, 30, 100, 300, 1000]), []
for size in sizes.tolist():
    drawn = torch.multinomial(word_probs[0], size * 100, replacement=True, generator=generator)
    estimates.append(word_rewards[drawn].view(100, size).mean(-1).numpy())
theory.one_word_estimates(
    sizes, estimates, exact=exact[0].item(), standard_deviation=deviation[0].item()
)

# %% [markdown]
# **Claim 15.** Which average? The one-word loss takes the mean *inside* the softmax: the loss of the
# mean score. Playing DPO with one sampled word per candidate would take the mean *outside*. The loss
# is convex in the scores, so by Jensen's inequality the first is never above the second; the gap is
# the price of sampling. For two candidates both can be computed exactly, the second as a sum over all
# pairs of words.

# %%
loss_of_mean = -logsigmoid(exact[0] - exact[1])
pair_losses = -logsigmoid(word_rewards[:, None] - word_rewards[None, :])
mean_of_losses = word_probs[0] @ pair_losses @ word_probs[1]
print(
    f"loss of the mean score {loss_of_mean:.4f} nats, mean loss over all word pairs {mean_of_losses:.4f} nats"
)
at_most(15, "loss of the mean score minus mean loss, in nats", loss_of_mean - mean_of_losses, 0)
figures["one_word_jensen_gap"] = (mean_of_losses - loss_of_mean).item()

# %% [markdown]
# ## 7 · What is not the same
#
# One likelihood, one loss, equal gradients at equal scores. It does not follow that DPO shapes
# embeddings as InfoNCE does. InfoNCE's score *is* the cosine of the embeddings. DPO's score is read at
# *another place*: at the tokens of an answer, behind a request for a paraphrase. The state at the slot,
# which is the embedding, stands in no term of its loss. It moves because it is computed with the same
# weights, and nothing says in which direction.
#
# One might think of a second reason: a next-word distribution could belong to many states, for if the
# head $W$ trained too, $h \to A h$ with $W \to W A^{-1}$ would keep all probabilities and change the
# cosines. Here the head is frozen, and its columns are independent. **Claim 16.** Then the
# log-probabilities of the next word give the state back, by least squares. So two models that say the
# same at the slot have the same embedding; the freedom lies in the place alone.
#
# The real model enters here, with its own states of PromptEOL, and short sentences of the packaged
# corpus.

# %%
from sempa_utils import models
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder

steps, batch, held_out_rows = profile.theory_steps, 6, profile.theory_held_out
language_model = models.load(MODEL, profile.evaluation_precision)
corpus = corpora.packaged_ranked_nli()
shortest = sorted(corpus.rows, key=lambda row: sum(map(len, row)))[:160]
order = torch.randperm(len(shortest), generator=torch.Generator().manual_seed(SEED)).tolist()
training = [shortest[index] for index in order[: steps * batch]]
held_out = [shortest[index] for index in order[-held_out_rows:]]
print(f"{language_model.name}; {corpus.describe()}")
print(f"{len(training)} rows to train on, {len(held_out)} held out, for example:\n{held_out[0]}")

# %%
anchors, positives, negatives = ([row[column] for row in held_out] for column in (0, 1, 3))


def cosines_of(embedder):
    vectors = torch.as_tensor(embedder.encode(anchors + positives + negatives))
    vectors = vectors.view(3, len(held_out), -1)
    anchor, positive, negative = normalize(vectors, dim=-1)
    return vectors, ((anchor * positive).sum(-1) - (anchor * negative).sum(-1))


base_vectors, cosine_margins_before = cosines_of(Embedder(language_model, "prompteol"))

# %%
states = base_vectors.flatten(0, 1).double()
head = language_model.model.get_output_embeddings().weight.detach()
some_words = head[: 4 * states.shape[1]].to("cpu", torch.float64)  # more words than coordinates
log_probs = (states @ some_words.T).log_softmax(-1)

# log π(w) = W_w h − a constant of the sentence: centring over the words takes the constant away.
centred_words = some_words - some_words.mean(dim=0)
centred = log_probs - log_probs.mean(dim=-1, keepdim=True)
found = torch.linalg.lstsq(centred_words, centred.T).solution.T
scale = states.abs().max()
claim(16, "states, and what log-probabilities give back", found / scale, states / scale, 1e-6)

# %% [markdown]
# So what does training at one place do at the other? We align the model for a few steps: LoRA on all
# linear layers, one pass over a handful of triplets, each seen once. The loss is
# the two lines of section 3. (Every batch is a prefix tree, in which prompts that are shared are
# computed once; notebook 02 explains it. The learning rate is five times the paper's, since there are
# so few steps.)

# %%
from peft import get_peft_model
from sempa_utils.training import Recipe, lora_config

SIDES, ALL_SIDES = ("entailment", "contradiction"), ("entailment", "neutral", "contradiction")
BETA, LEARNING_RATE = 0.1, 5e-4
lora = lora_config(Recipe())
torch.manual_seed(SEED)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # between libraries, nothing of ours
    adapted = get_peft_model(language_model.model, lora)
language_model = replace(language_model, model=adapted)

# %%
from sempa_utils.data.templates import paraphrase_request
from sempa_utils.models import prefix_tree
from sempa_utils.objectives import preferences


def answer_log_probs(rows, sides):
    """Summed log-probabilities of each row's answers behind its paraphrase request: (rows, sides)."""
    prompts, answers = [], []
    for row in rows:
        request = paraphrase_request(row.premise)
        both = [
            preferences.answer_tokens(language_model.tokenizer, request, answer=getattr(row, side))
            for side in sides
        ]
        prompts.append(both[0][0])
        answers.append([answer for _, answer in both])
    tree = prefix_tree.build(prompts, answers).to(language_model.device)
    return prefix_tree.log_probs(adapted, tree).view(len(rows), len(sides))


# %%
def log_ratios(rows, sides):
    """log π/π_ref of each row's answers; the reference is the model with its adapter switched off."""
    with torch.no_grad(), adapted.disable_adapter():
        reference = answer_log_probs(rows, sides)
    return answer_log_probs(rows, sides) - reference


trained_weights = [weight for weight in adapted.parameters() if weight.requires_grad]
optimiser = torch.optim.AdamW(trained_weights, lr=LEARNING_RATE)
losses, curve = [], []

# %%
for step in range(steps):
    ratios = log_ratios(training[step * batch : (step + 1) * batch], SIDES)
    loss = best_of_n_loss(BETA * ratios)
    losses.append(loss.item())
    curve.append(ratios.detach().mean(0).cpu())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    chosen, rejected = curve[-1].tolist()
    ends = f"log-ratios chosen {chosen:+6.2f}, rejected {rejected:+6.2f}"
    print(f"step {step:2d}: loss {losses[-1]:.3f}, {ends}")

# %% [markdown]
# **Claim 17.** Before the first step policy and reference agree, so every score is zero, and every
# softmax is undecided: the loss of a pair is $\ln 2$. A first loss that is anything else is a bug.

# %%
claim(17, "loss of the real model at step 0, and ln 2", losses[0], math.log(2), 1e-3)

# %% [markdown]
# Now both scores on the same held-out triplets. DPO's margin says how far the policy has learned to
# prefer the entailed sentence as an *answer*; the cosine margin says whether its *embedding* is
# nearer to the anchor's than the contradicted one's. Were the two the same thing, the points would
# lie on a rising line.
#
# An accuracy alone proves no understanding. The packaged contradictions repeat more of the premise's
# words than the entailed sentences do, so a rule that counts shared words, or letters, picks the right
# sentence often. What such rules reach stands beside what the model reaches.

# %%
with torch.no_grad():
    groups = [held_out[start : start + 8] for start in range(0, len(held_out), 8)]
    ratios = torch.cat([log_ratios(group, ALL_SIDES) for group in groups]).float().cpu()
score_margins = BETA * (ratios[:, 0] - ratios[:, 2])
tuned_vectors, cosine_margins_after = cosines_of(Embedder(language_model, "prompteol"))
rankers = {
    "dpo_score": score_margins,
    "cosine_before": cosine_margins_before,
    "cosine_after": cosine_margins_after,
}
for name, margins in rankers.items():
    figures[f"accuracy_{name}"] = accuracy = (margins > 0).float().mean().item()
    print(f"{name:13s} puts entailed above contradicted in {100 * accuracy:.0f} % of triplets")
figures["accuracy_without_a_model"] = shortcuts.accuracies(held_out)
print(shortcuts.words_of(held_out))


# %%
def spearman(first, second):
    """ρ and its 95 % interval: Fisher's z, with the variance factor 1.06 that Spearman's ρ needs."""
    rho, reach = (
        scipy.stats.spearmanr(first, second).statistic,
        1.96 * 1.03 / (len(first) - 3) ** 0.5,
    )
    return rho, [math.tanh(math.atanh(rho) + side * reach) for side in (-1, 1)]


def told(what, first, second):
    """Print ρ with its interval and what it shows; return both."""
    rho, interval = spearman(first, second)
    verdict = "0 is not excluded" if interval[0] <= 0 <= interval[1] else "not 0"
    print(f"ρ of {what}: {rho:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f}: {verdict})")
    return rho, interval


# %%
shared = shortcuts.shared_words
fewer_words = [shared(row.premise, row[3]) - shared(row.premise, row[1]) for row in held_out]
told("score and cosine before training", score_margins, cosine_margins_before)
rho_after, interval = told("score and cosine after training", score_margins, cosine_margins_after)
told("score and fewer shared words", score_margins, fewer_words)
told("cosine after training and fewer shared words", cosine_margins_after, fewer_words)
figures |= {"score_cosine_spearman": rho_after, "score_cosine_spearman_interval": interval}
theory.score_against_cosine(
    score_margins,
    [cosine_margins_before, cosine_margins_after],
    correlations=[spearman(score_margins, cosine_margins_before)[0], rho_after],
    names=("cosine before training", "cosine after training"),
)

# %% [markdown]
# Read the interval before the coefficient. Two measures of one thing would give a ρ near 1, and the
# interval excludes that. It need not even be positive: compare the first line with the second. If ρ is
# negative with the cosine of the *untrained* model as well, training did not turn it round; the two scores
# then go by something else in opposite directions. The last two lines name a candidate: where the third is
# positive and the fourth negative, DPO has learned that the right answer shares few words with the premise,
# while the cosine likes sentences that share many.
# An accuracy no higher than that of the rules without a model is no evidence of more.
#
# One run of one seed says no more: change `SEED`, which draws the rows and starts the adapter, and see how
# far the coefficients move. Equal objectives, then, but not equal geometry: the theory is right about the
# loss and silent about the slot. That alignment improves embeddings, as the paper reports for 7B models
# after 40,000 triplets and more, is an empirical finding; notebooks 03 and 04 measure it.
#
# And the one-word score? It can be read off the same two models: $q_y$ from the base's states of the
# candidates, $r(w)$ from the anchor's state before and after. It ought to follow the *change* of the
# cosine margin better than the score of long answers does, since it is made of the same states. The next
# cell says for each whether a link can be shown; two intervals that overlap show no order of the two.

# %%
head = language_model.model.get_output_embeddings().weight.detach().to("cpu", torch.float32)
before = (base_vectors @ head.T).log_softmax(-1)  # (3, rows, words): anchor, positive, negative
anchor_after = (tuned_vectors[0] @ head.T).log_softmax(-1)
candidate_words = before[1:].exp().transpose(0, 1)  # (rows, 2, words)
one_word = plackett_luce.one_word_scores(
    candidate_words, anchor_after, reference_log_probs=before[0], beta=1.0
)
change = cosine_margins_after - cosine_margins_before
for name, margin in {"one_word": one_word[:, 0] - one_word[:, 1], "dpo": score_margins}.items():
    rho, _ = told(f"the {name} margin and the change of the cosine margin", margin, change)
    figures[f"{name}_margin_and_cosine_change_spearman"] = rho

# %% [markdown]
# ## 8 · Why the chosen reward may fall while the margin grows
#
# Every trainer logs the reward of the chosen answer, and often it sinks. Is the run broken? The loss
# knows the *difference* alone. Take a model with one feature φ per answer,
# $\pi_\theta(y) \propto \pi_\text{ref}(y)\, e^{\theta \varphi(y)}$. A step along DPO's gradient moves
# θ towards $\varphi(y_w) - \varphi(y_l)$, and
#
# $$\mathrm{d} \ln \pi_\theta(y_w) = \big(\varphi(y_w) - \mathbb{E}_{y\sim\pi_\theta}[\varphi(y)]\big)\, \mathrm{d}\theta.$$
#
# Chosen and rejected share most of what they are, so the direction that separates them is narrow, and
# *some third answer may lie further along it*. Then it takes the mass, and both fall, the rejected
# one faster. **Claim 18.** In this toy the chosen answer falls and the margin grows at every step;
# **claim 19**, give each answer a logit of its own, nothing shared, and the chosen one rises at every
# step. So the fall has two causes, and needs both: a loss that asks for a difference and lets both ends
# sink, and features that the two share.

# %%
start = torch.tensor([0.35, 0.35, 0.30], dtype=torch.float64).log()  # the third: ranked by nobody
feature = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)


def descend(log_policy_of, parameters, steps=30, rate=1.0, beta=0.5):
    """Log-ratios (steps + 1, 3) of chosen, rejected and the third along gradient descent on DPO."""
    parameters, path = parameters.clone().requires_grad_(), []
    for _ in range(steps + 1):
        log_policy = log_policy_of(parameters)
        path.append((log_policy - start).detach())
        ends = {"reference_chosen": start[0], "reference_rejected": start[1], "beta": beta}
        loss = plackett_luce.dpo_loss(log_policy[0], log_policy[1], **ends)
        (gradient,) = torch.autograd.grad(loss, parameters)
        parameters = (parameters - rate * gradient).detach().requires_grad_()
    return torch.stack(path)


# %%
none, three = torch.zeros(1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
shared = descend(lambda theta: (start + theta * feature).log_softmax(-1), none)
separate = descend(lambda logits: (start + logits).log_softmax(-1), three)
rise = shared[:, 0].diff().max()
at_most(18, "shared feature: largest change of the chosen log-ratio in a step", rise, 0)
fall = -(shared[:, 0] - shared[:, 1]).diff().min()
at_most(18, "shared feature: largest change of −margin in a step", fall, 0)
fall = -separate[:, 0].diff().min()
at_most(19, "separate logits: largest change of −chosen log-ratio", fall, 0)

# %%
model_curve = torch.stack(curve)
theory.falling_reward(
    {
        "one shared feature": (shared[:, 0], shared[:, 1]),
        "a logit for each answer": (separate[:, 0], separate[:, 1]),
        "the model of section 7": (model_curve[:, 0], model_curve[:, 1]),
    }
)

# %%
chosen, rejected = model_curve[-1].tolist()
lowest = model_curve[:, 0].min().item()
figures |= {
    "last_chosen_log_ratio": chosen,
    "last_rejected_log_ratio": rejected,
    "lowest_chosen_log_ratio": lowest,
}
verdict = "below" if chosen < 0 else "above"
print(
    f"language model, last batch: chosen {chosen:+.1f} nats, {verdict} where it began; rejected {rejected:+.1f}; "
    f"margin {chosen - rejected:+.1f}; lowest chosen on the way {lowest:+.1f}"
)

# %% [markdown]
# In the right-hand panel each step shows *new* triplets, measured before the model trains on them, so
# the curve jumps from batch to batch. What counts in your own runs: the margin, the accuracy, and a
# measure of the task itself. A chosen reward that sinks slowly is common; one that sinks without end
# means that probability is draining to answers that nobody ranked; a smaller learning rate, fewer steps,
# or a larger β, with which a pair has had enough sooner, are the first things to try.

# %% [markdown]
# ## 9 · From pairs to lists
#
# NLI has three labels: what follows, what may be, what cannot be. The paper uses the first and the
# last, and names listwise preferences as the next step. The likelihood has been waiting since section
# 2: rank *entailment ≻ neutral ≻ contradiction*, with DPO's scores in the full product.
#
# **Claim 20.** For N = 2 the list is DPO. **Claim 21.** A list of three is a chain of choices we
# know: *the best of three, then the better of the two left*. **Claim 22.** What the list adds is a
# voice for the middle: the pairwise loss has no gradient on the neutral answer, the list has.

# %%
policy = (5 * numbers(6, 3, seed=12)).requires_grad_()
reference = 5 * numbers(6, 3, seed=13)


def pair_loss(policy):
    return plackett_luce.dpo_loss(
        policy[:, 0],
        policy[:, 2],
        reference_chosen=reference[:, 0],
        reference_rejected=reference[:, 2],
        beta=0.1,
    )


outer = [0, 2]
listwise_of_two = plackett_luce.listwise_dpo_loss(policy[:, outer], reference[:, outer], beta=0.1)
claim(20, "listwise loss of two answers, and dpo_loss", listwise_of_two, pair_loss(policy))

# %%
whole = plackett_luce.listwise_dpo_loss(policy, reference, beta=0.1)
scores = 0.1 * (policy - reference)
chain = best_of_n_loss(scores) + best_of_n_loss(scores[:, 1:])
claim(21, "the list of three, and best of three + better of two", whole, chain)

(pair_gradient,) = torch.autograd.grad(pair_loss(policy), policy)
(list_gradient,) = torch.autograd.grad(whole, policy)
claim(22, "gradient of the pairwise loss on neutral answers, and 0", pair_gradient[:, 1], 0)
assert list_gradient[:, 1].abs().min() > 0

# %%
gaps = torch.linspace(-4, 4, 49, dtype=torch.float64)
first, second = torch.meshgrid(gaps, gaps, indexing="xy")
triples = torch.stack([first + second, second, torch.zeros_like(first)], dim=-1)  # three scores
each = {"beta": 1.0, "reduction": "none"}
zero, listwise = torch.zeros_like(triples), plackett_luce.listwise_dpo_loss
landscapes = {
    "pair: ends alone": -logsigmoid(first + second),
    "best of three": listwise(triples, zero, top_k=1, **each),
    "full list": listwise(triples, zero, **each),
}
theory.ranking_landscape(gaps, gaps, losses=landscapes)

# %% [markdown]
# Arrows point downhill. The pair is content as soon as entailment stands above contradiction,
# wherever neutral lies: its valley is a diagonal. The best of three wants entailment on top and does
# not order the others. The full list leads to the upper right corner, where both gaps are positive.
#
# **Claim 23.** On the real model an untrained policy finds all 3! rankings equally likely, so a
# listwise run starts at $\ln 6$. After our few *pairwise* steps, where did neutral go on the held-out
# rows?

# %%
with torch.no_grad(), adapted.disable_adapter():
    few = answer_log_probs(held_out[:4], ALL_SIDES).cpu()
undecided = plackett_luce.listwise_dpo_loss(few, few)
claim(23, "listwise loss where policy = reference, and ln 6", undecided, math.log(6), 1e-5)

# %%
places = ratios.argsort(-1, descending=True).argsort(-1)  # (rows, 3): 0 is first
list_loss = plackett_luce.listwise_dpo_loss(ratios, torch.zeros_like(ratios), beta=BETA).item()
in_order = (places == torch.arange(3)).all(-1).float().mean().item()
figures |= {"listwise_loss_after_pairwise": list_loss, "rows_in_full_order": in_order}
print(f"listwise loss after pairwise training: {list_loss:.3f} nats (ln 6 = {math.log(6):.3f})")
print(
    f"rows in the order entailment ≻ neutral ≻ contradiction: {100 * in_order:.0f} % (chance 17 %)"
)
for side, own in zip(ALL_SIDES, places.T, strict=True):
    shares = " / ".join(f"{100 * (own == place).float().mean():.0f}" for place in range(3))
    print(f"  {side:13s} stands first, second, third in {shares} % of rows")
middle = 1 + places[:, 1].float().mean().item()
error = places[:, 1].float().std().item() / math.sqrt(len(places))
print(f"neutral's mean place: {middle:.2f} ± {error:.2f} (the middle is 2)")

# %% [markdown]
# So that is where neutral went: not to the middle by any pull of the loss, for the pairwise loss has no
# gradient on it. It was carried along by what its words share with the two ends, and its mean place is the
# outcome. Where that lies more than two errors from 2, the neutral answers look to this policy more like
# the one end than the other.

# %% [markdown]
# ## What to take away
#
# - One likelihood, Plackett–Luce; its first factor is a softmax; minus its logarithm is the loss of InfoNCE, of DPO and
#   of the one-word objective.
# - The score is the method. A cosine shapes vectors directly; a log-ratio of sequences shapes probabilities, and vectors
#   only through them; the one-word score is a log-ratio at the state that is the embedding.
# - β and $1/\tau$ are the same knob on different raw scores: they set how soon a pair has had enough, and how much of the push the hard negatives get.
# - Margins count, not chosen rewards. Lists cost nothing new.

# %% [markdown]
# ## Glossary
#
# | term | in one line |
# |---|---|
# | adapter | the small set of trained weights beside a frozen model |
# | β | factor on a log-ratio: how soon a pair has had enough |
# | contrastive learning | pulling the vectors of what belongs together, pushing the rest away |
# | DPO | direct preference optimisation: a loss on which of two answers a model should find likelier |
# | entailment, neutral, contradiction | what follows from a premise, may be true, cannot be true |
# | implicit reward | β × log π/π_ref of an answer: the reward for which the policy would be the best |
# | InfoNCE | the contrastive loss: minus the log of the right candidate's softmax share |
# | isotropy | how evenly vectors point in all directions; 1: none is favoured |
# | KL(p ‖ q) | how surprised one is by q who expects p to happen; 0 where they are equal |
# | LoRA | an adapter of low rank: W + (α / r) B A, with B and A trained |
# | margin | score of the preferred candidate less that of the other |
# | nat | unit of surprise with the natural logarithm; 1 nat is 1.44 bits |
# | NF4 | four bits a weight: one of 16 levels times the scale of its block of 64 |
# | perplexity | e to the mean surprise at a text's tokens; lower is less surprised |
# | Plackett–Luce | choose the best by a softmax of the scores, then the best of the rest |
# | policy, reference | the model that is trained, and the frozen one that it is compared with |
# | prefix tree | a batch in which what sequences begin with alike is computed once |
# | PromptEOL | the prompt `This sentence : "…" means in one word:"`, read at its last token |
# | SemPA | DPO on paraphrases, so that embeddings become better and the model still speaks |
# | slot | the place where that one word would stand; its state is the embedding |
# | Spearman's ρ | correlation of two orders: 1 the same, 0 none, −1 reversed |
# | STS | semantic textual similarity: pairs of sentences that people graded |
# | temperature τ | divisor of cosines: small means that the hardest negative counts alone |
# | triplet | an anchor, a sentence that follows from it, one that contradicts it |
# | uniformity | log of the mean of e^(−2 distance²) of unit vectors; lower is more spread out |

# %% [markdown]
# ## Exercises
#
# Write the function, run the cell, and read what the checker says: it recognises common slips and names
# them. ★ follows from a definition, ★★ needs a thought, ★★★ needs an idea from the text.

# %%
from sempa_utils import exercises

display(Markdown(exercises.overview("theory")))

# %% [markdown]
# **1 · Best of N** (★, 5 minutes). The first factor of the product, as a probability. It must
# survive scores of 1e4.


# %%
def best_of_probability(scores):
    raise NotImplementedError


exercises.check("best_of_probability", best_of_probability)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def best_of_probability(scores):
#     return scores.softmax(dim=-1)[..., 0]
# ```
# </details>
#
# **2 · The first places of a ranking** (★, 10 minutes). One factor for each place that is known.
# Mind the candidates whose place is not.


# %%
def top_k_log_prob(scores, ranking):
    raise NotImplementedError


exercises.check("top_k_log_prob", top_k_log_prob)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def top_k_log_prob(scores, ranking):
#     remaining, total = scores.clone(), 0
#     for item in ranking:
#         total = total + scores[item] - remaining.logsumexp(dim=0)
#         remaining[item] = -torch.inf
#     return total
# ```
# </details>
#
# **3 · DPO** (★, 10 minutes). Equation 2 of the paper, as a mean over the pairs.


# %%
def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    raise NotImplementedError


exercises.check("dpo_loss", dpo_loss)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
#     margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
#     return -torch.nn.functional.logsigmoid(margin).mean()
# ```
# </details>
#
# **4 · What a score feels** (★★, 10 minutes). The gradient of $-\log P(\text{candidate 0 is best})$
# by every score, without autograd. With N = 2 it is the curve of section 5.


# %%
def score_gradient(scores):
    raise NotImplementedError


exercises.check("score_gradient", score_gradient)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def score_gradient(scores):
#     gradient = scores.softmax(dim=-1)
#     gradient[..., 0] -= 1
#     return gradient
# ```
# The winner is pulled up by what the others still hold; each loser is pushed down by the probability
# it still has.
# </details>
#
# **5 · InfoNCE inside a batch** (★★, 15 minutes). Everyone else's positive is your negative.


# %%
def info_nce_in_batch(anchor, positive, temperature):
    raise NotImplementedError


exercises.check("info_nce_in_batch", info_nce_in_batch)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def info_nce_in_batch(anchor, positive, temperature):
#     anchor = torch.nn.functional.normalize(anchor, dim=-1)
#     positive = torch.nn.functional.normalize(positive, dim=-1)
#     scores = anchor @ positive.T / temperature
#     return -scores.log_softmax(dim=-1).diagonal().mean()
# ```
# </details>
#
# **6 · The best policy under a leash** (★★, 15 minutes). Maximise
# $E[r] - \beta\,\text{KL}(\pi\,\|\,\pi_\text{ref})$ over all policies. Logarithms keep a tiny β from
# overflowing.


# %%
def optimal_policy(reference_probs, rewards, beta):
    raise NotImplementedError


exercises.check("optimal_policy", optimal_policy)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def optimal_policy(reference_probs, rewards, beta):
#     return (reference_probs.log() + rewards / beta).softmax(dim=-1)
# ```
# </details>
#
# **7 · One-word scores** (★★, 10 minutes). DPO's score averaged over the words that stand for a
# candidate, for all anchors and candidates at once. Try it without an array of B × N × V numbers.


# %%
def one_word_scores(word_probs, policy_log_probs, reference_log_probs, beta):
    raise NotImplementedError


exercises.check("one_word_scores", one_word_scores)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def one_word_scores(word_probs, policy_log_probs, reference_log_probs, beta):
#     return beta * (policy_log_probs - reference_log_probs) @ word_probs.T
# ```
# </details>
#
# **8 · A ranking by noise** (★★★, 15 minutes). Draw one Plackett–Luce ranking without computing a
# single probability.


# %%
def sample_ranking(scores, generator):
    raise NotImplementedError


exercises.check("sample_ranking", sample_ranking)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sample_ranking(scores, generator):
#     uniform = torch.rand(scores.shape, dtype=torch.float64, generator=generator)
#     gumbel = -torch.log(-torch.log(uniform))
#     return (scores + gumbel).argsort(descending=True)
# ```
# </details>
#
# **9 · Who comes in where** (★★★, 20 minutes). The probability that candidate i comes in at place k,
# as a matrix. The sum over all rankings is a start; the checker does not ask how.


# %%
def place_probabilities(scores):
    raise NotImplementedError


exercises.check("place_probabilities", place_probabilities)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def place_probabilities(scores):
#     # The first place is a softmax; given its winner, the rest run the same race one place later.
#     if len(scores) == 1:
#         return torch.ones(1, 1, dtype=scores.dtype)
#     first = scores.softmax(dim=0)
#     matrix = torch.zeros(len(scores), len(scores), dtype=scores.dtype)
#     matrix[:, 0] = first
#     for winner in range(len(scores)):
#         rest = [item for item in range(len(scores)) if item != winner]
#         matrix[rest, 1:] += first[winner] * place_probabilities(scores[rest])
#     return matrix
# ```
# </details>

# %% [markdown]
# ## The paper's setting and this run's

# %%
rows = f"{len(training)}, {corpus.source}; {len(held_out)} held out"
adapter = f"r {lora.r}, α {lora.lora_alpha}, the same layers"
ours = {"model": language_model.name, "training rows": rows, "β": f"{BETA} in section 7"}
ours |= {"adapter": adapter, "optimiser": f"AdamW, {LEARNING_RATE:g}, constant"}
ours |= {"batch": f"{batch}; {steps} steps, each row once"}
others = [
    ("candidates N", "2", "2 in training; 2 to 6 in the theory"),
    ("section 4.4", "a derivation on paper", f"{len(claims)} claims, each with an assertion"),
]
display(Markdown(records.settings_table(records.paper_settings(ours) + others)))

# %%
right = 100 * (score_margins > 0).float().mean()
record_of_run = records.run_record(
    "notebook_01_theory",
    figures=figures | {"claims": len(claims)},
    headline=(
        f"{len(claims)} claims hold; after {len(training)} triplets DPO ranks {right:.0f} % of "
        f"{len(held_out)} held-out ones rightly, and its margin correlates with the cosine margin at ρ = "
        f"{rho_after:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
    ),
    origin=records.Origin(
        model=language_model.describe(),
        data=[corpus.record()],
        settings={"steps": steps, "batch": batch, "beta": BETA, "learning_rate": LEARNING_RATE},
        seed=SEED,
    ),
)
records.save_run(record_of_run)
print("next: 02_training")
