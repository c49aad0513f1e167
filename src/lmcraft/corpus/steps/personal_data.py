"""Where personal data stands in a text: spans by kind, found by form, check digit and the words before.

Numbers of many kinds look like phone numbers. Those in a form that little else has (+33 1 23 45 67 89,
(212) 555-0123, 01 23 45 67 89) count wherever they stand; plain groups of digits (612 345 678 is also how French
and Spanish write six hundred million) only after a word such as "tel." or "phone". In the same way an identity number
counts by itself if its own rules let few others through, and else only after its name.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from lmcraft.corpus.steps import personal_data_numbers as numbers
from lmcraft.corpus.steps import personal_data_scan as scan
from lmcraft.corpus.steps.personal_data_secrets import find_secrets

Kind = Literal["secret", "email", "iban", "card", "national_id", "ip", "mac", "wallet", "phone", "name", "address"]

KINDS: tuple[Kind, ...] = (
    *("secret", "email", "iban", "card", "national_id", "ip", "mac", "wallet", "phone", "name", "address"),
)
"""In order of precedence: of two spans that overlap, that of the earlier kind stands."""


CUE_REACH = 60
"""Characters before a number in which its name is looked for."""


class Span(NamedTuple):
    """Characters `start` to `end` of a text are personal data of this kind."""

    start: int
    end: int
    kind: Kind


def find(text: str, kinds: Iterable[Kind]) -> list[Span]:
    """Spans of the kinds that need no model, in order, without overlaps."""
    chosen = set(kinds)
    return without_overlaps(
        Span(start, end, kind)
        for kind in KINDS
        if kind in chosen and kind in FINDERS
        for start, end in FINDERS[kind](text)
    )


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Spans in order of place; where two overlap, the one that came first in `KINDS` stands."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (KINDS.index(span.kind), span.start)):
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)


Places = Iterator[tuple[int, int]]


def _cued(cue: re.Pattern[str] | None, text: str, start: int) -> bool:
    return cue is None or cue.search(text[max(0, start - CUE_REACH) : start]) is not None


# E-mail, IP, MAC.

_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?:[^\W\d_]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_VERSION_CUE = re.compile(
    r"(?:\bv|version|versión|release|build|firmware|kernel|section|sección|chapter|chapitre|capítulo|article|artículo"
    r"|figure|table|§)[\s.:nº°]{0,4}$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}(?:(:|-)[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])")


def find_email(text: str) -> Places:
    return (match.span() for match in _EMAIL.finditer(text)) if "@" in text else iter(())


def find_ip(text: str) -> Places:
    if "." in text:
        yield from (match.span() for match in _IPV4.finditer(text) if _is_ipv4(match, text))
    if ":" in text:
        yield from (match.span() for match in _IPV6.finditer(text) if _is_ipv6(match[0]))


def find_mac(text: str) -> Places:
    for match in _MAC.finditer(text):
        if len(set(numbers.bare(match[0]))) > 1:  # not 00:00:…, ff:ff:…
            yield match.span()


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


# Accounts and cards.

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z]{2}\d{2}(?:[ \u00a0-]?[A-Z0-9]){11,30}|[a-z]{2}\d{2}[a-z0-9]{11,30})(?![A-Za-z0-9])"
)
_IBAN_CUE = re.compile(r"\biban\b[^\n]{0,16}$", re.IGNORECASE)
_CARD_CUE = re.compile(
    r"\b(?:cards?|carte|tarjeta|karte|kreditkarte|visa|mastercard|maestro)\b[^\d\n]{0,24}$",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?<![\w.,/+=-])\d(?:[ \u00a0-]?\d){11,18}(?![\w]|[.,-]\d|[ \u00a0]\d)")
_GAP = r"[ \u00a0.\-\u2010\u2011]"
_PRINTED_CARD = re.compile(
    rf"(?=\d{{4}})(?<![\w.,/+=\-])(?<!\d{_GAP})(?:\d{{4}}({_GAP})\d{{4}}\1\d{{4}}\1\d{{4}}|\d{{4}}({_GAP})\d{{6}}\2\d{{4,5}}|\d{{15,16}})"
    rf"(?![\w]|[.,\-\u2010\u2011/]\d)(?!{_GAP}\d{{4}}(?![\d/]))"
)
_EXPIRY = re.compile(
    r"[^\w\n]{0,3}(?:(?:exp\w*|valid|gültig|validez)[^\d\n]{0,16})?(?:0[1-9]|1[0-2])[/-](?:20)?\d\d(?!\d)", re.I
)
_WALLET = re.compile(
    r"(?<![\w/])(?:bc1[02-9ac-hj-np-z]{11,71}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})(?!\w)"
)


def find_iban(text: str) -> Places:
    for match in _IBAN.finditer(text):
        if match[0][0].islower() and not _cued(_IBAN_CUE, text, match.start()):
            continue
        # The words after it may be in capitals too: the country says where it ends.
        wanted = numbers.IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        end = _end_of_signs(match, wanted)
        if end is not None and numbers.is_iban(numbers.bare(text[match.start() : end])):
            yield match.start(), end


def _end_of_signs(match: re.Match[str], wanted: int) -> int | None:
    seen = 0
    for index, sign in enumerate(match[0]):
        seen += sign.isalnum()
        if seen == wanted:
            following = match[0][index + 1 : index + 2]
            return None if following.isalnum() else match.start() + index + 1
    return None


def find_card(text: str) -> Places:
    for match in _CARD.finditer(text):
        groups = re.split(r"[ \u00a0-]", match[0])
        # Digits of a card stand alone, or in fours, or as American Express and Diners print them.
        sizes = [len(group) for group in groups]
        printed = len(sizes) == 1 or (set(sizes[:-1]) == {4} and sizes[-1] <= 4) or sizes in ([4, 6, 5], [4, 6, 4])
        digits = numbers.bare(match[0])
        if printed and (numbers.is_card(digits) or (numbers.luhn(digits) and _cued(_CARD_CUE, text, match.start()))):
            yield match.span()
    # With other gaps, and before another number, as in "4111 1111 1111 1111 12/27": all gaps alike, or a date after it.
    for match in _PRINTED_CARD.finditer(text):
        digits = numbers.bare(match[0])
        apart = len(digits) < len(match[0])
        if not apart and not _EXPIRY.match(text, match.end()) and not _cued(_CARD_CUE, text, match.start()):
            continue
        if numbers.is_card(digits) or (numbers.luhn(digits) and _cued(_CARD_CUE, text, match.start())):
            yield match.span()


def find_wallet(text: str) -> Places:
    for match in _WALLET.finditer(text):
        if match[0][0] in "0b" or _is_base58_check(match[0]):
            yield match.span()


def _is_base58_check(address: str) -> bool:
    """Bitcoin's base58: the last four bytes are the begin of a double SHA-256 of the others."""
    import hashlib

    value = 0
    for sign in address:
        value = value * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(sign)
    if value >= 1 << 200:
        return False
    data = value.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()[:4] == data[21:]


# Identity numbers.


class Identity(NamedTuple):
    """An identity number: its form and the rule that its bare signs obey.

    `cue`: what must stand before it, if anything must; one of `words` is in every such cue.
    """

    form: re.Pattern[str]
    rule: Callable[[str], bool]
    cue: re.Pattern[str] | None = None
    words: tuple[str, ...] = ()


def _free(form: str, rule: Callable[[str], bool]) -> Identity:
    """A number whose rule lets so few others through that it needs no name before it."""
    return Identity(re.compile(rf"(?<![\w.,/+=-])(?:{form})(?![\w]|[.,\-/]\d)"), rule)


def _named(form: str, rule: Callable[[str], bool], words: tuple[str, ...], cue: str) -> Identity:
    """A number that counts only after its name."""
    before = re.compile(rf"\b(?:{cue})\b[^\d\n]{{0,24}}$", re.IGNORECASE)
    return Identity(_free(form, rule).form, rule, before, words)


IDENTITIES: dict[str, Identity] = {
    "us": _free(r"(?<![)\]] )\d{3}-\d{2}-\d{4}", numbers.is_us_social_security),
    "us_named": _named(
        r"\d{3} \d{2} \d{4}|\d{9}",
        numbers.is_us_social_security,
        ("ssn", "social"),
        r"ssn|social\s+security(?:\s+(?:number|no\.?|#))?",
    ),
    "gb": _named(
        r"\d{3}[ -]?\d{3}[ -]?\d{4}", numbers.is_nhs, ("nhs", "national"), r"nhs|national\s+health(?:\s+service)?"
    ),
    "fr": _free(
        r"[123478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3}(?:[ -]| / )?\d{2}",
        numbers.is_nir,
    ),
    "es": _free(r"(?:\d{8}|\d{2}\.\d{3}\.\d{3}|[XYZ]-?\d{7})[ -]?[A-HJ-NP-TV-Z]", numbers.is_dni),
    "de": _named(
        r"\d{2} ?\d{3} ?\d{3} ?\d{3}",
        numbers.is_german_tax_id,
        ("steuer", "id", "tin"),
        r"steuer[- ]?id\w*|steuerliche\s+identifikationsnummer|steuernummer|id-?nr\.?|tin|tax\s+id\w*",
    ),
    "it": _free(r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", numbers.is_codice_fiscale),
    "in": _named(
        r"\d{4}[ -]?\d{4}[ -]?\d{4}", numbers.is_aadhaar, ("aadha", "uid", "आधार"), r"aadhaa?r|uidai|uid|आधार"
    ),
    "nl": _named(
        r"\d{3}[. ]?\d{3}[. ]?\d{3}",
        numbers.is_bsn,
        ("bsn", "burgerservicenummer", "sofi"),
        r"bsn|burgerservicenummer|sofi-?nummer",
    ),
    "pl": _named(r"\d{11}", numbers.is_pesel, ("pesel",), "pesel"),
    "br": _free(r"\d{3}\.\d{3}\.\d{3}-\d{2}", numbers.is_cpf),
    "br_named": _named(r"\d{11}", numbers.is_cpf, ("cpf",), "cpf"),
    "cn": _free(r"[1-9]\d{16}[\dXx]", numbers.is_chinese_resident),
    "ca": _named(
        r"\d{3}[ -]?\d{3}[ -]?\d{3}",
        numbers.is_canadian_insurance,
        ("sin", "social", "nas"),
        r"sin|social\s+insurance(?:\s+(?:number|no\.?))?|nas",
    ),
    "se": _named(
        r"(?:19|20)?\d{6}[-+]?\d{4}",
        lambda signs: numbers.is_swedish(signs[-10:]),
        ("personn", "samordningsnummer"),
        r"personn(?:umme)?r|samordningsnummer",
    ),
}
"""By country (ISO 3166)."""

_FREE = re.compile("|".join(f"(?P<{name}>{one.form.pattern})" for name, one in IDENTITIES.items() if one.cue is None))
_NAMED = [one for one in IDENTITIES.values() if one.cue is not None]


def find_national_id(text: str) -> Places:
    for match in _FREE.finditer(text):
        if IDENTITIES[str(match.lastgroup)].rule(numbers.bare(match[0])):
            yield match.span()
    lower = text.lower()
    for identity in _NAMED:
        if not any(word in lower for word in identity.words):
            continue
        for match in identity.form.finditer(text):
            if _cued(identity.cue, text, match.start()) and identity.rule(numbers.bare(match[0])):
                yield match.span()


# Phone numbers.

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
# An area code in brackets, and two groups joined by a hyphen; pairs joined by hyphens (four or five of them).
_BRACKETED = r"\(\d{2,3}\) ?\d{3,5}-\d{3,5}"
_PAIRS = r"\d{2}(?:-\d{2}){3,4}"
_FORM = (
    rf"(?<![\w+./=\-])(?<!\d,)(?:{_INTERNATIONAL}|{_NORTH_AMERICAN}|{_NATIONAL}|{_NATIONAL_TWO}|{_BRACKETED}|{_PAIRS})"
)
_PHONE = re.compile(
    rf"{_FORM}"
    r"(?:\s?(?:x|ext\.?)\s?\d{2,6})?(?![\w+/=]|[.,\-–]\d|[ \u00a0\u202f]\d)"
)
_PHONE_BEFORE = re.compile(rf"{_FORM}(?=[ \u00a0\u202f]\Z)")
"""The number before a number, with a blank between: by itself it could be a part of a longer one."""
_NATIONAL_ROW = re.compile(
    r"(?=0[1-9])(?<![\w+./=\-])(?<!\d[, \u00a0\u202f])0[1-9]\d{0,3}(?:[ \u00a0\u202f]\d{2,5}){3,24}"
    r"(?![\w]|[.,\-–]\d|[ \u00a0\u202f]\d)"
)
_DIGITS = rf"\(?\+?\d(?:(?:{_SEPARATOR}|[()/]){{0,2}}\d){{6,14}}"
_CUED_PHONE = re.compile(
    r"(?<!\w)(?:t[eé]l(?:[eé]f(?:ono?)?|[eé]phon(?:e|ez)?)?|telephone|phone|mobile|m[oó]vil|portable|cell|fax|whatsapp"
    r"|call|dial|sms|text|answering|messages?|llam[ae]|appel(?:ez|er)|hotline|(?:desk|office|home|work|direct)(?=:))"
    r"(?:\s?(?:number|is|no|nr|n°|nº|us|me|him|her|them|to|at|on|al|le|au|:|\.|=|-|–)){0,4}\s?[:.]?\s?"
    rf"({_DIGITS})(?!\w)",
    re.IGNORECASE,
)
_LABELLED_PHONE = re.compile(
    rf"(?<![\w+.,/=\-])({_DIGITS})[ \-]\(?(?:office|fax|home|mobile|cell|desk|direct)\b\)?(?=\s*(?:[\n,;.\\]|$))",
    re.IGNORECASE,
)


def find_phone(text: str) -> Places:
    if not _ENOUGH_DIGITS.search(text):
        return
    for match in _PHONE.finditer(text):
        found: re.Match[str] | None = match
        while found is not None and _is_phone(found, text):
            yield found.span()
            found = _PHONE_BEFORE.search(text, max(0, found.start() - 40), found.start())
    for row in _NATIONAL_ROW.finditer(text):
        yield from _row_of_numbers(row)
    for cued in (_CUED_PHONE, _LABELLED_PHONE):
        yield from (match.span(1) for match in cued.finditer(text) if _is_cued_phone(match[1]))


def _row_of_numbers(row: re.Match[str]) -> Places:
    """Several national numbers with a blank between: groups of the same lengths again and again, each from a zero."""
    groups = [group.span() for group in re.compile(r"\d+").finditer(row.string, row.start(), row.end())]
    sizes = [end - start for start, end in groups]
    if _counts_up(row[0]):
        return
    for many in range(len(groups) // 2, 1, -1):
        each, left = divmod(len(groups), many)
        firsts = groups[::each]
        if left or sizes != sizes[:each] * many or not 9 <= sum(sizes[:each]) <= 12:
            continue
        if all(row.string[start] == "0" and row.string[start + 1] != "0" for start, _ in firsts):
            yield from ((start, groups[index * each + each - 1][1]) for index, (start, _) in enumerate(firsts))
            return


def _is_phone(match: re.Match[str], text: str) -> bool:
    if match[0].startswith("+"):
        groups = re.findall(r"\d+", match[0])
        if all(len(group) == 3 for group in groups[1:]) and groups[-1] == "000":
            return False  # +12 500 000: an amount
        return _enough(match[0], 8, 21)  # 15 and an extension
    if re.fullmatch(r"\d{3}-\d\d-\d{4}", match[0]):  # a social security number of the United States
        return False
    least = 8 if match[0][0] == "(" or match[0].count("-") > 2 else 9  # else 01.02.2003 would be one
    return (
        _enough(match[0], least, 19)
        and not _counts_up(match[0])
        and not _CODE_CUE.search(text, max(0, match.start() - 16), match.start())
    )


def _counts_up(text: str) -> bool:
    """01 02 03 04: the numbers of pages or chapters."""
    values = [int(group) for group in re.findall(r"\d+", text)]
    return len(values) > 3 and all(right - left == 1 for left, right in itertools.pairwise(values))


def _is_cued_phone(number: str) -> bool:
    return _enough(number, 7, 15) and not _DATE.fullmatch(number) and not _AMOUNT.fullmatch(number)


_DATE = re.compile(r"\(?(?:[12]\d{3}\s?[-–/]\s?[12]\d{3}|[12]\d{3}([-./])\d\d?\1\d\d?|\d\d?([-./])\d\d?\2[12]\d{3})")
_AMOUNT = re.compile(r"\d{1,3}(?:[ \u00a0\u202f.]\d{3})*[ \u00a0\u202f.]000")
_CODE_CUE = re.compile(
    r"(?:isbn|issn|doi|oclc|pmid|ean|siren|siret|isni|viaf|arxiv)[\s:.-]{0,3}(?:1[03])?[\s:.-]{0,3}$", re.I
)


def _enough(text: str, least: int, most: int) -> bool:
    return least <= sum(character.isdigit() for character in text) <= most


ANCHORS: dict[Kind, int] = {
    "secret": scan.KEY | scan.AT | scan.LONG_WORD,
    "email": scan.AT,
    "iban": scan.DIGITS | scan.LONG_WORD,
    "card": scan.DIGITS,
    "national_id": scan.DIGITS,
    "ip": scan.POINTS | scan.PAIRS,
    "mac": scan.PAIRS,
    "wallet": scan.LONG_WORD,
    "phone": scan.DIGITS,
    "name": 0,
    "address": 0,
}
"""The anchors without which a text holds nothing of a kind."""

FINDERS: dict[Kind, Callable[[str], Iterable[tuple[int, int]]]] = {
    "secret": find_secrets,
    "email": find_email,
    "iban": find_iban,
    "card": find_card,
    "national_id": find_national_id,
    "ip": find_ip,
    "mac": find_mac,
    "wallet": find_wallet,
    "phone": find_phone,
}


def replaced(text: str, spans: Sequence[Span], placeholder: Callable[[Span], str]) -> str:
    """The text with each span (in order, without overlaps) exchanged for its placeholder."""
    parts = []
    end = 0
    for span in spans:
        parts += [text[end : span.start], placeholder(span)]
        end = span.end
    return "".join([*parts, text[end:]])
