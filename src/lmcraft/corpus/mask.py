"""Step `mask`: e-mail addresses, phone numbers and IP addresses become <EMAIL>, <PHONE>, <IP>.

Numbers of many kinds look like phone numbers. Those in a form that little else has (+33 1 23 45 67 89,
(212) 555-0123, 01 23 45 67 89) are masked wherever they stand; plain groups of digits (612 345 678 is also how French
and Spanish write six hundred million) only after a word such as "tel." or "phone".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Literal

import pyarrow as pa

from lmcraft.corpus.steps import Judged, LocalStep, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

Kind = Literal["email", "phone", "ip"]


class Mask(StageConfig):
    """Replaces personal data in text, title and description by typed placeholders."""

    kinds: list[Kind] = ["email", "phone", "ip"]


def mask(batch: pa.RecordBatch, config: Mask) -> Judged:
    kinds = sorted(set(config.kinds), key=list(MASKERS).index)
    changes: list[list[str]] = [[] for _ in range(batch.num_rows)]
    columns = {}
    for name in ("text", "title", "description"):
        texts = batch[name].to_pylist()
        for row, text in enumerate(texts):
            if text is None:
                continue
            for kind in kinds:
                masked = MASKERS[kind](texts[row])
                if masked != texts[row]:
                    texts[row] = masked
                    changes[row].append(f"masked {kind}")
        columns[name] = pa.array(texts, pa.string())
    return Judged(note_changes(replace_columns(batch, columns), changes))


def mask_email(text: str) -> str:
    return _EMAIL.sub("<EMAIL>", text) if "@" in text else text


def mask_ip(text: str) -> str:
    text = _IPV4.sub(lambda match: "<IP>" if _is_ipv4(match, text) else match[0], text) if "." in text else text
    return _IPV6.sub(lambda match: "<IP>" if _is_ipv6(match[0]) else match[0], text) if ":" in text else text


def mask_phone(text: str) -> str:
    if not _ENOUGH_DIGITS.search(text):
        return text
    text = _PHONE.sub(lambda match: "<PHONE>" if _is_phone(match, text) else match[0], text)
    return _CUED_PHONE.sub(lambda match: f"{match[1]}<PHONE>" if _is_cued_phone(match[2]) else match[0], text)


_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")

_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_VERSION_CUE = re.compile(
    r"(?:\bv|version|versión|release|build|firmware|kernel|section|sección|chapter|chapitre|capítulo|article|artículo"
    r"|figure|table|§)[\s.:nº°]{0,4}$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")

_SEPARATOR = r"[ \u00a0\u202f.\-–]"
_ENOUGH_DIGITS = re.compile(rf"\d(?:(?:{_SEPARATOR}|[()/]){{0,2}}\d){{6}}")
_INTERNATIONAL = (
    rf"\+[1-9]\d{{0,3}}{_SEPARATOR}?(?:\(\d{{1,4}}\){_SEPARATOR}?)?\d{{1,5}}(?:{_SEPARATOR}?\d{{2,5}}){{1,4}}"
)
_NORTH_AMERICAN = rf"(?:(?:00)?1{_SEPARATOR})?(?:\(\d{{3}}\){_SEPARATOR}?|\d{{3}}[.\-])\d{{3}}[.\-]\d{{4}}"
# National numbers in many countries: a leading zero, which no amount of money or people has, then groups.
_GROUP = r"[ \u00a0\u202f.\-]"
_NATIONAL = (
    rf"(?:\(0\d{{1,4}}\) ?|0[1-9]\d{{0,3}}(?P<gap>{_GROUP}))\d{{2,4}}(?:(?(gap)(?P=gap)|{_GROUP})\d{{2,4}}){{1,3}}"
)
_NATIONAL_TWO = r"0[1-9]\d{0,3}[ \-]\d{6,8}"
_PHONE = re.compile(
    rf"(?<![\w+.,/=\-])(?:{_INTERNATIONAL}|{_NORTH_AMERICAN}|{_NATIONAL}|{_NATIONAL_TWO})(?:\s?(?:x|ext\.?)\s?\d{{2,6}})?"
    r"(?![\w+/=]|[.,\-–]\d|[ \u00a0\u202f]\d)"
)
_CUED_PHONE = re.compile(
    r"((?<!\w)(?:t[eé]l(?:[eé]f(?:ono?)?|[eé]phon(?:e|ez)?)?|telephone|phone|mobile|m[oó]vil|portable|cell|fax|whatsapp"
    r"|call|llam[ae]|appel(?:ez|er)|hotline)(?:\s?(?:number|no|nr|n°|nº|us|me|at|on|al|le|au|:|\.|=|-|–)){0,4}\s?[:.]?\s?)"
    rf"(\(?\+?\d(?:(?:{_SEPARATOR}|[()/]){{0,2}}\d){{6,14}})(?!\w)",
    re.IGNORECASE,
)


def _is_ipv4(match: re.Match[str], text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return False
    # Not a person's: this machine, "any", net masks. Not an address: a version or a section in the same form, which
    # four numbers below ten nearly always are.
    if address.is_loopback or address.is_unspecified or match[0].startswith("255.") or len(match[0]) == len("1.2.3.4"):
        return False
    return not _VERSION_CUE.search(text, max(0, match.start() - 16), match.start())


def _is_ipv6(candidate: str) -> bool:
    groups = [group for group in candidate.split(":") if group]
    # `ab::cd` is also C++ and `12:30:45` a time: ask for three groups and a digit.
    if len(groups) < 3 or not any(character.isdigit() for character in candidate):
        return False
    try:
        return not ipaddress.IPv6Address(candidate).is_loopback
    except ValueError:
        return False


def _is_phone(match: re.Match[str], text: str) -> bool:
    if match[0].startswith("+"):
        groups = re.findall(r"\d+", match[0])
        if all(len(group) == 3 for group in groups[1:]) and groups[-1] == "000":
            return False  # +12 500 000: an amount
        return _enough(match[0], 8, 21)  # 15 and an extension
    if re.fullmatch(r"\d{3}-\d\d-\d{4}", match[0]):  # a social security number of the United States
        return False
    return _enough(match[0], 9, 19) and not _CODE_CUE.search(text, max(0, match.start() - 16), match.start())


def _is_cued_phone(number: str) -> bool:
    return _enough(number, 7, 15) and not _DATE.fullmatch(number)


_DATE = re.compile(r"\(?(?:[12]\d{3}\s?[-–/]\s?[12]\d{3}|[12]\d{3}([-./])\d\d?\1\d\d?|\d\d?([-./])\d\d?\2[12]\d{3})")
_CODE_CUE = re.compile(
    r"(?:isbn|issn|doi|oclc|pmid|ean|siren|siret|isni|viaf|arxiv)[\s:.-]{0,3}(?:1[03])?[\s:.-]{0,3}$", re.I
)


def _enough(text: str, least: int, most: int) -> bool:
    return least <= sum(character.isdigit() for character in text) <= most


MASKERS: dict[str, Callable[[str], str]] = {"email": mask_email, "ip": mask_ip, "phone": mask_phone}
"""Applied in this order: an address may hold digits that look like a phone number."""

MASK = LocalStep("mask", Mask, mask)
