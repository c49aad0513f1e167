"""Tokens -> text as it grows: whole UTF-8 characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from lmcraft.tokens import Tokenizer


class TextStream:
    """Turns the tokens of one row into text deltas.

    Characters whose bytes are not complete, and text that may be the beginning of a stop string, are held back until
    they are decided. `text` is all that was given out; `stopped` says that a stop string was met.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        return self._give(self._decoder.decode(self._tokenizer.token_bytes(token)), final=False)

    def finish(self) -> str:
        """What was held back; an incomplete character becomes U+FFFD."""
        return self._give(self._decoder.decode(b"", final=True), final=True)

    def _give(self, fresh: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + fresh
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            delta, self._held = text[: min(found)], ""
        else:
            keep = 0 if final else self._undecided(text)
            delta, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += delta
        return delta

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
