"""A small world to examine models in: documents of two languages, questions about them, exercises, a tokenizer."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcraft.corpus.documents import SCHEMA, read_documents
from lmcraft.inference import Engine
from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.tokens.tokenizer import Tokenizer, default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe

WORDS = {
    "en": ("river", "city", "country", "planet", "Geography"),
    "fr": ("fleuve", "ville", "pays", "planète", "Géographie"),
}


@pytest.fixture(scope="session")
def documents(tmp_path_factory) -> Path:
    """60 documents a language, every fourth held out; one of the held-out ones is long, one empty."""
    directory = tmp_path_factory.mktemp("documents")
    rows = []
    for language, (river, city, country, planet, topic) in WORDS.items():
        for n in range(60):
            text = f"Number {n} is a {river} in the {country} {n % 7}. It flows past {n % 5} {city} on this {planet}."
            if n == 4:
                text = " ".join([text] * 30)
            if n == 8:
                text = "  "
            rows.append(
                {
                    "id": f"{language}{n:030d}",
                    "text": text,
                    "title": f"Place {n}" if n % 3 else None,
                    "language": language,
                    "topic": topic,
                    "source": "made up",
                    "path": f"{language}.jsonl:{n}",
                    "licence": "CC0-1.0",
                    "split": "heldout" if n % 4 == 0 else "train",
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / "documents-00000.parquet")
    return directory


@pytest.fixture(scope="session")
def conversations(tmp_path_factory) -> Path:
    """`topic` questions in two languages, and `counting` exercises without one."""
    directory = tmp_path_factory.mktemp("conversations")

    def row(task: str, question: str, answer: str, document: str | None) -> str:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return json.dumps({"messages": messages, "task": task, "answer": answer, "document": document})

    for split, start in (("train", 1), ("heldout", 0)):
        lines = []
        for language in WORDS:
            for n in range(start, 60, 4):
                answer = ("Geography", "History", "Geography")[n % 3]
                lines.append(row("topic", f"Place {n} ({language}): which topic?", answer, f"{language}{n:030d}"))
        lines += [row("counting", f"How many letters has {'x' * n}?", str(n % 5), None) for n in range(start, 80, 4)]
        if split == "heldout":
            lines.append(lines[-1])
            lines.append(row("counting", "How many letters has " + "word " * 300, "4", None))
        (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def model(tmp_path_factory, documents) -> Path:
    """An untrained model of 128 positions, in a directory as stage sft leaves one."""
    directory = tmp_path_factory.mktemp("model")
    texts = (text for batch in read_documents(documents, ["text"]) for text in batch.column("text").to_pylist())
    tokenizer = Tokenizer(train_bpe(texts, TokenizerConfig(vocab_size=512)), default_chat_template())
    tokenizer.save(directory)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    network = Transformer(config)
    network.initialise(seed=0)
    save_model(network, directory, stop_tokens=list(tokenizer.stop_ids))
    return directory


@pytest.fixture(scope="session")
def engine(model) -> Engine:
    return Engine.load(model, device="cpu", dtype="float32")
