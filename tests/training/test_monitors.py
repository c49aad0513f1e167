"""The monitors see what is there, change nothing, and go on where a killed run stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lmcraft.corpus.documents import SCHEMA
from lmcraft.model import ModelConfig, Transformer
from lmcraft.model.rotary import rotary, rotate
from lmcraft.recipe.stage import Progress, Runtime, Task
from lmcraft.tokens import Tokenizer, pack, train
from lmcraft.training import hardware, loop, monitors
from lmcraft.training.config import TrainingConfig
from lmcraft.training.heldout import heldout_bits_per_byte, heldout_masked_nats, monitored_batch
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine
from lmcraft.training.masking import Masking
from lmcraft.training.monitors import Monitors, measure_batch
from lmcraft.training.objectives import Batch, next_token

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
}


class Texts:
    lengths = np.random.default_rng(0).integers(4, 30, 80).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        return (np.arange(self.lengths[number]) + number * 7) % 61

    def trained_on(self, number: int) -> None:
        return None


class Notes(Progress):
    def __init__(self, advances: int | None = None):
        self.left, self.notes = advances, list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        progress = self

        class Counting(Task):
            def advance(self, amount: float = 1, text: str | None = None) -> None:
                if progress.left is not None:
                    progress.left -= 1
                    if progress.left == 0:
                        raise KeyboardInterrupt

        return Counting()


class Sources:
    """A held-out evaluation of two sources."""

    def __call__(self, nats_of: Any) -> float:
        self.nats = nats_of(held_out_batch())[0]
        return float(self.nats)

    def by_source(self) -> list[dict[str, Any]]:
        return [{"source": name, "heldout_bits_per_byte": self.nats, "documents": 1} for name in ("a", "b")]


def held_out_batch() -> Batch:
    return Loader(Texts(), 32, 4, seed=9).batch(0)


def run(folder: Path, progress: Progress, watched: bool, compiled: bool = False, **changes: Any) -> Transformer:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    model = Transformer(ModelConfig(**SHAPE))
    model.initialise(0)
    heldout = Sources()
    loop.train(
        model,
        Loader(Texts(), 32, 4, seed=0),
        next_token(),
        TrainingConfig(evaluations=3, **changes),
        steps=12,
        micro_rows=2,
        machine=Machine(CPU, torch.bfloat16, compiled, 1e-6),
        evaluate=heldout,
        out=folder,
        runtime=Runtime(scratch=folder / "scratch", progress=progress),
        monitors=Monitors(held_out_batch(), heldout) if watched else None,
    )
    return model


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / monitors.FILE).read_text(encoding="utf-8").splitlines()]


def same(one: Transformer, other: Transformer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_watched_run_ends_with_the_same_weights_and_metrics(tmp_path: Path, compiled: bool) -> None:
    if compiled and (reason := hardware._why_not_compile(CPU)):
        pytest.skip(reason)
    alone = run(tmp_path / "alone", Progress(), False, compiled)
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    watched = run(tmp_path / "watched", Progress(), True, compiled)
    assert same(watched, alone)
    assert (tmp_path / "watched" / "metrics.jsonl").read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "alone" / monitors.FILE).exists()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.modules())
    again = torch._dynamo.utils.counters["stats"]["unique_graphs"] - compilations
    assert not again, "hooks come and go: they must not cost another compilation"


def test_a_killed_run_ends_with_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run(tmp_path / "whole", Progress(), True)
    for kill in (6, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", Notes(kill), True)
    run(tmp_path / "killed", Progress(), True)
    files = [(tmp_path / name / monitors.FILE).read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    head, *rows = rows_of(tmp_path / "whole")
    assert sorted({row["step"] for row in rows}) == [0, 4, 8, 12]
    assert {row.get("layer", row.get("source")) for row in rows if row["step"] == 8} == {
        *(0, 1, "embeddings", "rest"),
        *("a", "b"),
    }
    assert {name for row in rows for name in row} - {"step", "layer", "source", "documents"} == set(head["units"])
    assert head["batch"]["tokens"] == int((held_out_batch().documents >= 0).sum())


def test_norms_are_those_of_the_parameters() -> None:
    model = Transformer(ModelConfig(**SHAPE))
    model.initialise(0)
    loss, _ = next_token()(model, held_out_batch(), torch.float32)
    loss.backward()
    watch = Monitors(held_out_batch())
    before = watch.before(model)
    layer = [p for name, p in model.named_parameters() if name.startswith("model.layers.1.")]
    gradient = torch.cat([p.grad.flatten() for p in layer if p.grad is not None]).norm()
    weight = torch.cat([p.detach().flatten() for p in layer]).norm()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.25)
    rows = {row["layer"]: row for row in watch.after(before, 1, 1.0, print)}
    assert rows[1]["grad_norm"] == pytest.approx(float(gradient), rel=1e-5)
    assert rows[1]["update_to_weight"] == pytest.approx(0.25, rel=1e-5)
    assert float(weight) > 0 and set(rows) == {0, 1, "embeddings", "rest"}


@pytest.mark.parametrize("window", [None, 5])
def test_the_largest_logit_is_that_of_what_a_token_may_see(window: int | None) -> None:
    family: dict[str, Any] = {"model_type": "olmo3", "sliding_window": window, "num_key_value_heads": 4}
    config = ModelConfig(**SHAPE | (family | {"layer_types": ("sliding_attention",) * 2} if window else {}))
    model = Transformer(config)
    model.initialise(3)
    batch = held_out_batch()
    attention, x = model.model.layers[0].self_attn, model.model.embed_tokens(batch.tokens)
    if not window:
        x = model.model.layers[0].input_layernorm(x)
    q, k = attention.q_proj(x), attention.k_proj(x)
    if window:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k = (each.unflatten(-1, (-1, 8)) for each in (q, k))
    if not window:
        q, k = attention.q_norm(q), attention.k_norm(k)
    cos, sin = rotary(batch.positions, 8, config.rope_theta, None)
    q, k = (rotate(each.transpose(1, 2), cos, sin) for each in (q, k))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    largest = -math.inf
    for row, own, other in np.ndindex(4, 32, 32):
        near = own - other < (window or 32) and other <= own
        if near and batch.documents[row, own] == batch.documents[row, other] >= 0:
            largest = max(largest, (q[row, :, own] * k[row, :, other]).sum(-1).max().item() / math.sqrt(8))
    found = measure_batch(model, batch)
    assert found[0]["attention_logit"] == pytest.approx(largest, rel=1e-4)
    assert found[1]["attention_logit"] is not None


def test_units_that_never_speak_are_counted_as_dead() -> None:
    model = Transformer(ModelConfig(**SHAPE))
    model.initialise(0)
    assert [row["dead_units"] for row in measure_batch(model, held_out_batch())] == [0.0, 0.0]
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:16] = 0
    assert [row["dead_units"] for row in measure_batch(model, held_out_batch())] == [0.0, 0.25]


def test_an_expert_that_no_token_meets_is_dead() -> None:
    sparse: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    model = Transformer(ModelConfig(**SHAPE, model_type="qwen3_moe", norm_topk_prob=True, **sparse))
    model.initialise(0)
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight[1:] = 0  # all that do not like expert 0 go to expert 1
    found = measure_batch(model, held_out_batch())
    assert found[0]["dead_units"] is not None and found[0]["dead_units"] >= 0.5


def test_what_is_beyond_a_limit_is_said_in_one_line(tmp_path: Path) -> None:
    calm = Notes()
    run(tmp_path / "calm", calm, True)
    assert not calm.notes
    wild = Notes()
    run(tmp_path / "wild", wild, True, learning_rate=5.0, norm_learning_rate=3.0, spike_limit=None)
    assert any("of their norm (limits 1e-05 to 0.1 at the peak rate): lower learning_rate" in n for n in wild.notes)
    assert any("the attention logits of layer" in note and "(limit 100)" in note for note in wild.notes)
    dead, model = Notes(), Transformer(ModelConfig(**SHAPE))
    model.initialise(0)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:16] = 0
    Monitors(held_out_batch()).forward(model, 3, dead.note)
    assert dead.notes == [
        "  after step 3, 25% of the feed-forward units of layer 1 are silent (limit 10%): lower learning_rate or "
        "intermediate_size"
    ]


def test_the_board_gets_a_line_a_layer_and_source() -> None:
    shown: list[tuple[str, float, int]] = []

    class Board:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            shown.append((name, value, step))

    rows = [
        {"step": 3, "layer": 0, "grad_norm": 1.0, "attention_logit": None},
        {"step": 3, "source": "a", "heldout_bits_per_byte": 2.0, "documents": 4},
    ]
    loop._show(Board(), rows)
    loop._show(None, rows)
    assert shown == [("grad_norm/layer 0", 1.0, 3), ("heldout_bits_per_byte/a", 2.0, 3)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tokens of three sources, each with words of its own."""
    folder = tmp_path_factory.mktemp("material")
    draw = np.random.default_rng(0)
    words = {
        name: ["".join(draw.choice(list(letters), 4)) for _ in range(60)]
        for name, letters in (("vowels", "aeiouy"), ("digits", "0123456789"), ("letters", "bcdfghjklm"))
    }
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"id": f"{i:032x}", "text": " ".join(draw.choice(words[name], 20)), "source": name, "path": str(i)}
        | {"split": "train" if i % 2 else "heldout", "changes": []}
        for i, name in ((i, list(words)[i % 3]) for i in range(90))
    ]
    for name in ("documents", "tokenizer", "tokens"):
        (folder / name).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "documents" / "documents-00000.parquet")
    inputs = {"documents": folder / "documents", "tokenizer": folder / "tokenizer"}
    train.STAGE.run(train.STAGE.config(vocab_size=512, mask_token=True), inputs, folder / "tokenizer", Runtime())
    pack.STAGE.run(pack.STAGE.config(), inputs, folder / "tokens", Runtime())
    return {"tokens": folder / "tokens", "tokenizer": Tokenizer.load(folder / "tokenizer")}


def nats(batch: Batch) -> tuple[float, int]:
    """As if every token cost its own number."""
    labelled = batch.labels != -100
    return float(batch.labels[labelled].sum()), int(labelled.sum())


def test_loss_by_source_adds_up_to_the_loss(material: dict[str, Any]) -> None:
    evaluate = heldout_bits_per_byte(material["tokens"], 64, 3, 10_000)
    assert evaluate is not None
    whole, rows = evaluate(nats), evaluate.by_source()
    assert sorted(row["source"] for row in rows) == ["digits", "letters", "vowels"]
    assert sum(row["documents"] for row in rows) == 45
    total = sum(row["heldout_bits_per_byte"] * row["bytes"] for row in rows)
    assert whole == pytest.approx(total / sum(row["bytes"] for row in rows))
    assert len({round(row["heldout_bits_per_byte"], 6) for row in rows}) == 3


def test_masked_loss_by_source_adds_up_too(material: dict[str, Any]) -> None:
    tokenizer = material["tokenizer"]
    masking = Masking(tokenizer.mask_id, tokenizer.special_ids, 0.3, False, 0.5, 4)
    evaluate = heldout_masked_nats(material["tokens"], 64, 3, 10_000, masking)
    assert evaluate is not None
    whole, rows = evaluate(nats), evaluate.by_source()
    total = sum(row["heldout_masked_nats"] * row["masked_tokens"] for row in rows)
    assert whole == pytest.approx(total / sum(row["masked_tokens"] for row in rows))
    batch = monitored_batch(material["tokens"], 64, masking)
    assert batch is not None and batch.bidirectional is not None
    assert (batch.documents >= 0).float().mean() > 0.9, "rows are full, so padding counts for nothing"


def test_many_sources_are_a_few_and_the_rest(material: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcraft.training.heldout.MOST_SOURCES", 2)
    evaluate = heldout_bits_per_byte(material["tokens"], 64, 3, 10_000)
    assert evaluate is not None
    evaluate(nats)
    assert [(row["source"], row["documents"]) for row in evaluate.by_source()] == [("digits", 15), ("(other)", 30)]
