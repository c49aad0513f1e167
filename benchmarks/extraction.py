"""Main content of 181 pages against gold text: F1, precision, recall, accuracy and speed of every extractor.

    .venv/bin/python benchmarks/extraction.py --data ../shared/data

The metric is that of the article extraction benchmark (Zyte, its README and technical report): words, counted in
shingles of four; precision and recall are means over pages, F1 is their harmonic mean, accuracy the share of pages
whose words are all right. Intervals are by bootstrap over pages (1,000 draws): +- one standard deviation, as published,
and a 95% interval of the paired difference to each bought extractor. The pages are their publishers' copyright.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import logging
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

WORD = re.compile(r"\w+")
DRAWS = 1000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--rounds", type=int, default=3, help="passes over the pages, for the speed")
    chosen = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    pages, gold, readme = read(chosen.data / "article-extraction-benchmark" / "article-extraction-benchmark.tar.xz")
    expected = [shingles(gold[name]) for name in gold]
    counts, exact, speeds = {}, {}, {}
    for name, extract in candidates().items():
        texts: list[str] = []
        seconds = []
        for _ in range(chosen.rounds):
            start = time.process_time()
            texts = [extract(pages[page]) or "" for page in gold]
            seconds.append(time.process_time() - start)
        counts[name] = np.array([compare(shingles(text), wanted) for text, wanted in zip(texts, expected, strict=True)])
        exact[name] = np.array(
            [WORD.findall(text) == WORD.findall(gold[page]) for text, page in zip(texts, gold, strict=True)]
        )
        speeds[name] = len(gold) / np.array(seconds)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("trafilatura", "resiliparse"))
    size = sum(map(len, pages.values())) / len(pages) / 1000
    print(f"{len(gold)} pages, mean {size:.0f} thousand characters; {versions}; seconds of processor time, one core\n")
    print(
        "| extractor | F1 | precision | recall | accuracy | pages/s: median (lowest to highest) |\n"
        "|---|---|---|---|---|---|"
    )
    draws = np.random.default_rng(0).integers(0, len(gold), (DRAWS, len(gold)))
    drawn = {}
    for name, table in counts.items():
        at = np.array([measures(table[draw], exact[name][draw]) for draw in draws])
        drawn[name] = at[:, 0]
        cells = (
            f"{value:.3f} ± {spread:.3f}" for value, spread in zip(measures(table, exact[name]), at.std(0), strict=True)
        )
        low, middle, high = np.percentile(speeds[name], [0, 50, 100])
        print(f"| {name} | {' | '.join(cells)} | {middle:.0f} ({low:.0f}-{high:.0f}) |")
    print("\nDifference in F1 to ours (extract, combined), 95% interval, paired over pages:\n")
    for name, values in drawn.items():
        if not name.startswith("extract"):
            low, high = np.percentile(drawn["extract, combined"] - values, [2.5, 97.5])
            print(f"- {name}: {low:+.4f} to {high:+.4f}")
    print("\nPublished with the benchmark (not run here):\n\n```")
    print("\n".join(line for line in readme.splitlines() if re.match(r"    \S+ +\S.* 0\.\d+ ± ", line)))
    print("```")


def candidates() -> dict[str, Callable[[str], str | None]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    from lmcraft.corpus.steps.extract import Method, read_page

    def bought(**settings: bool) -> Callable[[str], str | None]:
        return lambda html: trafilatura.extract(html, include_comments=False, **settings)  # type: ignore[arg-type]

    def ours(method: Method) -> Callable[[str], str | None]:
        return lambda html: read_page(html, method).text

    return {
        "resiliparse": lambda html: str(extract_plain_text(html, main_content=True)),
        "resiliparse, no comments or alternative texts": lambda html: str(
            extract_plain_text(
                html, main_content=True, comments=False, post_meta=False, alt_texts=False, list_bullets=False
            )
        ),
        "trafilatura": bought(),
        "trafilatura, fast": bought(fast=True),
        "trafilatura, recall": bought(favor_recall=True),
        "trafilatura, precision": bought(favor_precision=True),
        "extract, resiliparse": ours("resiliparse"),
        "extract, trafilatura": ours("trafilatura"),
        "extract, combined": ours("combined"),
    }


def read(archive: Path) -> tuple[dict[str, str], dict[str, str], str]:
    """HTML and gold text by page, and the benchmark's own description."""
    pages, gold, readme = {}, {}, ""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None:
                continue
            data = file.read()
            if member.name.endswith(".html.gz"):
                pages[Path(member.name).name.removesuffix(".html.gz")] = gzip.decompress(data).decode()
            elif member.name.endswith("ground-truth.json"):
                gold = {name: page["articleBody"] for name, page in json.loads(data).items()}
            elif member.name.endswith("README.rst"):
                readme = data.decode()
    return pages, gold, readme


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    return Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3))) if words else Counter()


def compare(found: Counter[tuple[str, ...]], wanted: Counter[tuple[str, ...]]) -> tuple[int, int, int]:
    """Shingles right, too many, and missing."""
    right = (found & wanted).total()
    return right, found.total() - right, wanted.total() - right


def measures(table: np.ndarray, exact: np.ndarray) -> tuple[float, float, float, float]:
    """F1, precision, recall, accuracy of rows (right, too many, missing); pages where one is undefined do not count."""
    right, surplus, missing = table.T
    found, wanted = right + surplus, right + missing
    precision = float(np.mean(right[found > 0] / found[found > 0]))
    recall = float(np.mean(right[wanted > 0] / wanted[wanted > 0]))
    return 2 * precision * recall / (precision + recall), precision, recall, float(exact.mean())


if __name__ == "__main__":
    main()
