"""Bytes to text: by byte order mark, by what the user or the file says, or by a guess that is sure of itself."""

from __future__ import annotations

import codecs
import re

from lmcraft.corpus.readers.records import Fault, Reading, excerpt, invalid_utf8
from lmcraft.recipe.stage import UserError

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

GUESS_BYTES = 64_000
"""How much of a file is looked at to guess its encoding."""

LEGACY = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "iso8859_2", "iso8859_7"),
    *("koi8_r", "mac_roman", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
"""Encodings that texts are found in; asked about all that Python has, a detector finds exotic ones everywhere."""

LEAST_NON_ASCII = 32
"""Fewer bytes above 127 than this decide nothing: one byte E9 is `é`, `щ` or `ι`."""


def decode(content: bytes, place: str, reading: Reading) -> tuple[str, str | None] | Fault:
    """The text of a whole file and a note when it was not UTF-8; a Fault when what it is cannot be told."""
    for mark, name in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _decode_as(name, content, place, noted=name != "utf-8-sig")
    if reading.encoding not in ("auto", "utf-8"):
        return _decode_as(known_encoding(reading.encoding), content, place)
    if (nul := content.find(b"\0")) >= 0:
        detail = f"NUL byte at offset {nul}"
        return Fault(place, "binary file", len(content), excerpt(content), value=float(nul), detail=detail)
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError as error:
        if reading.encoding == "auto" and (found := guessed(content)) is not None:
            return _decode_as(found, content, place)
        return invalid_utf8(place, content, 0, error)


def guessed(content: bytes) -> str | None:
    """The encoding of text that is not UTF-8, when two detectors of different kinds agree; else None.

    The one (uchardet's) looks at frequencies of characters, the other (charset-normalizer) at mess and sense of the
    text, and must have the first one's answer among its best. Either alone is wrong too often to be trusted with a
    document, also where charset-normalizer is sure of itself (docs/log.md). Text with valid UTF-8 sequences beside the
    bad bytes is damaged UTF-8, whatever they say.
    """
    from charset_normalizer import from_bytes
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    if len(content) - _ascii_bytes(content) < LEAST_NON_ASCII:
        return None
    replaced = content.decode("utf-8", "replace")
    valid = len(re.sub(r"[\x00-\x7f\ufffd]+", "", replaced))
    if valid > 0.1 * replaced.count("\ufffd"):
        return None
    sample = _dense_part(content)
    likely = list(from_bytes(sample, threshold=0.2, cp_isolation=list(LEGACY)))
    by_frequency = detect_encoding(sample)
    if not likely or not by_frequency:
        return None
    name = str(map_encoding_to_html5(by_frequency, fallback_utf8=True))
    try:
        text = sample.decode(name)
        content.decode(name)
    except (UnicodeDecodeError, LookupError):
        return None
    least_mess, most_sense = min(found.chaos for found in likely), max(found.coherence for found in likely)
    near = [x for x in likely if x.chaos <= least_mess + 0.05 and x.coherence >= 0.8 * most_sense]
    return name if any(sample.decode(found.encoding) == text for found in near) else None


def known_encoding(name: str) -> str:
    """Python's name of an encoding. Raises UserError for one that it does not know or that is none of text."""
    found: codecs.CodecInfo | None
    try:
        found = codecs.lookup(name)
    except LookupError:
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True):
        raise UserError(f"{name!r} is no known encoding; give a name such as utf-8, cp1252, gb18030 or `auto`")
    return found.name


def _decode_as(name: str, content: bytes, place: str, noted: bool = True) -> tuple[str, str | None] | Fault:
    try:
        return content.decode(name), f"decoded from {name}" if noted and name != "utf-8" else None
    except UnicodeError as error:
        if name == "utf-8" and isinstance(error, UnicodeDecodeError):
            return invalid_utf8(place, content, 0, error)
        start = getattr(error, "start", 0)
        detail = f"not {name}: byte at offset {start}"
        return Fault(place, "undecodable text", len(content), excerpt(content[start:]), float(start), detail=detail)


def _ascii_bytes(content: bytes) -> int:
    return len(content.translate(None, bytes(range(128, 256))))


def _dense_part(content: bytes) -> bytes:
    """A part with many bytes that tell encodings apart, cut at line ends so that no character is cut."""
    if len(content) <= GUESS_BYTES:
        return content
    starts = range(0, len(content) - GUESS_BYTES + 1, max(GUESS_BYTES, len(content) // 16))
    best = max(starts, key=lambda start: GUESS_BYTES - _ascii_bytes(content[start : start + GUESS_BYTES]))
    part = content[best : best + GUESS_BYTES]
    first, last = part.find(b"\n") + 1, part.rfind(b"\n") + 1
    return part[first:last] if last > first else part
