"""From scored items to metrics: a pure function of `items.jsonl`, so that every number can be worked out again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmcraft.evaluation.scoring import exact_match, token_f1
from lmcraft.evaluation.statistics import mean, ratio
from lmcraft.intervals import Estimate, proportion
from lmcraft.recipe.stage import UserError

TEXT_TASK = "held-out text"
BETTER, WORSE, NO_BETTER = "better than baseline", "worse than baseline", "no better than baseline"

FREE_WORDS = 8
"""Where right answers have more words than this on average, no two writers agree: word overlap alone is scored."""

Item = dict[str, Any]


def metrics(items: Sequence[Item], resamples: int, seed: int, f1_tasks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One entry a task, language and metric; `language` is null for all languages of a task together."""
    found: list[dict[str, Any]] = []
    for task in sorted({item["task"] for item in items}, key=lambda task: (task != TEXT_TASK, task)):
        of_task = [item for item in items if item["task"] == task]
        free = task != TEXT_TASK and sum(len(item["answer"].split()) for item in of_task) > FREE_WORDS * len(of_task)
        for language, group in _by_language(of_task):
            head = {"task": task, "language": language}
            if task == TEXT_TASK:
                found.append(head | _bits_per_byte(group, resamples, seed))
                continue
            if not free:
                found.append(head | accuracy(group))
            if free or task in f1_tasks:
                found.append(head | _token_f1(group, resamples, seed))
    return found


def accuracy(items: Sequence[Item]) -> dict[str, Any]:
    """Exact match of questions, with its baselines."""
    n = len(items)
    value = proportion(sum(exact_match(item["prediction"], item["answer"]) for item in items), n)
    baselines = []
    for name in items[0]["baselines"]:
        hits = sum(exact_match(item["baselines"].get(name) or "", item["answer"]) for item in items)
        baselines.append(_named(name, proportion(hits, n)))
    return _metric("exact match", "share of questions", "questions", value, baselines, lower_is_better=False)


class Rederived(NamedTuple):
    """One number of `results.json`, as stored and as worked out again from `items.jsonl`."""

    metric: str
    stored: float | str | None
    recomputed: float | str | None


def rederive(directory: Path) -> list[Rederived]:
    """Work out every metric of an evaluation again. Equal numbers are equal floats; a metric that is missing on one
    side has None there. Raises UserError when the files cannot be read."""
    try:
        results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
        lines = (directory / "items.jsonl").read_text(encoding="utf-8").splitlines()
        items = [json.loads(line) for line in lines]
        settings = results["settings"]
        again = metrics(items, settings["resamples"], settings["seed"], settings["token_f1"])
        stored = {name: number for entry in results["metrics"] for name, number in _numbers(entry)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} is not a whole evaluation ({error!r}); run its step again") from None
    fresh = {name: number for entry in again for name, number in _numbers(entry)}
    return [Rederived(name, stored.get(name), fresh.get(name)) for name in {**stored, **fresh}]


def _numbers(entry: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    where = "/".join(str(entry[part]) for part in ("task", "language", "metric") if entry[part])
    for field in ("value", "low", "high", "n", "verdict"):
        yield f"{where}: {field}", entry[field]
    for baseline in entry["baselines"]:
        for field in ("value", "low", "high"):
            yield f"{where}: {baseline['name']}: {field}", baseline[field]


def _by_language(items: Sequence[Item]) -> list[tuple[str | None, list[Item]]]:
    languages = {item["language"] for item in items}
    if len(languages) == 1:
        return [(languages.pop(), list(items))]
    parts = [(one, [item for item in items if item["language"] == one]) for one in sorted(languages - {None})]
    return [(None, list(items)), *parts]


def _bits_per_byte(items: Sequence[Item], resamples: int, seed: int) -> dict[str, Any]:
    sizes = [item["bytes"] for item in items]

    def bits(nats: Iterable[float]) -> Estimate:
        return ratio([one / math.log(2) for one in nats], sizes, resamples, seed)

    baselines = [_named("uniform over bytes", Estimate(8.0, 8.0, 8.0, len(items)))]
    # A document without training text of its language has no n-gram baseline; then the group has none either.
    shared = [name for name in items[0]["baseline_nats"] if all(name in item["baseline_nats"] for item in items)]
    baselines += [_named(name, bits(item["baseline_nats"][name] for item in items)) for name in shared]
    value = bits(item["nats"] for item in items)
    more = {"bytes": sum(sizes), "tokens": sum(item["tokens"] for item in items)}
    return _metric("bits per byte", "bits per byte", "documents", value, baselines, lower_is_better=True) | more


def _token_f1(items: Sequence[Item], resamples: int, seed: int) -> dict[str, Any]:
    def score(said: Iterable[str]) -> Estimate:
        pairs = zip(said, items, strict=True)
        return mean([token_f1(text, item["answer"]) for text, item in pairs], resamples, seed)

    baselines = [
        _named(name, score((item["baselines"].get(name) or "") for item in items)) for name in items[0]["baselines"]
    ]
    value = score(item["prediction"] for item in items)
    return _metric("token F1", "mean over questions", "questions", value, baselines, lower_is_better=False)


def _named(name: str, estimate: Estimate) -> dict[str, Any]:
    return {"name": name, **{field: _tidy(getattr(estimate, field)) for field in ("value", "low", "high")}}


def _metric(
    metric: str, unit: str, of: str, value: Estimate, baselines: list[dict[str, Any]], *, lower_is_better: bool
) -> dict[str, Any]:
    """The verdict is against the hardest baseline, and only intervals that lie apart count."""
    hardest = (min if lower_is_better else max)(baselines, key=lambda baseline: baseline["value"])
    low, high = _tidy(value.low), _tidy(value.high)
    below, above = high < hardest["low"], low > hardest["high"]
    better, worse = (below, above) if lower_is_better else (above, below)
    return {
        "metric": metric,
        "unit": unit,
        "better": "lower" if lower_is_better else "higher",
        "value": _tidy(value.value),
        "low": low,
        "high": high,
        "n": value.n,
        "of": of,
        "baseline": hardest,
        "baselines": baselines,
        "verdict": BETTER if better else WORSE if worse else NO_BETTER,
    }


def _tidy(number: float) -> float:
    return float(f"{number:.6g}")
