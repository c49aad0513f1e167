"""Stage `tokenizer`: documents -> a byte-level BPE vocabulary, learnt from the training split alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from lmcraft.corpus.documents import read_documents, stored_bytes
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, Task, UserError
from lmcraft.tokens.files import write_json
from lmcraft.tokens.tokenizer import END_OF_TEXT, MASK, SPECIAL_TOKENS, Tokenizer, default_chat_template

SMALLEST = 512
"""Fewest tokens of a vocabulary."""
SAMPLE_BYTES = 200_000
"""Text of each language and split on which the compression is measured."""
CHAT_WORDS = ("system", "user", "assistant")


class TokenizerConfig(StageConfig):
    """Settings of the vocabulary."""

    vocab_size: int = Field(
        default=4096, ge=SMALLEST, le=1_000_000, description="Tokens, special tokens and 256 bytes included."
    )
    digits: Literal[1, 2, 3] = Field(default=1, description="Longest run of digits that can be one token.")
    min_frequency: int = Field(default=2, ge=1, description="Pairs seen less often than this are not merged.")
    max_bytes: int = Field(
        default=500_000_000,
        ge=1,
        description="Of more training text than this, documents drawn by hash are learnt from.",
    )
    mask_token: bool = Field(default=False, description=f"Add {MASK}, which training with masks needs.")


def run(config: TokenizerConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Train on the `train` split, write the tokenizer and `statistics.json`.

    Raises UserError when there is no training text or too little of it for the vocabulary.
    """
    documents: Path = inputs["documents"]
    counted = {"documents": 0, "bytes": 0}
    with runtime.progress.task("tokenizer", None, "bytes") as task:
        backend = train_bpe(_texts(documents, config, counted, task), config)
    if not counted["documents"]:
        raise UserError(f"{documents} has no documents of the train split: let a curate step split them, or add text")
    reached = backend.get_vocab_size(with_added_tokens=True)
    if reached < config.vocab_size:
        raise UserError(
            f"vocab_size is {config.vocab_size}, but {counted['documents']} training documents "
            f"({counted['bytes']} bytes) support only {reached} tokens: "
            + (f"set vocab_size to {reached} or less, " if reached >= SMALLEST else "")
            + ("set min_frequency lower, or add text" if config.min_frequency > 1 else "add text")
        )
    tokenizer = Tokenizer(backend, default_chat_template())
    statistics = {
        "vocab_size": tokenizer.vocab_size,
        "trained_on": {**counted, "split": "train"},
        **_compression(tokenizer, documents),
        "samples": _samples(tokenizer, documents),
    }
    write_json(out / "statistics.json", statistics)
    tokenizer.save(out)
    return {"vocab_size": tokenizer.vocab_size, "bytes_per_token": statistics["bytes_per_token"]}


def train_bpe(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Learn merges. The result depends on how often each word occurs, not on the order of the texts or on threads."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_pattern(config.digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    # lstrip: the space before a mask is part of the word asked for (RoBERTa).
    mask = [AddedToken(MASK, lstrip=True, normalized=False, special=True)] if config.mask_token else []
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT}:1 $B:1",
        special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))],
    )
    return backend


def word_pattern(digits: int) -> str:
    """The regular expression of the words within which tokens are merged.

    With one digit it is the pattern of Qwen 2 and 3, with three that of Llama 3: runtimes which know a pattern only by
    its name (GGUF) then cut text exactly as we do.
    """
    number = r"\p{N}" if digits == 1 else rf"\p{{N}}{{1,{digits}}}"
    return "|".join(
        [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            number,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    )


def _texts(documents: Path, config: TokenizerConfig, counted: dict[str, int], task: Task) -> Iterator[str]:
    share = config.max_bytes / max(stored_bytes(documents), 1)
    for batch in read_documents(documents, columns=["id", "title", "text"], split="train"):
        size = 0
        for row in batch.to_pylist():
            if share < 1 and zlib.crc32(row["id"].encode()) >= share * 2**32:
                continue
            counted["documents"] += 1
            # The title apart, so that the first word of the text is not learnt as the word after a title.
            for text in (row["title"], row["text"]):
                if text:
                    size += len(text.encode("utf-8"))
                    yield text
        counted["bytes"] += size
        task.advance(size)
    # A conversation names a role at every turn and may spell a word letter by letter. Seen more often than the average
    # token is, roles and letters become one token each, at the cost of a dozen merges or two.
    if counted["documents"]:
        yield from [*CHAT_WORDS, *(f" {letter}" for letter in ascii_lowercase)] * max(
            counted["bytes"] // config.vocab_size, 2
        )


def _compression(tokenizer: Tokenizer, documents: Path) -> dict[str, Any]:
    """Bytes per token by language, on the first `SAMPLE_BYTES` of each language and split."""
    result: dict[str, Any] = {}
    for split, name in (("train", "bytes_per_token"), ("heldout", "bytes_per_token_heldout")):
        sizes: dict[str, int] = {}
        tokens: dict[str, int] = {}
        for batch in read_documents(documents, columns=["language", "text"], split=split):
            chosen = []
            for row in batch.to_pylist():
                language = row["language"] or "unknown"
                if sizes.get(language, 0) < SAMPLE_BYTES:
                    sizes[language] = sizes.get(language, 0) + len(row["text"].encode("utf-8"))
                    chosen.append((language, row["text"]))
            for (language, _), ids in zip(chosen, tokenizer.encode_batch([text for _, text in chosen]), strict=True):
                tokens[language] = tokens.get(language, 0) + len(ids)
        result[name] = {key: round(sizes[key] / tokens[key], 4) for key in sorted(sizes) if tokens.get(key)}
    return result


def _samples(tokenizer: Tokenizer, documents: Path, length: int = 160) -> list[dict[str, Any]]:
    """The beginning of the first training document of each language, cut into its tokens."""
    first: dict[str, str] = {}
    for batch in read_documents(documents, columns=["language", "text"], split="train"):
        for row in batch.to_pylist():
            first.setdefault(row["language"] or "unknown", row["text"][:length])
    return [
        {"language": language, "text": text, "tokens": [tokenizer.decode([i]) for i in tokenizer.encode(text)]}
        for language, text in sorted(first.items())
    ]


STAGE = Stage(
    name="tokenizer",
    version=1,
    config=TokenizerConfig,
    inputs={"documents": Input(kinds=("documents",))},
    output="tokenizer",
    run=run,
    help="Learn a byte-level BPE vocabulary from the training documents.",
)
