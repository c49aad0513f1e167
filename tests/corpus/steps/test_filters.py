"""Rules drop what lies outside their limits, each with its value and limit; own rules are expressions, never Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from corpora import batch_of, sentence
from pydantic import ValidationError

from lmcraft.corpus.signals import NAMES
from lmcraft.corpus.step import Judged, Known, score
from lmcraft.corpus.steps.filters import Filter, chosen_rules, filter_rules
from lmcraft.corpus.steps.filters_expression import parse
from lmcraft.corpus.steps.filters_rules import RULES, SETS

GOOD = " ".join(
    f"{sentence(seed)} It was the day of the {word}, and they have to be with us."
    for seed, word in enumerate(["feast", "storm", "market", "journey", "wedding"])
)


def judge(texts: list[str], columns: dict[str, list[Any]] | None = None, **settings: Any) -> Judged:
    columns = {"language": ["en"] * len(texts)} | (columns or {})
    return filter_rules(batch_of(texts, **columns), Filter.model_validate(settings), Known())


def dropped(judged: Judged) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for drop in judged.drops:
        if drop.rows.any():
            found.setdefault(drop.reason, []).extend(np.flatnonzero(drop.rows).tolist())
    return found


ALL = list(SETS)

BAD = {
    "gopher-quality/words": "The cat and the dog.",
    "gopher-quality/word-length": "a b of to " * 20 + "the be",
    "gopher-quality/hashes": GOOD.replace(" ", " # ", 40),
    "gopher-quality/ellipses": GOOD.replace(" ", "... ", 30),
    "gopher-quality/bullet-lines": "- " + GOOD.replace(". ", ".\n- "),
    "gopher-quality/ellipsis-lines": GOOD.replace(". ", "...\n"),
    "gopher-quality/letters": GOOD.replace(" ", " 12 ", 60),
    "gopher-quality/stop-words": " ".join(sentence(seed).replace("The ", "") for seed in range(5)),
    "gopher-repetition/lines": "\n".join([GOOD, *["yes"] * 20]),
    "gopher-repetition/paragraphs": "\n\n".join([GOOD, *["yes\nno"] * 20]),
    "gopher-repetition/line-characters": "\n".join([GOOD, GOOD]),
    "gopher-repetition/paragraph-characters": "\n\n".join([GOOD, GOOD]),
    "gopher-repetition/top-2-gram": GOOD + " extraordinary circumstances" * 40,
    "gopher-repetition/top-3-gram": GOOD + " extraordinary circumstances everywhere" * 30,
    "gopher-repetition/top-4-gram": GOOD + " extraordinary circumstances everywhere now" * 30,
    **{f"gopher-repetition/{n}-grams": GOOD + " " + GOOD for n in range(5, 11)},
    "c4/sentences": "Only one line of text that ends here.",
    "c4/lorem-ipsum": GOOD + " Lorem ipsum dolor.",
    "c4/curly-brackets": GOOD + " {x}",
    "fineweb/punctuated-lines": GOOD.replace(". ", "\n").rstrip("."),
    "fineweb/line-characters": "\n".join([GOOD, GOOD]),
    "fineweb/short-lines": GOOD.replace(" ", "\n"),
    "fineweb/newlines": GOOD.replace(" ", "\n"),
}


def test_a_good_text_passes_every_rule() -> None:
    assert dropped(judge([GOOD], rules=ALL)) == {}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_drops_a_text_made_to_break_it_and_says_why(name: str) -> None:
    judged = judge([GOOD, BAD[name]], rules=[name])
    assert dropped(judged) == {name: [1]}
    drop = next(drop for drop in judged.drops if drop.rows.any())
    rule = RULES[name]
    assert drop.values is not None
    assert drop.threshold is not None
    assert drop.threshold in (rule.at_least, rule.at_most)
    assert drop.values[1] < drop.threshold if drop.threshold == rule.at_least else drop.values[1] > drop.threshold


def test_every_rule_has_a_citation_and_signals_that_exist() -> None:
    for rule in RULES.values():
        assert "20" in rule.citation
        assert parse(rule.measure, condition=False).signals <= set(NAMES)


def test_limits_may_be_changed_and_rules_left_out() -> None:
    assert dropped(judge([GOOD], rules=["gopher-quality"], limits={"gopher-quality/words": [1000, None]})) == {
        "gopher-quality/words": [0]
    }
    assert dropped(judge([GOOD], rules=["c4"], limits={"c4/sentences": 50})) == {"c4/sentences": [0]}
    assert dropped(judge(["short"], rules=["c4"], limits={"c4/sentences": None})) == {}
    kept = chosen_rules(Filter.model_validate({"rules": ["c4"], "limits": {"c4/sentences": None}}))
    assert [rule.name for rule in kept] == ["c4/lorem-ipsum", "c4/curly-brackets"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ["gofer-quality"]}, "no rule 'gofer-quality'; the nearest is 'gopher-quality'"),
        ({"limits": {"c4/sentences": 5}}, "not among the rules"),
        ({"limits": {"gopher-quality/words": 5}}, "has two limits"),
        ({"limits": {"gopher-quality/words": [9, 5]}}, "leave no room"),
        ({"limits": {"gopher-quality/words": [1, 2, 3]}}, "least, most"),
        ({"limits": {"gopher-quality/wrods": [1, 2]}}, "nearest is 'gopher-quality/words'"),
        ({"drop": {"mine": "uppercas / letters > 0.5"}}, "nearest name is 'uppercase'"),
        ({"drop": {"mine": "letters"}}, "neither true nor false"),
        ({"drop": {"mine": "letters >"}}, "is not a rule"),
        ({"drop": {"mine": "letters > 1" + "0" * 400}}, "is larger than any that can be counted with"),
        ({"drop": {"mine": "letters + 1" + "0" * 400 + " > -5"}}, "is larger than any that can be counted with"),
        ({"drop": {"mine": "__import__('os').system('x') == 0"}}, "has no place in a rule"),
        ({"drop": {"mine": "(lambda: 1)() > 0"}}, "has no place in a rule"),
        ({"drop": {"mine": "letters.real > 0"}}, "has no place in a rule"),
        ({"drop": {"mine": "[x for x in letters] > 0"}}, "has no place in a rule"),
        ({"drop": {"mine": "exec('x') > 0"}}, "no function 'exec'"),
        ({"drop": {"mine": "language > 3"}}, "cannot be compared"),
        ({"drop": {"mine": "matches('(')"}}, "is not a regular expression"),
        ({"drop": {"mine": "count(letters) > 1"}}, "wants one string"),
        ({"drop": {"mine": "1 + " * 600 + "1 > 0"}}, "parts"),
        ({"drop": {"c4/sentences": "words > 1"}}, "choose another name"),
    ],
)
def test_mistakes_are_a_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        Filter.model_validate(settings)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("uppercase / letters > 0.5", [1]),
        ('language == "en" and words > 3', [0]),
        ('language in ["fr", "de"]', [1]),
        ('language != "en" or count("cat") >= 2', [0, 1]),
        ('matches("(?i)LOUD")', [1]),
        ("not words > 3", [1]),
        ("2 < words < 9", [0]),
        ("-words + 10 % 4 * 2 // 1 <= -2", [0]),
        ("max(words, 3) > min(letters, 4, 5)", [0]),
        ("sqrt(abs(words - 30)) < log(100)", []),
        ('score("quality") < 0.5', [1]),
        ('not score("quality") < 0.5', [0]),
        ('score("missing") < 0.5 or not score("missing") < 0.5', []),
        ('score("missing") < 0.5 or words > 3', [0]),
        ('letters > 0 and not (format == "html")', [0, 1]),
    ],
)
def test_expressions_mean_what_they_say(expression: str, rows: list[int]) -> None:
    columns = {"language": ["en", "fr"], "scores": [[("quality", 0.75)], [("quality", 0.25)]]}
    judged = judge(["the cat saw a cat there", "VERY LOUD"], columns, rules=[], drop={"mine": expression})
    assert dropped(judged) == ({"mine": rows} if rows else {})


def test_a_comparison_with_a_number_is_recorded_with_value_and_limit() -> None:
    (drop,) = judge(["AAAb"], rules=[], drop={"loud": "uppercase / letters > 0.5"}).drops
    assert drop.values is not None
    assert (drop.values.tolist(), drop.threshold) == ([0.75], 0.5)


def test_a_rule_that_fails_on_a_row_raises_for_the_runner_to_set_it_aside() -> None:
    rule = {"share": "uppercase / letters > 0.5"}
    with pytest.raises(ZeroDivisionError, match="uppercase / letters"):
        judge(["fine", "1234"], rules=[], drop=rule)
    assert dropped(judge(["fine"], rules=[], drop=rule)) == {}
    with pytest.raises(ZeroDivisionError):
        judge(["1234"], rules=[], drop=rule)
    guarded = {"share": "letters > 0 and uppercase / letters > 0.5"}
    assert dropped(judge(["fine", "1234", "AB"], rules=[], drop=guarded)) == {"share": [2]}


def test_code_is_left_to_its_own_rules() -> None:
    texts = ["int x = 1;", "int x = 1;"]
    judged = judge(texts, {"format": ["code", None]}, rules=["gopher-quality"], drop={"tiny": "words < 2"})
    assert set(dropped(judged)["gopher-quality/words"]) == {1}
    assert dropped(judge(texts, {"format": ["code", None]}, rules=["c4"], skip_formats=[]))["c4/sentences"] == [0, 1]


def test_stop_words_are_asked_only_of_a_known_language() -> None:
    text = BAD["gopher-quality/stop-words"]
    rule = ["gopher-quality/stop-words"]
    assert dropped(judge([text], {"language": [None]}, rules=rule)) == {}
    assert dropped(judge([text], {"language": [None]}, rules=rule, language="en")) == {rule[0]: [0]}


def test_signals_are_kept_when_asked_for() -> None:
    judged = judge([GOOD, ""], rules=["gopher-quality/words", "c4/sentences"], keep_signals=True)
    assert score(judged.batch, "gopher-quality/words").tolist() == [len(GOOD.split()), 0]
    assert judge([GOOD], rules=["c4"]).batch["scores"].to_pylist() == [None]


def test_c4_lines_are_removed_from_what_stays_and_noted() -> None:
    texts = ["Menu\n" + GOOD, "Menu\n"]
    judged = judge(texts, rules=["c4"], c4_lines=True)
    assert dropped(judged) == {"c4/sentences": [1]}
    assert judged.batch["text"].to_pylist() == [GOOD, "Menu\n"]
    assert judged.batch["changes"].to_pylist() == [["lines without end of sentence removed (c4)"], []]


def test_each_row_is_judged_by_itself() -> None:
    texts = [GOOD, *BAD.values(), "", "人人生而自由。" * 40]
    together = judge(texts, rules=ALL)
    for row, text in enumerate(texts):
        alone = judge([text], rules=ALL)
        for one, other in zip(together.drops, alone.drops, strict=True):
            assert one.rows[row] == other.rows[0]
