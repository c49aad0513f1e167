"""Step `counterfactual`: copies of English documents in which the words for women and men are exchanged.

Counterfactual data augmentation (Lu et al. 2018; Zhao et al. 2018), or substitution (Maudslay et al. 2019), which
keeps the amount of text. Names and the titles before them stay as they are, so that "Queen Victoria" does not become a
king; what a text says of her is then said of "him", which is the known weakness of the method. Other languages would
need agreement of articles and adjectives and are left alone.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from lmcraft.corpus.documents import document_id
from lmcraft.corpus.step import Judged, Known, Step, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

LANGUAGE = "en"


class Counterfactual(StageConfig):
    """Writes English documents a second time with gendered words exchanged (he, she; king, queen), names untouched."""

    share: float = Field(1.0, gt=0, le=1, description="Share of the documents with such words, chosen by hash.")
    mode: Literal["add", "replace"] = Field(
        "add", description="add: the copy follows the original; replace: it takes its place, so the amount stays."
    )
    gender: bool = Field(True, description="Exchange the built-in pairs of words for women and men.")
    pairs: list[list[str]] = Field(default=[], description="Further pairs to exchange, such as [Christian, Muslim].")
    min_words: int = Field(1, ge=1, description="A document with fewer words to exchange is left alone.")
    unknown_language: bool = Field(False, description="Treat documents of unknown language as English.")
    seed: int = Field(0, ge=0, description="Another seed chooses other documents.")

    @field_validator("pairs")
    @classmethod
    def _two_each(cls, pairs: list[list[str]]) -> list[list[str]]:
        names = [word.casefold() for pair in pairs for word in pair]
        if any(len(pair) != 2 or not all(re.fullmatch(r"\w+", word) for word in pair) for pair in pairs):
            raise ValueError("each of `pairs` is two single words")
        if len(set(names)) != len(names):
            raise ValueError("a word stands twice in `pairs`")
        return pairs


def counterfactual(batch: pa.RecordBatch, config: Counterfactual, known: Known) -> Judged:
    swap = Swap(config.pairs, gender=config.gender)
    taken: list[int] = []
    columns: dict[str, list[Any]] = {"text": [], "title": [], "description": []}
    languages, splits = batch["language"].to_pylist(), batch["split"].to_pylist()
    for row, (text, name) in enumerate(zip(batch["text"].to_pylist(), batch["id"].to_pylist(), strict=True)):
        english = languages[row] == LANGUAGE or (languages[row] is None and config.unknown_language)
        # What is held out to be measured on stays as it was written.
        if not english or splits[row] == "heldout" or not _chosen(name, config):
            continue
        swapped, count = swap(text)
        if count < config.min_words or swapped == text:
            continue
        taken.append(row)
        columns["text"].append(swapped)
        for other in ("title", "description"):
            value = batch[other][row].as_py()
            columns[other].append(None if value is None else swap(value)[0])
    if not taken:
        return Judged(batch)
    copies = batch.take(pa.array(taken))
    if config.mode == "add":
        # Two such steps may copy the same document, and the second a copy: original and step tell them apart.
        names = zip(*(copies[name].to_pylist() for name in ("source", "path", "id")), columns["text"], strict=True)
        by = known.label or COUNTERFACTUAL.name
        columns["id"] = [document_id(source, f"{path}#{by} of {name}", text) for source, path, name, text in names]
        columns["parent"] = pc.coalesce(copies["parent"], copies["id"]).to_pylist()
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    copies = note_changes(replace_columns(copies, arrays), [["counterfactual"]] * len(taken))
    rows = np.arange(batch.num_rows)
    if config.mode == "replace":
        rows = np.setdiff1d(rows, taken)
    kept = batch.take(pa.array(rows))
    order = np.argsort(np.concatenate([rows, np.array(taken)]), kind="stable")  # a copy right after its original
    table = pa.Table.from_batches([kept, copies], batch.schema).take(pa.array(order)).combine_chunks()
    return Judged(table.to_batches()[0])


class Swap:
    """Exchanges the words of pairs in a text; gives the text and how many words were exchanged."""

    def __init__(self, pairs: list[list[str]], *, gender: bool = True) -> None:
        both = [*(_PAIRS if gender else ()), *((first.casefold(), second.casefold()) for first, second in pairs)]
        self.other = dict(both) | {second: first for first, second in both}
        if gender:
            self.other |= _ONE_WAY
        self.gender = gender
        words = sorted({*self.other, *(("her", "his") if gender else ())}, key=lambda word: (-len(word), word))
        self.pattern = re.compile(rf"(?<![\w'’-])(?:{'|'.join(map(re.escape, words))})(?!\w|-\w)", re.IGNORECASE)

    def __call__(self, text: str) -> tuple[str, int]:
        count = 0
        pieces: list[str] = []
        last = 0
        for match in self.pattern.finditer(text):
            word = match[0]
            new = self._exchanged(text, match)
            if new is None:
                continue
            count += 1
            pieces += [text[last : match.start()], _in_the_case_of(word, new)]
            last = match.end()
        return "".join([*pieces, text[last:]]), count

    def _exchanged(self, text: str, match: re.Match[str]) -> str | None:
        word = match[0].casefold()
        following = text[match.end() : match.end() + 40]
        if self.gender and word == "her":
            return "his" if _before_a_noun(following) else "him"
        if self.gender and word == "his":
            return "her" if _before_a_noun(following) else "hers"
        if word in _TITLES and match[0][0].isupper() and _NAME.match(following):
            return None
        if word == "miss" and not match[0][0].isupper():
            return None  # the verb
        return self.other[word]


def _chosen(name: str, config: Counterfactual) -> bool:
    key = f"counterfactual {config.seed}".encode()
    draw = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), "little")
    return draw < config.share * 2.0**64


def _before_a_noun(following: str) -> bool:
    """Whether "her" or "his" owns what follows: it does unless the clause ends there or goes on with a word that begins
    no noun phrase."""
    found = _NEXT_WORD.match(following)
    return found is not None and found[1].casefold() not in _NO_NOUN


def _in_the_case_of(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


_NEXT_WORD = re.compile(r"""[^\S\n]*\n?[^\S\n]*(?:["“'‘(]\s?)?(\w[\w'’]*)""")
_NAME = re.compile(r"\.?\s+[A-Z]")
_TITLE_WORDS = """
king queen prince princess emperor empress duke duchess lord lady sir madam baron baroness count countess father
mother brother sister uncle aunt mr mrs ms miss saint
"""
_TITLES = frozenset(_TITLE_WORDS.split())
"""Before a name they belong to it."""

_NO_NOUN_WORDS = """
a about above after again against all alone along although always am among an and another any are around as at away be
because been before behind being below beneath beside between beyond both but by can could did do does down during
each either enough even ever every everything far for from further had has have he her here hers herself him himself
his how i if immediately in inside instead into is it its just later may me might more most much must near never nor
not nothing now of off often on once onto or out outside over perhaps quite rather said seriously several shall she
should since so some something sometimes soon still such than that the their them then there therefore these they this
those though through throughout till to today together tomorrow tonight too toward towards twice under unless until
unto up upon us very was we well were what when where whether which while who whom whose why will with within without
would yesterday yet you
"""
_NO_NOUN = frozenset(_NO_NOUN_WORDS.split())
"""Words after which "her" is no possessive ("he told her the truth", "saw her again"); not so back, only and next."""

_PAIR_WORDS = """
he/she himself/herself man/woman men/women boy/girl boys/girls male/female males/females father/mother fathers/mothers
dad/mum daddy/mummy grandfather/grandmother grandfathers/grandmothers grandpa/grandma son/daughter sons/daughters
grandson/granddaughter grandsons/granddaughters brother/sister brothers/sisters husband/wife husbands/wives uncle/aunt
uncles/aunts nephew/niece nephews/nieces bridegroom/bride bridegrooms/brides boyfriend/girlfriend
boyfriends/girlfriends widower/widow widowers/widows stepfather/stepmother stepson/stepdaughter godfather/godmother
king/queen kings/queens prince/princess princes/princesses emperor/empress emperors/empresses duke/duchess
dukes/duchesses baron/baroness sir/madam gentleman/lady gentlemen/ladies mr/mrs actor/actress
actors/actresses waiter/waitress waiters/waitresses steward/stewardess host/hostess hero/heroine heroes/heroines
gods/goddesses monk/nun monks/nuns wizard/witch wizards/witches businessman/businesswoman businessmen/businesswomen
chairman/chairwoman congressman/congresswoman spokesman/spokeswoman policeman/policewoman policemen/policewomen
salesman/saleswoman fireman/firewoman masculine/feminine masculinity/femininity paternal/maternal
fatherhood/motherhood brotherhood/sisterhood fraternity/sorority manly/womanly boyhood/girlhood lad/lass
fatherly/motherly brotherly/sisterly heir/heiress heirs/heiresses landlord/landlady
"""
_PAIRS = tuple((male, female) for male, _, female in (pair.partition("/") for pair in _PAIR_WORDS.split()))
"""Without count, mostly the verb, and God."""

_ONE_WAY = {
    "him": "her",
    "hers": "his",
    "ms": "mr",
    "miss": "mr",
    "mom": "dad",
    "mommy": "daddy",
    "goddess": "god",
    "countess": "count",
    "lord": "lady",
    "lords": "ladies",
}
"""Forms that two words of the other side meet in."""

COUNTERFACTUAL = Step("counterfactual", Counterfactual, counterfactual)
