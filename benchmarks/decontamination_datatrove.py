"""datatrove's n-gram decontamination on the same items and texts; run with a Python that has datatrove.

    python decontamination_datatrove.py ITEMS.jsonl TEXTS.jsonl NGRAM

Its indexer wants a further package to fetch items; only its hashing is used here, as its indexer does it. Its filter
is used as it is: it stops at the first n-gram that is found. Once with its words (spaCy's), once with words at white
space.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text


class Spaces:
    """The fastest word tokenizer that can be put in."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def main() -> None:
    items, texts = (
        [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
        for path in sys.argv[1:3]
    )
    config = NGramsDecontConfig(n_grams=int(sys.argv[3]))
    folder = Path(sys.argv[2]).parent / "datatrove"
    folder.mkdir()
    size = sum(len(text.encode()) for text in texts) / 1e6
    for name in ("words at white space", "its default words"):
        step = NGramsDecontFilter(str(folder), config)
        if name == "words at white space":
            step.tokenizer = Spaces()
            hashed = create_hash_func(config.hash_config)
            hashes = set()
            for text in items:
                held = simplify_text(text, config.norm_config).split()
                hashes.update(hashed(" ".join(gram)) for gram in ngrams(held, config.n_grams))
            np.array(list(hashes), dtype=config.hash_config.np_descr).tofile(folder / "all.index.hashes")
        step.load_index_hashes()
        step.filter(Document(text=texts[0], id="0"))
        rates, flagged = [], 0
        for _ in range(3):
            begin = time.process_time()
            flagged = sum(step.filter(Document(text=text, id="0")) is not True for text in texts)
            rates.append(size / (time.process_time() - begin))
        print(
            f"datatrove {version('datatrove')}, {name}: {sorted(rates)[1]:.2f} MB/CPU-s ({min(rates):.2f} to "
            f"{max(rates):.2f}, n=3) on {size:.1f} MB, {flagged} flagged"
        )


if __name__ == "__main__":
    main()
