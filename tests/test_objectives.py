"""Each objective against a literal double loop, on tiny models and in the trainer."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import RECIPE, fresh, run, weights

from sempa_utils import models, objectives, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.objectives import slots
from sempa_utils.objectives.answers import BestOfN, Listwise
from sempa_utils.objectives.preferences import answer_log_probs
from sempa_utils.theory import plackett_luce
from sempa_utils.training.trainer import make_trainer

WIDE = RECIPE.changed(max_length=512)  # no answer is cut
SLOT = WIDE.changed(micro_batch=6, chunk=4)


@pytest.fixture
def ranked(no_data):
    return corpora.load_ranked_nli(limit=24, seed=3)


def moved_trainer(corpus, recipe, folder, base=None):
    """Return a trainer whose adapter is no longer zero, so that policy and reference differ."""
    made = make_trainer(base or fresh(), corpus, recipe=recipe, folder=folder)
    torch.manual_seed(3)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    made.model.train()
    return made


def loss_of(made, count: int = 6) -> torch.Tensor:
    return made.compute_loss(made.model, made.data_collator([made.train_dataset[index] for index in range(count)]))


def last_states(model, tokenizer, sentences) -> list[torch.Tensor]:
    """Return each sentence's one-word state, one plain forward each."""
    texts = [fill(EXTRACTION_TEMPLATES["prompteol"], prepare_sentence(sentence)) for sentence in sentences]
    decoder = model.get_base_model().get_decoder()
    return [decoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]


def literal_one_word(made, rows, beta: float, symmetric: bool = False) -> float:
    """The definition, over the vocabulary, in a double loop over anchors and candidates."""
    model, tokenizer = made.model, tiny_tokenizer()
    head = model.get_output_embeddings()

    def log_probs(sentences):
        return [head(state).double().log_softmax(-1) for state in last_states(model, tokenizer, sentences)]

    def one_way(anchors, candidates):
        policy = log_probs(anchors)
        with model.disable_adapter():
            reference, words = log_probs(anchors), [one.exp() for one in log_probs(candidates)]
        losses = []
        for i in range(len(anchors)):
            scores = [beta * (q * (policy[i] - reference[i])).sum() for q in words]
            losses.append(-torch.stack(scores).log_softmax(0)[i])
        return torch.stack(losses).mean().item()

    anchors, positives, negatives = ([row[column] for row in rows] for column in (0, 1, -1))
    with torch.no_grad():
        there = one_way(anchors, positives + negatives)
        return (there + one_way(positives, anchors)) / 2 if symmetric else there


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_word_is_the_literal_double_loop(ranked, tmp_path, symmetric):
    recipe = SLOT.changed(objective="one_word", beta=2.0, symmetric=symmetric)
    made = moved_trainer(ranked, recipe, tmp_path)
    expected = literal_one_word(made, ranked.rows[:6], 2.0, symmetric)
    assert abs(expected - math.log(12)) > 1e-2  # the adapter moves it away from chance
    assert loss_of(made).item() == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 1000), st.booleans())
def test_one_word_scores_are_the_theorys(rows, candidates, seed, biased):
    torch.manual_seed(seed)
    head = torch.nn.Linear(8, 50, bias=biased)
    policy, reference, others = torch.randn(rows, 8), torch.randn(rows, 8), torch.randn(candidates, 8)
    with torch.no_grad():
        words = slots.expected_words(head, others, chunk=3)
        ours = slots.one_word_scores(head, policy, reference=reference, words=words, beta=1.5)
        theory = plackett_luce.one_word_scores(
            head(others).softmax(-1),
            head(policy).log_softmax(-1),
            reference_log_probs=head(reference).log_softmax(-1),
            beta=1.5,
        )
    torch.testing.assert_close(ours, theory, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 9))
def test_chunks_of_expected_words_change_nothing(count, chunk):
    torch.manual_seed(count)
    head, states = torch.nn.Linear(8, 50, bias=False), torch.randn(count, 8)
    whole = head(states).softmax(-1) @ head.weight
    torch.testing.assert_close(slots.expected_words(head, states, chunk=chunk), whole)


def test_contrastive_is_info_nce_of_plain_states(ranked, tmp_path):
    made = moved_trainer(ranked, SLOT.changed(objective="contrastive", temperature=0.1), tmp_path)
    columns = ([row[column] for row in ranked.rows[:6]] for column in (0, 1, -1))
    with torch.no_grad():
        anchors, positives, negatives = (torch.stack(last_states(made.model, tiny_tokenizer(), c)) for c in columns)
    literal = plackett_luce.info_nce_loss(anchors, positives, negatives=negatives, temperature=0.1, in_batch=True)
    assert loss_of(made).item() == pytest.approx(literal.item(), rel=1e-4)


def gradient(made, count: int = 6) -> torch.Tensor:
    made.model.zero_grad()
    loss_of(made, count).backward()
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.requires_grad])


@pytest.mark.parametrize("objective", ["one_word", "contrastive"])
def test_gradient_caching_gives_the_gradients_of_one_large_forward(ranked, tmp_path, objective):
    settings = {"symmetric": True} if objective == "one_word" else {}
    recipe = SLOT.changed(objective=objective, **settings)
    whole = gradient(moved_trainer(ranked, recipe.changed(chunk=100), tmp_path))
    for chunk in (1, 4, 7):
        parts = gradient(moved_trainer(ranked, recipe.changed(chunk=chunk), tmp_path))
        assert whole.norm() > 1e-4
        assert (parts - whole).norm() < 1e-4 * whole.norm()


def test_gradient_caching_holds_the_memory(ranked, tmp_path):
    # What autograd keeps between forward and backward, in bytes.
    def kept(chunk: int) -> int:
        made = moved_trainer(ranked, SLOT.changed(objective="contrastive", micro_batch=12, chunk=chunk), tmp_path)
        batch = made.data_collator([made.train_dataset[index] for index in range(12)])
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {parameter.untyped_storage().data_ptr() for parameter in made.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made.compute_loss(made.model, batch)
        return sum(size for pointer, size in storages.items() if pointer not in own)

    assert kept(4) < 0.2 * kept(1000)


def test_without_gradient_caching_the_gradients_are_the_same(ranked, tmp_path):
    recipe = SLOT.changed(objective="contrastive")
    cached, kept = (
        gradient(moved_trainer(ranked, recipe.changed(gradient_caching=caching), tmp_path)) for caching in (True, False)
    )
    assert (cached - kept).norm() < 1e-5 * kept.norm()


def literal_divergence(made, anchors) -> float:
    """KL(base ‖ model) after each distinct prefix of the anchors, one plain forward each, in float64."""
    tokenizer, found = tiny_tokenizer(), {}
    for anchor in anchors:
        ids = tokenizer(anchor)["input_ids"]
        with torch.no_grad():
            ours = made.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            with made.model.disable_adapter():
                theirs = made.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for place in range(len(ids)):
            kl = (theirs[place].exp() * (theirs[place] - ours[place])).sum().item()
            found[tuple(ids[: place + 1])] = kl
    return sum(found.values()) / len(found)


@pytest.mark.parametrize("objective", objectives.OBJECTIVES)
def test_the_divergence_is_the_literal_one_and_adds_to_any_loss(ranked, tmp_path, objective):
    plain = moved_trainer(ranked, SLOT.changed(objective=objective), tmp_path)
    held = moved_trainer(ranked, SLOT.changed(objective=objective, kl_weight=3.0, kl_texts=4), tmp_path)
    anchors = [row[0] for row in ranked.rows[:4]]
    expected = literal_divergence(plain, anchors)
    assert expected > 1e-3
    assert loss_of(held).item() - loss_of(plain).item() == pytest.approx(3 * expected, rel=1e-3)
    assert held._metrics["train"]["divergence"] == [pytest.approx(expected, rel=1e-3)]


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), chunk=st.integers(1, 10), seed=st.integers(0, 999))
def test_the_divergences_chunks_and_gradient_are_torchs(count, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(5, 11, bias=False)
    head.weight.data.normal_(generator=generator)
    head.requires_grad_(False)
    policy = torch.randn(count, 5, generator=generator, requires_grad=True)
    reference = torch.randn(count, 5, generator=generator)
    objectives.divergence(head, policy, reference=reference, chunk=chunk).backward()
    again = policy.detach().clone().requires_grad_()
    apart = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=head(states)) for states in (reference, again))
    ).mean()
    apart.backward()
    assert objectives.divergence(head, policy, reference=reference, chunk=chunk).item() == pytest.approx(
        apart.item(), abs=1e-5
    )
    assert torch.allclose(policy.grad, again.grad, atol=1e-5)
    assert objectives.divergence(head, reference, reference=reference, chunk=chunk).item() == pytest.approx(
        0.0, abs=1e-6
    )


def test_a_held_run_stays_nearer_to_the_base(ranked, tmp_path):
    recipe = SLOT.changed(objective="contrastive", epochs=4, learning_rate=5e-3)
    far = run(ranked, tmp_path / "far", recipe.changed(kl_weight=1e-9))
    near = run(ranked, tmp_path / "near", recipe.changed(kl_weight=10.0))
    assert near.curve[-1].divergence < 0.5 * far.curve[-1].divergence
    assert near.curve[0].divergence == pytest.approx(0.0, abs=1e-6)  # a fresh adapter is the base


def literal_rewards(made, base, rows, answers_of) -> torch.Tensor:
    policy = replace(base, model=made.model)
    found = []
    for index, row in enumerate(rows):
        answers = answers_of(index)
        ours = answer_log_probs(policy, [row[0]] * len(answers), answers=answers)
        with made.model.disable_adapter():
            found.append(ours - answer_log_probs(policy, [row[0]] * len(answers), answers=answers))
    return torch.stack(found)


def test_listwise_is_the_ranking_of_three_plain_answers(ranked, tmp_path):
    base = fresh()
    made = moved_trainer(ranked, WIDE.changed(objective="listwise"), tmp_path, base)
    rewards = RECIPE.objective.beta * literal_rewards(
        made, base, ranked.rows[:6], lambda index: list(ranked.rows[index][1:])
    )
    expected = 0.0
    for row in rewards.double():  # P(first best of three) · P(second best of two)
        expected -= (row[0] - row.logsumexp(0)).item() + (row[1] - row[1:].logsumexp(0)).item()
    assert loss_of(made).item() == pytest.approx(expected / 6, rel=1e-4)
    assert abs(expected / 6 - math.log(6)) > 1e-3


def test_best_of_n_takes_the_next_anchors_answers(ranked, tmp_path):
    base, rows = fresh(), ranked.rows[:6]
    made = moved_trainer(ranked, WIDE.changed(objective="best_of_n", micro_batch=6, candidates=4), tmp_path, base)

    def answers_of(index):
        return [rows[index][1], rows[index][-1], rows[(index + 1) % 6][1], rows[(index + 2) % 6][1]]

    rewards = RECIPE.objective.beta * literal_rewards(made, base, rows, answers_of)
    expected = -rewards.double().log_softmax(-1)[:, 0].mean().item()
    assert loss_of(made).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objective", ["best_of_n", "listwise"])
def test_two_candidates_are_dpo(ranked, tmp_path, objective):
    triplets = replace(ranked, rows=[(row[0], row[1], row[-1], row[-1]) for row in ranked.rows])
    pairwise = loss_of(moved_trainer(ranked, RECIPE, tmp_path)).item()
    if objective == "best_of_n":
        other = loss_of(moved_trainer(ranked, RECIPE.changed(objective=objective, candidates=2), tmp_path)).item()
        assert other == pytest.approx(pairwise, rel=1e-6)
    else:
        # The same contradicted sentence twice: the list's last factor is a coin, and its first one counts it twice.
        made = moved_trainer(triplets, RECIPE.changed(objective=objective), tmp_path)
        policy = torch.tensor([[-3.0, -5.0], [-2.0, -1.0]])
        loss = Listwise(beta=0.1).loss(policy, torch.zeros(2, 2), head=None).loss
        zero = torch.zeros(2)
        expected = plackett_luce.dpo_loss(*policy.T, reference_chosen=zero, reference_rejected=zero, beta=0.1)
        assert loss.item() == pytest.approx(expected.item())
        assert loss_of(made).item() > pairwise + math.log(2) * 0.9


def test_with_other_anchors_in_a_small_batch():
    answers = [["a", "x"], ["b", "y"], ["c", "z"]]
    assert BestOfN(candidates=3).shared(answers) == [["a", "x", "b"], ["b", "y", "c"], ["c", "z", "a"]]
    assert BestOfN(candidates=5).shared(answers[:1]) == [["a", "x"]]
    assert BestOfN(candidates=9).shared(answers)[1] == ["b", "y", "c", "a"]


@pytest.mark.parametrize(
    "objective, first",
    [
        ("pairwise", math.log(2)),
        ("listwise", math.log(6)),
        ("best_of_n", math.log(4)),
        ("one_word", math.log(12)),
    ],
)
def test_every_reference_objective_starts_at_chance_and_learns(ranked, tmp_path, objective, first):
    steep = {"beta": 2.0, "learning_rate": 1e-2} if objective == "one_word" else {"learning_rate": 3e-3}
    steep |= {"candidates": 4} if objective == "best_of_n" else {}
    recipe = SLOT.changed(objective=objective, epochs=4, cache_reference=False, **steep)
    record = run(ranked, tmp_path / "run", recipe)
    losses = [point.loss for point in record.curve]
    assert losses[0] == pytest.approx(first, abs=1e-4)
    assert sum(losses[-4:]) / 4 < losses[0] - 0.05
    assert record.curve[-1].margin > 0
    assert record.candidates == round(math.exp(first)) or objective == "listwise"


def test_contrastive_learns_and_never_switches_the_adapter_off(ranked, tmp_path, monkeypatch):
    recipe = SLOT.changed(objective="contrastive", epochs=4, learning_rate=3e-3)
    monkeypatch.setattr("peft.PeftModel.disable_adapter", lambda _: pytest.fail("contrastive knows no reference"))
    losses = [point.loss for point in run(ranked, tmp_path / "run", recipe).curve]
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("objective", ["pairwise", "listwise", "one_word"])
def test_a_cached_reference_trains_to_the_same_curve_and_is_found_again(ranked, tmp_path, monkeypatch, objective):
    monkeypatch.setattr("sempa_utils.training.trainer.build_folder", lambda: tmp_path / "build")
    recipe = SLOT.changed(objective=objective, epochs=3, learning_rate=1e-3)
    assert recipe.epochs > 1 and recipe.changed(cache_reference=None).cache_reference
    live = run(ranked, tmp_path / "live", recipe.changed(cache_reference=False))
    assert not (tmp_path / "build").exists()
    recipe = recipe.changed(cache_reference=True)
    cached = run(ranked, tmp_path / "cached", recipe)
    for one, other in zip(live.curve, cached.curve, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
    files = list((tmp_path / "build" / "references").iterdir())
    assert len(files) == 1
    # Another learning rate finds the same file; nothing is computed a second time.
    computed = "sempa_utils.training.trainer.SemanticTrainer.reference_of"
    monkeypatch.setattr(computed, lambda *_: pytest.fail("computed again"))
    run(ranked, tmp_path / "again", recipe.changed(learning_rate=2e-3))


def test_a_stale_reference_is_never_used(ranked, tmp_path, monkeypatch):
    monkeypatch.setattr("sempa_utils.training.trainer.build_folder", lambda: tmp_path / "build")
    recipe = RECIPE.changed(cache_reference=True)
    other_weights = models.wrap(tiny_model(seed=5), tiny_tokenizer(), name="tiny")
    settings = [
        (fresh(), ranked, recipe),
        (other_weights, ranked, recipe),
        (replace(fresh(), precision="bfloat16"), ranked, recipe),
        (fresh(), ranked.sample(20, 1), recipe),
        (fresh(), ranked, recipe.changed(template="generate_plain")),
        (fresh(), ranked, recipe.changed(max_length=100)),
        (fresh(), ranked, recipe.changed(objective="listwise")),
        (fresh(), ranked, recipe.changed(objective="one_word")),
        (fresh(), ranked, recipe.changed(objective="one_word", extraction_template="pretended_cot")),
    ]
    for number, (base, rows, one) in enumerate(settings, start=1):
        record = training.train(base, rows, recipe=one, folder=tmp_path / str(number))
        assert len(list((tmp_path / "build" / "references").iterdir())) == number
        chance = {"listwise": math.log(6), "one_word": math.log(8)}.get(one.objective.name, math.log(2))
        assert record.curve[0].loss == pytest.approx(chance, abs=1e-3)  # the right reference


@pytest.mark.parametrize("objective", ["pairwise", "one_word"])
def test_an_infinite_loss_names_the_batchs_rows(ranked, tmp_path, objective):
    recipe = SLOT.changed(objective=objective, learning_rate=1e30)
    with pytest.raises(InputError, match=r"loss is (nan|inf) in the batch of training rows \d+, \d+, \d+, .*learning"):
        run(ranked, tmp_path / "run", recipe)


def test_rows_without_room_are_left_out_and_counted(ranked, tmp_path):
    for objective in ("pairwise", "one_word"):
        recipe = SLOT.changed(objective=objective, max_length=60 if objective == "one_word" else 100)
        record = run(ranked, tmp_path / objective, recipe)
        assert 0 < record.rows_too_long < len(ranked)
        with pytest.raises(InputError, match="max_length = 2"):
            run(ranked, tmp_path / "none", recipe.changed(max_length=2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objective": "pairwize"}, "'pairwise'"),
        ({"objective": "best_of_n", "candidates": 9}, "9 candidates.*from 2 to 5"),
        ({"objective": "pairwise", "symmetric": True}, "symmetric is a setting of one_word, not of pairwise"),
        ({"gamma": 1.0}, "gamma is no setting"),
        ({"objective": "listwise", "shared_prefix": False}, "pairwise alone"),
        ({"objective": "contrastive", "cache_reference": True}, "depends on a row alone"),
        ({"optimizer": "adam"}, "adamw_torch"),
        ({"chunk": 0}, "chunk must be greater"),
        ({"kl_weight": -1.0}, "kl_weight must be 0 or greater and below inf, not -1.0"),
        ({"kl_weight": 1.0, "shared_prefix": False}, "needs prefix trees"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        RECIPE.changed(**change)


def test_listwise_of_triplets_and_options_of_other_machines_are_refused(no_data, tmp_path):
    triplets = corpora.load_triplets(limit=8, seed=1)
    with pytest.raises(InputError, match="load_ranked_nli"):
        run(triplets, tmp_path, RECIPE.changed(objective="listwise"))
    with pytest.raises(InputError, match="CUDA device"):
        run(triplets, tmp_path, RECIPE.changed(optimizer="paged_adamw_8bit"))


def test_the_base_is_given_back_after_every_objective(ranked, tmp_path):
    base = fresh()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    for objective in objectives.OBJECTIVES:
        recipe = SLOT.changed(objective=objective, gradient_checkpointing=objective == "contrastive")
        record = training.train(base, ranked, recipe=recipe, folder=tmp_path / objective)
        assert weights(record)
        after = base.model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_settings_of_objectives_stand_on_the_profiles_sizes():
    from sempa_utils import profiles

    for name, profile in profiles.PROFILES.items():
        pairwise = training.Recipe.of_profile(profile)
        assert (pairwise.objective.beta, pairwise.learning_rate) == (0.1, 1e-4)
        for objective in ("one_word", "contrastive"):
            recipe = training.Recipe.of_profile(profile, objective)
            assert recipe.micro_batch >= 16
            if name not in ("smoke", "cpu"):
                assert recipe.batch == pairwise.batch == 256
    assert training.Recipe.of_profile(profiles.get("cpu"), "one_word", beta=5.0).objective.beta == 5.0


def with_repeats(ranked):
    """Six rows: 4 asks what 0 asks, 5 prefers what 1 prefers, 3 rejects what 2 prefers, 2 prefers what 1 asks."""
    rows = [list(row) for row in ranked.rows[:6]]
    rows[4][0], rows[5][1], rows[2][1] = rows[0][0], rows[1][1], rows[1][0]
    rows[3][-1] = rows[2][1]
    return replace(ranked, rows=[corpora.RankedRow(*row) for row in rows], fingerprint="with repeats")


@pytest.mark.parametrize(
    "objective, symmetric", [("one_word", False), ("one_word", True), ("contrastive", False), ("best_of_n", False)]
)
def test_a_sentence_that_says_the_same_is_no_negative(ranked, tmp_path, objective, symmetric):
    corpus = with_repeats(ranked)
    own = {"symmetric": symmetric} if objective == "one_word" else {"candidates": 4} if objective == "best_of_n" else {}
    made = moved_trainer(corpus, SLOT.changed(objective=objective, max_length=512, **own), tmp_path)
    batch = made.data_collator([made.train_dataset[index] for index in range(6)])
    unmasked = made.step.compute(made.model, batch._replace(left_out=None)).scores.scores
    by_hand = {  # (row, candidate): the preferred sentences stand at 0 … 5, the rejected ones at 6 … 11
        "slots": {(0, 4), (4, 0), (1, 5), (5, 1), (1, 2), (1, 9), (2, 9)},
        # Behind a row's own two answers stand those that the next two rows prefer.
        "best_of_n": {(4, 3), (5, 3)},
    }["best_of_n" if objective == "best_of_n" else "slots"]
    assert {tuple(place) for place in batch.left_out.nonzero().tolist()} == by_hand
    kept = [[(row, place) not in by_hand for place in range(unmasked.shape[1])] for row in range(6)]
    preferred = [0] * 6 if objective == "best_of_n" else range(6)
    expected = [
        (unmasked[row][torch.tensor(kept[row])].logsumexp(0) - unmasked[row, place]).item()
        for row, place in enumerate(preferred)
    ]
    outcome = made.step.compute(made.model, batch)
    if not symmetric:
        assert outcome.loss.item() == pytest.approx(sum(expected) / 6, rel=1e-5)
    else:  # the other direction leaves out the same pairs
        assert outcome.loss.item() < made.step.compute(made.model, batch._replace(left_out=None)).loss.item()
    gradients = torch.autograd.grad(outcome.loss, [p for p in made.model.parameters() if p.requires_grad])
    assert all(part.isfinite().all() for part in gradients)


def test_what_is_left_out_is_counted(ranked, tmp_path):
    record = run(with_repeats(ranked), tmp_path / "run", SLOT.changed(objective="contrastive", epochs=2))
    assert record.candidates_left_out == 14 and all(abs(point.margin) < 50 for point in record.curve)
    assert run(ranked, tmp_path / "other", SLOT.changed(objective="contrastive")).candidates_left_out is None
