"""How a question about a document is put, by language, and where its first sentence ends."""

from __future__ import annotations

import re
from typing import Literal

DocumentTask = Literal["topic", "describe", "define", "continue"]
DOCUMENT_TASKS: tuple[DocumentTask, ...] = ("topic", "describe", "define", "continue")

PHRASINGS: dict[str, dict[DocumentTask, tuple[str, ...]]] = {
    "en": {
        "topic": (
            "Which topic? {title}: {text}",
            "What is the topic of {title}? {text}",
            "Name the topic of this text. {title}: {text}",
        ),
        "describe": (
            "Describe {title} in a few words. {text}",
            "In a few words, what is {title}? {text}",
            "A short description of {title}: {text}",
        ),
        "define": ("What is {title}?", "Tell me about {title}.", "Define {title}."),
        "continue": ("Continue: {text}", "Go on: {text}", "How does this go on? {text}"),
    },
    "fr": {
        "topic": (
            "Quel sujet ? {title} : {text}",
            "Quel est le sujet de {title} ? {text}",
            "Nomme le sujet de ce texte. {title} : {text}",
        ),
        "describe": (
            "Décris {title} en peu de mots. {text}",
            "En peu de mots, {title} ? {text}",
            "Une courte description de {title} : {text}",
        ),
        "define": ("Que désigne {title} ?", "Parle-moi de {title}.", "Définis {title}."),
        "continue": ("Continue : {text}", "Poursuis : {text}", "Quelle est la suite ? {text}"),
    },
    "es": {
        "topic": (
            "¿Qué tema? {title}: {text}",
            "¿Cuál es el tema de {title}? {text}",
            "Nombra el tema de este texto. {title}: {text}",
        ),
        "describe": (
            "Describe {title} en pocas palabras. {text}",
            "En pocas palabras, ¿qué es {title}? {text}",
            "Una breve descripción de {title}: {text}",
        ),
        "define": ("¿Qué es {title}?", "Háblame de {title}.", "Define {title}."),
        "continue": ("Continúa: {text}", "Sigue: {text}", "¿Cómo sigue? {text}"),
    },
}
"""Language -> task -> ways to ask. A document in another language, or in none that is known, is asked in English."""


def phrasings(language: str | None, task: DocumentTask) -> tuple[str, ...]:
    """Ways to put a task to a document; the language may carry a region ("fr-CA")."""
    primary = (language or "en").lower().replace("_", "-").partition("-")[0]
    return PHRASINGS.get(primary, PHRASINGS["en"])[task]


_SENTENCE_END = re.compile(r"[.!?](?=[\"'”’»)\]]*(?:\s+(\S)|$))|[。！？]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(.’'-])(?:[^\W\d_]|approx|apr|av|ca|cap|cf|co|corp|dr|esp|est|etc|fig|gr|inc|jr|lat|lit|ltd|mr|mrs|ms|no|"
    r"núm|op|pl|prof|réf|sr|sra|ss|ste|st|vs|vol)$",
    re.IGNORECASE,
)


def first_sentence(text: str, fewest: int = 20) -> str:
    """The first sentence of at least `fewest` characters, else the first paragraph; its lines joined.

    A full stop inside brackets, after an initial or an abbreviation, or before a small letter or a digit ends no
    sentence.
    """
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0].split())
    for match in _SENTENCE_END.finditer(paragraph):
        before = paragraph[: match.start()]
        following = match[1] or ""
        if match.end() < fewest or following.islower() or following.isdigit():
            continue
        if any(before.count(opening) > before.count(closing) for opening, closing in ("()", "[]")):
            continue
        if match[0] == "." and following and _ABBREVIATION.search(before[-12:]):
            continue
        return paragraph[: match.end()]
    return paragraph


def shorten(text: str, most: int) -> str:
    """The beginning of the text, whole words of at most `most` characters together."""
    if len(text) <= most:
        return text
    cut = text[: most + 1].rpartition(" ")[0] or text[:most]
    return cut.rstrip(" ,;:(-–—")
