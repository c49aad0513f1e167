"""Decontamination and the index of n-grams: recall and precision by kind of copy, natural overlap by set, speed.

    python benchmarks/decontamination.py planted  --sets DATA --texts BOOKS
    python benchmarks/decontamination.py natural  --sets DATA --texts BOOKS [--texts WIKI ...]
    python benchmarks/decontamination.py speed    --sets DATA --texts BOOKS [--megabytes 60] [--datatrove PYTHON]
    python benchmarks/decontamination.py index    --texts BOOKS [--megabytes 250]

DATA holds folders of benchmark files as their authors publish them (mmlu, gsm8k, hellaswag-val, truthfulqa,
humaneval, mbpp, xquad, mifeval, blimp, llm-foundry-gauntlet; those that are missing are left out). BOOKS are folders of
text files.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import documents, index
from lmcraft.corpus.overlap import find, gram_table, overlaps
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.decontaminate import Decontaminate, by_set, decontaminate, prepare
from lmcraft.corpus.words import words
from lmcraft.intervals import proportion
from lmcraft.recipe.stage import Runtime

DOCUMENT_CHARACTERS = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "natural", "speed", "index"))
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--texts", type=Path, action="append", required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--items", type=int, default=400, help="planted for each kind of copy")
    parser.add_argument("--ngram", type=int, default=13)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--datatrove", help="a Python with datatrove, to compare")
    options = parser.parse_args()
    {"planted": planted, "natural": natural, "speed": speed, "index": built}[options.what](options)


# what is measured


def planted(options: argparse.Namespace) -> None:
    """Items planted once into real text, each changed in one way; which are found, and what else is."""
    rng = random.Random(1)
    sets = evaluation_sets(options.sets)
    hosts = list(pieces(options.texts, options.megabytes))
    texts = [text for items in sets.values() for text in items]
    table = gram_table([pa.array(texts[n : n + 4096]) for n in range(0, len(texts), 4096)], options.ngram, 8, 10)
    able = [n for n in np.flatnonzero(table["item_grams"] > 0).tolist() if table["item_words"][n] >= options.ngram]
    short = [n for n in np.flatnonzero(table["item_grams"] > 0).tolist() if table["item_words"][n] < options.ngram]
    # A host that shares an n-gram of its own accord says nothing about copies; it counts as natural overlap below.
    natural = [shares_of(batch, table) for batch in batches(hosts)]
    touched = [max(row.values(), default=0.0) for rows in natural for row in rows]
    free = [host for host, share in zip(hosts, touched, strict=True) if share == 0]
    print(f"{len(texts)} items of {len(sets)} sets, {len(table['keys'])} {options.ngram}-grams; {len(hosts)} hosts")
    for least in (0.0, 0.1, 0.25, 0.5):
        flagged = sum(share > 0 and share >= least for share in touched)
        _, low, high, _ = proportion(flagged, len(hosts))
        print(f"  hosts flagged with nothing planted at min_overlap {least}: {flagged} ({low:.2%} to {high:.2%})")
    kinds: dict[str, Callable[[str], str]] = {
        "verbatim": lambda text: text,
        "case, punctuation, spacing": lambda text: "".join(
            letter if is_word(letter) else "\n" for letter in text.upper()
        ),
        "first three quarters": lambda text: part_of(text, 0.75),
        "first half": lambda text: part_of(text, 0.5),
        "5% of words edited": lambda text: edited(text, 0.05, rng),
        "10% of words edited": lambda text: edited(text, 0.10, rng),
        "20% of words edited": lambda text: edited(text, 0.20, rng),
    }
    print(f"{'kind':34} {'n':>5}   recall at min_overlap 0 / .1 / .25 / .5 (95% interval)          expected share")
    for name, change in [*kinds.items(), ("verbatim, 8 words to an n-gram", kinds["verbatim"])]:
        pool = short if "8 words" in name else able
        if not pool:
            continue
        chosen = rng.sample(pool, min(options.items, len(pool)))
        copies = [plant(rng.choice(free), change(texts[n]), rng) for n in chosen]
        rows = [row for batch in batches(copies) for row in shares_of(batch, table)]
        shares = np.array([row.get(n, 0.0) for row, n in zip(rows, chosen, strict=True)])
        cells = []
        for least in (0.0, 0.1, 0.25, 0.5):
            hits = int(((shares > 0) & (shares >= least)).sum())
            _, low, high, _ = proportion(hits, len(chosen))
            cells.append(f"{hits / len(chosen):.3f} ({low:.2f}-{high:.2f})")
        print(f"{name:34} {len(chosen):5}   {'  '.join(cells)}   {shares.mean():.2f}")


def natural(options: argparse.Namespace) -> None:
    """Overlap that is really there, by set."""
    sets = evaluation_sets(options.sets)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store_documents(root / "sets", ((name, text) for name, items in sets.items() for text in items))
        for source in options.texts:
            config = Decontaminate.model_validate({"ngram": options.ngram, "action": "mark"})
            known = Known(prepare(config, {"evaluation_sets": [root / "sets"]}, Runtime()))
            out = root / source.name
            size = count = 0
            store_documents(root / "text", ((source.name, text) for text in pieces([source], options.megabytes)))
            out.mkdir()
            for number, batch in enumerate(documents.read_documents(root / "text")):
                judged = decontaminate(batch, config, known)
                for name, aside in judged.aside.items():
                    documents.write_parquet(out / f"{name}-{number:05d}.parquet", aside)
                size += batch["text"].nbytes
                count += batch.num_rows
            print(f"\n{source.name}: {size / 1e6:.0f} MB, {count} documents of up to {DOCUMENT_CHARACTERS} characters")
            print(f"{'set':44} {'items':>6} {'checked':>8} {'touched':>8} {'found':>6} {'share':>7}  documents")
            for name, row in sorted(by_set(out, [root / "sets"], config).items(), key=lambda each: -each[1]["touched"]):
                if row["touched"]:
                    share = row["found"] / row["items"]
                    print(
                        f"{name:44} {row['items']:6} {row['checked']:8} {row['touched']:8} {row['found']:6} "
                        f"{share:7.2%}"
                        f"  {row['documents']}"
                    )
            if any(out.glob("*.parquet")):
                examples(out)


def speed(options: argparse.Namespace) -> None:
    """Megabytes of text a CPU second, with the table of all sets; datatrove's filter on the same text and n-grams."""
    sets = evaluation_sets(options.sets)
    hosts = list(pieces(options.texts, options.megabytes))
    size = sum(len(host.encode()) for host in hosts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store_documents(root / "sets", ((name, text) for name, items in sets.items() for text in items))
        store_documents(root / "text", (("books", text) for text in hosts))
        config = Decontaminate.model_validate({"ngram": options.ngram, "action": "mark"})
        begin = time.process_time()
        known = Known(prepare(config, {"evaluation_sets": [root / "sets"]}, Runtime()))
        items = sum(map(len, sets.values()))
        print(f"table: {items} items, {len(known.arrays['keys'])} n-grams in {time.process_time() - begin:.1f} CPU s, "
              f"{sum(array.nbytes for array in known.arrays.values()) / 1e6:.0f} MB")  # fmt: skip
        held = list(documents.read_documents(root / "text"))
        decontaminate(held[0], config, known)  # compile
        for name, work in (
            ("words alone", lambda batch: words(batch["text"])),
            ("the whole step", lambda batch: decontaminate(batch, config, known)),
        ):
            rates = [
                size / 1e6 / cpu(lambda work=work: [work(batch) for batch in held]) for _ in range(options.repeats)
            ]
            said(name, rates)
        if options.datatrove:
            texts = root / "texts.jsonl"
            texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in hosts[: len(hosts) // 20]))
            grams = root / "items.jsonl"
            grams.write_text("".join(json.dumps({"text": text}) + "\n" for group in sets.values() for text in group))
            command = [options.datatrove, str(Path(__file__).with_name("decontamination_datatrove.py"))]
            result = subprocess.run(
                [*command, str(grams), str(texts), str(options.ngram)], capture_output=True, text=True, check=False
            )
            print(result.stdout or result.stderr[-2000:])


def built(options: argparse.Namespace) -> None:
    """Size of the index, speed of building it, and milliseconds of a question."""
    hosts = list(pieces(options.texts, options.megabytes))
    size = sum(len(host.encode()) for host in hosts)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store_documents(root / "text", (("books", text) for text in hosts))
        for window in (4, 8, 16):
            config = index.IndexConfig(window=window)
            rates = []
            for _ in range(options.repeats):
                out = root / f"index-{window}"
                seconds = cpu(partial(index.run, config, {"documents": [root / "text"]}, out, Runtime(workers=1)))
                rates.append(size / 1e6 / seconds)
            entries = sum(path.stat().st_size for path in out.glob("*.npy"))
            table = (out / "documents.parquet").stat().st_size
            made = index.TextIndex(out, [root / "text"])
            blind = index.TextIndex(out)
            blind.ask(hosts[0])
            quick, slow = [], []
            for _ in range(50):
                text = rng.choice(hosts)
                start = rng.randrange(max(1, len(text) - 1500))
                question = text[start : start + 1500]
                begin = time.perf_counter()
                answer = blind.ask(question)
                quick.append((time.perf_counter() - begin) * 1e3)
                begin = time.perf_counter()
                made.ask(question, 3)
                slow.append((time.perf_counter() - begin) * 1e3)
                assert answer.found
            print(
                f"window {window:2} (runs of {window + 7} words): {entries / size:.3f} bytes of fingerprints and "
                f"{table / size:.4f} of names a byte of text; "
                f"{made.meta['entries'] / made.meta['text_words']:.3f} a word; "
                f"question of 1500 characters {statistics.median(quick):.1f} ms (95%: {np.percentile(quick, 95):.1f}), "
                f"with reading 3 documents {statistics.median(slow):.0f} ms"
            )
            said("  build", rates)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


# material


def evaluation_sets(root: Path) -> dict[str, list[str]]:
    """Name -> items, each with its question and its choices or answer."""
    sets: dict[str, list[str]] = {}

    def add(name: str, parts: Sequence[Any]) -> None:
        text = "\n".join(str(part) for part in parts if part)
        if text.strip():
            sets.setdefault(name, []).append(text)

    for path in sorted(root.glob("mmlu/test/*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                add("mmlu", [row["question"], *(row[f"choice{n}"] for n in range(4))])
    for row in json_lines(root / "gsm8k/test.jsonl"):
        add("gsm8k", [row["question"], row["answer"]])
    for path in root.glob("truthfulqa/TruthfulQA.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                add("truthfulqa", [row["Question"], row["Best Answer"]])
    for path in root.glob("hellaswag-val/hellaswag*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for n in range(0, len(lines) - 5, 6):
            add("hellaswag", [f"{lines[n]} {lines[n + 2 + int(lines[n + 1])]}"])
    for path in sorted(root.glob("llm-foundry-gauntlet/*/*.jsonl")):
        for row in json_lines(path):
            choices = row.get("choices") or []
            answer = row.get("continuation") or row.get("answer")
            question = row.get("query") or row.get("context") or (row.get("context_options") or [""])[0]
            add(path.stem, [question, *(choice for choice in choices if len(choice) > 2), answer])
    for path in root.glob("humaneval/data/*.jsonl.gz"):
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").split("\n"):
            if line:
                row = json.loads(line)
                add("humaneval", [row["prompt"], row["canonical_solution"]])
    for row in json_lines(root / "mbpp/data/mbpp.jsonl"):
        add("mbpp", [row["text"], row["code"]])
    for path in root.glob("xquad/xquad.*.json"):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                add(path.stem, [paragraph["context"]])
    for row in json_lines(root / "mifeval/data/en_input_data.jsonl"):
        add("ifeval", [row["prompt"]])
    for path in sorted(root.glob("blimp/data/*.jsonl")):
        for row in json_lines(path):
            add("blimp", [row["sentence_good"]])
    return sets


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield json.loads(line)


def pieces(folders: Sequence[Path], megabytes: float) -> Iterator[str]:
    """Texts of the folders cut at paragraphs into documents of about `DOCUMENT_CHARACTERS`, up to so much of each."""
    for folder in folders:
        left = megabytes * 1e6
        for path in sorted(folder.rglob("*.*")):
            if path.suffix not in (".txt", ".md", ".rst", ".json", ".jsonl") or left <= 0:
                continue
            if path.suffix == ".json":
                parts = texts_of(json.loads(path.read_text(encoding="utf-8")))
            else:
                parts = path.read_text(encoding="utf-8", errors="replace").split("\n\n")
            piece: list[str] = []
            for part in parts:
                piece.append(part)
                if sum(map(len, piece)) >= DOCUMENT_CHARACTERS:
                    text = "\n\n".join(piece)
                    left -= len(text.encode())
                    yield text
                    piece = []
            if piece and any(part.strip() for part in piece):
                yield "\n\n".join(piece)


def texts_of(value: Any) -> list[str]:
    """Long strings anywhere in a JSON value."""
    if isinstance(value, str):
        return [value] if len(value) > 100 else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in texts_of(each)]


def store_documents(folder: Path, rows: Iterator[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    held: list[dict[str, Any]] = []
    number = 0

    def write() -> None:
        nonlocal held, number
        table = pa.Table.from_pylist(held, schema=documents.SCHEMA)
        documents.write_parquet(folder / f"documents-{number:05d}.parquet", table)
        held, number = [], number + 1

    for count, (source, text) in enumerate(rows):
        place = str(count)
        held.append({"id": documents.document_id(source, place, text), "text": text, "source": source, "path": place})
        if len(held) == 10_000:
            write()
    if held:
        write()


def batches(texts: Sequence[str]) -> Iterator[pa.StringArray]:
    for first in range(0, len(texts), 2048):
        yield pa.array(texts[first : first + 2048], pa.string())


def shares_of(texts: pa.StringArray, table: dict[str, np.ndarray]) -> list[dict[int, float]]:
    """For each text the share of every item that it has something of."""
    found_words = words(texts)
    found = overlaps(found_words, find(found_words, table), table)
    rows: list[dict[int, float]] = [{} for _ in texts]
    for row, item, share in zip(found.rows.tolist(), found.items.tolist(), found.shares.tolist(), strict=True):
        rows[row][item] = share
    return rows


def plant(host: str, copy: str, rng: random.Random) -> str:
    at = rng.randrange(len(host))
    at = host.find(" ", at) if host.find(" ", at) >= 0 else len(host)
    return f"{host[:at]} {copy} {host[at:]}"


def is_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LNM"


def part_of(text: str, share: float) -> str:
    held = text.split()
    return " ".join(held[: math.ceil(len(held) * share)])


def edited(text: str, share: float, rng: random.Random) -> str:
    """Each word, with that probability, replaced by another of the text, left out, or followed by another."""
    held = text.split()
    result: list[str] = []
    for word in held:
        kind = rng.randrange(3) if rng.random() < share else -1
        if kind == 0:
            result.append(rng.choice(held) + "x")
        elif kind == 2:
            result += [word, rng.choice(held)]
        elif kind == -1:
            result.append(word)
    return " ".join(result)


def examples(out: Path) -> None:
    import pyarrow.parquet as pq

    rows = pa.concat_tables(pq.read_table(path) for path in out.glob("*.parquet")).to_pylist()
    rows.sort(key=lambda row: (-row["share"], -row["item_grams"]))
    for row in rows[:8]:
        print(f"    {row['set']}: {row['share']:.0%} of {row['item_grams']}: {' '.join(row['excerpt'].split())[:120]}")


def cpu(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def said(name: str, rates: Sequence[float]) -> None:
    print(f"{name:24} {statistics.median(rates):.1f} MB/CPU-s ({min(rates):.1f} to {max(rates):.1f}, n={len(rates)})")


if __name__ == "__main__":
    sys.exit(main())
