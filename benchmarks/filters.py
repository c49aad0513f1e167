"""Filter rules against datatrove: MB of text per CPU-second on the same documents, and how far decisions agree.

    python benchmarks/filters.py --data DATA --peer PEER/bin/python [--megabytes 24] [--rounds 5] [--agreement 1500]

DATA holds books-classic, dc-code, pratham-stories, books-eltec-fra and article-extraction-benchmark, unpacked (what is
missing is left out). PEER is the Python of an environment with datatrove[processing], spacy and nltk. Both sides judge
by Gopher's quality and repetition rules, FineWeb's and C4's, C4's line removal included; datatrove stops at the first
rule that a document breaks, as it always does, and runs without its pipeline around the filters and without an
exclusion writer. It runs twice: as it comes, and with its word tokenizer replaced by `str.split` (its best setting
found). Reading documents is timed on neither side. Rounds go in turns; compiling is reported apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIDES = ("lmcraft", "datatrove", "datatrove-split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked data sets")
    parser.add_argument("--peer", help="Python with datatrove")
    parser.add_argument("--megabytes", type=float, default=24, help="text for our side; each peer gets a part of it")
    parser.add_argument(
        "--peer-share", type=float, default=0.1, help="part of the text that the peers judge in a round"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--agreement", type=int, default=1500, help="documents to compare decisions on; 0: none")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        sizes = write_documents(arguments.data, path, arguments.megabytes * 1e6)
        compare(arguments, path, sizes)


def compare(arguments: argparse.Namespace, path: Path, sizes: dict[str, list[int]]) -> None:
    for name, (documents, size) in sizes.items():
        print(f"{name}: {documents} documents, {size / 1e6:.1f} MB")
    total = sum(documents for documents, _ in sizes.values())
    part = max(1, int(total * arguments.peer_share))
    workers = {side: Worker(side, sys.executable if side == "lmcraft" else arguments.peer, path) for side in SIDES}
    limits = {side: total if side == "lmcraft" else part for side in SIDES}
    for side, worker in workers.items():
        reply = worker.ask({"do": "warm"})
        print(f"{side}: {reply['version']}; first call {reply['seconds']:.1f} CPU s (imports and compiling apart)")
    speeds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, worker in workers.items():
            reply = worker.ask({"do": "time", "documents": limits[side]})
            speeds[side].append(reply["bytes"] / 1e6 / reply["seconds"])
    ours = statistics.median(speeds["lmcraft"])
    for side, values in speeds.items():
        middle = statistics.median(values)
        print(
            f"{side}: median {middle:.2f} MB a CPU-second, from {min(values):.2f} to {max(values):.2f}, "
            f"{len(values)} rounds of {limits[side]} documents; lmcraft is {ours / middle:.0f} times as fast"
        )
    for variant in ("signals", "signals without repetition"):
        reply = workers["lmcraft"].ask({"do": "time", "documents": total, "only": variant})
        print(f"lmcraft, {variant} alone: {reply['bytes'] / 1e6 / reply['seconds']:.1f} MB a CPU-second")
    if arguments.agreement:
        agreement(workers, min(arguments.agreement, total))


def agreement(workers: dict[str, Worker], documents: int) -> None:
    decisions = {
        side: worker.ask({"do": "decide", "documents": documents})["decisions"] for side, worker in workers.items()
    }
    print(f"\nagreement of decisions on {documents} documents (dropped by lmcraft / datatrove / datatrove-split):")
    for rule in decisions["lmcraft"]:
        ours, *others = (set(decisions[side][rule]) for side in SIDES)
        shares = [1 - len(ours ^ theirs) / documents for theirs in others]
        print(
            f"  {rule:40} {len(ours):5} {len(others[0]):5} {len(others[1]):5}   "
            f"datatrove {shares[0]:.4f}, with split {shares[1]:.4f}"
            + (f"   e.g. {sorted(ours ^ others[1])[:3]}" if ours ^ others[1] else "")
        )


class Worker:
    """A process that judges documents and measures its own CPU time."""

    def __init__(self, side: str, python: str, path: Path) -> None:
        command = [python, __file__, "--worker", side, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


def work(side: str, path: Path) -> None:
    texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    judge, decide, version = ours() if side == "lmcraft" else datatrove(side == "datatrove-split")
    for line in sys.stdin:
        question = json.loads(line)
        chosen = (
            texts[:: max(1, len(texts) // question["documents"])][: question["documents"]]
            if "documents" in question
            else texts[:20]
        )
        if question["do"] == "decide":
            reply: dict[str, Any] = {"decisions": decide(chosen)}
        else:
            run = judge(chosen, question.get("only"))
            started = time.process_time()
            run()
            reply = {"seconds": time.process_time() - started, "bytes": sum(len(text.encode()) for text in chosen)}
        print(json.dumps(reply | {"version": version}), flush=True)


def ours() -> tuple[Callable[..., Callable[[], None]], Callable[[list[str]], dict[str, list[int]]], str]:
    import numpy as np
    import pyarrow as pa

    from lmcraft.corpus.documents import SCHEMA
    from lmcraft.corpus.signals import signals
    from lmcraft.corpus.step import Known
    from lmcraft.corpus.steps.filters import Filter, filter_rules

    # As datatrove does, take every document for English.
    settings = {"rules": ["gopher-quality", "gopher-repetition", "fineweb", "c4"], "language": "en"}

    def batches(texts: list[str]) -> list[pa.RecordBatch]:
        rows = [{"id": str(n), "text": text, "source": "s", "path": "p"} for n, text in enumerate(texts)]
        return pa.Table.from_pylist(rows, SCHEMA).to_batches(max_chunksize=2000)

    def judge(texts: list[str], only: str | None) -> Callable[[], None]:
        made = batches(texts)

        def run() -> None:
            for batch in made:
                if only:
                    signals(batch["text"], None, only == "signals")
                else:
                    filter_rules(batch, Filter.model_validate(settings | {"c4_lines": True}), Known())

        return run

    def decide(texts: list[str]) -> dict[str, list[int]]:
        (batch,) = pa.Table.from_batches(batches(texts)).combine_chunks().to_batches()
        found: dict[str, list[int]] = {}
        for drop in filter_rules(batch, Filter.model_validate(settings), Known()).drops:
            found.setdefault(drop.reason, []).extend(np.flatnonzero(drop.rows).tolist())
        return found

    return judge, decide, "lmcraft"


def datatrove(
    split: bool,
) -> tuple[Callable[..., Callable[[], None]], Callable[[list[str]], dict[str, list[int]]], str]:
    from importlib.metadata import version

    from datatrove.data import Document  # type: ignore[import-not-found, unused-ignore]
    from datatrove.pipeline.filters import (  # type: ignore[import-not-found, unused-ignore]
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.utils import text, word_tokenizers  # type: ignore[import-not-found, unused-ignore]

    if split:
        whitespace = word_tokenizers.WhitespaceTokenizer()
        whitespace.word_tokenize = str.split
        word_tokenizers.load_word_tokenizer = lambda language: whitespace
    c4: dict[str, Any] = {"min_num_sentences": 3, "min_words_per_line": 5}
    chain = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        FineWebQualityFilter(char_duplicates_ratio=0.1),
        C4QualityFilter(**c4),
    ]

    def passes(result: Any) -> bool:
        return result[0] if isinstance(result, tuple) else result

    def judge(texts: list[str], only: str | None) -> Callable[[], None]:
        documents = [Document(text=each, id=str(number)) for number, each in enumerate(texts)]

        def run() -> None:
            text.split_into_parts.cache_clear()
            for document in documents:
                for step in chain:
                    if not passes(step.filter(document)):
                        break

        return run

    def decide(texts: list[str]) -> dict[str, list[int]]:
        none: dict[str, Any] = dict.fromkeys(
            ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio",
             "max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words")
        )  # fmt: skip
        quality: dict[str, dict[str, Any]] = {
            "words": {"min_doc_words": 50, "max_doc_words": 100_000},
            "word-length": {"min_avg_word_length": 3, "max_avg_word_length": 10},
            "hashes": {"max_symbol_word_ratio": 0.1},
            "ellipses": {"max_symbol_word_ratio": 0.1},
            "bullet-lines": {"max_bullet_lines_ratio": 0.9},
            "ellipsis-lines": {"max_ellipsis_lines_ratio": 0.3},
            "letters": {"max_non_alpha_words_ratio": 0.8},
            "stop-words": {"min_stop_words": 2},
        }
        off = {"dup_line_frac": None, "dup_para_frac": None, "dup_line_char_frac": None, "dup_para_char_frac": None,
               "top_n_grams": (), "dup_n_grams": ()}  # fmt: skip
        repetition: dict[str, dict[str, Any]] = {
            "lines": {"dup_line_frac": 0.3},
            "paragraphs": {"dup_para_frac": 0.3},
            "line-characters": {"dup_line_char_frac": 0.2},
            "paragraph-characters": {"dup_para_char_frac": 0.2},
            **{f"top-{n}-gram": {"top_n_grams": ((n, limit),)} for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))},
            **{f"{n}-grams": {"dup_n_grams": ((n, round(0.2 - n / 100, 2)),)} for n in range(5, 11)},
        }
        loose: dict[str, Any] = {
            "line_punct_thr": -1,
            "short_line_thr": 9,
            "char_duplicates_ratio": 9,
            "new_line_ratio": 1e9,
        }
        fineweb: dict[str, dict[str, Any]] = {
            "punctuated-lines": {"line_punct_thr": 0.12},
            "line-characters": {"char_duplicates_ratio": 0.1},
            "short-lines": {"short_line_thr": 0.67},
            "newlines": {"new_line_ratio": 0.3},
        }
        filters: dict[str, Any] = {
            **{f"gopher-quality/{name}": GopherQualityFilter(**(none | only)) for name, only in quality.items()},
            **{
                f"gopher-repetition/{name}": GopherRepetitionFilter(**(off | only)) for name, only in repetition.items()
            },
            **{f"fineweb/{name}": FineWebQualityFilter(**(loose | only)) for name, only in fineweb.items()},
            "c4/sentences": C4QualityFilter(**c4, filter_lorem_ipsum=False, filter_curly_bracket=False),
            "c4/lorem-ipsum": C4QualityFilter(min_num_sentences=-1, min_words_per_line=5, filter_curly_bracket=False),
            "c4/curly-brackets": C4QualityFilter(min_num_sentences=-1, min_words_per_line=5, filter_lorem_ipsum=False),
        }
        reasons = {"gopher-quality/hashes": "hashes", "gopher-quality/ellipses": "ellipsis"}
        found: dict[str, list[int]] = {name: [] for name in filters}
        for number, each in enumerate(texts):
            for name, step in filters.items():
                result = step.filter(Document(text=each, id=str(number)))
                if not passes(result) and reasons.get(name, "") in (result[1] if isinstance(result, tuple) else ""):
                    found[name].append(number)
        return found

    return judge, decide, f"datatrove {version('datatrove')}{', words by str.split' if split else ''}"


def write_documents(data: Path, path: Path, size: float) -> dict[str, list[int]]:
    """Documents of 2 to 5 kB of each kind in turns, up to so many bytes; how many of each kind, and their bytes."""
    kinds = {name: pieces(reader(data)) for name, reader in READERS.items()}
    sizes = {name: [0, 0] for name in kinds}
    with path.open("w", encoding="utf-8") as file:
        while kinds and sum(each for _, each in sizes.values()) < size:
            for name in list(kinds):
                piece = next(kinds[name], None)
                if piece is None:
                    del kinds[name]
                    continue
                file.write(json.dumps(piece) + "\n")
                sizes[name][0] += 1
                sizes[name][1] += len(piece.encode())
    return sizes


def pieces(texts: Iterator[str], least: int = 2000, most: int = 5000) -> Iterator[str]:
    """Texts cut between lines into pieces of `least` to `most` characters; one that is shorter stays whole."""
    for text in texts:
        piece = ""
        for line in text.split("\n"):
            if len(piece) >= least or len(piece) + len(line) > most:
                if piece.strip():
                    yield piece.rstrip("\n")
                piece = ""
            piece += line + "\n"
        if piece.strip():
            yield piece.rstrip("\n")


def files(folder: Path, pattern: str, prepare: Callable[[str], str]) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # datatrove takes a carriage return for a line of its own, so that every novel with them repeats lines.
        yield prepare(raw.decode("utf-8", "replace").replace("\r\n", "\n"))


def without_tags(markup: str) -> str:
    text = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]+>", " ", markup)
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "books": lambda data: files(data / "books-classic", "*/*.md", str),
    "law": lambda data: files(data / "dc-code", "us/dc/council/code/titles/*/sections/*.xml", without_tags),
    "stories in 17 languages": lambda data: files(data / "pratham-stories", "*/*.md", str),
    "French novels": lambda data: files(data / "books-eltec-fra", "plain1/*.txt", str),
    "web pages, tags removed": lambda data: files(data / "article-extraction-benchmark", "html/*.gz", without_tags),
}

if __name__ == "__main__":
    main()
