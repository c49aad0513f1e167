"""nanochat's side: its network, optimizer, tokenizer and loader, imported from a checkout, under our clock.

What its training script derives is derived here in the same way: rates from the batch, weight decay from batch and
horizon, warm-up in steps, warm-down, Muon's momentum, weight decay by a cosine, the garbage collector kept away. Two
things differ: the schedules that are functions of the share of the steps are given the share of the time, and the
tokens are made before the clock starts.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality.contest import Clock, Rows, TokenFile, Trained, say, training_texts

REFERENCE_DEPTH, REFERENCE_BATCH = 12, 2**19


@dataclass
class Settings:
    nanochat: str = say("its checkout", "")
    vocab: int = say("tokens of its BPE", 4096)
    depth: int = say("layers", 4)
    width: int = say("of the model; 0: depth x aspect ratio, up to whole heads", 0)
    aspect_ratio: int = say("width for each layer", 64)
    head_dim: int = say("of a head", 64)
    context: int = say("tokens of a row", 512)
    window_pattern: str = say("L: all layers see everything", "L")
    batch: int = say("tokens of a step", 8192)
    device_batch: int = say("rows of a forward pass; 0: those of a step", 0)
    dtype: str = say("NANOCHAT_DTYPE", "bfloat16")
    compile: bool = say("torch.compile of the network", True)
    compile_optimizer: bool = say("torch.compile of the optimizer's two functions, which its code asks for", True)
    matrix_lr: float = say("Muon's, before scaling by the batch", 0.02)
    embedding_lr: float = say("before scaling", 0.3)
    unembedding_lr: float = say("before scaling", 0.008)
    scalar_lr: float = say("before scaling", 0.5)
    weight_decay: float = say("Muon's, before scaling", 0.28)
    scale: bool = say("scale rates by sqrt(batch / 2^19) and weight decay, as its script does", True)
    rates: float = say("factor on all rates, to tune them together", 1.0)
    warmup_steps: int = say("of the rates", 40)
    momentum_steps: int = say("in which Muon's momentum rises", 400)
    warmdown_ratio: float = say("share of the run at the end in which the rates fall", 0.65)
    final_lr_frac: float = say("of the rates at the end", 0.05)
    tokens_per_parameter: float = say("the horizon from which the weight decay is scaled", 12.0)
    loader: str = say("stream: rows of the stream of documents; bestfit: its own, on documents cut to rows", "stream")


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    tokenizer_of = _import(settings, folder).tokenizer.RustBPETokenizer
    tokenizer = tokenizer_of.train_from_iterator(training_texts(data), settings.vocab)
    tokenizer.save(str(folder / "tokenizer"))
    TokenFile.make(folder, training_texts(data), tokenizer.encode, tokenizer.get_bos_token_id())


def train(data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path) -> Trained:
    peer = _import(settings, work)
    import torch

    tokenizer = peer.tokenizer.RustBPETokenizer.from_directory(str(folder / "tokenizer"))
    peer.common.compute_init("cpu")
    torch.manual_seed(seed)
    if not settings.compile_optimizer:
        for name in ("adamw_step_fused", "muon_step_fused"):
            setattr(peer.optim, name, getattr(peer.optim, name)._torchdynamo_orig_callable)
    model = build(peer, settings, settings.depth, tokenizer.get_vocab_size())
    model.to_empty(device="cpu")
    model.init_weights()
    running = torch.compile(model, dynamic=False) if settings.compile else model
    optimizer, decay = make_optimizer(peer, model, settings, tokenizer.get_vocab_size())

    rows = settings.batch // settings.context
    micro = settings.device_batch or rows
    if rows % micro:
        raise SystemExit(f"a step has {rows} rows, which device_batch {micro} does not divide")
    tokens = TokenFile.open(folder)
    stream = _bestfit if settings.loader == "bestfit" else _stream
    batches = stream(peer, tokens, micro, settings.context, seed, work)
    step = 0
    inputs, targets = next(batches)
    while clock.another_step():
        for _ in range(rows // micro):
            loss = running(inputs, targets)
            (loss / (rows // micro)).backward()
            inputs, targets = next(batches)
        share = clock.share()
        factor = rate(share, step, settings)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if group["kind"] == "muon":
                group["momentum"] = momentum(share, step, settings)
                group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.step()
        model.zero_grad(set_to_none=True)
        loss.item()
        if step == 0:
            gc.collect()
            gc.freeze()
            gc.disable()
        step += 1
    seconds = clock.elapsed()
    gc.enable()
    parameters = sum(each.numel() for each in model.parameters())
    return Trained(
        judge=_in_float32(peer, model, tokenizer, settings.context),
        parameters=parameters,
        tokens=step * settings.batch,
        steps=step,
        notes={"loss": float(loss), "matrix_parameters": model.num_scaling_params()["transformer_matrices"]},
        seconds=seconds,
    )


def build(peer: Any, settings: Settings, depth: int, vocab: int) -> Any:
    """The network without storage; width and heads as its script chooses them."""
    import torch

    wanted = settings.width if settings.width and depth == settings.depth else depth * settings.aspect_ratio
    heads = -(-wanted // settings.head_dim)
    config = peer.gpt.GPTConfig(
        sequence_len=settings.context,
        vocab_size=vocab,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * settings.head_dim,
        window_pattern=settings.window_pattern,
    )
    with torch.device("meta"):
        return peer.gpt.GPT(config)


def make_optimizer(peer: Any, model: Any, settings: Settings, vocab: int) -> tuple[Any, float]:
    """Its optimizer, and Muon's weight decay at the start."""

    def counted(network: Any) -> int:
        counts = network.num_scaling_params()
        return counts["transformer_matrices"] + counts["lm_head"]

    factor, decay = settings.rates, settings.weight_decay
    if settings.scale:
        ratio = settings.batch / REFERENCE_BATCH
        horizon = settings.tokens_per_parameter * counted(model)
        reference = settings.tokens_per_parameter * counted(build(peer, settings, REFERENCE_DEPTH, vocab))
        factor *= math.sqrt(ratio)
        decay *= math.sqrt(ratio) * reference / horizon
    optimizer = model.setup_optimizer(
        unembedding_lr=settings.unembedding_lr * factor,
        embedding_lr=settings.embedding_lr * factor,
        scalar_lr=settings.scalar_lr * factor,
        matrix_lr=settings.matrix_lr * factor,
        weight_decay=decay,
    )
    return optimizer, decay


def rate(share: float, step: int, settings: Settings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    left = min(1.0, (1 - share) / max(1e-9, settings.warmdown_ratio))
    return left + (1 - left) * settings.final_lr_frac


def momentum(share: float, step: int, settings: Settings) -> float:
    if step < settings.momentum_steps:
        return 0.85 + (0.97 - 0.85) * step / settings.momentum_steps
    down = max(0.0, (share - (1 - settings.warmdown_ratio)) / max(1e-9, settings.warmdown_ratio))
    return 0.97 + (0.90 - 0.97) * down


def _stream(peer: Any, tokens: TokenFile, rows: int, context: int, seed: int, work: Path) -> Iterator[tuple[Any, Any]]:
    """Its loader's predecessor, which its code recommends for little data and long documents; rows are shuffled."""
    import torch

    for batch in Rows(tokens, context, seed).batches(rows):
        both = torch.from_numpy(batch)
        yield both[:, :-1].contiguous(), both[:, 1:].contiguous()


def _bestfit(peer: Any, tokens: TokenFile, rows: int, context: int, seed: int, work: Path) -> Iterator[tuple[Any, Any]]:
    """Its own loader. It crops a document that is longer than a row and drops the rest, which would leave a twentieth
    of a book: documents are cut to rows first. It reads 'text' that names a piece, and its tokenizer looks that up."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    pieces = []
    for start, end in zip(tokens.starts[:-1], tokens.starts[1:], strict=True):
        inner = range(int(start) + 1, int(end), context)  # BOS is put before each piece
        pieces += [f"{at}:{min(at + context, int(end))}" for at in inner]
    np.random.default_rng(seed).shuffle(pieces)
    folder = Path(peer.dataset.DATA_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((pieces, pieces[:1])):  # the last file is its validation split
        pq.write_table(pa.table({"text": part}), folder / f"shard_{number:05d}.parquet", row_group_size=1024)

    class Lookup:
        def get_bos_token_id(self) -> int:
            return int(tokens.ids[0])

        def encode(self, texts: list[str], prepend: int, num_threads: int) -> list[list[int]]:
            spans = [text.split(":") for text in texts]
            return [[prepend, *tokens.ids[int(start) : int(end)].tolist()] for start, end in spans]

    yield from peer.dataloader.tokenizing_distributed_data_loader_bos_bestfit(
        Lookup(), rows, context, split="train", device="cpu"
    )


def _in_float32(peer: Any, model: Any, tokenizer: Any, context: int) -> Any:
    """All contenders are judged in float32; here the embeddings were stored in less."""
    import torch

    from benchmarks.time_to_quality.judging import Judge

    peer.gpt.COMPUTE_DTYPE = torch.float32
    model.float().eval()
    model.cos, model.sin = model._precompute_rotary_embeddings(model.rotary_seq_len, model.cos.shape[-1] * 2)
    return Judge(model, tokenizer.encode, tokenizer.get_bos_token_id(), context)


def _import(settings: Settings, base: Path) -> Any:
    """Its modules, on import of which the precision and the folder of its data are fixed."""
    if not (Path(settings.nanochat) / "nanochat" / "gpt.py").is_file():
        raise SystemExit("give --nanochat, a folder in which nanochat is checked out")
    os.environ["NANOCHAT_DTYPE"] = settings.dtype
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    sys.path.insert(0, settings.nanochat)
    from types import SimpleNamespace

    from nanochat import (  # type: ignore[import-not-found, unused-ignore]
        common,
        dataloader,
        dataset,
        gpt,
        optim,
        tokenizer,
    )

    modules = {"common": common, "dataloader": dataloader, "dataset": dataset, "gpt": gpt, "optim": optim}
    return SimpleNamespace(**modules, tokenizer=tokenizer)
