"""What a tokenizer puts before and behind a text: no end is read, and a begin token that is missed is reported."""

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from tokenizers import processors

from sempa_utils import models
from sempa_utils.__main__ import main
from sempa_utils.checks import InputError
from sempa_utils.data.templates import paraphrase_request
from sempa_utils.embedding import METHODS, Embedder
from sempa_utils.models import begin_token
from sempa_utils.objectives import tokenised
from sempa_utils.objectives.answers import Pairwise
from sempa_utils.objectives.preferences import answer_tokens
from sempa_utils.objectives.slots import Contrastive

SENTENCES = ["The shop opens at nine.", "A cat sleeps on the warm mat near the window while it rains.", "Two men play."]
ROW = ("The kettle is on.", "Water is being heated.", "The kettle is cold.")


def with_rules(single: str, in_sequence: bool = False):
    tokenizer = tiny_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
    rules = processors.TemplateProcessing(single=single, special_tokens=special)
    rules = processors.Sequence([processors.ByteLevel(trim_offsets=False), rules]) if in_sequence else rules
    tokenizer.backend_tokenizer.post_processor = rules
    return tokenizer


def by_setting():
    """As many fine-tuners save it: the tokenizer's own setting, written beside it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_eos_token = True
    return tokenizer


APPENDING = {
    "template": lambda: with_rules("$A <|im_end|>"),
    "in a sequence": lambda: with_rules("$A <|im_end|>", in_sequence=True),
    "setting": by_setting,
}


@pytest.mark.parametrize("kind", APPENDING)
def test_an_appended_end_moves_nothing(kind, tmp_path):
    appending = APPENDING[kind]()
    assert appending("A")["input_ids"][-1] == appending.eos_token_id, "it does append"
    tiny_model().save_pretrained(tmp_path)
    appending.save_pretrained(tmp_path)
    usual, other = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny"), models.load(str(tmp_path), device="cpu")
    request = paraphrase_request(ROW[0], "prompteol")
    for objective in (Contrastive(), Pairwise(), Pairwise(template="prompteol")):
        rows = [tokenised(objective, model.tokenizer, rows=[ROW], max_length=99)[0] for model in (usual, other)]
        assert rows[0] == rows[1]
    prompt, answer = answer_tokens(other.tokenizer, request, answer=ROW[1])
    assert other.tokenizer.convert_ids_to_tokens(prompt)[-1].endswith('"')
    assert answer.count(other.tokenizer.eos_token_id) == 1
    for method in METHODS:
        one, another = Embedder(usual, method), Embedder(other, method)
        assert one._rows(SENTENCES) == another._rows(SENTENCES), method
        torch.testing.assert_close(one.encode(SENTENCES), another.encode(SENTENCES), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", APPENDING)
def test_an_end_that_is_left_out_is_said(kind, tmp_path, capsys):
    says = "the <|im_end|> that the tokenizer puts behind every text is left out"
    tiny_model().save_pretrained(tmp_path)
    for tokenizer, lines in ((tiny_tokenizer(), []), (APPENDING[kind](), [says])):
        tokenizer.save_pretrained(tmp_path)
        model = models.load(str(tmp_path), device="cpu")
        assert model.lines() == lines and model.describe().get("ways", []) == lines
    (tmp_path / "lines.txt").write_text("A kettle.\n", encoding="utf8")
    files = ["--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "vectors.npy")]
    assert main(["encode", "--model", str(tmp_path), *files]) == 0
    assert f"{tmp_path.name}: {says}\n" in capsys.readouterr().err


def test_a_begin_token_stays_where_an_end_goes():
    tokenizer = models.wrap(tiny_model(), with_rules("<|im_start|> $A <|im_end|>"), name="tiny").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("A")["input_ids"]) == ["<|im_start|>", "A"]


def test_an_end_that_cannot_be_left_out_is_refused():
    tokenizer = tiny_tokenizer()
    number = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("<|im_end|>", number), ("<|im_start|>", 1))
    with pytest.raises(InputError, match=r"appends '<\|im_end\|>'.*add_eos_token=False"):
        models.wrap(tiny_model(), tokenizer, name="tiny")


# --- the begin token -----------------------------------------------------------------------------


def tokenizer_that(adds: bool):
    tokenizer = with_rules("<|im_start|> $A" if adds else "$A")
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


@pytest.mark.parametrize("added", [True, False])
def test_both_perplexities_are_the_literal_ones(tiny, added):
    tokenizer = tokenizer_that(added)
    measured = begin_token.begin_token_of(tiny.model, tokenizer)
    ids = tokenizer(begin_token.TEXT, add_special_tokens=False)["input_ids"]
    for start, perplexity in (([1], measured.behind), ([], measured.without)):
        log_probs = tiny.model(input_ids=torch.tensor([start + ids])).logits[0].double().log_softmax(dim=-1)
        scored = [log_probs[len(start) + place - 1, ids[place]] for place in range(1, len(ids))]
        assert perplexity == pytest.approx(torch.stack(scored).mean().neg().exp().item(), rel=1e-4)
    assert measured.added == added and not measured.warns, "a random model expects nothing"


@pytest.mark.parametrize("added", [True, False])
def test_a_begin_token_that_is_missed_is_reported(added):
    better, worse = 20.0, 900.0
    values = (better, worse) if added else (worse, better)
    assert not begin_token.BeginToken("<bos>", added, *values).warns
    missed = begin_token.BeginToken("<bos>", not added, *values)
    assert missed.warns and f"add_bos_token={added}" in missed.line() and "900.0" in missed.line()


def test_the_commands_and_the_record_say_so(tiny, tmp_path, capsys, monkeypatch, no_data):
    tiny.model.save_pretrained(tmp_path / "model")
    tokenizer_that(False).save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("A kettle.\n", encoding="utf8")
    files = ["--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "vectors.npy")]
    model, says = ["--model", str(tmp_path / "model")], "does not add the begin token <|im_start|>: perplexity"
    main(["doctor", *model])
    assert "the quickest ways" in (out := capsys.readouterr().out) and says in out and "add_bos_token" not in out
    assert main(["encode", *model, *files]) == 0
    assert says not in capsys.readouterr().err
    assert "begin_token" not in (before := models.load(str(tmp_path / "model")).describe())
    monkeypatch.setattr(begin_token, "FACTOR", 0.0)
    assert main(["encode", *model, *files]) == 0
    assert f"model: the tokenizer {says}" in (said := capsys.readouterr().err) and "add_bos_token=True" in said
    described = models.load(str(tmp_path / "model")).describe()
    assert says in described.pop("begin_token") and described == before
