"""The tokenizer every room uses: text <-> ids, conversations -> ids and loss mask, in the Hugging Face layout."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import tokenizers

from lmcraft.recipe.stage import UserError
from lmcraft.tokens.chat import ChatTemplate, Message
from lmcraft.tokens.files import write_json, write_text

END_OF_TEXT = "<|endoftext|>"
"""Stands before and after every document; the tokenizer's bos and eos."""
PAD = "<|pad|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, IM_START, IM_END)
"""In the order of their ids, from 0."""
MASK = "<|mask|>"
"""Stands for a token to be filled in; only in tokenizers that were asked for it, behind the others."""


_BEFORE_MASK = re.compile(r"[^\S\x1c-\x1f]*" + re.escape(MASK))  # Unicode's white space, as `tokenizers` strips it


class Tokenizer:
    """Byte-level BPE with the special tokens of a chat.

    Nothing that `encode`, `encode_prompt` or `encode_chat` reads from a user becomes a control token: the text
    `<|im_end|>` inside a document or a message is encoded letter by letter.
    """

    def __init__(self, backend: tokenizers.Tokenizer, chat_template: str) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        if missing := [token for token in SPECIAL_TOKENS if token not in vocabulary]:
            raise UserError(f"the tokenizer lacks the special token {missing[0]}")
        # Nothing learnt is called <|mask|>: the pattern of words parts its letters from its signs.
        specials = (*SPECIAL_TOKENS, MASK) if MASK in vocabulary else SPECIAL_TOKENS
        ids = {token: vocabulary[token] for token in specials}
        self._control_ids: dict[str, int] = ids
        self._special_ids: dict[int, str] = {number: token for token, number in ids.items()}
        self.bos_id: int = ids[END_OF_TEXT]
        self.eos_id: int = ids[END_OF_TEXT]
        self.pad_id: int = ids[PAD]
        self.im_start_id: int = ids[IM_START]
        self.im_end_id: int = ids[IM_END]
        self.mask_id: int | None = ids.get(MASK)
        self.special_ids: tuple[int, ...] = tuple(ids.values())
        self.stop_ids: tuple[int, ...] = (self.eos_id, self.im_end_id)
        self._chat = ChatTemplate(chat_template, specials, END_OF_TEXT)
        self._bytes = _bytes_of_tokens(vocabulary, self._special_ids)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and `chat_template.jinja`. Raises UserError when one is missing or damaged."""
        file = Path(directory) / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{directory} holds no tokenizer.json: give the directory of a tokenizer or of a model")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for anything it cannot read
            raise UserError(f"{file} is damaged ({error}); rebuild or restore it") from None
        template = Path(directory) / "chat_template.jinja"
        if not template.is_file():
            raise UserError(f"{directory} holds no chat_template.jinja: restore it, or rebuild the tokenizer")
        try:
            return cls(backend, template.read_text(encoding="utf-8"))
        except (UserError, UnicodeDecodeError) as error:
            raise UserError(f"{directory}: {error}; rebuild the tokenizer") from None

    def save(self, directory: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` makes the same tokenizer. Same bytes every time."""
        directory = Path(directory)
        write_text(directory / "chat_template.jinja", self.chat_template)
        write_json(directory / "tokenizer_config.json", _huggingface_config(self.mask_id is not None))
        write_text(directory / "tokenizer.json", self.json)

    @property
    def chat_template(self) -> str:
        """The Jinja source of the chat template."""
        return self._chat.source

    @cached_property
    def sha256(self) -> str:
        """Digest of `tokenizer.json`: tokens made with one tokenizer are refused by another."""
        return hashlib.sha256(self.json.encode("utf-8")).hexdigest()

    @cached_property
    def json(self) -> str:
        """The content of `tokenizer.json`."""
        return str(self._backend.to_str(pretty=True)) + "\n"

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no special token is added, and none is recognised in the text."""
        return self.encode_batch([text])[0]

    def encode_masked(self, text: str) -> list[int]:
        """Ids of a text in which `<|mask|>`, and nothing else, is a control token. White space before it belongs to
        the word that is asked for, as the tokens of words begin with theirs. Raises UserError without a mask token."""
        if self.mask_id is None:
            raise UserError(f"the tokenizer has no {MASK}: train it with mask_token: true")
        first, *rest = self.encode_batch(_BEFORE_MASK.split(text))
        return first + [number for part in rest for number in (self.mask_id, *part)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            number, text = next((n, t) for n, t in enumerate(texts) if not _is_unicode(t))
            raise UserError(f"text {number + 1} of {len(texts)} is not Unicode text: {text!r:.60}") from None
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD. Raises UserError for ids beyond the vocabulary."""
        parts = []
        for number in ids:
            special = self._special_ids.get(int(number))
            if special is None:
                parts.append(self.token_bytes(int(number)))
            elif not skip_special:
                parts.append(special.encode("utf-8"))
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for, perhaps a part of a character; b"" for a special token."""
        if not 0 <= token < self.vocab_size:
            raise UserError(f"token {token} is outside the vocabulary of {self.vocab_size} tokens")
        return self._bytes[token]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as the text that `transformers`' `apply_chat_template` renders."""
        return self._chat.render(messages, add_generation_prompt)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation, ending with the header after which the assistant writes."""
        return self._encode_conversations([messages], add_generation_prompt=True)[0][0]

    def encode_chat(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation, and a mask: 1 on what the assistant writes, its stop token included, else 0.

        Raises UserError when the assistant says nothing, so that no conversation trains on nothing.
        """
        return self.encode_chats([messages])[0]

    def encode_chats(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[list[int], list[int]]]:
        """`encode_chat` of each conversation, with one call of the encoder for all."""
        rows = self._encode_conversations(conversations, add_generation_prompt=False)
        for number, (_, mask) in enumerate(rows):
            if not 0 < sum(mask) < len(mask):
                raise UserError(
                    f"conversation {number + 1} of {len(rows)} has nothing to train on: it needs an assistant message, "
                    "and the chat template {% generation %} marks around it"
                )
        return rows

    def _encode_conversations(
        self, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool
    ) -> list[tuple[list[int], list[int]]]:
        pieces = [list(self._chat.pieces(messages, add_generation_prompt)) for messages in conversations]
        texts = iter(self.encode_batch([piece.text for row in pieces for piece in row if not piece.control]))
        rows = []
        for row in pieces:
            ids: list[int] = []
            mask: list[int] = []
            for piece in row:
                part = [self._control_ids[piece.text]] if piece.control else next(texts)
                ids += part
                mask += [int(piece.generated)] * len(part)
            rows.append((ids, mask))
        return rows


def default_chat_template() -> str:
    """The chat template that a new tokenizer is saved with."""
    return (resources.files("lmcraft.tokens") / "chat_template.jinja").read_text(encoding="utf-8")


def _huggingface_config(mask: bool) -> dict[str, Any]:
    # The class is named as transformers 4 and 5 both know it. A model's own class (Qwen2Tokenizer beside a Qwen3
    # config.json) would put its own normaliser in place of ours.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        **({"mask_token": MASK} if mask else {}),
        "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _bytes_of_tokens(vocabulary: dict[str, int], special_ids: dict[int, str]) -> list[bytes]:
    alphabet = _byte_alphabet()
    table = [b""] * len(vocabulary)
    for token, number in vocabulary.items():
        if not 0 <= number < len(table):
            raise UserError(f"the tokenizer's ids have gaps: token {token!r} has id {number} of {len(table)}")
        if number not in special_ids:
            try:
                table[number] = bytes(alphabet[character] for character in token)
            except KeyError:
                raise UserError(f"token {token!r} is not of a byte-level vocabulary") from None
    return table


def _byte_alphabet() -> dict[str, int]:
    """The 256 characters that stand for bytes in a byte-level vocabulary: printable Latin-1 for itself, the rest
    moved behind U+0100 in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(moved)}


def _is_unicode(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(text.encode("utf-8") or True)
    except UnicodeEncodeError:
        return False
