"""The figures of notebook 01, each drawn from arrays and returned as a matplotlib Figure.

No function here computes a likelihood or loads a model: what is drawn is what is handed in. A notebook
shows a figure where a cell returns it.
"""

import textwrap

import numpy as np
from matplotlib import ticker
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, CYCLE, page_style, panels

__all__ = [
    "best_of_n",
    "sampled_rankings",
    "kl_world",
    "gradient_weights",
    "one_word_estimates",
    "score_against_cosine",
    "falling_reward",
    "ranking_landscape",
]

DASHES = ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))]  # a second sign beside colour


def best_of_n(candidates, scores, *, probabilities, anchor: str, score_label: str = "score s (nats)") -> Figure:
    """The one picture: N candidates for an anchor, their scores and the probability to be the best.

    `candidates` are N sentences, the right one first; `scores` and `probabilities` arrays (N,).
    """
    scores, probabilities = _arrays(scores, probabilities)
    _same_length(candidates, scores, probabilities)
    places = np.arange(len(candidates))
    colours = [COLOURS["blue"]] + [COLOURS["orange"]] * (len(candidates) - 1)
    with page_style():
        figure, (left, right) = panels(columns=2, height=0.9 + 0.45 * len(candidates), sharey=True)
        left.barh(places, scores, color=colours)
        left.axvline(0, color=COLOURS["black"], linewidth=0.8)
        left.set_yticks(places, [textwrap.fill(text, 34) for text in candidates])
        left.invert_yaxis()
        left.set(xlabel=score_label, title="a score for each; blue should win")
        right.barh(places, probabilities, color=colours)
        for place, probability in zip(places, probabilities, strict=True):
            right.text(probability + 0.015, place, f"{probability:.2f}", va="center")
        right.set_xlim(0, 1.12)
        right.set_xticks([0, 0.25, 0.5, 0.75, 1])
        right.set(
            xlabel="P(candidate is the best of N)",
            title=f"loss = −ln {probabilities[0]:.2f} = {-np.log(max(probabilities[0], 1e-300)):.2f} nats",
        )
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
        figure.suptitle(f"“{anchor}”", x=0.01, ha="left", fontstyle="italic", fontsize=12)
        return figure


def sampled_rankings(labels, counts, *, probabilities, p_value: float | None = None) -> Figure:
    """Histogram of sampled rankings with two standard errors, on the exact probabilities.

    `labels` names the R rankings, `counts` (R,) how often each was drawn, `probabilities` (R,).
    """
    counts, probabilities = _arrays(counts, probabilities)
    _same_length(labels, counts, probabilities)
    draws = counts.sum()
    order = np.argsort(-probabilities, kind="stable")
    frequency, exact = counts[order] / draws, probabilities[order]
    error = 2 * np.sqrt(exact * (1 - exact) / draws)
    places = np.arange(len(order))
    with page_style():
        figure, axes = panels(height=3.2)
        axes.bar(places, 100 * frequency, color=COLOURS["sky"], label=f"{int(draws):,} rankings drawn by Gumbel noise")
        look = {"fmt": "o", "color": COLOURS["black"], "markersize": 4, "capsize": 3, "linewidth": 1.2}
        axes.errorbar(places, 100 * exact, yerr=100 * error, label="exact probability ± 2 standard errors", **look)
        axes.set_xticks(places, [labels[index] for index in order], rotation=90 if len(order) > 8 else 0)
        axes.set(xlabel="ranking, best first", ylabel="share of rankings (%)")
        axes.grid(axis="x", visible=False)
        axes.legend()
        if p_value is not None:
            axes.set_title(f"χ² test against the exact probabilities: p = {p_value:.2f}")
        return figure


def kl_world(answers, reference, *, optimal, reward, implicit_reward, beta: float) -> Figure:
    """The small discrete world: policies of one prompt, and implicit against true reward of all prompts.

    `answers` names the A answers; the other arrays are (P, A): P prompts, probabilities and rewards.
    """
    reference, optimal, reward, implicit_reward = _arrays(reference, optimal, reward, implicit_reward)
    for values in (reference, optimal, reward, implicit_reward):
        if values.shape != (len(reference), len(answers)):
            raise ValueError(f"arrays must all be prompts × answers, not {reference.shape} and {values.shape}")
    places = np.arange(len(answers))
    with page_style():
        figure, (left, right) = panels(columns=2, height=3.4)
        look = {"color": COLOURS["blue"], "hatch": "//", "edgecolor": "white"}
        bars = [
            left.bar(places - 0.2, reference[0], 0.4, color=COLOURS["grey"], label="reference"),
            left.bar(places + 0.2, optimal[0], 0.4, label="optimal policy", **look),
        ]
        for each in bars:  # a bar too low to be seen is there all the same
            left.bar_label(each, fmt="%.2f", fontsize=8, padding=1)
        names = [f"{answer}\nr = {_text(value, 1)}" for answer, value in zip(answers, reward[0], strict=True)]
        left.set_xticks(places, names)
        left.set(
            xlabel="answers to prompt 1, with their reward r (nats)",
            ylabel="probability",
            title=f"what KL-regularised reward buys, β = {beta:g}",
        )
        left.grid(axis="x", visible=False)
        left.legend()
        for prompt, (true, implied) in enumerate(zip(reward, implicit_reward, strict=True)):
            constant = (true - implied).mean()
            span = np.array([true.min() - 0.2, true.max() + 0.2])
            colour = CYCLE[prompt % len(CYCLE)]
            right.plot(span, span - constant, color=colour, linewidth=1, linestyle=DASHES[prompt % len(DASHES)])
            label = f"prompt {prompt + 1}: β ln Z = {_text(constant)}"
            right.plot(true, implied, "osD^vP"[prompt % 6], color=colour, label=label)
        right.set(
            xlabel="true reward r (nats)",
            ylabel="implicit reward (nats)",
            title="recovered up to a constant per prompt",
        )
        right.legend(fontsize=9)
        return figure


def gradient_weights(margins, pair_weights, *, cosines, negative_shares) -> Figure:
    """How hard the losses pull: DPO by the margin for each β, InfoNCE by the cosine for each τ.

    `pair_weights` maps β to weights (M,) at `margins` (M,), log-ratios in nats. `negative_shares` maps
    τ to the share of the whole push (K,) that each negative at `cosines` (K,) gets.
    """
    (margins, cosines) = _arrays(margins, cosines)
    with page_style():
        figure, (left, right) = panels(columns=2, height=3.6)
        for (beta, weights), colour, dash in zip(pair_weights.items(), CYCLE, DASHES):
            _same_length(margins, weights)
            left.plot(margins, weights, color=colour, linestyle=dash, label=f"β = {beta:g}")
        left.axvline(0, color=COLOURS["black"], linewidth=0.8)
        left.set(
            xlabel="log-ratio of chosen minus rejected (nats)",
            ylabel="gradient weight β σ(−β · margin)",
            title="DPO: how long a pair goes on pulling",
        )
        left.legend()
        for (temperature, shares), colour, dash in zip(negative_shares.items(), CYCLE, DASHES):
            _same_length(cosines, shares)
            look = {"color": colour, "linestyle": dash, "marker": "o", "markersize": 4}
            right.plot(cosines, 100 * np.asarray(shares), label=f"τ = {temperature:g}", **look)
        right.set(xlabel="cosine of anchor and negative", ylabel="share of the push (%)")
        right.set_ylim(0, 103)
        right.set_title("InfoNCE: which negative is pushed")
        right.legend()
        return figure


def one_word_estimates(sample_sizes, estimates, *, exact: float, standard_deviation: float) -> Figure:
    """The exact one-word score against means over sampled words, and how the error falls.

    `sample_sizes` (S,) words per estimate, `estimates` (S, R) R repeated estimates each (nats), `exact`
    the expectation, `standard_deviation` that of one word's reward.
    """
    sample_sizes, estimates = _arrays(sample_sizes, estimates)
    _same_length(sample_sizes, estimates)
    with page_style():
        figure, (left, right) = panels(columns=2, height=3.4)
        expected_error = standard_deviation / np.sqrt(sample_sizes)
        low, high = exact - 2 * expected_error, exact + 2 * expected_error
        left.fill_between(sample_sizes, low, high, color=COLOURS["sky"], alpha=0.35, label="± 2 standard errors")
        each = np.repeat(sample_sizes, estimates.shape[1])
        left.plot(each, estimates.ravel(), ".", color=COLOURS["blue"], markersize=3)
        left.axhline(exact, color=COLOURS["black"], linewidth=1.5, label=f"exact expectation, {_text(exact)}")
        left.set(
            xscale="log",
            xlabel="words sampled per estimate",
            ylabel="score of the candidate (nats)",
            title="DPO's score, averaged over sampled words",
        )
        left.legend(fontsize=9)
        error = np.sqrt(((estimates - exact) ** 2).mean(axis=1))
        right.loglog(sample_sizes, error, "o", color=COLOURS["blue"], label="measured")
        right.loglog(sample_sizes, expected_error, "--", color=COLOURS["vermillion"], label="σ / √words")
        right.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        right.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        right.yaxis.set_minor_formatter(ticker.NullFormatter())
        right.set(
            xlabel="words sampled per estimate",
            ylabel="root mean square error (nats)",
            title="the exact sum saves all this noise",
        )
        right.legend()
        return figure


def score_against_cosine(score_margins, cosine_margins, *, correlations, names=("before", "after")) -> Figure:
    """The two scores on the same triplets: DPO's margin against the cosine margin, one panel for each model.

    `score_margins` (n,) in nats; `cosine_margins` a sequence of arrays (n,), `correlations` one
    Spearman coefficient for each, `names` their titles.
    """
    (score_margins,) = _arrays(score_margins)
    with page_style():
        figure, row = panels(columns=len(cosine_margins), height=3.6, sharex=True, sharey=True, squeeze=False)
        panel = zip(row[0], cosine_margins, correlations, names, CYCLE, strict=False)
        for axes, cosines, correlation, name, colour in panel:
            _same_length(score_margins, cosines)
            axes.plot(score_margins, cosines, "o", color=colour, markersize=5, alpha=0.8)
            axes.axhline(0, color=COLOURS["black"], linewidth=0.8)
            axes.axvline(0, color=COLOURS["black"], linewidth=0.8)
            axes.set(xlabel="margin of DPO's score (nats)", title=f"{name}: Spearman ρ = {_text(correlation)}")
        row[0][0].set_ylabel("cosine margin: positive − negative")
        return figure


def falling_reward(runs: dict) -> Figure:
    """Chosen and rejected log-ratios and their margin over steps, one panel for each run.

    `runs` maps a title to a pair of arrays (steps + 1,): log π/π_ref of chosen and of rejected, in nats.
    """
    with page_style():
        figure, row = panels(columns=len(runs), height=3.6, squeeze=False)
        for axes, (title, (chosen, rejected)) in zip(row[0], runs.items(), strict=True):
            chosen, rejected = _arrays(chosen, rejected)
            _same_length(chosen, rejected)
            steps = np.arange(len(chosen))
            axes.fill_between(steps, rejected, chosen, color=COLOURS["grey"], alpha=0.2, linewidth=0)
            axes.plot(steps, chosen - rejected, color=COLOURS["black"], linestyle=":", label="margin")
            axes.plot(steps, chosen, color=COLOURS["blue"], label="chosen")
            axes.plot(steps, rejected, color=COLOURS["vermillion"], linestyle="--", label="rejected")
            axes.axhline(0, color=COLOURS["black"], linewidth=0.8)
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            axes.set(xlabel="gradient step", title=title)
        row[0][0].set_ylabel(r"$\ln\,\pi(y|x)\,/\,\pi_\mathrm{ref}(y|x)$  (nats)")
        row[0][0].legend()
        return figure


def ranking_landscape(first_gaps, second_gaps, *, losses: dict) -> Figure:
    """Losses over the two gaps of a list of three, as contours with the direction of descent.

    `first_gaps` (G,) is s(entailment) − s(neutral), `second_gaps` (H,) is s(neutral) − s(contradiction);
    `losses` maps a title to values (H, G), in nats.
    """
    first_gaps, second_gaps = _arrays(first_gaps, second_gaps)
    highest = max(np.asarray(values).max() for values in losses.values())
    levels = highest * np.linspace(0, 1, 13) ** 2  # finer where the loss is small
    with page_style():
        figure, row = panels(columns=len(losses), height=3.2, sharex=True, sharey=True, squeeze=False)
        for axes, (title, values) in zip(row[0], losses.items(), strict=True):
            (values,) = _arrays(values)
            if values.shape != (len(second_gaps), len(first_gaps)):
                raise ValueError(f"losses must be {(len(second_gaps), len(first_gaps))}, not {values.shape}")
            axes.contourf(first_gaps, second_gaps, values, levels, cmap="cividis_r", norm=PowerNorm(0.5))
            down, along = np.gradient(-values, second_gaps, first_gaps)
            rows, columns = max(1, len(second_gaps) // 8), max(1, len(first_gaps) // 8)
            thin = (slice(rows // 2, None, rows), slice(columns // 2, None, columns))
            look = {"color": "white", "edgecolor": COLOURS["black"], "linewidth": 0.5, "width": 0.009, "pivot": "mid"}
            axes.quiver(first_gaps[thin[1]], second_gaps[thin[0]], along[thin], down[thin], **look)
            axes.axhline(0, color=COLOURS["black"], linewidth=0.8)
            axes.axvline(0, color=COLOURS["black"], linewidth=0.8)
            axes.set(aspect="equal", title=title)
            axes.grid(visible=False)
        figure.supxlabel("s(entailment) − s(neutral)  (nats)", fontsize=11)
        row[0][0].set_ylabel("s(neutral) − s(contradiction)  (nats)")
        figure.colorbar(row[0][0].collections[0], ax=row[0].tolist(), label="loss (nats)", shrink=0.75, format="%.1f")
        return figure


def _text(value, digits: int = 2) -> str:
    """A number for a label, with a minus sign that is one."""
    return f"{value:.{digits}f}".replace("-", "−")


def _arrays(*values):
    return tuple(np.asarray(value, dtype=float) for value in values)


def _same_length(first, *others):
    for other in others:
        if len(other) != len(first):
            raise ValueError(f"lengths differ: {len(first)} and {len(other)}")
