"""datatrove's side of benchmarks/pipeline.py: JSONL -> filters -> MinHash -> token shards. Run by its own Python.

    PEER/bin/python benchmarks/pipeline_datatrove.py INPUT OUTPUT --lid lid.176.ftz --tokenizer tokenizer.json [--best]

As its examples do it, with two local workers. `--best`: words by `str.split` in place of spaCy's, nothing compressed
between the stages, workers by fork, and `lines_to_buffer=-1` where files are merged.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

BEST = "--best" in sys.argv


def patch() -> None:
    """Done in every worker, whichever way it is started, as this file is then imported anew."""
    from datatrove.utils import lid  # type: ignore[import-not-found, unused-ignore]

    def model(self: Any) -> Any:
        """The same model file as ours: its own address is not always to be had."""
        if self._model is None:
            from fasttext.FastText import _FastText  # type: ignore[import-not-found, import-untyped, unused-ignore]

            self._model = _FastText(sys.argv[sys.argv.index("--lid") + 1])
        return self._model

    lid.FastTextLID.model = property(model)
    if BEST:
        from datatrove.pipeline.dedup import minhash  # type: ignore[import-not-found, unused-ignore]
        from datatrove.utils import text, word_tokenizers  # type: ignore[import-not-found, unused-ignore]

        words = word_tokenizers.WhitespaceTokenizer()
        words.word_tokenize = str.split
        for module in (word_tokenizers, text, minhash):
            module.load_word_tokenizer = lambda language: words


patch()


def main() -> None:
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found, unused-ignore]
    from datatrove.pipeline.dedup import (  # type: ignore[import-not-found, unused-ignore]
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found, unused-ignore]
    from datatrove.pipeline.filters import (  # type: ignore[import-not-found, unused-ignore]
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
    )
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found, unused-ignore]
    from datatrove.pipeline.tokens import DocumentTokenizer  # type: ignore[import-not-found, unused-ignore]
    from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found, unused-ignore]
    from loguru import logger  # type: ignore[import-not-found, unused-ignore]

    logger.remove()
    source, out = sys.argv[1], sys.argv[2]
    tokenizer = sys.argv[sys.argv.index("--tokenizer") + 1]
    config = MinhashConfig(n_grams=5, num_buckets=25, hashes_per_bucket=5)
    packed: dict[str, Any] = {"compression": None} if BEST else {}
    buffer: dict[str, Any] = {"lines_to_buffer": -1} if BEST else {}
    method = "fork" if BEST else "forkserver"

    def run(name: str, steps: list[Any], tasks: int) -> None:
        LocalPipelineExecutor(
            steps, tasks=tasks, workers=2, logging_dir=f"{out}/logs/{name}", start_method=method
        ).run()

    filters = [
        LanguageFilter(languages=None, language_threshold=0.65),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        FineWebQualityFilter(char_duplicates_ratio=0.1),
        C4QualityFilter(min_num_sentences=3, min_words_per_line=5),
    ]
    run("filter", [JsonlReader(source), *filters, JsonlWriter(f"{out}/filtered", **packed)], 4)
    run("sign", [JsonlReader(f"{out}/filtered"), MinhashDedupSignature(f"{out}/signatures", config)], 4)
    run(
        "buckets",
        [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config, **buffer)],
        config.num_buckets,
    )
    run("cluster", [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config, **buffer)], 1)
    run(
        "tokens",
        [
            JsonlReader(f"{out}/filtered"),
            MinhashDedupFilter(f"{out}/remove", **buffer),
            DocumentTokenizer(
                f"{out}/tokens", tokenizer, eos_token="<|endoftext|>", shuffle_documents=False, save_filename="shard"
            ),
        ],
        4,
    )
    tokens = sum(path.stat().st_size for path in Path(out).glob("tokens/*.ds")) // 2
    print(f"{tokens} tokens")


if __name__ == "__main__":
    main()
