"""Frozen features of a masked, a mixed and a causal model of equal compute: two linear probes.

    python benchmarks/masked_probe.py --books FOLDER [--tokens 600000] [--seeds 3]

FOLDER holds a folder an author with a file a book. The networks are the same (Llama's layers) and read the same
passages in the same order; only the objective and what may be attended to differ. A masked row needs logits for its
hidden tokens alone; what that saves is spent on more tokens, so that all arms do as many operations in matrix products.
Rates, schedule and batch are the defaults, which were chosen on causal models.

author: who wrote a passage, from the mean of its last hidden states. punctuation: what followed a word (nothing; a
comma, semicolon or colon; the end of a sentence), from its last hidden state, in a passage without any punctuation and
in small letters, as many words of each kind. The classifiers are trained on some books of each author and judged on
others, which no model has seen; their regularisation is chosen on a third of what they learn from. Beside them: chance,
and the same classifier on a bag of tokens, or on a word's last token and the one that follows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lmcraft.corpus import documents
from lmcraft.intervals import proportion
from lmcraft.model import load_model
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import Tokenizer, pack, train
from lmcraft.training import mixture, pretrain
from lmcraft.training.config import PretrainConfig, derive_shape

ARMS = {"causal": "next_token", "masked": "masked", "mixed": "mixed"}
VOCABULARY = 4096
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
MARKS = {",": 1, ";": 1, ":": 1, ".": 2, "!": 2, "?": 2}


@dataclass(frozen=True)
class Part:
    """Passages as token ids, and what is asked: of each whole, or of the places (passage, token) given."""

    ids: list[list[int]]
    places: list[tuple[int, int]] | None
    labels: torch.Tensor


@dataclass(frozen=True)
class Probe:
    classes: int
    learn: Part
    judge: Part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="a folder an author, a file a book")
    parser.add_argument("--authors", type=int, default=16, help="those with most books")
    parser.add_argument("--passages", type=int, default=100, help="of an author, to learn from and to be judged on")
    parser.add_argument("--words", type=int, default=1000, help="of each kind, to learn from and to be judged on")
    parser.add_argument("--characters", type=int, default=800, help="of a passage")
    parser.add_argument("--corpus", type=int, default=250, help="passages of an author to pretrain on, labels unused")
    parser.add_argument("--tokens", type=int, default=600_000, help="of the causal model's pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--threads", type=int, default=2, help="1 on a busy machine, where two wait for each other")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learn, judge, corpus = passages(options)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs = prepare(root, corpus, Runtime(workers=options.threads))
        probes = make_probes(learn, judge, Tokenizer.load(inputs["tokenizer"]), options)
        baselines(probes)
        right: dict[tuple[str, str], list[float]] = {}
        for seed in range(options.seeds):
            for arm in options.arms:
                clock = time.monotonic()
                model, summary = pretrained(root / f"{arm}-{seed}", inputs, arm, seed, options)
                measured = {name: round(value, 3) for name, value in summary.items() if name.startswith("heldout")}
                print(f"{arm}, seed {seed}: {summary['tokens']} tokens, {time.monotonic() - clock:.0f} s, {measured}")
                for name, share in judged(model, probes, arm != "causal").items():
                    right.setdefault((name, arm), []).append(share)
                    show(f"  {name}", share, len(probes[name].judge.labels))
    compare(right, options.arms)


def passages(options: argparse.Namespace) -> tuple[Any, Any, list[str]]:
    """(texts, authors) to learn from and to be judged on, and texts to pretrain on; the judged ones are of books of
    their own, every second book of an author."""
    folders = [folder for folder in sorted(options.books.iterdir()) if folder.name not in ("Anonymous", "Various")]
    folders = sorted(folders, key=lambda folder: -len(list(folder.iterdir())))[: options.authors]
    random = np.random.default_rng(0)
    learn: tuple[list[str], list[int]] = ([], [])
    judge: tuple[list[str], list[int]] = ([], [])
    corpus: list[str] = []
    for author, folder in enumerate(folders):
        books = [cut(book, options.characters) for book in sorted(folder.iterdir())]
        seen = [passage for book in books[::2] for passage in book]
        unseen = [passage for book in books[1::2] for passage in book]
        order = random.permutation(len(seen))
        for texts, chosen in (
            (learn, [seen[i] for i in order[: options.passages]]),
            (judge, [unseen[i] for i in random.permutation(len(unseen))[: options.passages]]),
        ):
            texts[0].extend(chosen)
            texts[1].extend([author] * len(chosen))
        corpus += [seen[i] for i in order[: options.corpus]]
    return learn, judge, corpus


def cut(book: Path, characters: int) -> list[str]:
    """Pieces of so many characters from the middle of a book: its ends name title and author."""
    text = " ".join(book.read_text(encoding="utf-8", errors="replace").split())
    text = text[len(text) // 20 : -len(text) // 20]
    return [text[at : at + characters] for at in range(0, len(text) - characters, characters)]


def prepare(root: Path, corpus: list[str], runtime: Runtime) -> dict[str, Path]:
    rows = [
        dict.fromkeys(documents.SCHEMA.names)
        | {"id": f"{i:032x}", "text": text, "source": "books", "path": str(i), "changes": [], "language": "en"}
        | {"split": "heldout" if i % 20 == 0 else "train"}
        for i, text in enumerate(corpus)
    ]
    for name in ("documents", "tokenizer", "pretraining"):
        (root / name).mkdir()
    documents.write_parquet(
        root / "documents" / "documents-00000.parquet", pa.Table.from_pylist(rows, schema=documents.SCHEMA)
    )
    inputs = {"documents": root / "documents", "tokenizer": root / "tokenizer"}
    train.run(train.TokenizerConfig(vocab_size=VOCABULARY, mask_token=True), inputs, root / "tokenizer", runtime)
    pack.run(pack.TokensConfig(), inputs, root / "pretraining", runtime)
    return {"tokens": root / "pretraining", "tokenizer": root / "tokenizer"}


def make_probes(learn: Any, judge: Any, tokenizer: Tokenizer, options: argparse.Namespace) -> dict[str, Probe]:
    who = [Part([row[:255] for row in tokenizer.encode_batch(t)], None, torch.tensor(a)) for t, a in (learn, judge)]
    random = np.random.default_rng(1)
    what = [bare(texts, tokenizer, options.words, random) for texts, _ in (learn, judge)]
    return {"author": Probe(options.authors, *who), "punctuation": Probe(3, *what)}


def bare(texts: list[str], tokenizer: Tokenizer, most: int, random: np.random.Generator) -> Part:
    """The texts without punctuation, and `most` words followed by each kind of it, or by none."""
    ids: list[list[int]] = []
    places: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for number, text in enumerate(texts):
        words = text.split(" ")[1:-1]  # the ends may be parts of words
        plain = ["".join(c for c in word.lower() if c.isalnum() or c in "'-") for word in words]
        row: list[int] = []
        for word, encoded in zip(words, tokenizer.encode_batch([f" {each}" for each in plain]), strict=True):
            row += encoded
            last = word.rstrip("\"'”’)_*")[-1:]
            kind = MARKS.get(last, 0 if last.isalnum() else None)
            if kind is not None and len(row) < 250:
                places[kind].append((number, len(row) - 1))
        ids.append(row[:255])
    chosen = {kind: random.permutation(len(found))[:most] for kind, found in places.items()}
    labels = [kind for kind, found in chosen.items() for _ in found]
    order = random.permutation(len(labels))
    flat = [places[kind][i] for kind, found in chosen.items() for i in found]
    return Part(ids, [flat[i] for i in order], torch.tensor(labels)[torch.from_numpy(order)])


def pretrained(
    folder: Path, inputs: dict[str, Path], arm: str, seed: int, options: argparse.Namespace
) -> tuple[Any, dict[str, Any]]:
    config = PretrainConfig.model_validate(
        {
            "objective": ARMS[arm],
            "architecture": "llama",
            "depth": 4,
            "hidden_size": 128,
            "head_dim": 32,
            "context": 256,
            "batch_tokens": 2048,
            "evaluations": 0,
            "seed": seed,
        }
    )
    shape = derive_shape(config, VOCABULARY, {})
    logits = {"causal": 1.0, "masked": config.mask_share, "mixed": 1 - config.masked_rows * (1 - config.mask_share)}
    weights, head = shape.flops_per_token(0) / 6, VOCABULARY * shape.hidden_size
    tokens = round(options.tokens * weights / (weights - (1 - logits[arm]) * head))
    config = config.model_copy(update={"train_tokens": tokens})
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    summary = pretrain.run(config, inputs, folder, Runtime(workers=options.threads, scratch=scratch))
    return load_model(folder), summary


def baselines(probes: dict[str, Probe]) -> None:
    for name, probe in probes.items():
        n = len(probe.judge.labels)
        print(f"{name}: {probe.classes} classes, {len(probe.learn.labels)} to learn from, {n} of other books to judge")
        print(f"  chance {1 / probe.classes:.4f}")
        show("  tokens alone", accuracy_of(probe, bags(probe.learn), bags(probe.judge)), n)


def judged(model: Any, probes: dict[str, Probe], bidirectional: bool) -> dict[str, float]:
    return {
        name: accuracy_of(
            probe, features(model, probe.learn, bidirectional), features(model, probe.judge, bidirectional)
        )
        for name, probe in probes.items()
    }


@torch.inference_mode()
def features(model: Any, part: Part, bidirectional: bool) -> torch.Tensor:
    """[asked, D]: a passage's mean over its tokens, or the state of the token at a place."""
    seen = torch.ones(1, dtype=torch.bool) if bidirectional else None
    states = [
        model.hidden(torch.tensor([[model.config.bos_token_id, *ids]]), bidirectional_B=seen)[0, 1:] for ids in part.ids
    ]
    if part.places is None:
        return torch.stack([each.mean(0) for each in states])
    return torch.stack([states[number][at] for number, at in part.places])


def bags(part: Part) -> torch.Tensor:
    """[asked, V]: log(1 + how often) of each token; or [asked, 2V]: which token is there, and which is next."""
    if part.places is None:
        counts = [torch.bincount(torch.tensor(ids), minlength=VOCABULARY) for ids in part.ids]
        return torch.stack(counts).float().log1p()
    own = torch.tensor([part.ids[number][at] for number, at in part.places])
    following = torch.tensor([(part.ids[number] + [0])[at + 1] for number, at in part.places])
    one_hot = torch.nn.functional.one_hot
    return torch.cat((one_hot(own, VOCABULARY), one_hot(following, VOCABULARY)), dim=1).float()


def accuracy_of(probe: Probe, learn: torch.Tensor, judge: torch.Tensor) -> float:
    """Share of right answers of a logistic regression on standardised features."""
    mean, deviation, wanted = learn.mean(0), learn.std(0) + 1e-3, probe.learn.labels
    learn, judge = (learn - mean) / deviation, (judge - mean) / deviation
    checked = torch.arange(len(learn)) % 3 == 0
    scores = []
    for penalty in PENALTIES:
        fitted = regression(learn[~checked], wanted[~checked], probe.classes, penalty)
        scores.append(accuracy(fitted, learn[checked], wanted[checked]))
    best = PENALTIES[int(np.argmax(scores))]
    return accuracy(regression(learn, wanted, probe.classes, best), judge, probe.judge.labels)


def regression(x: torch.Tensor, y: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.t() + bias, y) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def accuracy(fitted: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    return float(((x @ fitted[0].t() + fitted[1]).argmax(1) == y).float().mean())


def show(name: str, share: float, n: int) -> None:
    found = proportion(round(share * n), n)
    print(f"{name} {share:.4f} [{found.low:.4f}, {found.high:.4f}], n = {n}", flush=True)


def compare(right: dict[tuple[str, str], list[float]], arms: list[str]) -> None:
    for (name, arm), values in right.items():
        line = f"{name}, {arm}: {np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f}, n = {len(values)} seeds)"
        if arm != arms[0] and len(values) > 1:
            apart = mixture._gain(values, right[name, arms[0]])
            line += f", against {arms[0]} {apart['mean']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}]"
        print(line)


if __name__ == "__main__":
    main()
