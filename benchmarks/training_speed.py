"""How far a training step on this machine is from the floor that its matrix products set.

One network on packed rows, three ways: `plain`, what one writes first: the whole network under torch.compile and
autocast, PyTorch's attention with a mask, its cross-entropy over all logits, its AdamW; then in turns `eager` and
`ours`, the step that `pretrain` takes, uncompiled and compiled. The floor is measured in the same run, twice: each
linear layer's three products at the step's shapes and precision (`matmul_seconds_per_token`); attention's and Muon's
own products are in the second figure, which is the floor with them.

    python benchmarks/training_speed.py --hidden 256 --depth 6
    python benchmarks/training_speed.py --hidden 512 --depth 8 --vocab 8192 --steps 6
    python benchmarks/training_speed.py --device cuda --hidden 1536 --depth 24 --vocab 32768 --context 2048 \\
        --document 2048 --batch 16384 --untied --peak 989.5

On a GPU attention's products are not timed, and with --peak (its dense bfloat16 rate in TFLOP/s; H100 and H200 SXM
989.5, A100 312, by NVIDIA's data sheets) the model's operations a second (6 a weight of every matrix and attention
under a causal mask, `ModelConfig.flops_per_token`) are given as a share of that: MFU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lmcraft.model import ModelConfig, Transformer
from lmcraft.model.attention import make_tiles
from lmcraft.training.config import TrainingConfig
from lmcraft.training.hardware import keep_freed_memory, matmul_seconds_per_token, resolve_precision
from lmcraft.training.loss import compiled_loss
from lmcraft.training.muon import orthogonalise
from lmcraft.training.objectives import Batch, next_token
from lmcraft.training.optimizers import make_optimizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("hidden", 256), ("depth", 6), ("vocab", 4096), ("context", 256), ("batch", 8192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, for MFU")
    parser.add_argument("--document", type=int, default=150, help="tokens of a document")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = shape(options)
    device = torch.device(options.device)
    dtype = resolve_precision("auto", device)
    batch = packed(options).to(device)
    model = Transformer(config)
    model.initialise(0)
    model.to(device)
    kept, returned = {}, {}
    returned["plain"] = plain_step(copy.deepcopy(model), batch, dtype)
    for name, compiled in (("eager", False), ("ours", True)):
        kept[name] = our_step(copy.deepcopy(model), batch, dtype, compiled)
    print(
        f"{config.parameters() / 1e6:.2f}M parameters, {options.batch} tokens a step in rows of {options.context}, ",
        end="",
    )
    where = f"{options.threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{str(dtype).removeprefix('torch.')}, {where}, torch {torch.__version__}")
    times: dict[str, list[float]] = {name: [] for name in ("plain", "eager", "ours")}
    for name, step in returned.items():  # first: what is kept once is kept for all
        times[name] = timed(step, options.steps, device)
    keep_freed_memory()
    linear, others = floors(config, batch, dtype, options)
    for _ in range(options.turns):
        for name, step in kept.items():
            times[name] += timed(step, options.steps, device)
    again, others_again = floors(config, batch, dtype, options)
    linear, others = min(linear, again), min(others, others_again)
    also = "attention and Muon" if device.type == "cpu" else "Muon"
    print(f"floor: linear layers {linear * 1e3:.0f} ms, with {also} {(linear + others) * 1e3:.0f} ms a step")
    mfu = f" MFU of {options.peak:g} TFLOP/s |" if options.peak else ""
    print(f"| step | ms, median (least-most) | n | tokens/s | of the linear floor | with {also} |{mfu}")
    print("|-|-|-|-|-|-|" + ("-|" if options.peak else ""))
    for name, found in times.items():
        middle = statistics.median(found)
        flops = config.flops_per_token(options.context) * options.batch / middle
        mfu = f" {flops / options.peak / 1e12:.1%} |" if options.peak else ""
        print(
            f"| {name} | {middle * 1e3:.0f} ({min(found) * 1e3:.0f}-{max(found) * 1e3:.0f}) | {len(found)} | "
            f"{options.batch / middle:,.0f} | {linear / middle:.0%} | {(linear + others) / middle:.0%} |{mfu}"
        )


def shape(options: argparse.Namespace) -> ModelConfig:
    return ModelConfig(
        model_type="qwen3",
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=-(-options.hidden * 8 // (3 * 64)) * 64,
        num_hidden_layers=options.depth,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 64,
        head_dim=64,
        max_position_embeddings=options.context,
        rope_theta=10_000.0,
        tie_word_embeddings=not options.untied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def packed(options: argparse.Namespace) -> Batch:
    rows = options.batch // options.context
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, options.vocab, (rows, options.context + 1), generator=generator)
    places = torch.arange(options.context)[None].expand(rows, -1)
    offsets = torch.randint(0, options.document, (rows, 1), generator=generator)
    documents = (places + offsets) // options.document
    return Batch(tokens[:, :-1], tokens[:, 1:], places, documents - documents[:, :1])


def our_step(model: Transformer, batch: Batch, dtype: torch.dtype, compiled: bool) -> Callable[[], None]:
    optimizers = make_optimizers(model, TrainingConfig(), dtype)
    objective = next_token()
    if compiled:
        for part in (*model.model.layers, model.model.norm):
            part.compile(dynamic=False)

    def step() -> None:
        with autocast(batch, dtype), compiled_loss(compiled):
            loss, weight = objective(model, batch, dtype)
        loss.backward()
        torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], float(weight))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def autocast(batch: Batch, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def plain_step(model: Transformer, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """Its attention is PyTorch's under a mask of documents, as the network has it where no gradient is wanted."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    causal = torch.ones(batch.tokens.shape[1], batch.tokens.shape[1], dtype=torch.bool).tril().to(batch.tokens.device)
    mask = (batch.documents[:, None, :, None] == batch.documents[:, None, None, :]) & causal
    cos_sin = [each.to(dtype) for each in rotary_of(model, batch)]

    def forward() -> torch.Tensor:
        x = model.model.embed_tokens(batch.tokens).to(dtype)
        for layer in model.model.layers:
            x = layer(x, *cos_sin, None, mask, None)
        logits = model.lm_head(model.model.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten())

    compiled = torch.compile(forward, dynamic=False)

    def step() -> None:
        with autocast(batch, dtype):
            loss = compiled()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rotary_of(model: Transformer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    from lmcraft.model.rotary import rotary

    return rotary(batch.positions, model.config.head_dim, model.config.rope_theta)


def timed(step: Callable[[], None], steps: int, device: torch.device) -> list[float]:
    for _ in range(2):
        step()
    found = []
    for _ in range(steps):
        wait_for(device)
        start = time.perf_counter()
        step()
        wait_for(device)
        found.append(time.perf_counter() - start)
    return found


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def floors(config: ModelConfig, batch: Batch, dtype: torch.dtype, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds a step of the linear layers' products, and of those of attention's tiles (on a CPU) and of Muon."""
    tokens, device = options.batch, batch.tokens.device
    linear = tokens * matmul_seconds_per_token(config, tokens, dtype, device)
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    stacks = [
        torch.randn(count, *shape, dtype=dtype, device=device)
        for count, shape in ((4 * layers, (d, d)), (2 * layers, (f, d)), (layers, (d, f)))
    ]

    def muon() -> None:
        for stack in stacks:
            orthogonalise(stack)

    others = min(timed(muon, 5, device))
    if device.type != "cpu":
        return linear, others
    heads, size = config.num_attention_heads, config.head_dim
    causal = torch.ones(options.context, options.context, dtype=torch.bool).tril()
    mask = (batch.documents[:, None, :, None] == batch.documents[:, None, None, :]) & causal
    tiles = make_tiles(mask, heads, batch.tokens.shape[0], dtype)
    shapes = [(each.bias_R1QS.shape[0] * heads, *each.bias_R1QS.shape[2:]) for each in tiles]
    scores, wide, long = {}, {}, {}
    for n, q, s in set(shapes):
        scores[n, q, s] = torch.randn(n, q, s, dtype=dtype)
        wide[n, q, s], long[n, q, s] = torch.randn(n, q, size, dtype=dtype), torch.randn(n, s, size, dtype=dtype)

    def attention() -> None:
        for each in shapes:
            s, q, k = scores[each], wide[each], long[each]
            for _ in range(2):
                torch.bmm(q, k.mT)  # scores, and the gradient of their weights
                torch.bmm(s, k)  # the output, and the queries' gradient
                torch.bmm(s.mT, q)  # the keys' and the values' gradients

    return linear, others + config.num_hidden_layers * min(timed(attention, 5, device))


if __name__ == "__main__":
    main()
