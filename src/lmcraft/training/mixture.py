"""Stage `mixture`: documents -> weights of their groups, found by training many small models on drawn mixtures.

After RegMix (Liu et al. 2024): proxies on mixtures drawn from a Dirichlet distribution, a regression of their loss on
held-out text, and the mixture that it predicts to be best. One half of the held-out text chooses; the other half says
what the choice is worth, on fresh proxies beside those of the natural and the even mixture.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lmcraft.corpus.documents import read_documents, write_json
from lmcraft.corpus.steps.groups import check_dimensions, columns_of, group_labels
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError
from lmcraft.tokens import Tokenizer
from lmcraft.training.config import PretrainConfig
from lmcraft.training.mixture_proxies import MeasureProxy, ngram_proxy, transformer_proxy
from lmcraft.training.mixture_regression import best_mixture, draw_mixtures, fit_all, within

PIECE = 4000
"""Characters of a piece: a book is drawn in parts, as a training run would see it."""

CANDIDATES = 50_000


PROXY_SETTINGS = {
    *("depth", "parameters", "hidden_size", "heads", "kv_heads", "head_dim", "intermediate_size", "tie_embeddings"),
    *("context", "rope_theta", "batch_tokens", "micro_batch_tokens", "precision", "optimizer", "learning_rate"),
    *("embedding_learning_rate", "head_learning_rate", "norm_learning_rate", "weight_decay", "warmup", "decay"),
    *("final_rate", "clip_norm", "spike_limit", "z_loss"),
}
"""Settings of `pretrain` that mean something to a proxy."""


class MixtureConfig(StageConfig):
    """Which groups are weighed, by how many proxies of which kind, and for what."""

    by: list[str] = Field(default=["source"], min_length=1, description="Dimensions, as in the step `balance`.")
    bands: dict[str, list[float]] = Field(default={}, description="Limits between the bands of a score, by its name.")
    proxy: Literal["ngram", "transformer"] = Field(
        "ngram",
        description="ngram: a byte model, seconds each; transformer: needs the input `tokenizer`, minutes each.",
    )
    proxies: int = Field(32, ge=8, description="Mixtures that are tried; take several times the number of groups.")
    proxy_bytes: int = Field(1_000_000, ge=10_000, description="Text that each proxy is trained on.")
    heldout_bytes: int = Field(200_000, ge=1000, description="Held-out text of each group, half of it for choosing.")
    target: Literal["natural", "even"] | dict[str, float] = Field(
        "natural", description="How much each group's held-out text counts; moot when the input `target` is given."
    )
    target_bytes: int | None = Field(None, gt=0, description="Size of the training text to come; null: what there is.")
    max_epochs: float = Field(4.0, gt=0, description="No group gets more weight than so often its text would fill.")
    most_groups: int = Field(24, ge=2, description="Refuse more groups than this.")
    validation_seeds: int = Field(3, ge=2, description="Fresh draws for the comparison of best, natural and even.")
    ngram: int = Field(5, ge=1, le=7, description="Bytes of the n-gram proxy, the predicted one included.")
    transformer: dict[str, Any] = Field(
        default={"depth": 2, "hidden_size": 128, "context": 256, "batch_tokens": 4096},
        description="Settings of `pretrain` for the transformer proxy.",
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> MixtureConfig:
        check_dimensions(self.by, self.bands)
        PretrainConfig.model_validate(self.transformer)
        if unused := sorted(set(self.transformer) - PROXY_SETTINGS):
            raise ValueError(
                f"the transformer proxy knows no {unused[0]}: it is a new network that predicts next tokens, once "
                f"over proxy_bytes of text; it takes {', '.join(sorted(PROXY_SETTINGS))}"
            )
        if isinstance(self.target, dict) and not sum(self.target.values()) > 0:
            raise ValueError("`target` gives no group a weight above 0")
        return self


def run(config: MixtureConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes `mixture.json` (weights, what they are worth, how sure that is) and `proxies.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    scratch = (runtime.scratch or out) / ".mixture"
    material = _read(config, Path(inputs["documents"]), inputs.get("target"))
    halves = [half for parts in material.heldout for half in parts]
    if config.proxy == "ngram":
        measure = ngram_proxy(config.ngram, halves)
    else:
        if "tokenizer" not in inputs:
            raise UserError("`proxy: transformer` needs the input `tokenizer`: the name of a tokenizer step")
        settings = PretrainConfig.model_validate(config.transformer)
        measure = transformer_proxy(settings, Tokenizer.load(inputs["tokenizer"]), halves, runtime)
    runs = _Runs(config, material, measure, scratch)
    tried = draw_mixtures(material.natural, config.proxies, material.limits, config.seed)
    with runtime.progress.task("proxies", config.proxies + 3 * config.validation_seeds, "runs") as task:
        results = []
        for number, weights in enumerate(tried):
            results.append(runs.bits(weights, number))
            task.advance(1)
        outcomes = np.array(results)  # [proxies, targets, halves]
        fits = fit_all(tried, outcomes[:, :, 0], material.importance)
        candidates = draw_mixtures(material.natural, CANDIDATES, material.limits, config.seed + 1)
        best = best_mixture(fits[0], material.importance, candidates)
        even = within(np.full(len(best), 1 / len(best)), material.limits)
        compared = {"best": best, "natural": material.natural, "even": even}
        validated: dict[str, list[float]] = {name: [] for name in compared}
        for seed in range(config.validation_seeds):
            for name, weights in compared.items():
                bits = runs.bits(weights, 1_000_000 + seed)
                validated[name].append(float(bits[:, 1] @ material.importance))
                task.advance(1)
    found = _describe(config, material, fits, outcomes[:, :, 0], compared, validated)
    write_json(out / "mixture.json", found)
    lines = (
        {"weights": weights.tolist(), "bits_per_byte": bits[:, 0].tolist(), "other_half": bits[:, 1].tolist()}
        for weights, bits in zip(tried, outcomes, strict=True)
    )
    (out / "proxies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    gain = found["validation"]["gain_over_natural"]
    return {
        "groups": len(material.names),
        "proxies": config.proxies,
        "r2_left_out": found["regression"]["r2_left_out"],
        "gain_over_natural": gain["mean"],
        "gain_interval": [gain["low"], gain["high"]],
    }


@dataclass(frozen=True)
class _Material:
    """Groups of the training text, their shares and limits; pieces to draw from, and held-out pieces in two halves."""

    names: list[str]
    natural: np.ndarray
    limits: np.ndarray
    pools: list[list[tuple[int, str]]]
    targets: list[str]
    importance: np.ndarray  # of each target, sums to 1
    heldout: list[tuple[list[str], list[str]]]


def _read(config: MixtureConfig, documents: Path, target: Any) -> _Material:
    sizes: dict[str, int] = {}
    for label, _, text, _ in _pieces(config, documents, "train"):
        sizes[label] = sizes.get(label, 0) + len(text.encode())
    names = sorted(sizes)
    if not 2 <= len(names) <= config.most_groups:
        raise UserError(
            f"{' and '.join(config.by)} make {len(names)} groups of the training text; a mixture needs 2 to "
            f"{config.most_groups}: choose other dimensions, or raise most_groups and proxies"
        )
    size = np.array([sizes[name] for name in names], np.float64)
    natural = size / size.sum()
    limits = np.minimum(1.0, config.max_epochs * size / (config.target_bytes or size.sum()))
    if limits.sum() < 1:
        raise UserError(
            f"all groups together, {config.max_epochs:g} times, do not fill target_bytes; lower it or raise max_epochs"
        )
    pools = _gather(config, documents, "train", dict.fromkeys(names, 2 * config.proxy_bytes), sizes)
    if target is not None:
        total = sum(len(text.encode()) for _, _, text, _ in _pieces(config, Path(target), None))
        heldout = {"target": _gather(config, Path(target), None, {"*": config.heldout_bytes}, {"*": total})["*"]}
        importance = {"target": 1.0}
    else:
        held = dict.fromkeys(names, 0)
        for label, _, text, _ in _pieces(config, documents, "heldout"):
            held[label] = held.get(label, 0) + len(text.encode())
        heldout = _gather(config, documents, "heldout", dict.fromkeys(names, config.heldout_bytes), held)
        importance = _importance(config, names, natural)
    if few := [name for name, weight in importance.items() if weight > 0 and len(heldout[name]) < 2]:
        raise UserError(
            f"the group {few[0]!r} has no held-out text to measure a mixture by: hold more out in curate, or give the "
            "input `target`, or a `target` without it"
        )
    measured = [name for name in importance if len(heldout[name]) >= 2]
    return _Material(
        names,
        natural,
        limits,
        [pools[name] for name in names],
        measured,
        np.array([importance[name] for name in measured]),
        [_halves(heldout[name]) for name in measured],
    )


def _importance(config: MixtureConfig, names: list[str], natural: np.ndarray) -> dict[str, float]:
    """How much the held-out text of each group counts; adds up to 1."""
    if isinstance(config.target, dict):
        if unknown := sorted(set(config.target) - set(names)):
            raise UserError(f"target names the group {unknown[0]!r}; the groups are {', '.join(names)}")
        weights = np.array([config.target.get(name, 0.0) for name in names])
    else:
        weights = natural if config.target == "natural" else np.ones(len(names))
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def _pieces(config: MixtureConfig, directory: Path, split: str | None) -> Iterator[tuple[str, int, str, str]]:
    """(group, a draw in 0..2^63, text, id) of every piece of every document."""
    columns = ["id", "text", *columns_of(config.by)]
    for batch in read_documents(directory, list(dict.fromkeys(columns)), split):
        labels = group_labels(batch, config.by, config.bands).to_pylist()
        texts = batch["text"].to_pylist()
        for label, name, text in zip(labels, batch["id"].to_pylist(), texts, strict=True):
            for start in range(0, len(text), PIECE):
                digest = hashlib.blake2b(f"{config.seed} {start} {name}".encode(), digest_size=8).digest()
                yield label, int.from_bytes(digest, "little") >> 1, text[start : start + PIECE], name


def _gather(
    config: MixtureConfig, directory: Path, split: str | None, wanted: dict[str, int], sizes: dict[str, int]
) -> dict[str, list[tuple[int, str]]]:
    """About `wanted` bytes of each group, those with the lowest draws, in their order; `*` is any group."""
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in wanted}
    for label, draw, text, _ in _pieces(config, directory, split):
        name = "*" if "*" in wanted else label
        if name not in wanted:
            continue
        some = 1.2 * wanted[name] + 16 * PIECE  # so much more that chance leaves no group without any
        if draw < 2.0**63 * min(1.0, some / max(sizes[name], 1)):
            found[name].append((draw, text))
    for name, pieces in found.items():
        pieces.sort()
        ends = np.cumsum([len(text.encode()) for _, text in pieces])
        del pieces[int(np.searchsorted(ends, wanted[name])) + 1 :]
    return found


def _halves(pieces: list[tuple[int, str]]) -> tuple[list[str], list[str]]:
    return [text for _, text in pieces[::2]], [text for _, text in pieces[1::2]]


@dataclass(frozen=True)
class _Runs:
    """Trains proxies; each is written down as it ends, so that a killed run goes on with the next."""

    config: MixtureConfig
    material: _Material
    measure: MeasureProxy
    scratch: Path

    def bits(self, weights: np.ndarray, seed: int) -> np.ndarray:
        """Bits per byte of [targets, halves]."""
        work = json.dumps(
            [self.config.identity(), weights.tolist(), seed, self.material.natural.tolist()], sort_keys=True
        )
        name = hashlib.sha256(work.encode()).hexdigest()[:24]
        path = self.scratch / f"{name}.json"
        with contextlib.suppress(OSError, ValueError):
            return np.array(json.loads(path.read_text(encoding="utf-8")))
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = self.scratch / name
        bits = np.array(self.measure(self._draw(weights, seed), seed, folder)).reshape(-1, 2)
        write_json(path, bits.tolist())
        shutil.rmtree(folder, ignore_errors=True)
        return bits

    def _draw(self, weights: np.ndarray, seed: int) -> list[str]:
        """`proxy_bytes` of text in these shares; a group that has too little is begun again."""
        draw = np.random.Generator(np.random.PCG64([self.config.seed, seed]))
        texts: list[str] = []
        for weight, pool in zip(weights, self.material.pools, strict=True):
            order = draw.permutation(len(pool))
            left = weight * self.config.proxy_bytes
            number = 0
            while left > 0:
                text = pool[order[number % len(order)]][1]
                size = len(text.encode())
                if size > left:  # the last piece is cut, so that shares hold for small weights as well
                    text = text[: max(1, math.floor(len(text) * left / size))]
                texts.append(text)
                left -= size
                number += 1
        return [texts[place] for place in draw.permutation(len(texts))]


def _describe(
    config: MixtureConfig,
    material: _Material,
    fits: list[Any],
    outcomes: np.ndarray,
    compared: dict[str, np.ndarray],
    validated: dict[str, list[float]],
) -> dict[str, Any]:
    chosen, importance = fits[0], material.importance
    named = {key: dict(zip(material.names, weights.tolist(), strict=True)) for key, weights in compared.items()}
    return {
        "by": config.by,
        "bands": config.bands,
        "weights": named["best"],
        "natural": named["natural"],
        "even": named["even"],
        "limits": dict(zip(material.names, material.limits.tolist(), strict=True)),
        "target": dict(zip(material.targets, importance.tolist(), strict=True)),
        "proxy": config.proxy,
        "proxies": config.proxies,
        "proxy_bytes": config.proxy_bytes,
        "regression": {
            "chosen": chosen.name,
            "r2_left_out": chosen.r2(outcomes, importance),
            "error_left_out": chosen.error(outcomes, importance),
            "all": {fit.name: {"r2_left_out": fit.r2(outcomes, importance)} for fit in fits},
            "best_tried": float((outcomes @ importance).min()),
        },
        "predicted": {name: float((chosen.predict(w[None]) @ importance)[0]) for name, w in compared.items()},
        "validation": {
            "seeds": config.validation_seeds,
            "bits_per_byte": validated,
            "gain_over_natural": _gain(validated["natural"], validated["best"]),
            "gain_over_even": _gain(validated["even"], validated["best"]),
        },
    }


_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5%, for 1 to 9 degrees of freedom; with more, that of 9 is on the safe side."""


def _gain(other: list[float], best: list[float]) -> dict[str, Any]:
    """How many bits per byte fewer, with a 95% interval over the seeds (draws of the training text, paired)."""
    difference = np.array(other) - np.array(best)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    half = _T95[min(len(difference) - 1, len(_T95)) - 1] * error
    middle = float(difference.mean())
    return {"mean": middle, "low": middle - half, "high": middle + half, "better": middle - half > 0}


STAGE = Stage(
    name="mixture",
    version=5,
    config=MixtureConfig,
    inputs={
        "documents": Input(kinds=("documents",)),
        "target": Input(kinds=("documents",), required=False),
        "tokenizer": Input(kinds=("tokenizer",), required=False),
    },
    output="mixture",
    run=run,
    help="Find weights for groups of documents by training many small models on drawn mixtures.",
)
