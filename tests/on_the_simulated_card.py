"""Run the kit on the CPU and on the simulated card and compare; test_placement.py reads what is printed.

python tests/on_the_simulated_card.py FOLDER      # FOLDER: a small model
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
import simulated_card  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from transformers import TrainingArguments  # noqa: E402

from sempa_utils import models  # noqa: E402
from sempa_utils.data import corpora  # noqa: E402
from sempa_utils.embedding import METHODS, Embedder  # noqa: E402
from sempa_utils.evaluation import geometry  # noqa: E402
from sempa_utils.evaluation.generation import signals  # noqa: E402
from sempa_utils.evaluation.generation.harness_model import HarnessModel  # noqa: E402
from sempa_utils.objectives import OBJECTIVES  # noqa: E402
from sempa_utils.objectives.preferences import answer_log_probs  # noqa: E402
from sempa_utils.training import Recipe  # noqa: E402
from sempa_utils.training.trainer import make_trainer  # noqa: E402

ROWS = corpora.packaged_ranked_nli().sample(4, 1)
TRIPLETS = corpora.load_triplets().sample(4, 1)
TEXTS = [row.premise for row in ROWS.rows]
WRITE = {"until": ["."], "max_gen_toks": 5, "do_sample": False}
Case = Callable[[models.LanguageModel], Any]


def step_of(objective: str, kl_weight: float) -> Case:
    """Return a case: two training steps by the trainer's own methods, with the reference's table where there is one."""

    def train(language_model: models.LanguageModel):
        recipe = Recipe.make(objective, kl_weight=kl_weight, micro_batch=4, chunk=3, learning_rate=1e-2)
        corpus, device = (ROWS if recipe.objective.ranked else TRIPLETS), language_model.device
        with tempfile.TemporaryDirectory() as folder, models.given_back(language_model):
            trainer = make_trainer(language_model, corpus, recipe=recipe, folder=Path(folder))
            trainer.model.to(device)  # the trainer knows no simulated card and has brought it to the CPU
            with mock.patch.object(TrainingArguments, "device", device):
                batch = trainer._prepare_inputs(trainer.collate(list(trainer.train_dataset)))
                told = trainer.reference_of(batch).float().cpu() if objective in ("pairwise", "one_word") else None
                optimizer = torch.optim.AdamW([one for one in trainer.model.parameters() if one.requires_grad], lr=1e-2)
                losses = []
                for trainer.reference in (None, told):
                    loss = trainer._compute_loss(trainer.model, batch)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    losses.append(loss.item())
                return losses + [values[-1] for _, values in sorted(trainer._metrics["train"].items())]

    return train


def paraphrased(model: models.LanguageModel, sampling: signals.Sampling) -> list[float]:
    """Return the characters' numbers of what a model writes."""
    return written([answer.text for answer in signals.paraphrases(model, TEXTS, sampling=sampling)])


def written(texts: list[str]) -> list[float]:
    """Return texts as numbers."""
    return [ord(character) for text in texts for character in text]


def asked(model: models.LanguageModel) -> HarnessModel:
    """Return the harness' wrapper of a model."""
    return HarnessModel(model.model, tokenizer=model.tokenizer, batch_size=2, max_length=256)


def requests(kind: str, asked_for: list) -> list[Instance]:
    """Return requests to the harness: each text with each thing that is asked for."""
    return [Instance(kind, {}, (text, one), number) for number, text in enumerate(TEXTS) for one in asked_for]


def misplaced(model: models.LanguageModel) -> float:
    """Hand a model tokens that lie on the CPU: on the card this has to be an error, or no other case says anything."""
    try:
        model.model(torch.tensor([[1, 2, 3]]))
    except RuntimeError:
        assert model.device.type == simulated_card.NAME
    else:
        assert model.device.type == "cpu"
    return 0.0


CASES: dict[str, Case] = {
    **{f"training {name}": step_of(name, 0.0) for name in OBJECTIVES},
    "training pairwise, KL": step_of("pairwise", 10.0),
    **{f"embedding {name}": lambda model, name=name: Embedder(model, name).encode(TEXTS) for name in METHODS},
    "layers": lambda model: Embedder(model).encode_layers(TEXTS),
    "answers": lambda model: answer_log_probs(model, TEXTS, answers=[row.entailment for row in ROWS.rows]),
    "perplexity": lambda model: signals.perplexity(model, TEXTS).value,
    "preference": lambda model: signals.preference_accuracy(model, ROWS.rows),
    "paraphrases": lambda model: paraphrased(model, signals.Sampling(max_new_tokens=6)),
    "paraphrases, drawn": lambda model: paraphrased(model, signals.Sampling(temperature=0.7, max_new_tokens=6)),
    "aligned tokens": lambda model: geometry.aligned_tokens(model, Embedder(model).encode(TEXTS)),
    "inner aligned tokens": lambda model: geometry.aligned_tokens(model, Embedder(model).encode(TEXTS), layer=1),
    "harness, choices": lambda model: asked(model).loglikelihood(requests("loglikelihood", [" yes", " no"])),
    "harness, writing": lambda model: written(asked(model).generate_until(requests("generate_until", [WRITE]))),
    "a misplaced batch is refused": misplaced,
    "next tokens": lambda model: signals.next_token_log_probs(model, TEXTS),
}


def main() -> None:
    """Print {case: what went wrong, or null} as JSON."""
    simulated_card.register()
    folder, found = sys.argv[1], {}
    with simulated_card.Card():
        both = [models.load(folder, device=device) for device in ("cpu", simulated_card.NAME)]
        for name, case in CASES.items():
            try:
                on_cpu, on_card = (_numbers(case(model)) for model in both)
                torch.testing.assert_close(on_card, on_cpu, rtol=1e-4, atol=1e-4)
                found[name] = None
            except Exception as error:
                own = [one for one in traceback.extract_tb(error.__traceback__) if "sempa_utils" in one.filename]
                place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
                found[name] = f"{place}{type(error).__name__}: {error}"[:600]
    print(json.dumps(found))


def _numbers(result: Any) -> torch.Tensor:
    return torch.cat([torch.as_tensor(one).double().flatten() for one in tree_leaves(result)])


if __name__ == "__main__":
    main()
