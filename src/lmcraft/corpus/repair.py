"""Step `repair`: mend text that was decoded wrongly, normalise to NFC, drop control characters."""

from __future__ import annotations

import unicodedata

import ftfy
import pyarrow as pa

from lmcraft.corpus.steps import Judged, LocalStep, note_changes, replace_columns
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


class Repair(StageConfig):
    """Mends mojibake, Unicode form, line ends and control characters in text, title and description."""


def repair(batch: pa.RecordBatch, config: Repair) -> Judged:
    columns = {}
    changed = [False] * batch.num_rows
    for name in ("text", "title", "description"):
        before = batch[name].to_pylist()
        after = [None if text is None else repaired(text) for text in before]
        changed = [was or old != new for was, old, new in zip(changed, before, after, strict=True)]
        columns[name] = pa.array(after, pa.string())
    batch = replace_columns(batch, columns)
    return Judged(note_changes(batch, (["repaired"] if was else [] for was in changed)))


def repaired(text: str) -> str:
    """The text mended. Plain ASCII without entities or control characters cannot be broken and is not looked at."""
    if text.isascii() and "&" not in text and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return unicodedata.normalize("NFC", ftfy.fix_text(text, FIXES))


REPAIR = LocalStep("repair", Repair, repair)
