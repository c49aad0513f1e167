"""From an answer and the right answer to a score of one item."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter


def normalise(text: str) -> str:
    """The form in which answers are compared: NFKC, case folded, single spaces, no closing punctuation."""
    folded = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return folded.rstrip(".!;, ") or folded


def exact_match(prediction: str, answer: str) -> bool:
    """Equal but for case, spacing and closing punctuation. Text before or after the answer makes it wrong."""
    return normalise(prediction) == normalise(answer)


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over words (Rajpurkar et al. 2016, without dropping articles)."""
    said, right = _words(prediction), _words(answer)
    if not said or not right:
        return float(said == right)
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normalise(text))
