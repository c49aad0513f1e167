"""Step `repair`: mend text that was decoded wrongly, normalise to NFC, drop control characters.

ftfy (Speer, "ftfy: fixes text for you", 2019) mends; it is slow, and most text is whole. So a line goes to it only if
it holds something that it could change: a sign of its list, or a sequence that its own detector calls bad.
"""

from __future__ import annotations

import re
import unicodedata

import ftfy
import ftfy.badness
import ftfy.chardata
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.corpus.step import Judged, Known, Step, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

FIXES = ftfy.TextFixerConfig(
    # Only what is broken is mended. These would change text that is right: typographic quotes (French and Spanish
    # use them) and full-width characters (Chinese and Japanese do).
    uncurl_quotes=False,
    fix_character_width=False,
    unescape_html="auto",  # entities, unless there is a `<`, when the text may be HTML or about it
    normalization="NFC",
    explain=False,
)
_NO_ENTITIES = FIXES._replace(unescape_html=False)

SHORT = 300
"""Characters up to which a text is not cut into lines first."""

COLUMNS = ("text", "title", "description")


class Repair(StageConfig):
    """Mends mojibake, Unicode form, line ends and control characters in text, title and description."""


def repair(batch: pa.RecordBatch, config: Repair, known: Known) -> Judged:
    columns = {}
    changed = np.zeros(batch.num_rows, bool)
    for name in COLUMNS:
        # Printable ASCII without entities cannot be broken, and is told in one pass over the column.
        suspect = pc.fill_null(pc.match_substring_regex(batch[name], _NOT_PLAIN), False).to_numpy(zero_copy_only=False)
        mended = {}
        for row in np.flatnonzero(suspect).tolist():
            before = batch[name][row].as_py()
            after = repaired(before)
            if after != before:
                mended[row] = after
        if mended:
            mask = np.zeros(batch.num_rows, bool)
            mask[list(mended)] = True
            new = pa.array([mended[row] for row in sorted(mended)], pa.string())
            columns[name] = pc.replace_with_mask(batch[name], pa.array(mask), new)
            changed |= mask
    if columns:
        batch = note_changes(replace_columns(batch, columns), (["repaired"] if was else [] for was in changed.tolist()))
    return Judged(batch)


def repaired(text: str) -> str:
    """The text mended, as ftfy and NFC would; what they cannot change is not given to them."""
    if _is_whole(text):
        return text
    fixes = _NO_ENTITIES if "<" in text else FIXES
    lines = text.split("\n")
    ends = ["\n"] * (len(lines) - 1) + [""]
    mended = (
        line + end if _is_whole(line) and not line.endswith("\r") else ftfy.fix_text(line + end, fixes)
        for line, end in zip(lines, ends, strict=True)
    )
    return unicodedata.normalize("NFC", "".join(mended))


REPAIR = Step("repair", Repair, repair)

_NOT_PLAIN = r"[^\t\n\x20-\x25\x27-\x7e]"
_TOUCHED = re.compile(
    # Entities, control characters, line separators, byte order marks and what ftfy drops beside them, a lost sign,
    # surrogates, ligatures.
    "[&\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ufeff\ufff9-\ufffd\ud800-\udfff"
    + "".join(re.escape(chr(code)) for code in ftfy.chardata.LIGATURES)
    + "]"
)


def _is_whole(text: str) -> bool:
    if _TOUCHED.search(text):
        return False
    if text.isascii():
        return True
    # The detector is the slowest part, and a line of ASCII gives it nothing to find.
    other = text if len(text) < SHORT else "\n".join(line for line in text.split("\n") if not line.isascii())
    return unicodedata.is_normalized("NFC", other) and not ftfy.badness.is_bad(other)
