"""What training did, in two figures: they are those of scoring by hand, are kept, and come from untouched text."""

from dataclasses import replace

import pytest
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import models, profiles, training
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import signals
from sempa_utils.experiments import effect

PROFILE = replace(profiles.get("smoke"), precision="float32", triplets=12, sts_pairs=40)


def test_an_effect_is_what_scoring_by_hand_gives_and_is_kept(no_data, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(models, "load", lambda *_: models.wrap(tiny_model(), tiny_tokenizer(), name="tiny"))
    runs = {"held": {"learning_rate": 3e-2}, "free": {"learning_rate": 3e-2, "kl_weight": 0.0}}
    trained = training.train_profiles(profile=PROFILE, runs=runs)
    assert [run.record.recipe["kl_weight"] for run in trained.values()] == [10.0, 0.0]
    rows, base = trained["held"].corpus, models.load()
    adapters = {row: run.record.adapter for row, run in trained.items()}
    assert "not measured yet" in effect.at_first_sight()
    found = effect.effects(base, adapters, trained_on=rows, profile=PROFILE)

    pairs = corpora.load_sts(corpora.MINI_STS).sample(40, 42)
    text = effect.unseen_text(rows).rows
    for row, adapter in (("before", None), *adapters.items()):
        with models.adapted(base, adapter) as model:
            rho = sts.score_task(Embedder(model).encode, pairs).score.value
            surprise = signals.perplexity(model, text, limit=PROFILE.text_tokens).value
        for one in [found[row]] if adapter else found.values():
            assert (one.after if adapter else one.before) == pytest.approx(rho, abs=1e-9)
            assert (one.perplexity if adapter else one.perplexity_before) == pytest.approx(surprise, rel=1e-9)
    held = found["held"]
    assert held.perplexity == pytest.approx(held.perplexity_before * (1 + held.price / 100)) and held != found["free"]
    assert f"{held.before:.1f} → {held.after:.1f}".replace("-", "−") in held.words() and " %)" in held.words()

    monkeypatch.setattr(Embedder, "encode", lambda *_, **__: pytest.fail("computed anew"))
    monkeypatch.setattr(signals, "perplexity", lambda *_, **__: pytest.fail("computed anew"))
    assert effect.effects(base, adapters, trained_on=rows, profile=PROFILE) == found


def test_unseen_text_holds_no_sentence_of_a_premise_that_was_trained_on(no_data):
    rows, _ = corpora.load_triplets().split(40, 20, seed=1)
    text = effect.unseen_text(rows)
    sentences = {sentence for row in rows.rows for sentence in row}
    assert not sentences & set(text.rows) and len(text) == 4 * (375 - 40)
    assert text.fingerprint != signals.load_text().fingerprint
    elsewhere = replace(rows, rows=[corpora.Triplet("A cat.", "An animal.", "A dog.")])
    assert effect.unseen_text(elsewhere).fingerprint == signals.load_text().fingerprint
