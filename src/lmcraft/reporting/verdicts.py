"""Plain sentences about results, for the report and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERDICTS = (
    ("better than baseline", "Better than its hardest baseline, 95% intervals apart"),
    ("no better than baseline", "No better than its hardest baseline"),
    ("worse than baseline", "Worse than its hardest baseline, 95% intervals apart"),
)


def headline(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One entry a task and metric: over all languages, or over the only one."""
    whole = {(m["task"], m["metric"]) for m in metrics if m["language"] is None}
    return [m for m in metrics if m["language"] is None or (m["task"], m["metric"]) not in whole]


def label(metric: Mapping[str, Any]) -> str:
    return metric["task"] if metric["language"] is None else f"{metric['task']} ({metric['language']})"


def verdict_sentences(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the model can and cannot do, by verdict, all languages together: {style, text, names}."""
    metrics = headline(evaluation["metrics"])
    sentences = []
    for verdict, text in VERDICTS:
        hit = [f"{metric['task']} ({metric['metric']})" for metric in metrics if metric["verdict"] == verdict]
        if hit:
            style = verdict.split(maxsplit=1)[0]
            sentences.append(
                {"style": style, "text": f"{text}, on {len(hit)} of {len(metrics)}", "names": ", ".join(hit)}
            )
    better = {(m["task"], m["metric"]) for m in metrics if m["verdict"] == "better than baseline"}
    parts = [
        metric
        for metric in evaluation["metrics"]
        if (metric["task"], metric["metric"]) in better and metric["verdict"] != "better than baseline"
    ]
    if parts:
        names = ", ".join(f"{label(metric)} ({metric['metric']}, {metric['verdict']})" for metric in parts)
        sentences.append({"style": "no", "text": "But not in every language", "names": names})
    return sentences
