"""Near duplicates and repeated passages: recall and precision next to theory, speed and memory next to other tools.

    python benchmarks/duplicates.py quality  FOLDER... [--seeds 3]
    python benchmarks/duplicates.py real     FOLDER... [--unit paragraph]
    python benchmarks/duplicates.py speed    FOLDER... [--megabytes 40] [--repeats 3]
                                             [--datatrove PYTHON] [--data-juicer PYTHON]
    python benchmarks/duplicates.py passages FOLDER... [--megabytes 20] [--repeats 3]     (needs pydivsufsort)

FOLDERs hold text (.md, .txt, .xml) or JSON of `{"…": {"…": "text"}}` or lists; PYTHON is the interpreter of an
environment with that tool (datatrove, spacy and daft; py-data-juicer). Every contender runs in a process of its own, in
turns with the others; CPU seconds are those of the process from the Parquet files to the list of what goes, without
imports and compilation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import documents
from lmcraft.corpus.bands import probability
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.engine.local import Inline
from lmcraft.corpus.minhash import band_keys, ngrams, signatures
from lmcraft.corpus.step import Known, Shard
from lmcraft.corpus.steps import near, passages
from lmcraft.corpus.steps.near import Near

EDITS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "real", "speed", "passages", "contend"])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--unit", choices=["paragraph", "chunk"], default="paragraph")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--slow-megabytes", type=float, default=4, help="what spaCy and data-juicer are given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--datatrove", help="interpreter with datatrove, spacy and daft")
    parser.add_argument("--data-juicer", help="interpreter with py-data-juicer")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "quality":
        quality(options)
    elif options.what == "real":
        real(options)
    elif options.what == "speed":
        speed(options)
    elif options.what == "passages":
        against_suffix_array(options)
    else:
        contend(options.contender, options.folders[0])


# Text


def texts_of(folders: Iterable[Path], unit: str) -> list[str]:
    """Paragraphs of at least 60 words, or chunks of whole paragraphs of about 1,500 characters."""
    found: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix == ".json":
                found += [text for text in _strings(json.loads(path.read_text(encoding="utf-8"))) if len(text) > 200]
            elif path.suffix in (".md", ".txt", ".xml"):
                text = path.read_text(encoding="utf-8", errors="replace")
                if path.suffix == ".xml":
                    text = re.sub(r"<[^>]+>", "", re.sub(r"</(p|l|head)>", "\n\n", text))
                cut = [" ".join(piece.split()) for piece in re.split(r"\n\s*\n", text)]
                found += [piece for piece in cut if len(piece.split()) >= 60] if unit == "paragraph" else _chunks(cut)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _chunks(paragraphs: list[str]) -> Iterator[str]:
    kept: list[str] = []
    for paragraph in paragraphs:
        kept.append(paragraph)
        if sum(map(len, kept)) >= 1500:
            yield "\n\n".join(kept)
            kept = []
    if kept:
        yield "\n\n".join(kept)


def edited(text: str, share: float, draw: random.Random, vocabulary: list[str]) -> str:
    """So many of the words exchanged, left out or put in, a third each."""
    result: list[str] = []
    for word in text.split():
        if draw.random() >= share:
            result.append(word)
            continue
        kind = draw.randrange(3)
        result += [draw.choice(vocabulary)] if kind == 0 else [] if kind == 1 else [word, draw.choice(vocabulary)]
    return " ".join(result)


def batch_of(texts: list[str]) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "id": [f"{number:032x}" for number in range(len(texts))],
        "text": texts,
        "source": ["made"] * len(texts),
        "path": [str(number) for number in range(len(texts))],
    }
    arrays = [pa.array(columns.get(field.name, [None] * len(texts)), field.type) for field in documents.SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=documents.SCHEMA)


def corpus_of(folder: Path) -> Corpus:
    shards, row = [], 0
    for index, path in enumerate(documents.shard_paths(folder)):
        shards.append(Shard(index, path, row))
        row += documents.shard_rows(path)
    scratch = Path(tempfile.mkdtemp(dir=folder))
    return Corpus(shards, row, {}, scratch, Inline())


def write_shards(folder: Path, texts: list[str], shards: int = 4) -> None:
    for index in range(shards):
        part = batch_of(texts)
        first, last = (len(texts) * at // shards for at in (index, index + 1))
        documents.write_parquet(
            folder / f"documents-{index:05d}.parquet", pa.Table.from_batches([part.slice(first, last - first)])
        )


# Recall and precision


class Grams:
    """Sets of 5-grams of all texts, for exact similarities."""

    def __init__(self, texts: list[str]) -> None:
        self.grams, self.starts = ngrams(pa.array(texts, pa.string()), 5)

    def of(self, row: int) -> np.ndarray:
        return self.grams[self.starts[row] : self.starts[row + 1]]

    def jaccard(self, one: int, other: int) -> float:
        both = len(np.intersect1d(self.of(one), self.of(other), assume_unique=True))
        return both / max(1, len(self.of(one)) + len(self.of(other)) - both)


def greedy(texts: list[str], config: Near) -> dict[int, int]:
    """Rows that go, and the rows that they go for."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), texts)
        arrays = near.learn(corpus_of(Path(folder)), config)
        gone: dict[int, int] = {}
        batch = batch_of(texts)
        (drop,) = near.judge(batch, config, Known(arrays, {}, np.arange(len(texts)))).drops
        assert drop.kept is not None
        for row in np.flatnonzero(drop.rows).tolist():
            gone[row] = int(str(drop.kept[row]), 16)
        return gone


def connected(texts: list[str], config: Near) -> dict[int, int]:
    """As `greedy`, but one document of each connected component of what shares a band (and agrees) stays."""
    bands, rows = config.shape
    signed, _ = signatures(pa.array(texts, pa.string()), config.ngram, bands * rows)
    keys = band_keys(signed, 0, bands, rows)
    parents = list(range(len(texts)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for band in range(bands):
        first: dict[int, int] = {}
        for row, key in enumerate(keys[:, band].tolist()):
            other = first.setdefault(key, row)
            if other != row and (signed[other] == signed[row]).mean() >= config.threshold:
                one, two = root(other), root(row)
                parents[max(one, two)] = min(one, two)
    groups = defaultdict(list)
    for row in range(len(texts)):
        groups[root(row)].append(row)
    gone: dict[int, int] = {}
    for members in groups.values():
        kept = min(members, key=lambda row: (-len(texts[row]), row))
        gone |= {row: kept for row in members if row != kept}
    return gone


def expected(similarities: np.ndarray, config: Near) -> np.ndarray:
    """Share of pairs that bands compare, in theory."""
    return probability(similarities, *config.shape)


def quality(options: argparse.Namespace) -> None:
    every = sorted(set(texts_of(options.folders, "chunk")))
    print(f"{len(every):,} chunks of prose; {options.documents:,} of them and 3,000 planted copies a seed")
    settings = [
        ("5-grams, 25 x 5, Jaccard .5", Near()),
        ("5-grams, 25 x 5, all compared", Near(agree=0.001)),
        ("5-grams, 14 x 8, Jaccard .5", Near(bands=14, rows=8)),
        ("5-grams, 32 x 4, Jaccard .5", Near(bands=32, rows=4)),
        ("3-grams, 25 x 5, Jaccard .5", Near(ngram=3)),
        ("5-grams, similarity .7", Near(similarity=0.7)),
        ("5-grams, 25 x 5, signature .5", Near(verify="signature")),
    ]
    lines: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name, _ in settings}
    for seed in range(options.seeds):
        draw = random.Random(seed)
        texts = draw.sample(every, min(options.documents, len(every)))
        vocabulary = " ".join(texts[:200]).split()
        chosen = draw.sample(range(len(texts)), min(3000, len(texts)))
        pairs = []
        for number, row in enumerate(chosen):
            pairs.append((row, len(texts), EDITS[number % len(EDITS)]))
            texts.append(edited(texts[row], EDITS[number % len(EDITS)], draw, vocabulary))
        grams = Grams(texts)
        true = np.array([grams.jaccard(one, other) for one, other, _ in pairs])
        for name, config in settings:
            for kind, choose in (("", greedy), (" CC", connected)):
                if kind and config.verify != "signature":
                    continue
                gone = choose(texts, config)
                line = lines.setdefault(name + kind, defaultdict(list))
                hit = np.array([one in gone or other in gone for one, other, _ in pairs])
                for share in EDITS:
                    mine = np.array([pair[2] == share for pair in pairs])
                    line[f"edits {share:.0%}"].append(hit[mine].mean())
                for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
                    mine = (true >= low) & (true < low + 0.1)
                    line[f"J {low:.1f}-{low + 0.1:.1f}"].append(hit[mine].mean())
                    if config.ngram == 5:
                        line[f"J {low:.1f}-{low + 0.1:.1f} theory"].append(expected(true[mine], config).mean())
                line["removed"].append(len(gone))
                kept = [grams.jaccard(row, other) for row, other in gone.items()]
                line["kept twin J >= .5"].append(float(np.mean(np.array(kept) >= 0.5)))
                line["kept twin J >= .3"].append(float(np.mean(np.array(kept) >= 0.3)))
    for name, line in lines.items():
        print(f"\n{name} (mean of {options.seeds} seeds, [least-most])")
        for what, values in line.items():
            print(f"  {what:22} {np.mean(values):8.3f} [{min(values):.3f}-{max(values):.3f}]")


def real(options: argparse.Namespace) -> None:
    """Pairs of real documents that resemble each other, found by comparing all that share a rare n-gram."""
    texts = texts_of(options.folders, options.unit)
    texts = [text for text, count in Counter(texts).items() for _ in range(1)]
    grams = Grams(texts)
    owner = np.repeat(np.arange(len(texts)), np.diff(grams.starts))
    order = np.argsort(grams.grams, kind="stable")
    sorted_grams, owner = grams.grams[order], owner[order]
    starts = np.flatnonzero(np.append(True, sorted_grams[1:] != sorted_grams[:-1]))
    sizes = np.diff(np.append(starts, len(sorted_grams)))
    shared: Counter[tuple[int, int]] = Counter()
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if 2 <= size <= 30:
            shared.update(itertools.combinations(sorted(owner[start : start + size].tolist()), 2))
    gold = {}
    for (one, other), count in shared.items():
        if count >= 0.1 * min(len(grams.of(one)), len(grams.of(other))):
            value = grams.jaccard(one, other)
            if value >= 0.3:
                gold[one, other] = value
    true = np.array(list(gold.values()))
    print(
        f"{len(texts):,} different documents ({options.unit}s); pairs by similarity (n-grams in over 30 not followed):"
    )
    print(
        "  " + ", ".join(f"{low:.1f}: {((true >= low) & (true < low + 0.1)).sum()}" for low in np.arange(0.3, 1, 0.1))
    )
    for name, config in [
        ("25 x 5, Jaccard .5", Near()),
        ("25 x 5, all compared", Near(agree=0.001)),
        ("14 x 8, Jaccard .5", Near(bands=14, rows=8)),
        ("32 x 4, Jaccard .5", Near(bands=32, rows=4)),
        ("similarity .7", Near(similarity=0.7)),
        ("25 x 5, signature agrees .5", Near(verify="signature")),
    ]:
        for kind, choose in (("greedy", greedy), ("CC", connected)):
            if kind == "CC" and "signature" not in name:
                continue
            gone = choose(texts, config)
            hit = np.array([one in gone or other in gone for one, other in gold])
            found = [
                f"J {low:.1f}: {hit[(true >= low) & (true < low + 0.1)].mean():.2f} "
                f"(bands {expected(true[(true >= low) & (true < low + 0.1)], config).mean():.2f})"
                for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
                if ((true >= low) & (true < low + 0.1)).any()
            ]
            kept = np.array([grams.jaccard(row, other) for row, other in gone.items()])
            twins = f"kept twin J >= .5 {np.mean(kept >= 0.5):.3f}, >= .3 {np.mean(kept >= 0.3):.3f}"
            print(f"{name}, {kind}: removed {len(gone):,}; {twins}; one of the pair gone: {', '.join(found)}")


# Speed


def speed(options: argparse.Namespace) -> None:
    texts = texts_of(options.folders, "chunk")
    draw = random.Random(0)
    draw.shuffle(texts)
    ends = np.cumsum([len(text.encode()) for text in texts])
    texts = texts[: int(np.searchsorted(ends, options.megabytes * 9e5))]
    vocabulary = " ".join(texts[:200]).split()
    texts += [edited(text, 0.03, draw, vocabulary) for text in texts[: len(texts) // 9]]
    print(f"{len(texts):,} documents, a tenth of them copies with 3% of the words edited; 5-grams, 25 x 5")
    contenders = [("lmcraft near", sys.executable), ("lmcraft signatures alone", sys.executable)]
    if options.datatrove:
        contenders += [
            ("daft signatures alone", options.datatrove),
            ("datatrove, words by white space", options.datatrove),
            ("datatrove, default words (spaCy)", options.datatrove),
        ]
    if options.data_juicer:
        contenders += [("data-juicer", options.data_juicer)]
    slow = ("datatrove, default words (spaCy)", "data-juicer")
    draw.shuffle(texts)
    few = texts[: max(1, int(len(texts) * min(1, options.slow_megabytes / options.megabytes)))]
    rates: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as part:
        write_shards(Path(whole), texts)
        write_shards(Path(part), few)
        for repeat in range(options.repeats):
            turn = repeat % len(contenders)
            for name, python in contenders[turn:] + contenders[:turn]:
                given, folder = (few, part) if name in slow else (texts, whole)
                megabytes = sum(len(text.encode()) for text in given) / 1e6
                run = _child(python, name, Path(folder))
                rates[name].append(megabytes / run["cpu"])
                peaks[name].append(run["peak"])
                said[name] = f"{megabytes:.1f} MB, removed {run['removed']:.0f}"
    ours = statistics.median(rates["lmcraft near"])
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{name:34} {middle:8.2f} MB/s/core [{min(found):.2f}-{max(found):.2f}] n={len(found)}, peak "
            f"{max(peaks[name]):.0f} MB, {said[name]}; lmcraft near is {ours / middle:.1f} times as fast"
        )


def _child(python: str, name: str, folder: Path) -> dict[str, float]:
    command = [python, __file__, "contend", str(folder), "--contender", name]
    if python != sys.executable:
        command = [python, "-c", PEERS, name, str(folder)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1") | {"DO_NOT_TRACK": "true"}
    ran = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{name} failed:\n{ran.stderr[-3000:]}")
    return dict(json.loads(ran.stdout.strip().splitlines()[-1]))


MEASURE = """
import json, resource, time
def peak():  # of this process alone: ru_maxrss would begin with what the parent had
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
def cpu():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)
class Clock:
    def __enter__(self):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self.cpu, self.wall = cpu(), time.perf_counter()
    def __exit__(self, *_):
        self.cpu, self.wall = cpu() - self.cpu, time.perf_counter() - self.wall
    def say(self, removed):
        print(json.dumps({"cpu": self.cpu, "wall": self.wall, "peak": peak(), "removed": removed}), flush=True)
clock = Clock()
"""


def contend(name: str, folder: Path) -> None:
    scope: dict[str, Any] = {}
    exec(MEASURE, scope)  # the same lines as in the other tools' processes
    warm = batch_of(["one two three four five six"] * 2 + ["zwölf"])
    with tempfile.TemporaryDirectory() as small:  # loads what is compiled
        documents.write_parquet(Path(small) / "documents-00000.parquet", pa.Table.from_batches([warm]))
        near.learn(corpus_of(Path(small)), Near())
        passages.learn(corpus_of(Path(small)), passages.Passages())
    clock = scope["clock"]
    if name == "lmcraft near":
        with clock:
            removed = len(near.learn(corpus_of(folder), Near())["rows"])
    elif name == "lmcraft passages":
        with clock:
            arrays = passages.learn(corpus_of(folder), passages.Passages())
            removed = int((arrays["end"] - arrays["begin"]).sum())
    else:
        with clock:
            for path in documents.shard_paths(folder):
                for batch in documents.read_shard(path, ["text"]):
                    signatures(batch["text"], 5, 125)
        removed = 0
    clock.say(removed)


PEERS = (
    MEASURE
    + """
import sys, glob, tempfile
name, folder = sys.argv[1:]
shards = sorted(glob.glob(folder + "/documents-*.parquet"))
import pyarrow.parquet as pq
def texts():
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(columns=["text"], batch_size=4096):
            yield from batch["text"].to_pylist()
removed = 0
if name.startswith("daft"):
    import daft
    def sign(column):
        plain = daft.Series.from_arrow(column)
        plain = plain.str.normalize(remove_punct=True, lowercase=True, white_space=True)
        return plain.minhash(num_hashes=125, ngram_size=5, hash_function="xxhash3_64")
    import pyarrow as pa
    sign(pa.array(["a b c d e f g"]))
    with clock:
        for shard in shards:
            for batch in pq.ParquetFile(shard).iter_batches(columns=["text"], batch_size=4096):
                sign(batch["text"])
elif name.startswith("datatrove"):
    from loguru import logger
    logger.remove()
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    config = minhash.MinhashConfig(n_grams=5, num_buckets=25, hashes_per_bucket=5)
    space = tempfile.TemporaryDirectory()
    work = space.name
    sign = minhash.MinhashDedupSignature(work + "/signatures", config)
    if "white space" in name:
        class Words:
            def word_tokenize(self, text):
                return text.split()
        sign.word_tokenizer = Words()
    sign.word_tokenizer.word_tokenize("load what there is to load")
    with clock:
        sign.run((Document(text=text, id=str(number)) for number, text in enumerate(texts())), 0, 1)
        for bucket in range(config.num_buckets):
            step = minhash.MinhashDedupBuckets(work + "/signatures", work + "/buckets", config=config)
            step.run(None, bucket, config.num_buckets)
        minhash.MinhashDedupCluster(work + "/buckets", work + "/remove", config=config).run(None, 0, 1)
    import os
    removed = sum(os.path.getsize(path) // 4 for path in glob.glob(work + "/remove/*.remove"))
else:
    from loguru import logger
    logger.remove()
    from datasets import Dataset, disable_progress_bars
    disable_progress_bars()
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
    with clock:
        op = DocumentMinhashDeduplicator(window_size=5, num_permutations=125, num_bands=25, num_rows_per_band=5)
        data = Dataset.from_dict({"text": list(texts())})
        kept, _ = op.process(data.map(op.compute_hash))
        removed = len(data) - len(kept)
clock.say(removed)
"""
)


def against_suffix_array(options: argparse.Namespace) -> None:
    """Repeated passages of 50 words: ours, and a suffix array with longest common prefixes over the words' numbers."""
    texts = texts_of(options.folders, "chunk")
    random.Random(0).shuffle(texts)
    ends = np.cumsum([len(text.encode()) for text in texts])
    texts = texts[: int(np.searchsorted(ends, options.megabytes * 9e5))]
    for number in range(0, len(texts) - 10, 10):  # a tenth as much again, in passages put into other documents
        texts[number] += "\n\n" + texts[number + 5]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB")
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), texts)
        for _ in range(options.repeats):
            results["lmcraft passages"].append(_child(sys.executable, "lmcraft passages", Path(folder)))
            ran = subprocess.run(
                [sys.executable, "-c", SUFFIX_ARRAY, folder], capture_output=True, text=True, check=True
            )
            results["suffix array (pydivsufsort)"].append(json.loads(ran.stdout.strip().splitlines()[-1]))
    for name, runs in results.items():
        rates = sorted(megabytes / run["cpu"] for run in runs)
        print(
            f"{name:30} {statistics.median(rates):7.2f} MB/s/core [{rates[0]:.2f}-{rates[-1]:.2f}] n={len(rates)}, "
            f"peak {max(run['peak'] for run in runs):.0f} MB, words removed {runs[0]['removed']:.0f}"
        )


SUFFIX_ARRAY = (
    MEASURE
    + """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from pydivsufsort import divsufsort, kasai
from lmcraft.corpus import documents
from lmcraft.corpus.words import word_hashes
word_hashes(pa.array(["a"]))
size = 50
with clock:
    hashes, sizes, lengths = [], [], []
    for path in documents.shard_paths(Path(sys.argv[1])):
        for batch in documents.read_shard(path, ["id", "text"]):
            found, starts = word_hashes(batch["text"])
            hashes.append(found.copy())
            sizes.append(np.diff(starts))
            lengths += [len(text) for text in batch["text"].to_pylist()]
    sizes = np.concatenate(sizes)
    order = np.lexsort([np.arange(len(sizes)), -np.array(lengths)])  # the order of preference
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    _, numbers = np.unique(np.concatenate(hashes), return_inverse=True)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.cumsum(sizes)
    # A number of its own after each document.
    place = np.arange(len(numbers)) + owner
    total = len(numbers) + len(sizes)
    sequence = np.empty(total, np.int64)
    document = np.empty(total, np.int64)
    sequence[place], document[place] = numbers + len(sizes), owner
    tails = ends + np.arange(len(sizes))
    sequence[tails], document[tails] = np.arange(len(sizes)), np.arange(len(sizes))
    array = divsufsort(sequence)
    common = kasai(sequence, array)
    # Suffixes side by side that share `size` words are a run; all but those of the first document are cut.
    run = np.cumsum(np.append(True, common[:-1] < size)[: len(array)])
    ranks = rank[document[array]]
    best = np.full(run[-1] + 1, len(sizes), np.int64)
    np.minimum.at(best, run, ranks)
    cut = array[ranks != best[run]]
    edges = np.zeros(total + size + 1, np.int64)
    np.add.at(edges, cut, 1)
    np.add.at(edges, cut + size, -1)
    removed = int((np.cumsum(edges)[:total] > 0).sum())
clock.say(removed)
"""
)


if __name__ == "__main__":
    main()
