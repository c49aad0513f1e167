"""Filling masks: text with `<|mask|>` -> the most probable tokens for each, as `lmcraft fill-mask` prints them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from lmcraft.inference.devices import add_device_arguments, settle_threads
from lmcraft.inference.engine import Engine
from lmcraft.recipe.stage import UserError
from lmcraft.tokens.tokenizer import MASK

BATCH_TOKENS = 8192
"""Positions computed together, padding included."""


@dataclass(frozen=True)
class Filling:
    """A token for a mask: its id, the text that it stands for, its probability among all tokens."""

    token: int
    text: str
    probability: float


def fill_mask(engine: Engine, texts: Sequence[str], top_k: int = 5) -> list[list[list[Filling]]]:
    """For each text, for each mask in it, the `top_k` most probable tokens, best first.

    Several masks of a text are judged independently, each with the others masked. The same tokens and probabilities
    as those of `transformers`' fill-mask pipeline. Raises UserError for a model that was not trained to fill masks, a
    text without a mask or longer than the context, and a `top_k` that is no number of tokens.
    """
    tokenizer, config = engine.tokenizer, engine.model.config
    if config.mask_token_id is None or tokenizer.mask_id is None:
        raise UserError("this model was not trained to fill masks: pretrain it with objective: masked or mixed")
    if not 1 <= top_k <= tokenizer.vocab_size:
        raise UserError(f"top_k must be between 1 and {tokenizer.vocab_size}, the tokens there are, not {top_k}")
    rows = [[tokenizer.bos_id, *tokenizer.encode_masked(text)] for text in texts]
    for number, (text, row) in enumerate(zip(texts, rows, strict=True), 1):
        if tokenizer.mask_id not in row:
            raise UserError(f"text {number} of {len(texts)} has no {MASK} to fill: {text[:60]!r}")
        if len(row) > engine.context:
            raise UserError(
                f"text {number} of {len(texts)} has {len(row)} tokens but the context of the model is {engine.context} "
                "tokens; shorten it"
            )
    found: list[list[list[Filling]]] = [[] for _ in texts]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        together = max(1, BATCH_TOKENS // len(rows[order[0]]))
        group, order = order[:together], order[together:]
        for i, masks in zip(group, _fill(engine, [rows[i] for i in group], top_k), strict=True):
            found[i] = masks
    return found


@torch.inference_mode()
def _fill(engine: Engine, rows: Sequence[Sequence[int]], top_k: int) -> list[list[list[Filling]]]:
    tokenizer, longest = engine.tokenizer, max(len(row) for row in rows)
    tokens_BT = torch.tensor([[*row, *[tokenizer.pad_id] * (longest - len(row))] for row in rows])
    lengths_B1 = torch.tensor([[len(row)] for row in rows])
    padding_BT = (torch.arange(longest) >= lengths_B1).long()  # a document of its own
    hidden_BTD = engine.model.hidden(
        tokens_BT.to(engine.device),
        documents_BT=padding_BT.to(engine.device),
        bidirectional_B=torch.ones(len(rows), dtype=torch.bool, device=engine.device),
    )
    assert tokenizer.mask_id is not None
    masks_BT = tokens_BT.eq(tokenizer.mask_id)
    logits_NV = engine.model.lm_head(hidden_BTD[masks_BT.to(engine.device)]).float()
    best = logits_NV.softmax(-1)[:, : tokenizer.vocab_size].topk(top_k)
    filled = iter(
        [
            Filling(token, tokenizer.decode([token], skip_special=False), probability)
            for token, probability in zip(tokens, probabilities, strict=True)
        ]
        for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return [[next(filled) for _ in range(count)] for count in masks_BT.sum(1).tolist()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="*", help=f"text with {MASK}; without any, each line of standard input is one")
    parser.add_argument("--top-k", type=int, default=5, help="tokens to name for each mask (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each text")
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """`lmcraft fill-mask`; `arguments.model` is the model's directory."""
    texts = arguments.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    engine = Engine.load(arguments.model, arguments.device, arguments.dtype)
    settle_threads(engine.device, engine.model.config.parameters())
    for text, masks in zip(texts, fill_mask(engine, texts, arguments.top_k), strict=True):
        if arguments.json:
            print(
                json.dumps(
                    {"text": text, "masks": [[asdict(each) for each in mask] for mask in masks]}, ensure_ascii=False
                )
            )
            continue
        print(text)
        for number, mask in enumerate(masks, 1):
            for each in mask:
                print(f"  {f'mask {number}  ' if len(masks) > 1 else ''}{each.probability:.4f}  {each.text!r}")
    return 0
