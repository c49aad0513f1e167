"""Step `filter`: heuristic rules of published corpora by name, and the user's own as small expressions.

Signals are measured anew on each run, at some 70 MB a second and core: another threshold takes seconds without storing
them, and they always fit the text as it is. `keep_signals` writes those that were used beside the documents.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from lmcraft.corpus.signals import LINE_VERDICTS, c4_lines, needs_repetition, signals
from lmcraft.corpus.step import Drop, Judged, Known, Step, note_change, replace_columns
from lmcraft.corpus.steps.filters_expression import Expression, parse
from lmcraft.corpus.steps.filters_rules import RULES, SETS, Rule
from lmcraft.recipe.stage import StageConfig

Limit = float | list[float | None] | None


class Filter(StageConfig):
    """Removes documents that break a rule, each with the rule's name, the value measured and the limit."""

    rules: list[str] = Field(
        ["gopher-quality", "gopher-repetition"],
        description="Sets of rules (gopher-quality, gopher-repetition, c4, fineweb) or single ones (c4/sentences).",
    )
    limits: dict[str, Limit] = Field(
        {},
        description="Other limits by rule: [least, most] with null for none, a number for a rule that has one limit, "
        "null to leave the rule out.",
    )
    drop: dict[str, str] = Field(
        {}, description='Own rules by name: a document goes when it is true, as in "uppercase / letters > 0.5".'
    )
    c4_lines: bool = Field(
        False, description="Whether to remove the lines that C4 removes, after the rules have judged the whole text."
    )
    language: str | None = Field(
        None, description="Language of documents that state none, for the rule of stop words; null: not judged by it."
    )
    skip_formats: list[str] = Field(
        ["code"], description="Formats that the published rules, made for prose, leave alone."
    )
    keep_signals: bool = Field(False, description="Whether to write the measures of the rules into `scores`.")

    @field_validator("rules")
    @classmethod
    def _known(cls, rules: list[str]) -> list[str]:
        for name in rules:
            _check_name(name, (*SETS, *RULES))
        return rules

    @field_validator("drop")
    @classmethod
    def _parses(cls, drop: dict[str, str]) -> dict[str, str]:
        for name, text in drop.items():
            try:
                parse(text)
            except ValueError as error:
                raise ValueError(f"rule {name!r}: {error}") from error
            if name in RULES:
                raise ValueError(f"{name!r} is a rule already; choose another name")
        return drop

    @model_validator(mode="after")
    def _limits_fit(self) -> Filter:
        chosen_rules(self)
        return self


def filter_rules(batch: pa.RecordBatch, config: Filter, known: Known) -> Judged:
    rules = _compiled(tuple(chosen_rules(config)))
    own = {name: parse(text) for name, text in config.drop.items()}
    named: frozenset[str] = frozenset().union(
        *(measure.signals for _, measure in rules), *(rule.signals for rule in own.values())
    )
    languages = [code or config.language for code in batch["language"].to_pylist()]
    measured = signals(batch["text"], languages, needs_repetition(sorted(named))) if named else {}
    prose = np.array([kind not in config.skip_formats for kind in batch["format"].to_pylist()], bool)
    drops: list[Drop] = []
    values: dict[str, np.ndarray] = {}
    for rule, measure in rules:
        value = values[rule.name] = np.where(prose, measure.values(batch, measured), np.nan)
        if rule.at_least is not None:
            drops.append(Drop(rule.name, value < rule.at_least, value, rule.at_least))
        if rule.at_most is not None:
            drops.append(Drop(rule.name, value > rule.at_most, value, rule.at_most))
    for name, expression in own.items():
        gone, found, threshold = expression.judge(batch, measured)
        drops.append(Drop(name, gone, found, threshold))
        if found is not None:
            values[name] = found
    if config.keep_signals:
        batch = _with_scores(batch, values)
    if config.c4_lines:
        stays = ~np.any([drop.rows for drop in drops], axis=0) if drops else np.ones(len(prose), bool)
        batch = _without_c4_lines(batch, prose & stays)
    return Judged(batch, tuple(drops))


def chosen_rules(config: Filter) -> list[Rule]:
    """The rules that a step applies, in the order of their sets, with the user's limits. Raises ValueError."""
    names = dict.fromkeys(rule.name for name in config.rules for rule in SETS.get(name, ()) or (RULES[name],))
    for name in config.limits:
        _check_name(name, RULES)
        if name not in names:
            raise ValueError(f"limits name {name!r}, which is not among the rules; add it (or {name.split('/')[0]})")
    rules = [RULES[name] for name in names]
    return [_limited(rule, config.limits[rule.name]) if rule.name in config.limits else rule for rule in rules
            if config.limits.get(rule.name, 0) is not None]  # fmt: skip


def _limited(rule: Rule, limit: Limit) -> Rule:
    low, high = rule.at_least, rule.at_most
    if isinstance(limit, list):
        if len(limit) != 2:
            raise ValueError(f"limits of {rule.name!r} are [least, most], with null for none, not {limit}")
        low, high = limit
    elif low is not None and high is not None:
        raise ValueError(f"{rule.name!r} has two limits: write [{low:g}, {high:g}]")
    elif low is not None:
        low = limit
    else:
        high = limit
    if low is not None and high is not None and low > high:
        raise ValueError(f"limits of {rule.name!r} leave no room: {low:g} is more than {high:g}")
    return Rule(rule.name, rule.measure, low, high, rule.citation)


@functools.lru_cache(maxsize=64)
def _compiled(rules: tuple[Rule, ...]) -> list[tuple[Rule, Expression]]:
    return [(rule, parse(rule.measure, condition=False)) for rule in rules]


def _check_name(name: str, names: Mapping[str, object] | tuple[str, ...]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, list(names), 1, 0)[0]
        raise ValueError(f"there is no rule {name!r}; the nearest is {near!r} (sets: {', '.join(SETS)})")


def _with_scores(batch: pa.RecordBatch, values: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    columns = {name: column.tolist() for name, column in values.items()}
    scores = []
    for row, old in enumerate(batch["scores"].to_pylist()):
        new = dict(old or [])
        for name, column in columns.items():
            new.pop(name, None)
            if column[row] == column[row]:
                new[name] = column[row]
        scores.append(sorted(new.items()))
    return replace_columns(batch, {"scores": pa.array(scores, batch.schema.field("scores").type)})


def _without_c4_lines(batch: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    """The batch with the lines of C4 in the texts of some rows."""
    chosen = np.flatnonzero(rows)
    cleaned, verdicts = c4_lines(batch["text"].take(pa.array(chosen)))
    text = pc.replace_with_mask(batch["text"], pa.array(rows), cleaned)
    batch = replace_columns(batch, {"text": text})
    for number, name in enumerate(LINE_VERDICTS[1:], 1):
        lost = np.zeros(len(rows), bool)
        lost[chosen] = verdicts[:, number] > 0
        batch = note_change(batch, name, lost)
    return batch


FILTER = Step("filter", Filter, filter_rules)
