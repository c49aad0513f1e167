"""Names and addresses, by a spaCy model that the user has installed. What is found is no better than the model.

Names are what the model calls a person. An address is what it calls a place, when a house number or a postcode stands
with it: a country or a town alone is nobody's address.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lmcraft.corpus.steps.personal_data import Kind, Span
from lmcraft.recipe.stage import UserError

PERSONS = frozenset({"PERSON", "PER", "persName"})
PLACES = frozenset({"GPE", "LOC", "FAC", "placeName"})
"""Names of entity types in the models that spaCy publishes."""

PIECE = 50_000
"""Characters given to the model at once, so that a long document stays within memory."""


@functools.cache
def load(name: str) -> Any:
    """The model with nothing but what finds entities. Raises UserError when spaCy or the model is not installed."""
    if importlib.util.find_spec("spacy") is None:
        raise UserError(
            f"mask: the model {name} needs the package spacy, which is not installed; install lmcraft[names] and the "
            "package of the model"
        )
    if importlib.util.find_spec(name) is None:
        raise UserError(f"mask: the model {name} is no installed package; install it, or name another in `model`")
    import spacy

    # By the package's name only: spaCy would also take a path, and a model's folder can hold code.
    nlp = spacy.load(name, exclude=["parser", "lemmatizer", "attribute_ruler", "tagger", "morphologizer", "senter"])
    if "ner" not in nlp.pipe_names:
        raise UserError(f"mask: the model {name} finds no entities (it has {', '.join(nlp.pipe_names)}); take another")
    return nlp


def find_with_model(text: str, kinds: Sequence[Kind], model: str) -> list[Span]:
    """Spans of names and addresses in a text."""
    spans = []
    for begin, piece in pieces(text):
        entities = [(entity.start_char, entity.end_char, entity.label_) for entity in load(model)(piece).ents]
        if "name" in kinds:
            spans += [Span(begin + start, begin + end, "name") for start, end, label in entities if label in PERSONS]
        if "address" in kinds:
            places = [(start, end) for start, end, label in entities if label in PLACES]
            spans += [Span(begin + start, begin + end, "address") for start, end in addresses(piece, places)]
    return spans


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in pieces of at most `PIECE` characters, cut at a blank line, a line or a blank, with their begins."""
    begin = 0
    while len(text) - begin > PIECE:
        cut = next((at for sign in ("\n\n", "\n", " ") if (at := text.rfind(sign, begin + 1, begin + PIECE)) > 0), 0)
        cut = cut or begin + PIECE
        yield begin, text[begin:cut]
        begin = cut
    yield begin, text[begin:]


_STREET = re.compile(
    r"\b\d{1,5}[a-zA-Z]?,? (?:[^\W\d_][\w.'’-]*,? ){1,4}(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd"
    r"|way|court|ct|place|pl|square|sq|terrace|close|highway|hwy|parkway|crescent|row)\b\.?"
    r"|\b\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|place|chemin|quai|impasse|allée)(?: [\w'’-]+){1,5}"
    r"|\b[^\W\d_][\w.-]*(?:straße|strasse|str\.|weg|gasse|allee|platz) \d{1,4} ?[a-z]?\b"
    r"|\b(?:calle|avenida|plaza|paseo|via|viale|piazza|corso|rua)(?: [\w'’-]+){1,5},? \d{1,4}\b",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"[\s,]*(?:(?i:apt|suite|unit|no|box)\.? ?\w{1,6}[\s,]*)?(?:[A-Z]{2}[\s,]+)?(?:\d{4,6}(?:-\d{4})?[\s,]*)?"
)
_POSTCODE = re.compile(r"[\s,]*(?:[A-Z]{2}\s+)?(?:\d{4,6}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2})\b")


def addresses(text: str, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Streets with their numbers, with the places and postcodes that follow; and places with a postcode."""
    end = 0
    starts = sorted([*(match.span() for match in _STREET.finditer(text)), *places])
    streets = {match.span() for match in _STREET.finditer(text)}
    for index, (start, stop) in enumerate(starts):
        if start < end:
            continue
        grown = stop
        for following, last in itertools.islice(starts, index + 1, None):
            if following >= grown and not _BETWEEN.fullmatch(text, grown, following):
                break
            grown = max(grown, last)
        postcode = _POSTCODE.match(text, grown)
        if postcode:
            grown = postcode.end()
        if (start, stop) in streets or postcode:
            end = grown
            yield start, grown
