"""The tokenizer every room uses: text <-> ids, conversations -> ids and loss mask, in the Hugging Face layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import tokenizers

from lmcraft.recipe.stage import UserError
from lmcraft.tokens.chat import ChatTemplate, Message, marks_answers
from lmcraft.tokens.files import write_json, write_text

END_OF_TEXT = "<|endoftext|>"
"""Stands before and after every document; the tokenizer's bos and eos."""
PAD = "<|pad|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, IM_START, IM_END)
"""In the order of their ids, from 0."""
LLAMA_END_OF_TEXT, LLAMA_END_OF_TURN = "<|end_of_text|>", "<|eot_id|>"
"""Llama 3's <|endoftext|> and <|im_end|>."""
MASK = "<|mask|>"
"""Stands for a token to be filled in; only in tokenizers that were asked for it, behind the others."""


_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_BEFORE_MASK = re.compile(r"[^\S\x1c-\x1f]*" + re.escape(MASK))  # Unicode's white space, as `tokenizers` strips it


class Tokenizer:
    """BPE with the special tokens of a chat, or at least an end of text: byte-level, or made elsewhere in the manner of
    SentencePiece (Llama 2), with tokens for the bytes that no other token has and a space before every text.

    Nothing that `encode`, `encode_prompt` or `encode_chat` reads from a user becomes a special token: the text
    `<|im_end|>` inside a document or a message is encoded letter by letter.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        chat_template: str | None,
        roles: Mapping[str, str | None] | None = None,
    ) -> None:
        """`roles`: what a tokenizer made elsewhere calls its `bos_token`, `eos_token` and `pad_token`. Without a
        `chat_template` it renders no chats. Raises UserError when its tokens do not stand for bytes or it has no end of
        text."""
        self._backend = backend
        self._backend.encode_special_tokens = True
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        added = {token.content: token.special for token in self._backend.get_added_tokens_decoder().values()}
        specials = sorted((token for token, special in added.items() if special), key=vocabulary.__getitem__)
        self._roles = _roles(specials, roles or {})
        self._control_ids: dict[str, int] = {token: vocabulary[token] for token in specials}
        self._special_ids: dict[int, str] = {number: token for token, number in self._control_ids.items()}
        self.bos_id: int = vocabulary[self._roles["bos_token"]]
        self.eos_id: int = vocabulary[self._roles["eos_token"]]
        self.pad_id: int = vocabulary[self._roles["pad_token"]]
        self.im_start_id: int | None = self._control_ids.get(IM_START)
        self.im_end_id: int | None = self._control_ids.get(IM_END)
        self.mask_id: int | None = self._control_ids.get(MASK)
        self.special_ids: tuple[int, ...] = tuple(self._special_ids)
        turn_ends = [(roles or {}).get("eos_token"), IM_END, LLAMA_END_OF_TURN]
        stops = [self.eos_id, *(self._control_ids[token] for token in turn_ends if token in self._control_ids)]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))
        self.leading_ids: tuple[int, ...] = tuple(self._backend.encode("", add_special_tokens=True).ids)
        self.only_special_added = all(added.values())
        self._chat = ChatTemplate(chat_template, specials, self._roles["bos_token"]) if chat_template else None
        self.byte_level = not getattr(self._backend.model, "byte_fallback", False)
        stands_for = _byte_level_bytes if self.byte_level else _piece_bytes
        self._bytes = _bytes_of_tokens(vocabulary, self._special_ids, set(added), stands_for)
        self.leading_space: bool = b"".join(self._bytes[token] for token in self.encode("a")) == b" a"
        """Whether the tokens of a text begin with a space that the text does not have."""
        self._further = _without_leading_space(self._backend) if self.leading_space else self._backend

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and `chat_template.jinja`, and of a tokenizer made elsewhere `tokenizer_config.json`.
        Raises UserError when one is missing or damaged."""
        file = Path(directory) / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{directory} holds no tokenizer.json: give the directory of a tokenizer or of a model")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for anything it cannot read
            raise UserError(f"{file} is damaged ({error}); rebuild or restore it") from None
        own = all(backend.token_to_id(token) is not None for token in SPECIAL_TOKENS)
        template = Path(directory) / "chat_template.jinja"
        if own and not template.is_file():
            raise UserError(f"{directory} holds no chat_template.jinja: restore it, or rebuild the tokenizer")
        try:
            source = template.read_text(encoding="utf-8") if template.is_file() else None
            if own:
                return cls(backend, source)
            described = _described(Path(directory) / "tokenizer_config.json")
            return cls(backend, _usable_template(source or described.pop("chat_template", None), backend), described)
        except (UserError, UnicodeDecodeError) as error:
            raise UserError(f"{directory}: {error}; rebuild the tokenizer") from None

    def save(self, directory: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` makes the same tokenizer. Same bytes every time."""
        directory = Path(directory)
        if self._chat:
            write_text(directory / "chat_template.jinja", self._chat.source)
        write_json(directory / "tokenizer_config.json", self._huggingface_config())
        write_text(directory / "tokenizer.json", self.json)

    def _huggingface_config(self) -> dict[str, Any]:
        # The class is named as transformers 4 and 5 both know it. A model's own class (Qwen2Tokenizer beside a Qwen3
        # config.json) would put its own normaliser in place of ours.
        named = {*self._roles.values(), MASK}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self._roles,
            **({"mask_token": MASK} if self.mask_id is not None else {}),
            "additional_special_tokens": [token for token in self._control_ids if token not in named],
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template, if there is one."""
        return self._chat.source if self._chat else None

    @property
    def marks_answers(self) -> bool:
        """Whether the chat template says what the assistant writes, so that conversations can be trained on."""
        return self._chat is not None and marks_answers(self._chat.source)

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
        return _ids_of(self._backend, texts)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD. Raises UserError for ids beyond the vocabulary."""
        parts = []
        for number in ids:
            special = self._special_ids.get(int(number))
            if special is None:
                parts.append(self.token_bytes(int(number)))
            elif not skip_special:
                parts.append(special.encode("utf-8"))
        found = b"".join(parts).decode("utf-8", errors="replace")
        return found.removeprefix(" ") if self.leading_space else found

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for, perhaps a part of a character; b"" for a special token."""
        if not 0 <= token < self.vocab_size:
            raise UserError(f"token {token} is outside the vocabulary of {self.vocab_size} tokens")
        return self._bytes[token]

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as the text that `transformers`' `apply_chat_template` renders."""
        return self._template().render(messages, add_generation_prompt)

    def _template(self) -> ChatTemplate:
        if self._chat is None:
            raise UserError(
                "this model's tokenizer has no chat template: give it text to continue, or put one beside it"
            )
        return self._chat

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
        template = self._template()
        pieces = [list(template.pieces(messages, add_generation_prompt)) for messages in conversations]
        first = iter(self.encode_batch([row[0].text for row in pieces if row and not row[0].control]))
        further = [piece.text for row in pieces for piece in row[1:] if not piece.control]
        texts = iter(_ids_of(self._further, further))
        rows = []
        for row in pieces:
            ids: list[int] = []
            mask: list[int] = []
            for number, piece in enumerate(row):
                part = [self._control_ids[piece.text]] if piece.control else next(texts if number else first)
                ids += part
                mask += [int(piece.generated)] * len(part)
            rows.append((ids, mask))
        return rows


def _ids_of(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    try:
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        number, text = next((n, t) for n, t in enumerate(texts) if not _is_unicode(t))
        raise UserError(f"text {number + 1} of {len(texts)} is not Unicode text: {text!r:.60}") from None
    return [encoding.ids for encoding in encodings]


def default_chat_template() -> str:
    """The chat template that a new tokenizer is saved with."""
    return (resources.files("lmcraft.tokens") / "chat_template.jinja").read_text(encoding="utf-8")


def _roles(specials: Sequence[str], said: Mapping[str, str | None]) -> dict[str, str]:
    """Which special token begins a text, ends it and pads. What ends a text is <|endoftext|> where there is one: a chat
    model's `eos_token` ends a turn."""

    def first(*names: str | None) -> str | None:
        return next((name for name in names if name in specials), None)

    end = first(END_OF_TEXT, LLAMA_END_OF_TEXT, said.get("eos_token"))
    if end is None:
        raise UserError(f"the tokenizer has no special token for the end of a text ({END_OF_TEXT}, or an eos_token)")
    begin, pad = first(said.get("bos_token")), first(PAD, said.get("pad_token"))
    return {"bos_token": begin or end, "eos_token": end, "pad_token": pad or end}


def _described(file: Path) -> dict[str, str | None]:
    """The names and the template in a `tokenizer_config.json`, whose tokens may be strings or described by mappings."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        raise UserError(f"{file.name} is not valid JSON") from None
    described: dict[str, str | None] = {}
    for name in ("bos_token", "eos_token", "pad_token", "chat_template"):
        value = found.get(name) if isinstance(found, dict) else None
        value = value.get("content") if isinstance(value, dict) else value
        described[name] = value if isinstance(value, str) else None
    return described


def _usable_template(source: str | None, backend: tokenizers.Tokenizer) -> str | None:
    """A template that marks what the assistant writes, if it can be had: ours, for the same control tokens."""
    if source is not None and marks_answers(source):
        return source
    chatml = all(backend.token_to_id(token) is not None for token in (IM_START, IM_END))
    return default_chat_template() if chatml else source


def _bytes_of_tokens(
    vocabulary: dict[str, int], special_ids: dict[int, str], added: set[str], stands_for: Callable[[str], bytes]
) -> list[bytes]:
    table = [b""] * len(vocabulary)
    for token, number in vocabulary.items():
        if not 0 <= number < len(table):
            raise UserError(f"the tokenizer's ids have gaps: token {token!r} has id {number} of {len(table)}")
        if token in added:
            table[number] = b"" if number in special_ids else token.encode("utf-8")
        else:
            table[number] = stands_for(token)
    return table


def _byte_level_bytes(token: str) -> bytes:
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        raise UserError(f"token {token!r} is not of a byte-level vocabulary") from None


def _piece_bytes(token: str) -> bytes:
    """Of a vocabulary in the manner of SentencePiece: `<0x0A>` is a byte, U+2581 a space."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


def _without_leading_space(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """For texts behind a control token, where the tokenizer puts the space before the first text alone."""
    description = json.loads(backend.to_str())
    cut = description["pre_tokenizer"]
    if not cut or cut.get("prepend_scheme") != "first":
        return backend
    cut["prepend_scheme"] = "never"
    further = tokenizers.Tokenizer.from_str(json.dumps(description))
    further.encode_special_tokens = True
    return further


@cache
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
