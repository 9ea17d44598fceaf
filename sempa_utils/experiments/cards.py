"""Model cards of the finished adapters: what the hub reads of them, written from the records of their runs."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from sempa_utils import models, records
from sempa_utils.data.corpora import STS_TASKS

FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
STS_FILES = "princeton-nlp/datasets-for-simcse"  # SentEval's tasks as the hub has them
TRAINED_ON = ["stanfordnlp/snli", "nyu-mll/multi_nli"]


def with_metadata(card: str, name: str, *, scores: records.RowScores | None, perplexity: float | None) -> str:
    """Return a card's text with its metadata made anew: base, licences, data, the seven tasks and the perplexity."""
    data = ModelCardData(
        base_model=models.PACKAGED_MODELS[models.PACKAGED].name,
        library_name="peft",
        language="en",
        license="apache-2.0",
        datasets=TRAINED_ON,
        pipeline_tag="sentence-similarity",
        tags=["sentence-embeddings", "lora", "sempa"],
        model_name=name,
        eval_results=_results(scores, perplexity) if scores and perplexity else None,
    )
    return f"---\n{data.to_yaml()}\n---\n{FRONT.sub('', card)}"


def _results(scores: records.RowScores, perplexity: float) -> list[EvalResult]:
    """Return the seven tasks and their mean, and the perplexity, as a model-index holds them."""
    found = []
    for task in (*STS_TASKS, "mean"):
        what: dict[str, Any] = {"task_type": "sentence-similarity", "dataset_type": STS_FILES}
        # Without a configuration of its own the hub's library puts each task under the first one's name.
        what |= {"dataset_name": f"SentEval {task}", "dataset_config": task}
        score: dict[str, Any] = {"metric_type": "spearmanr", "metric_name": "Spearman × 100, PromptEOL"}
        found.append(EvalResult(**what, **score, metric_value=round(scores.columns[task].value, 2)))
    what = {"task_type": "text-generation", "dataset_type": "Salesforce/wikitext", "dataset_name": "WikiText-2"}
    return [*found, EvalResult(**what, metric_type="perplexity", metric_value=round(perplexity, 2))]
