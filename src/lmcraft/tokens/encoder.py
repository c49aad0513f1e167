"""Encoding at the speed of the disk: gigatoken where it gives the ids that `tokenizers` gives, which is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcraft.tokens.tokenizer import Tokenizer

CHECKED = 16
"""Texts of each shard that `tokenizers` encodes as well, spread evenly over the shard."""
CHECKED_CHARACTERS = 20_000
"""A longer text is checked by its beginning and its end alone: the slow encoder would take longer than all the rest."""


@dataclass(frozen=True)
class Encoded:
    """Ids of some texts in a row (uint32), and where each text's begin and end (int64, one more than texts)."""

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]


@dataclass
class Encoder:
    """Encodes texts without special tokens, as `Tokenizer.encode_batch` does.

    `encoder` names what encoded; `differing` counts texts that came out otherwise in a check: after the first one,
    `tokenizers` does all the work and `check` says so.
    """

    tokenizer: Tokenizer
    checked: int = 0
    differing: int = 0
    _fast: Any = field(init=False)

    def __post_init__(self) -> None:
        self._fast = _gigatoken(self.tokenizer)

    @property
    def name(self) -> str:
        return "tokenizers" if self._fast is None else "gigatoken"

    def encode(self, texts: Sequence[str]) -> Encoded:
        if self._fast is None or not texts:
            return _joined(self.tokenizer.encode_batch(texts))
        try:
            found = self._fast.encode_batch(list(texts), parallel=False)
        except (TypeError, UnicodeEncodeError):
            return _joined(self.tokenizer.encode_batch(texts))  # which names the text that is not Unicode
        layout = found.layout
        return Encoded(np.asarray(layout.content.data), np.asarray(layout.offsets.data, np.int64))

    def check(self, texts: Sequence[str]) -> bool:
        """Whether both encoders agree on a sample of these texts. If not, `tokenizers` is used from now on."""
        if self._fast is None:
            return True
        chosen = [texts[number * len(texts) // CHECKED] for number in range(CHECKED)] if len(texts) > CHECKED else texts
        half = CHECKED_CHARACTERS // 2
        short = [part for text in chosen for part in (text[:half], text[half:][-half:]) if part]
        fast, slow = self.encode(short), _joined(self.tokenizer.encode_batch(short))
        self.checked += len(short)
        same = [
            np.array_equal(
                fast.ids[fast.offsets[n] : fast.offsets[n + 1]], slow.ids[slow.offsets[n] : slow.offsets[n + 1]]
            )
            for n in range(len(short))
        ]
        if not all(same):
            self.differing += same.count(False)
            self._fast = None
        return all(same)


def _gigatoken(tokenizer: Tokenizer) -> Any:
    """The fast encoder of this vocabulary, None where it is not installed or does not know how words are cut."""
    try:
        import gigatoken

        description = json.loads(tokenizer.json)
        if description["normalizer"] is not None or not (tokenizer.only_special_added and tokenizer.byte_level):
            return None  # of a tokenizer made elsewhere; a sample of texts need not show the difference
        # Without them `<|im_end|>` in a text is letters, as it must be.
        description["added_tokens"] = []
        return gigatoken.Tokenizer.from_json(json.dumps(description))  # raises for a pattern unknown to it
    except Exception:
        return None


def _joined(rows: list[list[int]]) -> Encoded:
    lengths = [len(row) for row in rows]
    ids = np.fromiter((number for row in rows for number in row), np.uint32, sum(lengths))
    return Encoded(ids, np.cumsum([0, *lengths], dtype=np.int64))
