"""Step `language`: which language a document is in, against what its source declares.

The classifier is fastText's lid.176. Code is recognised as code, and what has few letters (tables, binary data) has no
language: the classifier would give it some with confidence.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lmcraft.corpus import prose
from lmcraft.corpus.language_classifier import language_classifier
from lmcraft.corpus.step import Drop, Judged, Known, Step, add_score, note_change, replace_columns
from lmcraft.recipe.stage import StageConfig

CHARACTERS = 600
"""Looked at of a text: the time goes with them.

On UDHR in 93 languages, passages of 2,000 characters (n = 1,116): .875 right or kin, at 500 characters .874
(`benchmarks/language.py`).
"""

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
    measured = prose.counts(batch["text"])
    coded = pc.fill_null(pc.equal(batch["format"], "code"), False).to_numpy(zero_copy_only=False)
    unsaid = pc.is_null(batch["format"]).to_numpy(zero_copy_only=False)
    found_code = unsaid & prose.looks_like_code(measured) & config.recognise_code
    code = coded | found_code
    found, probability = _detect(batch["text"], measured, ~code)
    needed = certainty(measured["characters"], config.min_probability)
    sure = probability >= needed
    declared = batch["language"]
    unknown = pc.is_null(declared).to_numpy(zero_copy_only=False)
    differs = np.zeros(batch.num_rows, bool)
    if not unknown.all():
        pairs = zip(declared.to_pylist(), found.to_pylist(), strict=True)
        differs = np.array([differ(old, new) for old, new in pairs], bool)
    final = pc.if_else(pa.array(unknown), pc.if_else(pa.array(sure), found, None), declared)
    drops = _by_length("language differs from the declared one", differs & sure, probability, needed)
    if config.languages is not None:
        wanted = {canonical(name) for name in config.languages}
        unclear = pc.is_null(final).to_numpy(zero_copy_only=False) & ~code
        other = [name is not None and canonical(name) not in wanted for name in final.to_pylist()]
        drops += _by_length("language unclear", unclear, probability, needed)
        drops.append(Drop("language not wanted", np.array(other, bool) & ~code, probability))
    columns = {"language": final, "format": pc.if_else(pa.array(found_code), "code", batch["format"])}
    batch = add_score(replace_columns(batch, columns), "language", np.where(code, np.nan, probability))
    batch = note_change(batch, "recognised as code", found_code)
    return Judged(note_change(batch, "language detected", unknown & sure & ~found_code), tuple(drops))


def detect(texts: list[str]) -> tuple[list[str | None], np.ndarray]:
    """The likeliest language (ISO 639 code) of each text and its probability (float64); none and 0 for few letters."""
    array = pa.array(texts, pa.string())
    found, probability = _detect(array, prose.counts(array), np.ones(len(texts), bool))
    return found.to_pylist(), probability


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
    return frozenset(canonical(label) for label in language_classifier().labels)


def _by_length(reason: str, rows: np.ndarray, probability: np.ndarray, needed: np.ndarray) -> list[Drop]:
    """One reason, with the limit that held for texts of each length."""
    return [Drop(reason, rows & (needed == limit), probability, limit) for limit in np.unique(needed).tolist()]


def _detect(texts: pa.StringArray, measured: Mapping[str, np.ndarray], rows: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    classifier = language_classifier()
    chosen = np.flatnonzero(rows & prose.has_language(measured))
    labels = np.zeros(len(texts), np.int32)
    probability = np.zeros(len(texts))
    if len(chosen):
        labels[chosen], found = classifier.predict(texts.take(pa.array(chosen)), CHARACTERS)
        probability[chosen] = np.minimum(found, 1.0)
    missing = np.ones(len(texts), bool)
    missing[chosen] = False
    names = pa.array(classifier.labels, pa.string()).take(pa.array(labels, mask=missing))
    return names, probability


LANGUAGE = Step("language", Language, language)
