"""What a run looks like from inside: norms of gradients and updates, attention logits and dead units by layer, and the
held-out loss by source.

They are measured when held-out text is (and after the last step), so the steps in between pay nothing. They read
weights and gradients and run the network once more on a small fixed batch, without gradients; they change nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode

from lmcraft.model import Transformer
from lmcraft.model.attention import QUERIES
from lmcraft.model.feed_forward import Experts
from lmcraft.training.objectives import Batch

FILE = "monitors.jsonl"

LOGIT_LIMIT = 100.0
"""Kimi K2 (2025) clips its queries and keys from here on; between 64 and 128 bfloat16 has steps of 0.5, so that a
weight of the softmax is off by up to a quarter. Runs were seen to diverge from about 10^4 (Wortsman et al. 2023)."""

SILENT = 0.01
"""A unit is silent at a token where its activation is below this share of the layer's root mean square: what it adds to
the residual stream is then about what bfloat16 (8 bits) rounds away of a typical unit's."""

DEAD_LIMIT = 0.1
"""Share of dead units from which on the feed-forward is clearly smaller than was paid for."""

UPDATE_LIMITS = (1e-5, 0.1)
"""Norm of a step's update over that of the weights, at the peak rate. Above the upper one a layer is replaced in ten
steps and does not keep what it learned; below the lower one 100,000 steps do not change it."""

UNITS = {
    "grad_norm": "2-norm of the step's gradient before clipping, over the parameters of the layer",
    "update_to_weight": "2-norm of the step's change over the 2-norm of the weights before it",
    "attention_logit": "largest logit before the softmax that a token of the batch gives to one it may see",
    "dead_units": "share of the feed-forward's units silent at every token of the batch",
    "heldout_bits_per_byte": "bits per byte of the held-out documents of the source",
    "heldout_masked_nats": "nats per masked token of the held-out documents of the source",
}


class BySource(Protocol):
    """A held-out evaluation that remembers, from its last run, a row for each source of the text."""

    def by_source(self) -> list[dict[str, Any]]: ...


@dataclass
class Monitors:
    """`batch` is what attention logits and dead units are measured on; `heldout` is the evaluation that the run makes.

    `rows` are those of monitors.jsonl, the same whenever the run is repeated: first what was measured and how, then for
    each measured step one a layer (or `embeddings`, `rest`), and one a source where the text has several.
    """

    batch: Batch
    heldout: BySource | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def before(self, model: nn.Module) -> Before:
        """What a step is to be held against: to be called when its gradients are there and not yet clipped."""
        given = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
        parameters = [parameter for _, parameter in given]
        gradients = norms([parameter.grad for parameter in parameters if parameter.grad is not None])
        weights = norms([parameter.detach() for parameter in parameters])
        copies = [_copy(parameter) for parameter in parameters]
        return Before([place_of(name) for name, _ in given], parameters, copies, weights, gradients)

    def after(self, before: Before, step: int, rate: float, note: Callable[[str], None]) -> list[dict[str, Any]]:
        """Rows of the step (from 1) that was taken since. `rate` is its share of the peak rate; a warning goes to
        `note`, in one line."""
        changes = [_distance(old, new) for old, new in zip(before.copies, before.parameters, strict=True)]
        rows: list[dict[str, Any]] = []
        for place in sorted(set(before.places), key=lambda place: (isinstance(place, str), place)):
            mine = [number for number, other in enumerate(before.places) if other == place]
            gradient = _total([before.gradients[n] for n in mine])
            weight, change = (_total([each[n] for n in mine]) for each in (before.weights, changes))
            ratio = change / weight if weight else 0.0
            rows.append({"step": step, "layer": place, "grad_norm": gradient, "update_to_weight": ratio})
        self.rows.extend(rows)
        _warn_of_updates(rows, step, rate, note)
        return rows

    def forward(self, model: Transformer, step: int, note: Callable[[str], None]) -> list[dict[str, Any]]:
        """Measure the batch with the weights as they are after `step` steps; to be called without gradients, and under
        the autocast and stance of an evaluation. Adds to the rows of the step, or new ones."""
        device = model.lm_head.weight.device
        seen = measure_batch(model, self.batch.to(device))
        rows = {row["layer"]: row for row in self.rows if row.get("step") == step and "layer" in row}
        for layer, values in enumerate(seen):
            if layer not in rows:
                rows[layer] = {"step": step, "layer": layer}
                self.rows.append(rows[layer])
            rows[layer].update(values)
        logits = {n: each["attention_logit"] for n, each in enumerate(seen) if each["attention_logit"] is not None}
        if logits and (worst := max(logits.values())) > LOGIT_LIMIT:
            layer = max(logits, key=lambda n: logits[n])
            note(
                f"  after step {step} the attention logits of layer {layer} reach {worst:.3g} (limit {LOGIT_LIMIT:g}): "
                "the softmax saturates; lower learning_rate, or take an architecture that norms queries and keys"
            )
        dead = {n: each["dead_units"] for n, each in enumerate(seen) if each["dead_units"] is not None}
        if dead and (most := max(dead.values())) > DEAD_LIMIT:
            layer = max(dead, key=lambda n: dead[n])
            note(
                f"  after step {step}, {most:.0%} of the feed-forward units of layer {layer} are silent (limit "
                f"{DEAD_LIMIT:.0%}): lower learning_rate or intermediate_size"
            )
        return [rows[layer] for layer in range(len(seen))]

    def sources(self, step: int) -> list[dict[str, Any]]:
        """Rows of the evaluation just made, by source; none where all text is of one."""
        found = self.heldout.by_source() if self.heldout is not None else []
        rows = [{"step": step, **row} for row in found] if len(found) > 1 else []
        self.rows.extend(rows)
        return rows

    def write(self, out: Path) -> None:
        """Write monitors.jsonl, whose first line says what the others mean."""
        measured = [name for name in UNITS if any(name in row for row in self.rows)]
        digest = hashlib.sha256(self.batch.tokens.cpu().numpy().tobytes()).hexdigest()
        batch = {"rows": self.batch.tokens.shape[0], "tokens": int((self.batch.documents >= 0).sum()), "sha256": digest}
        head = {"units": {name: UNITS[name] for name in measured}, "batch": batch}
        lines = [head, *sorted(self.rows, key=lambda row: row["step"])]
        (out / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@dataclass
class Before:
    """Weights, and norms of them and of the gradients, of the moment before a step."""

    places: list[int | str]
    parameters: list[nn.Parameter]
    copies: list[Tensor]
    weights: list[float]
    gradients: list[float]


def _copy(parameter: Tensor) -> Tensor:
    """In the machine's memory, so that a GPU needs none for it; of a sharded one each rank keeps its part."""
    kept = parameter.detach()
    return kept.clone() if isinstance(kept, DTensor) else kept.to("cpu", copy=True)


def _distance(old: Tensor, new: Tensor) -> float:
    (found,) = norms([old.to(new.device) - new.detach()])
    return found


def _warn_of_updates(rows: list[dict[str, Any]], step: int, rate: float, note: Callable[[str], None]) -> None:
    low, high = UPDATE_LIMITS
    layers = {row["layer"]: row["update_to_weight"] for row in rows if isinstance(row["layer"], int)}
    # A step that was left out changes nothing, and says so itself.
    out = {n: ratio for n, ratio in layers.items() if ratio and (ratio > high or (rate and ratio / rate < low))}
    if out:
        layer = max(out, key=lambda n: abs(math.log(out[n])))
        note(
            f"  step {step} changed the weights of layer {layer} by {out[layer]:.2g} of their norm (limits {low:g} to "
            f"{high:g} at the peak rate): {'lower' if out[layer] > high else 'raise'} learning_rate"
        )


def place_of(name: str) -> int | str:
    """Layer of a parameter, `embeddings` (and head), or `rest` (the last norm, modules beside the model)."""
    words = name.split(".")
    if words[:2] == ["model", "layers"]:
        return int(words[2])
    return "embeddings" if words[-2] in ("embed_tokens", "lm_head") else "rest"


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """2-norm of each, in one pass and one transfer. Of sharded tensors, that of the whole."""
    if not tensors:
        return []
    found = torch._foreach_norm(list(tensors))
    whole = [each.full_tensor() if isinstance(each, DTensor) else each for each in found]
    return [float(value) for value in torch.stack([each.float() for each in whole]).tolist()]


def measure_batch(model: Transformer, batch: Batch) -> list[dict[str, float | None]]:
    """Largest attention logit and share of dead units of each layer, from one pass over the batch.

    SwiGLU has no zero that a unit could be stuck at, as ReLU has: its unit's activation silu(gate)·up is small, not
    zero, where it is off. A unit counts as dead when it is silent (below `SILENT` of the layer's root mean square) at
    every token. In a mixture, an expert that gets no token is dead as a whole. None: not to be seen in this network.
    """
    layers: list[Any] = list(model.model.layers)
    real = batch.documents >= 0
    logits = _AttentionLogits(real)
    units = [_Units(layer.mlp, real) for layer in layers]
    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            hooks.callback(layer.self_attn.register_forward_pre_hook(logits.enter(number)).remove)
            hooks.callback(layer.self_attn.register_forward_hook(logits.leave).remove)
            units[number].listen(hooks)
        with torch.no_grad(), logits:
            model.hidden(batch.tokens, batch.positions, batch.documents, bidirectional_B=batch.bidirectional)
    return [
        {"attention_logit": logits.largest.get(number), "dead_units": units[number].dead()}
        for number in range(len(layers))
    ]


class _AttentionLogits(TorchFunctionMode):
    """Sees the queries and keys of every scaled_dot_product_attention of a layer, however the layer makes them."""

    def __init__(self, real_BT: Tensor) -> None:
        super().__init__()
        self.real_BT, self.layer = real_BT, -1
        self.largest: dict[int, float] = {}

    def enter(self, layer: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.layer = layer

        return hook

    def leave(self, *_: Any) -> None:
        self.layer = -1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and self.layer >= 0:
            with torch._C.DisableTorchFunction(), torch.autocast(args[0].device.type, enabled=False):
                found = self._largest(*args, **(kwargs or {}))
            self.largest[self.layer] = max(found, self.largest.get(self.layer, -math.inf))
        return func(*args, **(kwargs or {}))

    def _largest(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> float:
        B, H, T, _ = query.shape
        S = key.shape[2]
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        largest = torch.full((), -math.inf, device=query.device)
        every = torch.arange(S, device=query.device)
        for row, start in itertools.product(range(B), range(0, T, QUERIES)):  # so few logits are held at a time
            own = slice(start, min(T, start + QUERIES))
            keys = key[row].float()
            if enable_gqa and keys.shape[0] != H:
                keys = keys.repeat_interleave(H // keys.shape[0], dim=0)
            logits_HQS = torch.matmul(query[row, :, own].float(), keys.transpose(-1, -2)) * scale
            seen = torch.ones(1, own.stop - start, S, dtype=torch.bool, device=query.device)
            if is_causal:
                seen = seen & (every <= torch.arange(start, own.stop, device=query.device)[:, None])
            if attn_mask is not None:
                mask = attn_mask.expand(B, -1, T, -1)[row, :, own]
                seen = seen & (mask if mask.dtype == torch.bool else mask > -1e4)
                logits_HQS = logits_HQS if mask.dtype == torch.bool else logits_HQS + mask.float()
            if self.real_BT.shape == (B, T):
                seen = seen & self.real_BT[row, own][None, :, None]
            largest = torch.maximum(largest, logits_HQS.masked_fill(~seen, -math.inf).max())
        return float(largest)


class _Units:
    """The largest activation of each unit of a layer's feed-forward, and the root mean square of all."""

    def __init__(self, mlp: nn.Module, real_BT: Tensor) -> None:
        self.real_BT = real_BT
        self.parts: list[Any] = list(mlp.experts) if isinstance(mlp, Experts) else [mlp]
        self.largest: dict[int, Tensor] = {}
        self.squares, self.count = 0.0, 0

    def listen(self, hooks: ExitStack) -> None:
        for number, part in enumerate(self.parts):
            hooks.callback(part.down_proj.register_forward_pre_hook(self._hook(number)).remove)

    def _hook(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            (active,) = given
            if active.shape[:-1] == self.real_BT.shape:
                active = active[self.real_BT]
            active = active.reshape(-1, active.shape[-1]).float()
            if not len(active):
                return
            self.squares += float(active.square().sum())
            self.count += active.numel()
            largest = active.abs().amax(0)
            self.largest[number] = torch.maximum(self.largest.get(number, largest), largest)

        return hook

    def dead(self) -> float | None:
        if not self.count:
            return None
        limit = SILENT * math.sqrt(self.squares / self.count)
        widths = [part.down_proj.in_features for part in self.parts]
        alive = sum(int((largest > limit).sum()) for largest in self.largest.values())
        return 1 - alive / sum(widths)


def _total(parts: Sequence[float]) -> float:
    return math.sqrt(sum(part * part for part in parts))
