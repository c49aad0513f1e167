"""Step `licences`: which licences a document may have.

Licences are SPDX expressions (SPDX specification 2.3, annex D): `MIT`, `Apache-2.0 OR MIT`, `GPL-2.0-only WITH
Classpath-exception-2.0`. Of OR one side must be allowed, of AND every side, and an exception only adds permissions.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.step import Drop, Judged, Known, Step
from lmcraft.recipe.stage import StageConfig


class Licences(StageConfig):
    """Removes documents whose licence is not allowed, or is denied, or is not known."""

    allow: list[str] | None = Field(
        None, description="Licences allowed, such as [MIT, CC-BY-*, public-domain]; null: all that are not denied."
    )
    deny: list[str] = Field([], description="Licences denied, such as ['*-NC-*', AGPL-*]; goes before `allow`.")
    unknown: Literal["keep", "remove"] = Field(
        "remove", description="What happens to documents that state no licence (none, NOASSERTION, NONE, unknown)."
    )


def licences(batch: pa.RecordBatch, config: Licences, known: Known) -> Judged:
    stated = batch["licence"].to_pylist()
    unknown = np.array([_is_unknown(licence) for licence in stated], bool)
    allow = None if config.allow is None else tuple(config.allow)
    refused = np.array([not permitted(licence or "", allow, tuple(config.deny)) for licence in stated], bool)
    drops = [Drop("licence not allowed", refused & ~unknown)]
    if config.unknown == "remove":
        drops.append(Drop("licence unknown", unknown))
    return Judged(batch, tuple(drops))


@functools.lru_cache(maxsize=4096)
def permitted(licence: str, allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> bool:
    """Whether an SPDX expression satisfies the patterns (`*` stands for anything, case does not matter).

    What is no expression ("Public domain, see README") is compared as one name, blanks read as hyphens.
    """
    tokens = _TOKEN.findall(licence)
    try:
        if "".join(tokens) != "".join(licence.split()) or tokens.count("(") > _DEEPEST:
            raise ValueError(licence)
        result, rest = _either(tokens, allow, deny)
        if rest:
            raise ValueError(licence)
    except ValueError:
        return _name_permitted(licence.strip(), allow, deny)
    return result


def _either(tokens: list[str], allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> tuple[bool, list[str]]:
    result, tokens = _both(tokens, allow, deny)
    while tokens and tokens[0].upper() == "OR":
        side, tokens = _both(tokens[1:], allow, deny)
        result = result or side
    return result, tokens


def _both(tokens: list[str], allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> tuple[bool, list[str]]:
    result, tokens = _one(tokens, allow, deny)
    while tokens and tokens[0].upper() == "AND":
        side, tokens = _one(tokens[1:], allow, deny)
        result = result and side
    return result, tokens


def _one(tokens: list[str], allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> tuple[bool, list[str]]:
    if not tokens or tokens[0] == ")" or tokens[0].upper() in _OPERATORS:
        raise ValueError("a licence is missing")
    if len(tokens) > 1 and tokens[0] == "(":
        result, tokens = _either(tokens[1:], allow, deny)
        if not tokens or tokens[0] != ")":
            raise ValueError("a bracket is not closed")
        return result, tokens[1:]
    name, tokens = tokens[0], tokens[1:]
    if not tokens or tokens[0].upper() != "WITH":
        return _name_permitted(name, allow, deny), tokens
    if len(tokens) < 2:
        raise ValueError("an exception is missing")
    whole = f"{name} WITH {tokens[1]}"
    allowed = allow is None or _matches(name, allow) or _matches(whole, allow)
    return allowed and not (_matches(name, deny) or _matches(whole, deny)), tokens[2:]


def _name_permitted(name: str, allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> bool:
    return (allow is None or _matches(name, allow)) and not _matches(name, deny)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(_pattern(pattern).fullmatch(_form(name)) for pattern in patterns)


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    # `*-NC-*` is also meant for `CC-BY-NC-4.0`, and `CC-BY-*` for all that begins so; brackets are no wildcards.
    return re.compile(fnmatch.translate(_form(pattern).replace("[", "[[]")))


def _form(name: str) -> str:
    """`CC BY-SA 4.0` and `cc-by-sa-4.0` are the same licence."""
    return "-".join(name.casefold().split())


def _is_unknown(licence: str | None) -> bool:
    return licence is None or licence.strip().casefold() in {"", "noassertion", "none", "unknown", "null"}


_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+:/-]+")
_DEEPEST = 50
"""Brackets of a longer expression are not followed; no real one has as many."""
_OPERATORS = {"OR", "AND", "WITH"}

LICENCES = Step("licences", Licences, licences)
