#!/usr/bin/env bash
# Guess: two EvalResult of a model card with the same dataset id and different dataset_name (the tasks of one collection,
#        as SentEval's or MTEB's mirrors are) come out as two entries of the model-index, each under its name.
# Found: ModelCardData groups by task type, dataset id, config, split and revision; the name takes no part. Both scores
#        stand under the first one's dataset name, with no sign that the second is another data set's. Only a
#        different dataset_config keeps them apart. Reading the card back gives the wrong name for good.
# huggingface_hub 2.4.0.
# Seen: [('STS12', 1.0), ('STS12', 2.0)]
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet huggingface_hub==2.4.0
"$place/venv/bin/python" - <<'PY'
from huggingface_hub import EvalResult, ModelCard, ModelCardData


def read_back(**config):
    of = dict(task_type="sentence-similarity", dataset_type="some/collection", metric_type="spearmanr")
    results = [
        EvalResult(dataset_name=name, metric_value=value, **of, **{key: name for key in config})
        for name, value in (("STS12", 1.0), ("STS13", 2.0))
    ]
    card = ModelCard(f"---\n{ModelCardData(model_name='m', eval_results=results).to_yaml()}\n---\n")
    return [(one.dataset_name, one.metric_value) for one in card.data.eval_results]


print(read_back())
assert read_back() == [("STS12", 1.0), ("STS12", 2.0)]
assert read_back(dataset_config=True) == [("STS12", 1.0), ("STS13", 2.0)]
PY
