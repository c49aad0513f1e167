"""The published rules, by set and name, with the constants of their papers.

A rule removes a document whose measure lies outside its limits. To add one: a line here (measure, limits, citation) and
a test. Where papers leave something open or published code differs from them, the set says so.
"""

from __future__ import annotations

from dataclasses import dataclass

GOPHER = "Rae et al. 2021, Scaling Language Models (arXiv:2112.11446), appendix A.1.1"
C4 = "Raffel et al. 2020, JMLR 21(140), section 2.2"
FINEWEB = "Penedo et al. 2024, The FineWeb Datasets (arXiv:2406.17557), section 3.6"


@dataclass(frozen=True)
class Rule:
    """`measure`: an expression over signals. A document stays when `at_least <= measure <= at_most`."""

    name: str
    measure: str
    at_least: float | None
    at_most: float | None
    citation: str

    @property
    def set(self) -> str:
        return self.name.split("/")[0]


def _rules(name: str, citation: str, *rules: tuple[str, str, float | None, float | None]) -> tuple[Rule, ...]:
    return tuple(Rule(f"{name}/{rule}", measure, low, high, citation) for rule, measure, low, high in rules)


# The paper does not define a word. Here it is what stands between white space; words without letter or digit do not
# count for their number and length, but they do for the ratios (datatrove: the same, with spaCy's tokens, of which
# every punctuation mark is one: its ratios and its share of words with letters come out lower). Blank lines are no
# lines here; datatrove counts them. Stop words in capitals count here, not there.
_GOPHER_QUALITY = _rules(
    "gopher-quality",
    GOPHER,
    ("words", "words", 50, 100_000),
    ("word-length", "word_length", 3, 10),
    ("hashes", "hashes_per_word", None, 0.1),
    ("ellipses", "ellipses_per_word", None, 0.1),
    ("bullet-lines", "bullet_line_share", None, 0.9),
    ("ellipsis-lines", "ellipsis_line_share", None, 0.3),
    ("letters", "letter_word_share", 0.8, None),
    ("stop-words", "stop_words", 2, None),
)

# Table A1. A repetition is what stood in the text before, so that of two equal lines one counts (as in datatrove). The
# n-grams that begin inside one that was found repeated are passed over (as there), so that no character counts twice.
# An n-gram that occurs once is no repetition: datatrove counts its characters, which drops texts of a dozen words.
_GOPHER_REPETITION = _rules(
    "gopher-repetition",
    GOPHER + ", table A1",
    ("lines", "repeated_line_share", None, 0.30),
    ("paragraphs", "repeated_paragraph_share", None, 0.30),
    ("line-characters", "repeated_line_character_share", None, 0.20),
    ("paragraph-characters", "repeated_paragraph_character_share", None, 0.20),
    ("top-2-gram", "top_2_gram_share", None, 0.20),
    ("top-3-gram", "top_3_gram_share", None, 0.18),
    ("top-4-gram", "top_4_gram_share", None, 0.16),
    ("5-grams", "repeated_5_gram_share", None, 0.15),
    ("6-grams", "repeated_6_gram_share", None, 0.14),
    ("7-grams", "repeated_7_gram_share", None, 0.13),
    ("8-grams", "repeated_8_gram_share", None, 0.12),
    ("9-grams", "repeated_9_gram_share", None, 0.11),
    ("10-grams", "repeated_10_gram_share", None, 0.10),
)

# The paper and its code: 3 sentences, lines of 5 words (the first preprint and datatrove: 5 and 3). The code looks for
# lorem ipsum and { in the lines that it would keep, the paper speaks of pages; so do we.
_C4 = _rules(
    "c4",
    C4,
    ("sentences", "c4_sentences", 3, None),
    ("lorem-ipsum", "lorem_ipsums", None, 0),
    ("curly-brackets", "curly_brackets", None, 0),
)

# Limits of the paper. datatrove's code, with which the data were made, drops at 1% of characters in repeated lines, not
# at 10%, and has the rule of newlines, which the paper does not name. Its sentence ends are Unicode's, as here; a
# closing quotation mark or bracket may follow here, and not there.
_FINEWEB = _rules(
    "fineweb",
    FINEWEB,
    ("punctuated-lines", "punctuated_line_share", 0.12, None),
    ("line-characters", "repeated_line_character_share", None, 0.1),
    ("short-lines", "short_line_share", None, 0.67),
    ("newlines", "newlines_per_word", None, 0.3),
)

SETS: dict[str, tuple[Rule, ...]] = {
    "gopher-quality": _GOPHER_QUALITY,
    "gopher-repetition": _GOPHER_REPETITION,
    "c4": _C4,
    "fineweb": _FINEWEB,
}
RULES: dict[str, Rule] = {rule.name: rule for rules in SETS.values() for rule in rules}
