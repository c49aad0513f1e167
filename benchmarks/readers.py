"""Speed of the readers on generated files: documents of 3,000 characters, and one-line documents.

    python benchmarks/readers.py [--megabytes 100] [--lines 1000000] [--encodings FOLDER]

`--encodings`: a folder of UTF-8 texts named by language (the Universal Declaration of Human Rights as NLTK packs it)
tries the guess of legacy encodings instead. CPU seconds of one process; the best of three.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from lmcraft.corpus.readers.encodings import guessed
from lmcraft.corpus.readers.files import Reading, Record, read_file

ENCODINGS = {
    **dict.fromkeys(["fra", "spa", "por_PT", "ita", "swe", "dan", "fin"], ("cp1252",)),
    **dict.fromkeys(["pol", "ces", "hun"], ("cp1250", "iso8859_2")),
    **{"rus": ["cp1251", "koi8_r"], "ukr": ["cp1251"], "bul": ["cp1251"], "ell_monotonic": ["cp1253", "iso8859_7"]},
    **{"tur": ["cp1254"], "heb": ["cp1255"], "arb": ["cp1256"], "jpn": ["cp932", "euc_jp"], "cmn_hans": ["gb18030"]},
    **{"cmn_hant": ["big5"], "kor": ["cp949"], "lit": ["cp1257"], "vie": ["cp1258"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--encodings", type=Path)
    arguments = parser.parse_args()
    if arguments.encodings:
        print(dict(guesses(arguments.encodings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in make_files(Path(folder), arguments.megabytes, arguments.lines):
            seconds = min(cpu_seconds(path) for _ in range(3))
            records = [len(item.text) for item in read(path)]
            rates = f"{sum(records) / 1e6 / seconds:6.0f} M characters/s, {len(records) / seconds:9.0f} documents/s"
            print(f"{path.name:14} {seconds:6.2f} CPU s, {rates}")


def read(path: Path) -> list[Record]:
    return [item for item in read_file(path, path.name, Reading()) if isinstance(item, Record)]


def cpu_seconds(path: Path) -> float:
    began = time.process_time()
    for _ in read_file(path, path.name, Reading()):
        pass
    return time.process_time() - began


def make_files(folder: Path, megabytes: int, lines: int) -> list[Path]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäé", k=rng.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(rng.choices(words, k=460))[:3000] for _ in range(megabytes * 1000 // 3)]
    long = b"".join(json.dumps({"text": text, "title": "x"}, ensure_ascii=False).encode() + b"\n" for text in texts)
    contents = {"long.jsonl": long, "long.jsonl.gz": gzip.compress(long, 6), "long.jsonl.zst": zstandard.compress(long)}
    contents["lines.jsonl"] = b"".join(b'{"text": "A short document of one line, %d."}\n' % n for n in range(lines))
    pages = [warc_record(number, "".join(texts[number : number + 10])) for number in range(0, len(texts), 10)]
    contents |= {"pages.warc": b"".join(pages), "pages.warc.gz": b"".join(map(gzip.compress, pages))}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.table({"text": texts}), folder / "long.parquet", row_group_size=10_000)
    with (folder / "long.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    return [*(folder / name for name in contents), folder / "long.parquet", folder / "long.csv"]


def warc_record(number: int, text: str) -> bytes:
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><p>{text}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        f"WARC-Date: 2024-05-18T01:58:10Z\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def guesses(folder: Path) -> Counter[str]:
    """How often pieces of known texts in legacy encodings were read right, wrongly, or refused."""
    found: Counter[str] = Counter()
    for language, encodings in ENCODINGS.items():
        text = (folder / f"{language}.txt").read_text(encoding="utf-8")
        for encoding in encodings:
            for size in (400, 2000, 10_000):
                for start in (500, 3000, 6000):
                    content = text[start : start + size].encode(encoding, "ignore")
                    if sum(byte > 127 for byte in content) < 32:
                        continue
                    name = guessed(content)
                    right = name is not None and content.decode(name) == content.decode(encoding)
                    found["refused" if name is None else "right" if right else "wrong"] += 1
    return found


if __name__ == "__main__":
    main()
