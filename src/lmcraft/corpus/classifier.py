"""Stage `classifier`: examples of two or more classes -> a linear classifier on hashed n-grams, with its evaluation.

For a filter of quality, give documents that are `good` and documents that are `bad`; for topics, `documents` and the
column that holds the label. The model is fastText's (Joulin et al., 2016) with its features (see classifier_features);
probabilities are calibrated (Platt, 1999; of more classes than two by temperature, Guo et al., 2017) on documents that
were not trained on, and measured on others again. They hold where all classes are equally frequent.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from lmcraft.corpus import classifier_measures as measures
from lmcraft.corpus import documents
from lmcraft.corpus.classifier_features import (
    ALGORITHM,
    Features,
    first_places,
    frequencies,
    logits,
    text_bytes,
    train,
    word_hashes,
)
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError

GOOD, BAD = "good", "bad"
SETTINGS, WEIGHTS, EVALUATION = "classifier.json", "classifier.safetensors", "evaluation.json"
FEWEST = 20
"""Documents of a class below which nothing can be said about it."""
TELLING = 30
"""N-grams listed for each class."""


class ClassifierConfig(StageConfig):
    """What is learnt from which examples, and how much of them is kept for calibration and measuring."""

    name: str = Field(
        "quality", pattern=r"^[A-Za-z][\w-]*$", description="Name of the score that documents get from this classifier."
    )
    label: Literal["topic", "source", "language", "licence", "format"] | None = Field(
        None, description="Column of `documents` that holds the class; null: the classes are `good` and `bad`."
    )
    words: int = Field(2, ge=1, le=3, description="Longest run of words that is a feature.")
    characters: int = Field(4, ge=0, le=8, description="Characters of the n-grams inside words; 0: none.")
    bits: int = Field(20, ge=10, le=24, description="The table of weights has 2^bits rows.")
    max_bytes: int = Field(65536, ge=100, description="Bytes of a document that are looked at, from its beginning.")
    sample_bytes: int = Field(
        100_000_000, ge=10_000, description="Most text to learn from, drawn by hash, as much of each class; in memory."
    )
    epochs: int = Field(3, ge=1, le=100, description="Passes over the examples.")
    rate: float = Field(0.1, gt=0, description="AdaGrad's rate.")
    heldout: float = Field(0.2, gt=0, le=0.5, description="Share of documents, by hash, that only measure.")
    calibration: float = Field(0.1, gt=0, le=0.4, description="Share of documents, by hash, that only calibrate.")
    heldout_sources: list[str] = Field(
        [], description="Sources whose documents only measure: does what is learnt hold for texts from elsewhere?"
    )
    ignore: list[str] = Field([], description="Words that are read as if they were not there.")
    ignore_identities: bool = Field(
        False, description="Add to `ignore` some 400 names of groups of people, so that none can be a reason."
    )

    @model_validator(mode="after")
    def _something_can_be_learnt(self) -> ClassifierConfig:
        if self.characters == 1:
            raise ValueError("characters must be 0 (none) or at least 2")
        return self


@dataclass(frozen=True)
class Classifier:
    """A trained classifier. `scale`, `shift`: calibrated logit = scale * logit + shift (one scale for all classes)."""

    name: str
    classes: tuple[str, ...]
    features: Features
    weights: np.ndarray  # float32 [2^bits, outputs]; two classes have one output: the second class against the first
    scale: float = 1.0
    shift: float = 0.0

    @staticmethod
    def load(directory: Path) -> Classifier:
        """Read a directory made by the stage `classifier`. Raises UserError when it is none or is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
            stored = load_file(directory / WEIGHTS)
            return Classifier._of(settings, stored["weights"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"{directory} holds no classifier that can be read ({error}); give the output of a classifier step"
            ) from error

    def save(self, directory: Path) -> None:
        """Write weights (safetensors) and settings (JSON)."""
        from safetensors.numpy import save_file

        documents.write_json(directory / SETTINGS, self._settings())
        save_file({"weights": self.weights}, directory / (WEIGHTS + ".tmp"))
        (directory / (WEIGHTS + ".tmp")).replace(directory / WEIGHTS)

    def arrays(self) -> dict[str, np.ndarray]:
        """The classifier as arrays, which workers can map into memory; `of_arrays` makes it from them again."""
        settings = np.frombuffer(json.dumps(self._settings()).encode(), np.uint8)
        return {"settings": settings, "weights": self.weights}

    @staticmethod
    def of_arrays(arrays: Mapping[str, np.ndarray]) -> Classifier:
        return Classifier._of(json.loads(arrays["settings"].tobytes()), arrays["weights"])

    def probabilities(self, texts: pa.Array) -> np.ndarray:
        """[documents, classes] float64, calibrated."""
        return _probabilities(logits(texts, self.weights, self.features), self.scale, self.shift)

    def scores(self, texts: pa.Array) -> np.ndarray:
        """Probability (float64) of the last class, which is `good` where the classes are good and bad."""
        return self.probabilities(texts)[:, -1]

    def _settings(self) -> dict[str, Any]:
        features = self.features
        return {
            "algorithm": ALGORITHM,
            "name": self.name,
            "classes": list(self.classes),
            "features": {
                "bits": features.bits,
                "words": features.words,
                "characters": features.characters,
                "max_bytes": features.max_bytes,
                "ignored": [f"{value:016x}" for value in features.ignored],
            },
            "calibration": {"scale": self.scale, "shift": self.shift},
        }

    @staticmethod
    def _of(settings: Mapping[str, Any], weights: np.ndarray) -> Classifier:
        if settings["algorithm"] != ALGORITHM:
            raise UserError(
                f"the classifier was trained with {settings['algorithm']}, this version has {ALGORITHM}: train it again"
            )
        stored = dict(settings["features"])
        features = Features(**(stored | {"ignored": tuple(int(value, 16) for value in stored["ignored"])}))
        classes = tuple(settings["classes"])
        outputs = 1 if len(classes) == 2 else len(classes)
        if weights.shape != (features.size, outputs):
            raise ValueError(f"weights of shape {weights.shape} do not fit {len(classes)} classes")
        fitted = settings["calibration"]
        return Classifier(settings["name"], classes, features, weights, float(fitted["scale"]), float(fitted["shift"]))


def run(config: ClassifierConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draw examples, train, calibrate, measure; write the classifier and evaluation.json.

    Raises UserError when the inputs do not fit the label, or when there are too few examples of a class.
    """
    out.mkdir(parents=True, exist_ok=True)
    with runtime.progress.task("read examples", None, "documents") as task:
        examples = _draw(config, _labelled(config, inputs), task.advance)
    ignored = [*config.ignore, *(_identities() if config.ignore_identities else ())]
    features = Features(config.bits, config.words, config.characters, config.max_bytes, word_hashes(ignored))
    parts = _parts(config, examples)
    _check_parts(config, examples, parts)
    classes = examples.classes
    learnt = _take(examples, parts == TRAIN)
    with runtime.progress.task("train", None, "bytes") as task:
        weights = train(
            *text_bytes(learnt.texts),
            learnt.labels,
            _balanced(learnt.labels, len(classes)),
            1 if len(classes) == 2 else len(classes),
            features,
            config.epochs,
            config.rate,
        )
        task.advance(learnt.bytes * config.epochs)
    raw = Classifier(config.name, classes, features, weights)
    scale, shift = _calibrate(raw, _take(examples, parts == CALIBRATE))
    classifier = Classifier(config.name, classes, features, weights, scale, shift)
    classifier.save(out)
    evaluation = {
        "algorithm": ALGORITHM,
        "classes": list(classes),
        "examples": {
            "read": examples.read,
            "left_out": dict(sorted(examples.left_out.items())),
            "drawn": {
                name: {part: int(((parts == number) & (examples.labels == label)).sum()) for number, part in PARTS}
                for label, name in enumerate(classes)
            },
            "train_bytes": learnt.bytes,
        },
        "note": "Classes count alike; probabilities hold where all are equally frequent.",
        **evaluate(classifier, _take(examples, parts == MEASURE)),
        "telling": _telling(classifier, learnt),
    }
    documents.write_json(out / EVALUATION, evaluation)
    summary: dict[str, Any] = {"classes": len(classes), "documents": len(learnt.labels)}
    key = "auc" if len(classes) == 2 else "accuracy"
    measured = evaluation[key]
    return summary | {key: [measured["value"], measured["low"], measured["high"]], "n": evaluation["n"]}


@dataclass
class Examples:
    """Texts with classes (by number) and what else is known of them, in the order of their hashes."""

    classes: tuple[str, ...]
    texts: pa.Array
    labels: np.ndarray
    hashes: np.ndarray  # uint64
    sources: list[str]
    languages: list[str | None]
    heldout: np.ndarray  # bool: held out by curate
    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        _, starts, ends = text_bytes(self.texts)
        return int((ends - starts).sum())


TRAIN, CALIBRATE, MEASURE, NOWHERE = 0, 1, 2, 3
PARTS = ((TRAIN, "train"), (CALIBRATE, "calibration"), (MEASURE, "heldout"))


def evaluate(classifier: Classifier, examples: Examples) -> dict[str, Any]:
    """Measures on examples that the classifier has not seen."""
    probability = classifier.probabilities(examples.texts)
    labels, classes = examples.labels, classifier.classes
    weights = _balanced(labels, len(classes)).astype(np.float64)
    said = probability.argmax(axis=1)
    table = measures.confusion(said, labels, len(classes))
    result: dict[str, Any] = {"n": len(labels), "accuracy": measures.share(int((said == labels).sum()), len(labels))}
    result["confusion"] = {
        "rows": "true",
        "classes": list(classes),
        "documents": table.tolist(),
    }
    if len(classes) > 2:
        result["auc_by_class"] = {
            name: measures.auc(probability[:, index], labels == index) for index, name in enumerate(classes)
        }
        result["calibration"] = measures.calibration(probability.max(axis=1), said == labels, weights)
        return result
    score, positive = probability[:, 1], labels == 1
    result["auc"] = measures.auc(score, positive)
    result["calibration"] = measures.calibration(score, positive, weights)
    result["thresholds"] = measures.thresholds(score, positive, weights)
    for dimension, values in (("language", examples.languages), ("source", examples.sources)):
        result[f"by_{dimension}"] = _by_group(np.array([value or documents.NONE for value in values]), score, positive)
    return result


def _by_group(groups: np.ndarray, score: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """At a threshold of a half: the second class's share that is lost, the first's that is kept, group by group."""
    result = {}
    for group in sorted(set(groups.tolist())):
        inside = groups == group
        good, bad = inside & positive, inside & ~positive
        result[group] = {
            "lost": measures.share(int((score[good] < 0.5).sum()), int(good.sum())),
            "kept": measures.share(int((score[bad] >= 0.5).sum()), int(bad.sum())),
            "auc": measures.auc(score[inside], positive[inside]),
        }
    return result


def _labelled(config: ClassifierConfig, inputs: Inputs) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Class and row of every document of the inputs."""
    columns = ["text", "source", "language", "split"]
    two = [(name, [Path(path) for path in inputs.get(name) or ()]) for name in (BAD, GOOD)]
    many = [Path(path) for path in inputs.get("documents") or ()]
    given = [name for name, paths in two if paths]
    if config.label is None:
        if len(given) < 2 or many:
            raise UserError(
                "a classifier without `label` needs the inputs `good` and `bad`, and no `documents`; to learn the "
                "values of a column, give `documents` and set label to topic, source or language"
            )
        for name, paths in two:
            for path in paths:
                for batch in documents.read_documents(path, columns):
                    for row in batch.to_pylist():
                        yield name, row
        return
    if given or not many:
        raise UserError(f"a classifier of label {config.label!r} needs the input `documents`, and no `good` or `bad`")
    for path in many:
        for batch in documents.read_documents(path, list(dict.fromkeys([*columns, config.label]))):
            for row in batch.to_pylist():
                yield row[config.label], row


class _Draw:
    """Keeps the documents of the smallest hashes."""

    def __init__(self) -> None:
        self.items: dict[int, tuple[bytes, str, str | None, bool]] = {}
        self.held = 0
        self.limit = 1 << 64
        self.dropped = 0

    def add(self, key: int, item: tuple[bytes, str, str | None, bool]) -> int:
        """The bytes that this takes."""
        if key > self.limit:
            self.dropped += 1
            return 0
        self.items[key] = item
        self.held += _size(item)
        return _size(item)

    def cut(self, budget: int) -> None:
        kept: dict[int, tuple[bytes, str, str | None, bool]] = {}
        self.held = 0
        for key in sorted(self.items):
            size = _size(self.items[key])
            if self.held + size > budget and kept:
                self.limit = max(kept)
                break
            kept[key] = self.items[key]
            self.held += size
        self.dropped += len(self.items) - len(kept)
        self.items = kept


def _size(item: tuple[bytes, str, str | None, bool]) -> int:
    return len(item[0]) + 300  # and what Python needs around it


def _draw(
    config: ClassifierConfig, labelled: Iterable[tuple[str | None, dict[str, Any]]], seen: Callable[[float], None]
) -> Examples:
    """A random draw of every class, which depends on what the texts say and not on their order."""
    draws: dict[str, _Draw] = {}
    left_out: Counter[str] = Counter()
    read, held = 0, 0
    for label, row in labelled:
        read += 1
        if read % 1000 == 0:
            seen(1000)
        text = row["text"].encode("utf-8")
        if label is None or not text.strip():
            left_out["no label" if label is None else "no text"] += 1
            continue
        key = _hash(text)
        draw = draws.setdefault(label, _Draw())
        if key in draw.items:
            left_out["same text again"] += 1
            continue
        held += draw.add(key, (text[: config.max_bytes], row["source"], row["language"], row["split"] == "heldout"))
        if held > 2 * config.sample_bytes:  # a class more only makes the share of each smaller: nothing is missed
            _cut(draws, config.sample_bytes)
            held = sum(draw.held for draw in draws.values())
    _cut(draws, config.sample_bytes)
    times_seen = Counter(key for draw in draws.values() for key in draw.items)
    for draw in draws.values():
        for key in [key for key in draw.items if times_seen[key] > 1]:
            del draw.items[key]
            left_out["text in more than one class"] += 1
        left_out["beyond sample_bytes"] += draw.dropped
    for name in [name for name, draw in draws.items() if len(draw.items) < FEWEST]:
        left_out["class of too few"] += len(draws.pop(name).items)
    if config.label is None:
        classes = tuple(name for name in (BAD, GOOD) if name in draws)
    else:
        classes = tuple(sorted(draws))
    if len(classes) < 2:
        raise UserError(
            f"a classifier needs two classes with {FEWEST} different documents each, and of {read} documents "
            f"{len(classes)} had that ({', '.join(f'{count} left out: {why}' for why, count in left_out.items())}); "
            "give more examples"
        )
    items = sorted(
        (key, number, *item) for number, name in enumerate(classes) for key, item in draws[name].items.items()
    )
    return Examples(
        classes=classes,
        texts=pa.array([item[2].decode("utf-8", "ignore") for item in items], pa.large_string()),
        labels=np.array([item[1] for item in items], np.int64),
        hashes=np.array([item[0] for item in items], np.uint64),
        sources=[item[3] for item in items],
        languages=[item[4] for item in items],
        heldout=np.array([item[5] for item in items], bool),
        read=read,
        left_out=+left_out,
    )


def place_of(text: bytes) -> float:
    """Where a text stands from 0 to 1: first come those that measure, then those that calibrate, then the others."""
    return (_hash(text) & 0xFFFFFFFF) / 2.0**32  # the low bits: the high ones decide the draw


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"classifier").digest(), "big")


def _cut(draws: Mapping[str, _Draw], budget: int) -> None:
    for draw in draws.values():
        draw.cut(budget // len(draws))


def _parts(config: ClassifierConfig, examples: Examples) -> np.ndarray:
    """Which part each example is in. It follows from its own text, its source and curate's split, and from no other."""
    place = (examples.hashes & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32  # as in place_of
    parts = np.full(len(place), TRAIN)
    parts[place < config.heldout + config.calibration] = CALIBRATE
    parts[place < config.heldout] = MEASURE
    if not config.heldout_sources:
        parts[examples.heldout] = MEASURE
        return parts
    elsewhere = np.isin(np.array(examples.sources), config.heldout_sources)
    parts[parts == MEASURE] = NOWHERE
    parts[elsewhere] = MEASURE
    parts[examples.heldout & ~elsewhere] = NOWHERE
    return parts


def _check_parts(config: ClassifierConfig, examples: Examples, parts: np.ndarray) -> None:
    for number, part in PARTS:
        counts = np.bincount(examples.labels[parts == number], minlength=len(examples.classes))
        if counts.min() < 2:
            short = examples.classes[int(counts.argmin())]
            raise UserError(
                f"class {short!r} has {counts.min()} documents for the part {part!r}, and two are the least "
                f"(100 or more make a useful interval); give more examples"
                + (" or other heldout_sources" if config.heldout_sources else "")
            )


def _take(examples: Examples, chosen: np.ndarray) -> Examples:
    rows = np.flatnonzero(chosen)
    return Examples(
        examples.classes,
        examples.texts.take(pa.array(rows)),
        examples.labels[rows],
        examples.hashes[rows],
        [examples.sources[row] for row in rows],
        [examples.languages[row] for row in rows],
        examples.heldout[rows],
    )


def _balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights (float32) by which every class counts alike, 1 on average."""
    counts = np.bincount(labels, minlength=classes)
    present = int((counts > 0).sum())
    return (len(labels) / (present * np.maximum(counts, 1)))[labels].astype(np.float32)


def _calibrate(classifier: Classifier, examples: Examples) -> tuple[float, float]:
    """The scale and shift of the logits that make the likelihood of the calibration part greatest, by Newton's method.

    Targets are drawn in a little from 0 and 1, as Platt does, so that separable classes do not run to infinity.
    """
    values = logits(examples.texts, classifier.weights, classifier.features).astype(np.float64)
    labels = examples.labels
    weights = _balanced(labels, len(classifier.classes)).astype(np.float64)
    counts = np.bincount(labels, minlength=len(classifier.classes))
    if len(classifier.classes) > 2:
        return _temperature(values, labels, weights), 0.0
    logit = values[:, 0]
    target = np.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    theta = np.array([1.0, 0.0])
    design = np.stack([logit, np.ones(len(logit))], axis=1)

    def loss(at: np.ndarray) -> float:
        z = design @ at
        return float((weights * (np.logaddexp(0, z) - target * z)).sum())

    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ theta))
        slope = design.T @ (weights * (p - target))
        curve = (design * (weights * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        size, now = 1.0, loss(theta)
        while loss(theta - size * step) > now and size > 1e-6:
            size /= 2
        theta = theta - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    # A scale below 0 would turn the classifier round: it has learnt nothing, and says a half of everything.
    return (round(float(theta[0]), 9), round(float(theta[1]), 9)) if theta[0] > 0 else (1e-6, 0.0)


def _temperature(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The scale of the logits of least loss, by golden section over its logarithm."""

    def loss(log_scale: float) -> float:
        scaled = values * np.exp(log_scale)
        top = scaled.max(axis=1)
        whole = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        return float((weights * (whole - scaled[np.arange(len(labels)), labels])).sum())

    low, high, golden = -5.0, 5.0, (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return round(float(np.exp((low + high) / 2)), 9)


def _probabilities(values: np.ndarray, scale: float, shift: float) -> np.ndarray:
    scaled = values.astype(np.float64) * scale + shift
    if scaled.shape[1] == 1:
        second = 1 / (1 + np.exp(-np.clip(scaled[:, 0], -500, 500)))
        return np.stack([1 - second, second], axis=1)
    scaled -= scaled.max(axis=1, keepdims=True)
    exponents = np.exp(scaled)
    return exponents / exponents.sum(axis=1, keepdims=True)


def _telling(classifier: Classifier, examples: Examples) -> dict[str, list[dict[str, Any]]]:
    """The n-grams that speak most for each class: weight times the root of the number of documents that have it.

    Different n-grams may share a row of the table; the first that the examples have is shown.
    """
    counts = frequencies(examples.texts, classifier.features)
    weights = classifier.weights
    if weights.shape[1] == 1:
        weights = np.concatenate([-weights, weights], axis=1)
    else:
        weights = weights - weights.mean(axis=1, keepdims=True)
    wanted: dict[str, np.ndarray] = {}
    for index, name in enumerate(classifier.classes):
        telling = weights[:, index] * np.sqrt(np.where(counts >= 3, counts, 0))
        order = np.argsort(-telling, kind="stable")[:TELLING]
        wanted[name] = order[telling[order] > 0]
    strings = first_places(examples.texts, np.unique(np.concatenate(list(wanted.values()))), classifier.features)
    return {
        name: [
            {
                "ngram": strings.get(int(index), ""),
                "weight": round(float(weights[index, number]), 4),
                "documents": int(counts[index]),
            }
            for index in order
        ]
        for number, (name, order) in enumerate(wanted.items())
    }


def _identities() -> tuple[str, ...]:
    from lmcraft.corpus.steps.screens_terms import IDENTITIES

    return IDENTITIES


STAGE = Stage(
    name="classifier",
    version=1,
    config=ClassifierConfig,
    inputs={
        "good": Input(kinds=("documents",), many=True, required=False),
        "bad": Input(kinds=("documents",), many=True, required=False),
        "documents": Input(kinds=("documents",), many=True, required=False),
    },
    output="classifier",
    run=run,
    help="Learn to tell good documents from bad, or the classes of a column, from examples; calibrated and measured.",
)
