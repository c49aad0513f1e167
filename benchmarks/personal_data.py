"""Personal data found and wrongly found, by kind, on span-labelled sentences; false alarms and speed on clean text.

    .venv/bin/python benchmarks/personal_data.py --data ../shared/data --clean FOLDER...

The labelled sentences are synthetic (presidio-research, two label sets). Their templates are split by hash into a half
on which rules were made and a half that only reports. `exact`: kind and both ends agree. `partial`: kind agrees and the
spans overlap. Intervals are Wilson's, 95%; sentences of one template resemble each other, so they are too narrow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tarfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmcraft.corpus.documents import BATCH_BYTES, SCHEMA
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.mask import DEFAULT_KINDS, Mask, mask
from lmcraft.corpus.steps.personal_data import Kind, find, without_overlaps
from lmcraft.intervals import proportion

LABELS: dict[str, Kind] = {
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
    "IP_ADDRESS": "ip",
    "PERSON": "name",
    "ADDRESS": "address",
    "STREET_ADDRESS": "address",
}
FILES = ("generated_small", "generated_large", "synth_dataset_v2")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--model", help="an installed spaCy model, for names and addresses")
    arguments.add_argument("--clean", type=Path, nargs="*", default=[], help="folders of text without personal data")
    chosen = arguments.parse_args()
    sentences = read(chosen.data / "presidio-pii" / "presidio-pii.tar.xz")
    kinds: list[Kind] = ["phone", "email", "card", "iban", "national_id", "ip"]
    kinds += ["name", "address"] if chosen.model else []
    for half in ("development", "test"):
        print(f"\n{half}: {sum(s['half'] == half for s in sentences)} of {len(sentences)} sentences\n")
        print("| kind | n | found | precision | recall | F1 | exact precision | exact recall |")
        print("|---|---|---|---|---|---|---|---|")
        for kind, count in counted([s for s in sentences if s["half"] == half], kinds, chosen.model).items():
            precision = count["found that overlap"] / max(count["found"], 1)
            recall = count["overlapped"] / max(count["n"], 1)
            f1 = 2 * precision * recall / ((precision + recall) or 1)
            cells = [
                interval(count["found that overlap"], count["found"]),
                interval(count["overlapped"], count["n"]),
                f"{f1:.3f}",
                interval(count["exact"], count["found"]),
                interval(count["exact"], count["n"]),
            ]
            print(f"| {kind} | {count['n']} | {count['found']} | {' | '.join(cells)} |")
    for folder in chosen.clean:
        alarms(folder)


def read(archive: Path) -> list[dict[str, Any]]:
    sentences = []
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).stem
            file = tar.extractfile(member) if name in FILES else None
            if file is None:
                continue
            for row in json.load(file):
                # The two generated files share their templates.
                odd = hashlib.sha256(f"{name[:5]}{row['template_id']}".encode()).digest()[0] % 2
                spans = [(s["start_position"], s["end_position"], LABELS.get(s["entity_type"])) for s in row["spans"]]
                words = re.sub(r"\{\{.*?\}\}", "{}", row["masked"]).lower()
                half = "test" if odd else "development"
                sentences.append({"text": row["full_text"], "spans": spans, "half": half, "words": words})
    # The label sets have templates in common under other numbers: what is test must not be in development as well.
    seen = {sentence["words"] for sentence in sentences if sentence["half"] == "development"}
    for sentence in sentences:
        if sentence["half"] == "test" and sentence["words"] in seen:
            sentence["half"] = "of a template in development, not counted"
    return sentences


def counted(sentences: list[dict[str, Any]], kinds: list[Kind], model: str | None) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        found = find(sentence["text"], kinds)
        if model is not None:
            from lmcraft.corpus.steps.personal_data_names import find_with_model

            found = without_overlaps([*found, *find_with_model(sentence["text"], kinds, model)])
        gold = [span for span in sentence["spans"] if span[2] in kinds]
        for start, end, kind in gold:
            counts[kind]["n"] += 1
            counts[kind]["exact"] += (start, end, kind) in found
            counts[kind]["overlapped"] += any(s.kind == kind and s.start < end and start < s.end for s in found)
        for span in found:
            counts[span.kind]["found"] += 1
            counts[span.kind]["found that overlap"] += any(
                kind == span.kind and start < span.end and span.start < end for start, end, kind in gold
            )
    return {kind: counts[kind] for kind in kinds}


def interval(hits: int, n: int) -> str:
    if not n:
        return "-"
    share, low, high, _ = proportion(hits, n)
    return f"{share:.3f} ({low:.3f}-{high:.3f})"


def alarms(folder: Path) -> None:
    """What is masked a megabyte, by kind. (PEPs hold addresses of authors, the factbook of embassies.)"""
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix in (".txt", ".rst", ".md", ".json")
    )
    size, seconds = 0, 0.0
    counts: Counter[str] = Counter()
    config = Mask(reversible=True)
    batch: list[str] = []
    held = 0
    for index, path in enumerate(paths):
        text = path.read_bytes().decode("utf-8", "replace")
        batch.append(text)
        held += len(text)
        if held >= BATCH_BYTES or index == len(paths) - 1:
            rows = [{"id": "", "text": text, "source": "", "path": "", "changes": []} for text in batch]
            records = pa.RecordBatch.from_pylist(rows, SCHEMA)
            mask(records.slice(0, 1), config, Known())  # compiled, and in memory
            start = time.process_time()
            done = mask(records, config, Known())
            seconds += time.process_time() - start
            size += records["text"].nbytes
            counts.update(done.aside["personal-data"]["kind"].to_pylist())
            batch, held = [], 0
    megabytes = size / 1e6
    shares = ", ".join(
        f"{kind} {counts[kind]} ({counts[kind] / megabytes:.2f} a MB)" for kind in DEFAULT_KINDS if counts[kind]
    )
    print(
        f"\n{folder.name}: {megabytes:.1f} MB in {len(paths)} files, "
        f"{megabytes / seconds:.0f} MB a second of processor time"
    )
    print(f"masked: {shares or 'nothing'}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
