"""A sixth objective in a file of its own: registered, it trains, is planned and stands in --help."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import __main__ as command_line
from sempa_utils.objectives import OBJECTIVES, Scores
from sempa_utils.objectives.answers import Answers
from sempa_utils.objectives.objective import setting


@dataclass(frozen=True)
class Margin(Answers):
    """The entailed sentence's reward above the contradicted one's by a margin, squared: IPO's regression."""

    name: ClassVar[str] = "margin"
    cacheable: ClassVar[bool] = True
    margin: float = setting(0.25, "by which the preferred answer's reward should be the higher one")

    def loss(self, policy, reference, **given) -> Scores:
        outcome = super().loss(policy, reference, **given)
        apart = outcome.scores[:, 0] - outcome.scores[:, 1] - self.margin
        return outcome._replace(loss=apart.square().mean())

    def chance_loss(self, candidates: int) -> float:
        return self.margin**2


@pytest.fixture
def model(no_data, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, Margin.name, Margin)
    tiny_model().save_pretrained(tmp_path / "Tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "Tiny")
    return str(tmp_path / "Tiny")


def test_it_trains_from_the_command_line(model, tmp_path, capsys):
    from sempa_utils import training
    from sempa_utils.plots.training import training_curve

    options = ["--profile", "smoke", "--precision", "float32", "--triplets", "24", "--learning-rate", "3e-3"]
    arguments = ["train", "--model", model, "--objective", "margin", "--margin", "0.5", *options]
    assert command_line.main([*arguments, "--epochs", "6", "--output", str(tmp_path / "run")]) == 0
    assert "margin, 24 rows" in capsys.readouterr().out
    record = training.read_record(tmp_path / "run")
    losses = [point.loss for point in record.curve]
    assert losses[0] == pytest.approx(0.25, abs=1e-4) and sum(losses[-6:]) / 6 < 0.2
    assert record.objective == "margin" and record.recipe["margin"] == 0.5
    curve = training_curve(record)  # its dashed line is the loss of no preference, by this run's own margin
    labels = [text.get_text() for text in curve.axes[0].texts]
    dashed = [line for line in curve.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata()[0] == pytest.approx(0.25) and "0.25: no preference" in labels


def test_its_plan_is_that_of_a_pair(model, capsys):
    plans = {}
    for objective in ("pairwise", "margin", "contrastive"):
        assert command_line.main(["plan", "--model", model, "--objective", objective, "--precision", "float32"]) == 0
        plans[objective] = capsys.readouterr().out.splitlines()
    assert plans["margin"][0].replace("margin", "pairwise") == plans["pairwise"][0]
    assert plans["margin"][-1] == plans["pairwise"][-1] != plans["contrastive"][-1]


def test_it_stands_in_the_help_and_its_setting_is_its_own(model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command_line.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "contrastive, margin" in text
    assert "--margin MARGIN by which the preferred answer's reward should be the higher one" in text
    wrong = ["train", "--model", model, "--margin", "1", "--output", str(tmp_path / "run")]
    assert command_line.main(wrong) == 1
    assert "margin is a setting of margin, not of pairwise" in capsys.readouterr().err
    assert not torch.is_autocast_enabled()
