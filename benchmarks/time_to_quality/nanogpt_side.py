"""A plain small GPT in the manner of GPT-2 with AdamW: the floor of the contest, and no more than a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality import hf_side, plain_bpe
from benchmarks.time_to_quality.contest import Clock, Rows, TokenFile, Trained, say


@dataclass
class Settings:
    vocab: int = say("tokens of its BPE", 4096)
    depth: int = say("layers", 4)
    width: int = say("of the model", 256)
    head_dim: int = say("of a head", 64)
    context: int = say("tokens of a row", 512)
    batch: int = say("tokens of a step", 8192)
    device_batch: int = say("rows of a forward pass; 0: those of a step", 0)
    bf16: bool = say("autocast", True)
    compile: bool = say("torch.compile", True)
    lr: float = say("peak rate of AdamW", 2e-3)
    schedule: str = say("cosine or wsd (linear to the end over the last 40%)", "cosine")
    warmup: float = say("share of the run", 0.03)
    final: float = say("last rate as a share of the peak", 0.1)
    weight_decay: float = say("of matrices and tables", 0.1)
    clip: float = say("largest norm of the gradient", 1.0)


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    plain_bpe.prepare(data, folder, settings.vocab)


def train(data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path) -> Trained:
    import torch

    torch.manual_seed(seed)
    tokenizer = plain_bpe.PlainBPE(folder)
    model = make_model(settings, tokenizer.size)
    running = torch.compile(model, dynamic=False) if settings.compile else model
    decayed = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    rows = settings.batch // settings.context
    micro = settings.device_batch or rows
    batches = Rows(TokenFile.open(folder), settings.context, seed).batches(micro)
    schedule: Any = settings
    steps = 0
    while clock.another_step():
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * hf_side.rate(clock.share(), schedule)
        for _ in range(rows // micro):
            tokens = torch.from_numpy(next(batches))
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss = running(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            (loss / (rows // micro)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    seconds = clock.elapsed()

    from benchmarks.time_to_quality.judging import Judge

    model.eval()
    return Trained(
        judge=Judge(model, tokenizer.encode, tokenizer.bos, settings.context),
        parameters=sum(each.numel() for each in model.parameters()),
        tokens=steps * settings.batch,
        steps=steps,
        notes={"loss": float(loss)},
        seconds=seconds,
    )


def make_model(settings: Settings, vocab: int) -> Any:
    """Learned positions, pre-LayerNorm, GELU, one table for embeddings and head (Radford et al. 2019)."""
    import torch.nn.functional as F
    from torch import Tensor, nn

    width, heads = settings.width, settings.width // settings.head_dim

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            rows, length, _ = x.shape
            qkv = self.qkv(self.before_attention(x)).view(rows, length, 3, heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.attended(seen.transpose(1, 2).reshape(rows, length, width))
            return x + self.down(F.gelu(self.up(self.before_mlp(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(settings.context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(settings.depth))
            self.norm = nn.LayerNorm(width)
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    outputs = name.endswith(("attended.weight", "down.weight"))
                    nn.init.normal_(parameter, std=0.02 / (2 * settings.depth) ** 0.5 if outputs else 0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)

        def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            if targets is None:
                return logits
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return GPT()
