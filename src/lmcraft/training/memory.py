"""What a training run needs of memory, worked out from its shapes before the first step, against what the device has.

An estimate: of activations it counts what the backward pass of an uncompiled network keeps (nothing is recomputed), and
not what the allocator and the libraries need for themselves. A compiled network keeps less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lmcraft.inference.devices import resolve_device
from lmcraft.model import ModelConfig
from lmcraft.model.attention import QUERIES
from lmcraft.recipe.stage import Runtime, UserError, count
from lmcraft.training.config import TrainingConfig
from lmcraft.training.hardware import resolve_precision
from lmcraft.training.loss import CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

TIGHT = 0.8
"""Share of the available memory from which on an estimate like this one is no promise."""


def check_memory(
    shape: ModelConfig,
    config: TrainingConfig,
    runtime: Runtime,
    *,
    rows: int,
    micro_rows: int,
    row_tokens: int,
    ahead: int = 0,
) -> dict[str, str]:
    """The plan of this process on the runtime's device, as it is printed. Raises UserError when it does not fit; the
    processes of one machine have equal parts of its memory."""
    device = resolve_device(runtime.device)
    dtype = resolve_precision(config.precision, device)
    available = available_bytes(device)
    shards, whole = 1, 0
    if ranks := runtime.ranks:
        shards, micro_rows = ranks.shards, min(micro_rows, -(-rows // ranks.data))
        if device.type == "cpu":
            available //= ranks.local_size
            whole = 1  # the network is divided, the model that it becomes in the end is not
    size = {"rows": rows, "micro_rows": micro_rows, "row_tokens": row_tokens}
    plan = plan_memory(
        shape, dtype, device, **size, optimizer=config.optimizer, ahead=ahead, shards=shards, whole=whole
    )
    refuse_what_does_not_fit(plan, available, micro_rows, row_tokens)
    if plan.total > TIGHT * available:
        runtime.progress.note(f"  memory is tight: the plan takes more than {TIGHT:.0%} of what is available")
    return plan.describe(available)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for. Weights, gradients and the optimizer's state are there all the time; activations and
    the loss from the forward pass to the backward pass, when nothing else of size is."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    batch: int

    @property
    def standing(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.batch

    @property
    def total(self) -> int:
        return self.standing + self.activations + self.logits

    def describe(self, available: int) -> dict[str, str]:
        parts = ("weights", "gradients", "optimizer", "activations", "logits", "batch")
        shown = {name: shown_bytes(getattr(self, name)) for name in parts}
        return {**shown, "in all": f"{shown_bytes(self.total)} of {shown_bytes(available)} available"}


def plan_memory(
    shape: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    rows: int,
    micro_rows: int,
    row_tokens: int,
    optimizer: str,
    ahead: int = 0,
    shards: int = 1,
    whole: int = 0,
) -> MemoryPlan:
    """The plan of a run with float32 weights and matrix products in `dtype`; `ahead`: layers beside the model. Weights,
    gradients and optimizer state are spread over `shards` ranks, all else is of one; `whole`: copies of the weights
    beside the spread ones."""
    wide = shape.hidden_size * shape.vocab_size
    tables = wide * (1 if shape.tie_word_embeddings else 2)
    beside = ahead * (shape.parameters() - tables) // shape.num_hidden_layers
    parameters = shape.parameters() + beside
    # Muon keeps a momentum for each matrix; AdamW two moments of everything that is left to it.
    state = 2 * tables + (parameters - tables) if optimizer == "muon" else 2 * parameters
    size = 2 if dtype == torch.bfloat16 else 4
    tokens = micro_rows * row_tokens
    layers = shape.num_hidden_layers + ahead
    kinds = [shape.kinds[layer % shape.num_hidden_layers] for layer in range(layers)]
    keys = {kind: _keys_kept(shape, device, row_tokens, shape.window(kind)) for kind in kinds}
    each = [_layer_bytes(shape, layer % shape.num_hidden_layers, size, keys[kind]) for layer, kind in enumerate(kinds)]
    per_token = sum(each) + max(each)  # the backward pass holds the gradients of a layer while it goes through it
    per_token += sum(size * kept for kept in keys.values())  # the mask of each kind of layer
    per_token += (4 + 2 * size) * shape.hidden_size  # the last norm
    copies = 0 if size == 4 else 2 * (parameters - tables)  # autocast's of the matrices
    chunk = CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS
    held = min(max(1, chunk // shape.vocab_size), tokens) * shape.vocab_size
    logits = held * (8 + 2 * size) + (1 + ahead) * tokens * shape.hidden_size * size
    logits += 2 * 4 * wide + (0 if size == 4 else size * wide)  # the head's gradient twice, and its copy in 16 bits
    return MemoryPlan(
        weights=4 * parameters // shards + whole * 4 * parameters,
        gradients=4 * parameters // shards,
        optimizer=4 * state // shards,
        activations=per_token * tokens + copies,
        logits=logits,
        batch=rows * row_tokens * 4 * 8,
    )


def _keys_kept(shape: ModelConfig, device: torch.device, row_tokens: int, window: int | None) -> int:
    """Of how many keys a query's probabilities are kept where a row is one document: on a CPU those of its tile, on a
    GPU none. On other devices no probabilities are, but a mask of all keys is as large as those of one head."""
    if device.type == "cuda":
        return 0
    if device.type != "cpu" or not shape.causal:
        return row_tokens
    return min(row_tokens, row_tokens // 2 + QUERIES // 2, (window or row_tokens) + QUERIES)


def _layer_bytes(shape: ModelConfig, layer: int, size: int, keys_kept: int) -> int:
    """Bytes that a layer keeps of each token for the backward pass."""
    d, a = shape.hidden_size, shape.head_dim
    queries, keys = shape.num_attention_heads * a, shape.num_key_value_heads * a
    norm = 4 + 2 * size  # its input in float32, that normed, and the result
    turned = (norm + size if shape.qk_norm else size) * (queries + keys)
    attention = turned + size * keys + 2 * size * queries + 4 * shape.num_attention_heads
    probabilities = size * keys_kept * shape.num_attention_heads
    if shape.sparse(layer):
        met, width = shape.num_experts_per_tok or 1, shape.moe_intermediate_size or 1
        feed_forward = met * (4 * size * width + 3 * size * d) + 8 * (shape.num_experts or 1)
    else:
        feed_forward = 4 * size * shape.intermediate_size
    return 2 * norm * d + attention + probabilities + feed_forward


def refuse_what_does_not_fit(plan: MemoryPlan, available: int, micro_rows: int, row_tokens: int) -> None:
    """Raises UserError when the plan exceeds what there is: by how much, and what to change."""
    if plan.total <= available:
        return
    lacking = f"training needs about {shown_bytes(plan.total)} of memory and {shown_bytes(available)} are available"
    one_row = plan.standing + (plan.activations + plan.logits) // micro_rows
    if micro_rows > 1 and one_row <= available:
        fitting = max(1, int(micro_rows * (available - plan.standing) / (plan.activations + plan.logits)))
        cure = f"set micro_batch_tokens to {fitting * row_tokens} (now {micro_rows * row_tokens})"
    elif plan.standing <= 0.9 * available:
        cure = f"lower context (now rows of {row_tokens} tokens), hidden_size or depth"
    else:
        cure = (
            f"weights, gradients and optimizer state alone take {shown_bytes(plan.standing)}: lower depth, hidden_size "
            "or parameters"
        )
    short = shown_bytes(plan.total - available)
    raise UserError(f"{lacking}, {short} too little: {cure}, or free memory or take a larger machine")


def available_bytes(device: torch.device, cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """What is free on a device now: of a GPU its own memory, else the machine's, within the limit of the control group
    (a container, a batch job) that this process runs in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = int(psutil.virtual_memory().available)
    limits = [_left_in(group) for group in _control_groups(cgroups, own)]
    return min([free, *(left for left in limits if left is not None)])


def _control_groups(cgroups: Path, own: Path) -> list[Path]:
    """The folders of this process's memory group and of those around it, of version 2 or 1."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            root = cgroups / controllers
            folder = root / place.strip("/")
            folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders


def _left_in(group: Path) -> int | None:
    """Limit less use, not counting pages of files that can be dropped; None where no limit is set."""
    for limit, used, dropped in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max"
            continue
        return max(0, most - now + int(statistics.get(dropped, 0)))
    return None


def shown_bytes(number: float) -> str:
    """1234567 -> '1.23 MB'."""
    text = count(number)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} bytes"
