"""data-juicer's side of benchmarks/pipeline.py: JSONL -> filters -> MinHash -> JSONL. Run by data-juicer's own Python.

    PEER/bin/python benchmarks/pipeline_data_juicer.py INPUT OUTPUT

It has neither Gopher's, C4's and FineWeb's rules nor token shards, and its language filter downloads a model. So it
does less: five filters of its own that measure the like, and MinHash with the same bands, in two processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

CONFIG = """
project_name: pipeline
dataset_path: {source}
export_path: {out}/kept.jsonl
work_dir: {out}/work
np: 2
use_cache: false
ds_cache_dir: {out}/cache
open_tracer: false
open_monitor: false
process:
  - words_num_filter: {{tokenization: false, min_num: 50, max_num: 100000}}
  - alphanumeric_filter: {{tokenization: false, min_ratio: 0.6, max_ratio: 1.0}}
  - character_repetition_filter: {{rep_len: 10, min_ratio: 0.0, max_ratio: 0.5}}
  - word_repetition_filter: {{tokenization: false, rep_len: 10, min_ratio: 0.0, max_ratio: 0.1}}
  - special_characters_filter: {{min_ratio: 0.0, max_ratio: 0.4}}
  - document_minhash_deduplicator:
      {{tokenization: space, window_size: 5, num_permutations: 125, num_bands: 25, num_rows_per_band: 5,
        lowercase: true}}
"""


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    config = out / "config.yaml"
    config.write_text(CONFIG.format(source=source, out=out))
    from data_juicer.config import init_configs  # type: ignore[import-not-found, unused-ignore]
    from data_juicer.core import DefaultExecutor  # type: ignore[import-not-found, unused-ignore]

    DefaultExecutor(init_configs(["--config", str(config)])).run()
    kept = sum(1 for path in out.glob("kept*.jsonl") for _ in path.open(encoding="utf-8"))
    print(f"{kept} documents kept")


if __name__ == "__main__":
    main()
