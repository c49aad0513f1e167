"""The compiled pass behind `signals`: counts of one document after another, straight from Arrow's bytes.

A *piece* is what the repetition rules count in: a run of characters between white space, or, in a script written
without spaces, one character with its marks. A line ends at a newline; blank lines part paragraphs and count nowhere.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import Any

import numba
import numpy as np

from lmcraft.corpus.words import IGNORED, MARK, OTHER, SINGLE, classes, decode, splitmix

COUNTS = (
    "characters",
    "letters",
    "uppercase",
    "digits",
    "marks",
    "spaces",
    "controls",
    "code_marks",
    "unspaced",
    "unended",
    "newlines",
    "tokens",
    "words",
    "spaced_words",
    "word_letters",
    "letter_tokens",
    "hashes",
    "ellipses",
    "curly_brackets",
    "lorem_ipsums",
    "stop_words",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "punctuated_lines",
    "short_lines",
    "code_lines",
    "line_characters",
    "paragraphs",
    "sentences",
    "c4_lines",
    "c4_sentences",
    "c4_curly_brackets",
    "c4_lorem_ipsums",
    "repeated_lines",
    "repeated_line_characters",
    "repeated_paragraphs",
    "repeated_paragraph_characters",
    "top_2_gram",
    "top_3_gram",
    "top_4_gram",
    "repeated_5_grams",
    "repeated_6_grams",
    "repeated_7_grams",
    "repeated_8_grams",
    "repeated_9_grams",
    "repeated_10_grams",
)
"""What `count` fills in, column by column: the order of its last lines."""
_AT = {name: column for column, name in enumerate(COUNTS)}

KEPT, UNPUNCTUATED, FEW_WORDS, JAVASCRIPT, POLICY, LONG_WORD = range(6)
"""What C4 does with a line."""

STOP_SLOTS = 64
STOP_LONGEST = 24
"""Bytes of the longest stop word looked for."""

LETTER_BIT, _UPPER, _DIGIT, MARK_BIT, SPACE_BIT, _UNSPACED, _WIDE = 1, 2, 4, 8, 16, 32, 64
_TERMINAL, _CLOSER, _CONTROL, CODE_BIT, _QUOTE = 128, 256, 512, 1024, 2048
_VOWEL, _UNENDED = 4096, 8192
_IN_WORD = LETTER_BIT | _DIGIT | MARK_BIT

SHORT_LINE = 30
"""FineWeb calls a line of so many characters short; here in columns, so that a Chinese character counts for two."""
C4_MIN_WORDS = 5
C4_LONGEST_WORD = 1000
UNSPACED_SHARE = 0.3
"""With more characters of scripts without spaces among its letters, a text is measured in characters."""
_PER_WORD_WIDE, _PER_WORD_NARROW = 2, 4
"""Characters that stand for a word: of Chinese and Japanese, of Thai, Lao, Khmer, Burmese, Tibetan (rough means)."""

# Sentence_Terminal of Unicode 16, PropList.txt, without the two that are no ends of sentences in Latin text (U+2024,
# U+FE52: leader dots).
_TERMINALS = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 "
    "1803 1809 1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 "
    "2CF9-2CFB 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F "
    "AAF0-AAF1 ABEB FE12 FE15-FE16 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 11047-11048 110BE-110C1 "
    "11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 "
    "11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 16A6E-16A6F 16AF5 16B37-16B38 "
    # Not in the property, but where their scripts end a sentence: Greek and Tibetan marks.
    "16B44 16E98 1BC9F 1DA88 37E F0D-F12 17DA"
)
_MORE_UNSPACED = (
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0xA000, 0xA4CF),  # Yi
    (0xA500, 0xA63F),  # Vai
    (0xA980, 0xA9DF),  # Javanese
)
"""Written without spaces between words, besides `words.SINGLE`."""
_UNENDED_SCRIPTS = range(0x0E00, 0x0F00)
"""Thai and Lao: no mark ends a sentence."""
_WORDSPACE = 0x1361
"""Ethiopic: parts words; two of them end a sentence."""


@functools.cache
def flags() -> np.ndarray:
    """What each code point is: bits in a uint16 array of shape (0x110000,)."""
    kinds = classes()
    table = np.zeros(sys.maxunicode + 1, np.uint16)
    table[kinds == IGNORED] = MARK_BIT
    for code in np.flatnonzero((kinds != OTHER) & (kinds != IGNORED)).tolist():
        character = chr(code)
        bits = LETTER_BIT if character.isalpha() else 0
        if kinds[code] == MARK:
            # A vowel sign of an Indic script is as much of a word as the vowel letter of another.
            bits = MARK_BIT | (_VOWEL if "VOWEL SIGN" in unicodedata.name(character, "") else 0)
        elif not bits:
            bits = _DIGIT
        if character.isupper():
            bits |= _UPPER
        if kinds[code] == SINGLE:
            bits |= _UNSPACED
        if unicodedata.east_asian_width(character) in "WF":
            bits |= _WIDE
        table[code] = bits
    for first, last in _MORE_UNSPACED:
        part = table[first : last + 1]
        part[(part & LETTER_BIT) > 0] |= _UNSPACED
        if first in (0xA000, 0xA500):
            part[:] |= _WIDE
    table[_UNENDED_SCRIPTS.start : _UNENDED_SCRIPTS.stop] |= _UNENDED
    for code in range(0x3100):
        if chr(code).isspace():
            table[code] = SPACE_BIT
        elif unicodedata.category(chr(code)) in ("Pe", "Pf", "Pi"):
            table[code] |= _CLOSER
    for code in (*range(9), *range(14, 28), *range(127, 160), 0xFFFD):
        if not table[code] & SPACE_BIT:
            table[code] = _CONTROL
    table[0xE000:0xF900] = _CONTROL
    for part_of in _TERMINALS.split():
        ends = [int(end, 16) for end in part_of.split("-")]
        table[ends[0] : ends[-1] + 1] |= _TERMINAL
    for character in "\"'”’»«“‘」』）)]":
        table[ord(character)] |= _CLOSER
    for character in '"”»“«」』':
        table[ord(character)] |= _QUOTE
    for character in "{}[];=<>_\\&+":
        table[ord(character)] |= CODE_BIT
    table[_WORDSPACE] = SPACE_BIT
    table.flags.writeable = False
    return table


@numba.njit(inline="always")
def _starts(data: np.ndarray, place: int, stop: int, phrase: np.ndarray) -> bool:
    """Whether a phrase (lower case ASCII) stands at a place, whatever its case."""
    if place + len(phrase) > stop:
        return False
    for index in range(len(phrase)):
        byte = data[place + index]
        if 65 <= byte <= 90:
            byte |= 32
        if byte != phrase[index]:
            return False
    return True


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


_JAVASCRIPT, _LOREM = _bytes("javascript"), _bytes("lorem ipsum")
_TERMS, _PRIVACY, _COOKIE = _bytes("terms of use"), _bytes("privacy policy"), _bytes("cookie policy")
_USES, _OF, _USE = _bytes("uses cookies"), _bytes("use of cookies"), _bytes("use cookies")
ANCHORS = np.zeros(256, np.bool_)
ANCHORS[list(b"jkvfpJKVFP")] = True
_EDIT, _NEEDED = _bytes("[edit]"), _bytes("[citation needed]")


@numba.njit(cache=True, nogil=True)
def phrases(data: np.ndarray, begin: int, end: int, anchors: np.ndarray) -> int:
    """Which of C4's phrases a line holds, in any case: the sum of 1 (javascript), 2 (policies), 4 (lorem ipsum).

    Looks only where a rare letter of a phrase stands (`anchors`), which few bytes of a text are.
    """
    found = 0
    for place in range(begin, end):
        if not anchors[data[place]]:
            continue
        letter = data[place] | 32
        if letter == 106:
            found |= _starts(data, place, end, _JAVASCRIPT)
        elif letter == 107:
            if (
                (place >= begin + 3 and _starts(data, place - 3, end, _COOKIE))
                or (place >= begin + 7 and _starts(data, place - 7, end, _USE))
                or (place >= begin + 8 and _starts(data, place - 8, end, _USES))
                or (place >= begin + 10 and _starts(data, place - 10, end, _OF))
            ):
                found |= 2
        elif letter == 118:
            if place >= begin + 3 and _starts(data, place - 3, end, _PRIVACY):
                found |= 2
        elif letter == 102:
            if place >= begin + 7 and _starts(data, place - 7, end, _TERMS):
                found |= 2
        elif letter == 112 and place >= begin + 7 and _starts(data, place - 7, end, _LOREM):
            found |= 4
    return found


@numba.njit(cache=True, nogil=True)
def citation_begin(data: np.ndarray, begin: int, end: int) -> int:
    """Where the citation mark ([12], [edit], [citation needed]) begins that ends a text at `end`, else `end`."""
    if end <= begin or data[end - 1] != 93:
        return end
    place = end - 2
    while place >= begin and 48 <= data[place] <= 57:
        place -= 1
    if place >= begin and data[place] == 91:
        return place
    if end - begin >= len(_EDIT) and _starts(data, end - len(_EDIT), end, _EDIT):
        return end - len(_EDIT)
    if end - begin >= len(_NEEDED) and _starts(data, end - len(_NEEDED), end, _NEEDED):
        return end - len(_NEEDED)
    return end


@numba.njit(cache=True, nogil=True)
def ends_as_c4_wants(data: np.ndarray, begin: int, end: int, table: np.ndarray) -> bool:
    """Whether a line (trimmed) ends in . ! ? or an end quotation mark, or their like in another script."""
    while True:
        before = citation_begin(data, begin, end)
        if before == end:
            break
        end = before
        while end > begin and data[end - 1] == 32:
            end -= 1
    if end <= begin:
        return False
    if end - begin >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46:
        return False
    place = end - 1
    while place > begin and data[place] & 0xC0 == 0x80:
        place -= 1
    code = int(data[place])
    if code >= 0x80:
        code, _ = decode(data, place)
    if code in (0x27, 0x2019) and place > begin:
        # An end quotation mark, unless it is an apostrophe.
        place -= 1
        while place > begin and data[place] & 0xC0 == 0x80:
            place -= 1
        code = int(data[place])
        if code >= 0x80:
            code, _ = decode(data, place)
        return table[code] & _TERMINAL > 0
    return table[code] & (_TERMINAL | _QUOTE) > 0


@numba.njit(cache=True, nogil=True)
def _repeats(
    keys: np.ndarray, places: np.ndarray, count: int, first: np.ndarray, times: np.ndarray, slots: np.ndarray
) -> int:
    """Which of `keys[places[:count]]` are equal; leaves in `places` those that occur more than once, and their number.

    `first[place]` becomes the first place with the same key, `times[first]` how often it occurs.
    """
    size = 16
    while size < 2 * count:
        size *= 2
    mask = np.uint64(size - 1)
    for slot in range(size):
        slots[slot] = -1
    for index in range(count):
        place = places[index]
        key = keys[place]
        at: Any = splitmix(key) & mask
        while True:
            found = slots[at]
            if found < 0:
                slots[at] = place
                first[place] = place
                times[place] = 1
                break
            if keys[found] == key:
                first[place] = found
                times[found] += 1
                break
            at = (at + np.uint64(1)) & mask
    kept = 0
    for index in range(count):
        place = places[index]
        if times[first[place]] > 1:
            places[kept] = place
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _repetition(
    keys: np.ndarray,
    reach: np.ndarray,
    gaps: np.ndarray,
    pieces: int,
    per_word: int,
    places: np.ndarray,
    first: np.ndarray,
    times: np.ndarray,
    slots: np.ndarray,
    row: np.ndarray,
) -> None:
    """Characters in n-grams that repeat. `reach[i]`: characters in the pieces before i; `gaps[i]`: spaces before i.

    An n+1-gram can only repeat where the n-grams at its place and the next one do, and it is named exactly by those
    two; so each length looks at the survivors of the one before.
    """
    for index in range(pieces):
        places[index] = index
    left = _repeats(keys, places, pieces, first, times, slots)
    for length in range(2, 10 * per_word + 1):
        kept = 0
        for index in range(left - 1):
            place = places[index]
            if places[index + 1] == place + 1:
                keys[place] = (np.uint64(first[place]) << np.uint64(32)) | np.uint64(first[place + 1])
                places[kept] = place
                kept += 1
        if kept < 2:
            return
        left = _repeats(keys, places, kept, first, times, slots)
        if left == 0:
            return
        if length % per_word:
            continue
        words = length // per_word
        if 2 <= words <= 4:
            best = -1
            for index in range(left):
                place = places[index]
                if first[place] == place and (best < 0 or times[place] > times[best]):
                    best = place
            row[_TOP + words - 2] = times[best] * (
                reach[best + length] - reach[best] + gaps[best + length - 1] - gaps[best]
            )
        elif words >= 5:
            characters = 0
            free = 0
            for index in range(left):
                place = places[index]
                if place < free:
                    continue
                origin = first[place]
                if times[origin] < 0:
                    characters += reach[place + length] - reach[place]
                    free = place + length
                else:
                    times[origin] = -1
            row[_REPEATED + words - 5] = characters


_TOP, _REPEATED = _AT["top_2_gram"], _AT["repeated_5_grams"]


@numba.njit(cache=True, nogil=True)
def count(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    anchors: np.ndarray,
    stop_hashes: np.ndarray,
    stop_bits: np.ndarray,
    stop_lists: np.ndarray,
    repetition: bool,
    result: np.ndarray,
) -> None:
    """Fill `result`, float64 of shape (documents, len(COUNTS)), with the counts of each document.

    `stop_lists`: for each document the row of `stop_hashes` (uint64, lists x STOP_SLOTS) with its stop words, or -1;
    `stop_bits` (uint64) tells which word a slot is.
    """
    longest = 0
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    room = longest // 2 + 2
    keys = np.empty(room, np.uint64)
    reach = np.empty(room + 1, np.int32)
    gaps = np.empty(room + 1, np.int32)
    places = np.empty(room, np.int32)
    first = np.empty(room, np.int32)
    times = np.empty(room, np.int32)
    slots = np.empty(4 * room + 16, np.int32)
    line_keys = np.empty(room, np.uint64)
    line_sizes = np.empty(room, np.int32)
    part_keys = np.empty(room, np.uint64)
    part_sizes = np.empty(room, np.int32)

    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        row = result[document]
        row[:] = 0.0
        stop_list = stop_lists[document]
        found_stops = np.uint64(0)

        characters = letters = uppercase = digits = marks = spaces = controls = code_marks = 0
        unspaced_wide = unspaced_narrow = unended = newlines = tokens = words = word_letters = letter_tokens = 0
        hashes = ellipses = curly = lorem = sentences = 0
        pieces = lines = bullets = ellipsis_lines = punctuated = short = code_lines = line_characters = 0
        parts = c4_lines = c4_sentences = c4_curly = c4_lorem = 0

        ended_at = dots_end = ellipsis_end = wordspace_end = -1  # byte after the last end of a sentence, full stop …
        dots = 0
        gap = 0
        part_key = np.uint64(0)
        part_size = 0

        place = begin
        while place < stop:
            # A line: begins here, and is looked at up to its newline or the end.
            line_begin = line_end = -1
            line_key = np.uint64(0)
            line_size = line_columns = trailing = trailing_columns = 0
            line_tokens = line_sentences = line_curly = longest_token = 0
            unspaced_before = unspaced_wide + unspaced_narrow
            unended_before = unended
            line_open_sentence = False
            last_byte = 0
            newline = False
            while place < stop:
                code = int(data[place])
                size = 1
                if code >= 0x80:
                    code, size = decode(data, place)
                bits = table[code]
                if bits & SPACE_BIT:
                    place += size
                    characters += 1
                    spaces += 1
                    if code == 10:
                        newlines += 1
                        newline = True
                        break
                    if code == _WORDSPACE:
                        if wordspace_end == place - size:
                            ended_at = line_end
                        wordspace_end = place
                    trailing += 1
                    trailing_columns += 1
                    gap = 1
                    continue

                # A token: all that comes before the next white space.
                token = place
                seen = np.uint16(0)
                token_characters = token_letters = 0
                token_columns = 0
                core_begin = core_end = -1
                piece_key = np.uint64(0)
                piece_characters = 0
                single = False
                if line_begin < 0:
                    line_begin = place
                    if code in (42, 45, 0x2022, 0x2023, 0x25AA, 0x25CF, 0x25E6, 0x2043):
                        bullets += 1
                while True:
                    seen |= bits
                    token_characters += 1
                    if bits & _IN_WORD:
                        if core_begin < 0:
                            core_begin = place
                        core_end = place + size
                        if bits & LETTER_BIT:
                            letters += 1
                            uppercase += (bits & _UPPER) >> 1
                            weight = 1
                            if code >= 0xAC00 and code <= 0xD7A3:
                                # A syllable of Hangul is two or three letters.
                                weight = 2 if (code - 0xAC00) % 28 == 0 else 3
                            token_letters += weight
                            token_columns += 2 if bits & _WIDE else 1
                        elif bits & _DIGIT:
                            digits += 1
                            token_letters += 1
                            token_columns += 1
                        else:
                            marks += 1
                            token_letters += (bits & _VOWEL) >> 12
                            if bits & _VOWEL and single:
                                token_letters -= 1
                        if bits & _UNSPACED or (single and not bits & MARK_BIT):
                            # One character is one piece, its marks included.
                            if piece_characters:
                                keys[pieces] = piece_key
                                reach[pieces] = piece_characters
                                gaps[pieces] = gap
                                gap = 0
                                pieces += 1
                                piece_key = np.uint64(0)
                                piece_characters = 0
                            single = bits & _UNSPACED > 0
                            if single:
                                token_letters -= 1
                                unended += (bits & _UNENDED) >> 13
                                if bits & _WIDE:
                                    unspaced_wide += 1
                                else:
                                    unspaced_narrow += 1
                    else:
                        token_columns += 2 if code >= 0x3000 else 1
                        if single:
                            keys[pieces] = piece_key
                            reach[pieces] = piece_characters
                            gaps[pieces] = gap
                            gap = 0
                            pieces += 1
                            piece_key = np.uint64(0)
                            piece_characters = 0
                            single = False
                        if bits & _TERMINAL:
                            if code >= 0x80 and ended_at != place and seen & _UNSPACED:
                                line_sentences += 1
                            ended_at = place + size
                        elif bits & _CLOSER and ended_at == place:
                            ended_at = place + size
                        if bits & CODE_BIT:
                            code_marks += 1
                            line_curly += code == 123
                        if code == 46:
                            dots = dots + 1 if dots_end == place else 1
                            dots_end = place + 1
                            if dots >= 3:
                                ellipsis_end = place + 1
                                ellipses += dots % 3 == 0
                        elif code == 0x2026:
                            ellipses += 1
                            ellipsis_end = place + size
                        elif code == 35:
                            hashes += 1
                        elif bits & _CONTROL:
                            controls += 1
                    piece_key = (piece_key + np.uint64(code) + np.uint64(1)) * _BASE
                    piece_characters += 1
                    place += size
                    if place == stop:
                        break
                    code = int(data[place])
                    size = 1
                    if code >= 0x80:
                        code, size = decode(data, place)
                    bits = table[code]
                    if bits & SPACE_BIT:
                        break
                last_byte = data[place - 1]
                keys[pieces] = piece_key
                reach[pieces] = piece_characters
                gaps[pieces] = gap
                gap = 0
                pieces += 1

                characters += token_characters
                line_key = line_key * _LINE_BASE + piece_key
                if seen & _UNSPACED:
                    # The last piece says too little about a token of many.
                    for byte in range(token, place):
                        line_key = (line_key + np.uint64(data[byte]) + np.uint64(1)) * _BASE
                line_size += trailing + token_characters if line_end >= 0 else token_characters
                line_columns += trailing_columns + token_columns if line_end >= 0 else token_columns
                trailing = trailing_columns = 0
                line_end = place
                line_tokens += 1
                longest_token = max(longest_token, token_characters)
                line_open_sentence = ended_at != place
                if not seen & _UNSPACED:
                    line_sentences += ended_at == place
                    tokens += 1
                    letter_tokens += seen & LETTER_BIT > 0
                    if seen & _IN_WORD:
                        words += 1
                        word_letters += token_letters
                elif token_letters:
                    tokens += 1
                    words += 1
                    letter_tokens += seen & LETTER_BIT > 0
                    word_letters += token_letters
                if core_begin >= 0:
                    core = core_end - core_begin
                    if stop_list >= 0 and core <= STOP_LONGEST:
                        value = np.uint64(0)
                        for byte in range(core_begin, core_end):
                            value = (value + np.uint64(_lower(data[byte])) + np.uint64(1)) * _BASE
                        value = splitmix(value)
                        slot = value % np.uint64(STOP_SLOTS)
                        while stop_hashes[stop_list, slot]:
                            if stop_hashes[stop_list, slot] == value:
                                found_stops |= stop_bits[stop_list, slot]
                                break
                            slot = (slot + np.uint64(1)) % np.uint64(STOP_SLOTS)

            curly += line_curly
            if line_begin >= 0:
                said = phrases(data, line_begin, line_end, anchors)
                line_lorem = (said & 4) >> 2
                lorem += line_lorem
                line_keys[lines] = line_key
                line_sizes[lines] = line_size
                lines += 1
                line_characters += line_size
                short += line_columns <= SHORT_LINE
                punctuated += ended_at == line_end
                ellipsis_lines += ellipsis_end == line_end
                code_lines += last_byte in (59, 123, 125)
                line_sentences += line_open_sentence
                sentences += line_sentences
                part_key = part_key * _LINE_BASE + line_key + np.uint64(1)
                part_size += line_size + (part_size > 0)
                unspaced = unspaced_wide + unspaced_narrow - unspaced_before
                ended = wordspace_end > line_end and ended_at == line_end
                ended = ended or 3 * (unended - unended_before) > line_size
                verdict = line_verdict(
                    data, line_begin, line_end, table, ended, line_tokens, unspaced, longest_token, said
                )
                if verdict in (KEPT, JAVASCRIPT, POLICY):
                    c4_lorem += line_lorem
                    if verdict == KEPT:
                        c4_lines += 1
                        cited = line_open_sentence and citation_begin(data, line_begin, line_end) < line_end
                        c4_sentences += max(line_sentences - cited, 1)
                    if verdict != JAVASCRIPT:
                        c4_curly += line_curly
            if part_size and (line_begin < 0 or place >= stop):
                part_keys[parts] = part_key
                part_sizes[parts] = part_size
                parts += 1
                part_key = np.uint64(0)
                part_size = 0
            if newline:
                gap = 1

        per_word = 1
        unspaced = unspaced_wide + unspaced_narrow
        if unspaced > UNSPACED_SHARE * letters:
            per_word = _PER_WORD_WIDE if unspaced_wide >= unspaced_narrow else _PER_WORD_NARROW
        more = unspaced_wide / _PER_WORD_WIDE + unspaced_narrow / _PER_WORD_NARROW
        if repetition:
            for index in range(lines):
                places[index] = index
            _repeats(line_keys, places, lines, first, times, slots)
            repeated_lines = repeated_size = 0
            for index in range(lines):
                if first[index] != index:
                    repeated_lines += 1
                    repeated_size += line_sizes[index]
            row[_AT_REPEATED_LINES] = repeated_lines
            row[_AT_REPEATED_LINES + 1] = repeated_size
            for index in range(parts):
                places[index] = index
            _repeats(part_keys, places, parts, first, times, slots)
            repeated_lines = repeated_size = 0
            for index in range(parts):
                if first[index] != index:
                    repeated_lines += 1
                    repeated_size += part_sizes[index]
            row[_AT_REPEATED_PARTS] = repeated_lines
            row[_AT_REPEATED_PARTS + 1] = repeated_size
            total = gap_total = 0
            for index in range(pieces):
                size = reach[index]
                reach[index] = total
                total += size
                gap_total += gaps[index]
                gaps[index] = gap_total
            reach[pieces] = total
            _repetition(keys, reach, gaps, pieces, per_word, places, first, times, slots, row)

        stops = 0
        while found_stops:
            found_stops &= found_stops - np.uint64(1)
            stops += 1
        row[0] = characters
        row[1] = letters
        row[2] = uppercase
        row[3] = digits
        row[4] = marks
        row[5] = spaces
        row[6] = controls
        row[7] = code_marks
        row[8] = unspaced
        row[9] = unended
        row[10] = newlines
        row[11] = tokens + more
        row[12] = words + more
        row[13] = words
        row[14] = word_letters
        row[15] = letter_tokens + more
        row[16] = hashes
        row[17] = ellipses
        row[18] = curly
        row[19] = lorem
        row[20] = stops if stop_list >= 0 else np.nan
        row[21] = lines
        row[22] = bullets
        row[23] = ellipsis_lines
        row[24] = punctuated
        row[25] = short
        row[26] = code_lines
        row[27] = line_characters
        row[28] = parts
        row[29] = sentences
        row[30] = c4_lines
        row[31] = c4_sentences
        row[32] = c4_curly
        row[33] = c4_lorem


@numba.njit(cache=True, nogil=True)
def line_verdict(
    data: np.ndarray,
    begin: int,
    end: int,
    table: np.ndarray,
    ended: bool,
    tokens: int,
    unspaced: int,
    longest_token: int,
    said: int,
) -> int:
    """What C4 does with a line (trimmed to `begin`, `end`), the tests in the order of its code.

    `ended`: that it ends as a line of Thai, Lao or Amharic may.
    """
    if longest_token > C4_LONGEST_WORD and unspaced == 0:
        return LONG_WORD
    if not ended and not ends_as_c4_wants(data, begin, end, table):
        return UNPUNCTUATED
    if tokens + unspaced / _PER_WORD_WIDE < C4_MIN_WORDS:
        return FEW_WORDS
    if said & 1:
        return JAVASCRIPT
    if said & 2:
        return POLICY
    return KEPT


@numba.njit(inline="always")
def _lower(byte: int) -> int:
    return byte | 32 if 65 <= byte <= 90 else byte


_BASE = np.uint64(0x9E3779B97F4A7C15)
_LINE_BASE = np.uint64(0xD6E8FEB86659FD93)
_AT_REPEATED_LINES, _AT_REPEATED_PARTS = _AT["repeated_lines"], _AT["repeated_paragraphs"]


@numba.njit(cache=True, nogil=True)
def clean_lines(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    anchors: np.ndarray,
    cleaned: np.ndarray,
    cleaned_offsets: np.ndarray,
    verdicts: np.ndarray,
) -> None:
    """Write each text with the lines only that C4 keeps, trimmed and without citation marks.

    `cleaned`: as many bytes as the texts; `cleaned_offsets`: int32, one more than documents; `verdicts`: int64 of shape
    (documents, 6), how many lines met which verdict.
    """
    at = 0
    cleaned_offsets[0] = 0
    for document in range(len(offsets) - 1):
        place, stop = offsets[document], offsets[document + 1]
        while place < stop:
            begin = end = -1
            tokens = unspaced = unended = longest = token = characters = wordspaces = 0
            while place < stop:
                code = int(data[place])
                size = 1
                if code >= 0x80:
                    code, size = decode(data, place)
                bits = table[code]
                characters += 1
                if bits & SPACE_BIT:
                    token = 0
                    wordspaces += code == _WORDSPACE
                else:
                    wordspaces = 0
                    if begin < 0:
                        begin = place
                    end = place + size
                    tokens += token == 0
                    token += 1
                    longest = max(longest, token)
                    unspaced += bits & _UNSPACED > 0
                    unended += bits & (_UNENDED | _UNSPACED) == _UNENDED | _UNSPACED
                place += size
                if code == 10:
                    break
            if begin < 0:
                continue
            said = phrases(data, begin, end, anchors)
            ended = wordspaces > 1 or 3 * unended > characters
            verdict = line_verdict(data, begin, end, table, ended, tokens, unspaced, longest, said)
            verdicts[document, verdict] += 1
            if verdict != KEPT:
                continue
            if at > cleaned_offsets[document]:
                cleaned[at] = 10
                at += 1
            line_at = at
            for byte in range(begin, end):
                cleaned[at] = data[byte]
                at += 1
                if data[byte] == 93:
                    at = citation_begin(cleaned, line_at, at)
            while at > line_at and cleaned[at - 1] == 32:
                at -= 1
        cleaned_offsets[document + 1] = at
