"""Records as the kit wrote them until November 2026 (schema 1), in the form of today's types (schema 2)."""

from sempa_utils.records.types import SCHEMA


def migrate(record: dict) -> dict:
    """Return a record's JSON as of schema 2; one that is of a schema already comes back as it is.

    Figures of the grid, of training and of comparisons get the form of their types. Those of notebooks and benchmarks
    are tables of their own and stay.
    """
    if "schema" in record:
        return record
    if "notebooks" in record:  # the costs of a run of all notebooks
        record = record | {"figures": record["notebooks"], "model": {"name": record["model"]}}
        del record["notebooks"]
    figures = record["figures"]
    rows = figures if all(isinstance(row, dict) for row in figures.values()) else {}
    differences = figures.get("less the base", {})
    if "train" in figures:
        figures = _grid(figures)
    elif "curve" in figures:
        figures = figures | {"model": record["model"], "data": record["data"], "recipe": record["settings"]}
    elif differences:  # the first ones, of which the mean had neither interval nor difference
        del rows["less the base"]
        figures = _comparison({name: _row(row, differences.get(name, {})) for name, row in rows.items()})
    elif rows and all("tasks" in row for row in rows.values()):
        figures = _comparison({name: _sts(row) for name, row in rows.items()})
    elif rows and all(isinstance(row.get("mean"), dict) and "items" in row["mean"] for row in rows.values()):
        figures = _comparison({name: _row(row, row) for name, row in rows.items()})
    return record | {"schema": SCHEMA, "figures": figures, "model": record["model"] or {}}


def _grid(figures: dict) -> dict:
    figures = dict(figures)
    if sts := figures.get("sts"):
        unseen = sts["without_training_sentences"]
        for task, score in unseen.items():
            if task != "mean":
                score["pairs"] = sts["tasks"][task]["pairs"] - score["left_out"]
        figures["sts"] = {"scores": _sts(sts), "without_training_sentences": _row(unseen, {})}
    if frontier := figures.get("frontier"):
        figures["frontier"] = frontier["points"]
    if generation := figures.get("generation"):
        figures["generation"] = generation | {"scores": _row(generation["tasks"], generation["tasks"])}
        del figures["generation"]["tasks"]
    return figures


def _sts(row: dict) -> dict:
    return _row(row["tasks"] | {"mean": row["mean"]}, row.get("difference", {}))


def _comparison(rows: dict[str, dict]) -> dict:
    [against] = (name for name, row in rows.items() if not any("difference" in s for s in row["tasks"].values()))
    return {"against": against, "rows": rows}


def _row(scores: dict, differences: dict) -> dict:
    """Return the scores of all tasks and the mean, a number or a table, with their differences where there are any."""
    tasks = {name: _score(score, differences.get(name, {})) for name, score in scores.items() if name != "mean"}
    mean = scores["mean"] if isinstance(scores["mean"], dict) else {"spearman": scores["mean"]}
    pairs = {"pairs": sum(score["count"] for score in tasks.values())}
    return {"tasks": tasks, "mean": _score(pairs | mean, differences.get("mean", {}))}


def _score(old: dict, difference: dict) -> dict:
    score = {
        "value": old["spearman"] if "spearman" in old else old["value"],
        "count": old["items"] if "items" in old else old["pairs"],
        "interval": _interval(old),
        "standard_error": old.get("standard_error"),
        "parts": old.get("subsets") or None,
    }
    if "difference" in difference:
        score["difference"] = {
            "value": difference["difference"],
            "interval": _interval(difference),
            "standard_error": difference.get("difference_standard_error"),
            "p_value": difference.get("p_value"),
        }
    return score


def _interval(figure: dict) -> dict | None:
    return {"low": figure["low"], "high": figure["high"]} if "low" in figure else None
