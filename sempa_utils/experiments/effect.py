"""What training did to a model, in two figures: STS before and after, and the perplexity of text it was not trained on.

Both are kept in the build folder: the index page and the notebooks that show them compute them once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sempa_utils import models, records
from sempa_utils.checks import build_folder, fingerprint
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import signals
from sempa_utils.experiments.series import BASE
from sempa_utils.profiles import Profile
from sempa_utils.records import Difference


@dataclass(frozen=True)
class Effect:
    """A model beside its base: ρ × 100 of `task`, with the paired difference, and perplexity."""

    task: str
    before: float
    difference: Difference
    perplexity: float
    perplexity_before: float

    @property
    def after(self) -> float:
        """ρ × 100 with the adapter."""
        return self.before + self.difference.value

    @property
    def price(self) -> float:
        """By how many per cent perplexity rose."""
        return 100 * (self.perplexity / self.perplexity_before - 1)

    def words(self) -> str:
        """Return the effect as half a sentence."""
        change, within = self.difference.value, self.difference.bounds
        sts = f"{self.before:.1f} → {self.after:.1f} ({change:+.1f}, 95 % {within.low:+.1f} to {within.high:+.1f})"
        price = f"{self.perplexity_before:.1f} → {self.perplexity:.1f} ({self.price:+.1f} %)"
        return f"{self.task} ρ × 100 {_minus(sts)}, perplexity {_minus(price)}"

    def brief(self) -> str:
        """Return what is gained and paid."""
        return _minus(f"{self.difference.value:+.1f} STS, {self.price:+.1f} % perplexity")


def effects(
    base: models.LanguageModel, adapters: Mapping[str, Path], *, trained_on: corpora.Corpus, profile: Profile, seed=42
) -> dict[str, Effect]:
    """Return {row: its effect} of {row: adapter}, on a profile's STS pairs and tokens of text.

    STS is the mean of the tasks at hand, read with PromptEOL; the text is `unseen_text` of `trained_on`.
    """
    tasks, text = sts.load_tasks(limit=profile.sts_pairs, seed=seed), unseen_text(trained_on)
    scored, surprise = {}, {}
    for row, adapter in {BASE: None, **adapters}.items():
        with models.adapted(base, adapter) as model:
            scored[row] = sts.evaluate(Embedder(model), tasks)
            surprise[row] = perplexity(model, text, limit=profile.text_tokens)
    means = {row: scores.mean for row, scores in sts.summary(scored, against=BASE, seed=seed).rows.items()}
    task = next(iter(tasks)) if len(tasks) == 1 else f"mean of {len(tasks)} STS tasks"
    before, price = means[BASE].value, surprise[BASE]
    changes = {row: change for row in adapters if (change := means[row].difference)}  # of all but the base
    return {row: Effect(task, before, change, surprise[row], price) for row, change in changes.items()}


def at_first_sight() -> str:
    """Return what `make run` found before its notebooks, as Markdown; how to find it, where it has not run."""
    path = build_folder() / "records" / "effect_first.json"
    found = records.load_run(path).headline if path.is_file() else "not measured yet; the cells below do it"
    return f"**What SemPA did here.** {found}."


def unseen_text(trained_on: corpora.Corpus) -> corpora.Corpus:
    """Return the text that perplexity is taken over, without what the kit wrote to a premise that was trained on."""
    text, anchors = signals.load_text(), {row[0] for row in trained_on.rows}
    near = {one for row in corpora.packaged_ranked_nli().rows if row.premise in anchors for one in row}
    rows = [one for one in text.rows if one not in near]
    return replace(text, rows=rows, fingerprint=fingerprint(*rows)) if len(rows) < len(text) else text


def perplexity(language_model: models.LanguageModel, text: corpora.Corpus, *, limit: int | None) -> float:
    """Return a text's perplexity over its first `limit` tokens, kept and found again."""
    on = {"model": language_model.identity(), "text": text.fingerprint, "limit": limit}
    path = build_folder() / "perplexity" / f"{models.figure_key('perplexity', signals.REVISION, **on)}.json"
    if not path.is_file():
        value = signals.perplexity(language_model, text.rows, limit=limit).value
        records.write_json(path, {"perplexity": value}, digits=records.EXACT)
    return records.read_json(path, dict[str, float])["perplexity"]


def _minus(numbers: str) -> str:
    return numbers.replace("-", "−")
