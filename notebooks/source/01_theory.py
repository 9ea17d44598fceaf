# %% [markdown]
# ## Exercises
#
# Write the function, run the cell, and read what the checker says. Solutions are folded below each exercise; every
# checker also recognises common slips and names them. ●○○ follows from a definition, ●●○ needs a thought, ●●● needs
# an idea from the text.

# %%
from IPython.display import Markdown
from sempa_utils import exercises

Markdown(exercises.overview())

# %% [markdown]
# **1 · Best of N** (●○○, 5 minutes). The first factor of the product, as a probability. It must survive scores of 1e4.


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
# **2 · A whole ranking** (●○○, 10 minutes). One factor for each place; whoever is placed leaves the sum.


# %%
def ranking_log_prob(scores, ranking):
    raise NotImplementedError


exercises.check("ranking_log_prob", ranking_log_prob)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def ranking_log_prob(scores, ranking):
#     ordered = scores[ranking]
#     return sum(ordered[k] - ordered[k:].logsumexp(dim=0) for k in range(len(ordered)))
# ```
# </details>
#
# **3 · DPO** (●○○, 10 minutes). Equation 2 of the paper, as a mean over the pairs.


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
# **4 · What a score feels** (●●○, 10 minutes). The gradient of $-\log P(\text{candidate 0 is best})$ by every score,
# without autograd. Claim 8 is this exercise with N = 2.


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
# The winner is pulled up by what the others still hold; each loser is pushed down by the probability it still has.
# </details>
#
# **5 · InfoNCE inside a batch** (●●○, 15 minutes). Everyone else's positive is your negative.


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
# **6 · The best policy under a leash** (●●○, 15 minutes). Maximise $E[r] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})$
# over all policies. Logarithms keep a tiny β from overflowing.


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
# **7 · A ranking by noise** (●●●, 15 minutes). Draw one Plackett–Luce ranking without computing a single probability.


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
# **8 · One-word scores** (●●●, 15 minutes). DPO's score averaged over the words that stand for a candidate. The last
# check is an identity worth proving with a pencil.


# %%
def one_word_scores(word_probs, policy_log_probs, reference_log_probs, beta):
    raise NotImplementedError


exercises.check("one_word_scores", one_word_scores)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def one_word_scores(word_probs, policy_log_probs, reference_log_probs, beta):
#     return beta * word_probs @ (policy_log_probs - reference_log_probs)
# ```
# In the identity the entropy of q cancels: $\mathrm{KL}(q\,\|\,\pi_\mathrm{ref}) - \mathrm{KL}(q\,\|\,\pi) =
# \sum_w q(w)\,[\log\pi(w) - \log\pi_\mathrm{ref}(w)]$.
# </details>
