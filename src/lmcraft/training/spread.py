"""One network on many processes, by PyTorch's own means and without the network knowing.

Weights, gradients and optimizer are sharded (FSDP2, `fully_shard`), within groups of processes that hold copies where
asked (HSDP); each process takes its rows of the batch. `tensor` processes share each matrix of the layers and, between
them, the positions of the residual stream (Megatron's tensor and sequence parallelism: Shoeybi et al. 2019, Korthikanti
et al. 2022). `context` processes share a row's positions: each gathers the keys and values of all of them. PyTorch's
own `context_parallel` is a ring that knows causality only and no packed documents, and runs on GPUs only.

Gradients are sums over all processes, divided by the weight of the whole batch, as on one.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from lmcraft.model import KVCache, ModelConfig, Transformer
from lmcraft.model.config import Kind
from lmcraft.model.network import Layer
from lmcraft.model.rotary import rotary
from lmcraft.recipe.stage import Followed, Progress, UserError
from lmcraft.training.checkpoint import Identity
from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import Batch, Objective
from lmcraft.training.parallel import Alone, full_matrix
from lmcraft.training.ranks import Ranks
from lmcraft.training.sharded import load_sharded, save_sharded

_SET_TIMEOUT = getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout  # its name to 2.14


class Spread(Alone):
    """The processes of `ranks`, of which each holds a part of the network and of every batch.

    Raises UserError when the shape of the network or the rows cannot be divided so.
    """

    def __init__(self, ranks: Ranks, config: ModelConfig, row_tokens: int) -> None:
        settings = ranks.settings
        self.ranks, self.size, self.first = ranks, ranks.size, ranks.first
        self.context, self.tensor = settings.context, settings.tensor
        self.whole_layers = not ranks.shares_layers
        self.data = ranks.data
        _check(config, row_tokens, self.context, self.tensor)
        kind = ranks.device.type
        # Two views of the same processes: FSDP shards over the context's processes too, as they hold the same weights.
        sharded = (settings.replicate, ranks.shard * self.context, self.tensor)
        self.weights = init_device_mesh(kind, sharded, mesh_dim_names=("replicate", "shard", "tensor"))
        places = (self.data, self.context, self.tensor)
        self.batches = init_device_mesh(kind, places, mesh_dim_names=("data", "context", "tensor"))
        for mesh in (self.weights, self.batches):
            for group in mesh.get_all_groups():
                _SET_TIMEOUT(ranks.timeout, group)
        self.at = {name: self.batches.get_local_rank(name) for name in ("data", "context", "tensor")}
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # speaks of speed, often

    def agree(self, run: Identity) -> None:
        """Raises UserError when the ranks do not train the same network on the same data in the same way."""
        self.ranks.agree("run", {**run, "runtime": {"torch": torch.__version__, **self.ranks.settings.model_dump()}})

    def network(self, model: Transformer, device: torch.device) -> Transformer:
        """This process's part of a copy of the model, which stays whole; `finish` gives it what was learnt."""
        assert self.whole_layers or not hasattr(model, "ahead"), "it reads rows whole"
        network = copy.deepcopy(model)
        if self.tensor > 1:
            _share_matrices(network, self.weights["tensor"])
        data = self.weights["replicate", "shard"] if self.weights["replicate"].size() > 1 else self.weights["shard"]
        for layer in network.model.layers:
            fully_shard(layer, mesh=data)
        # The objective reads the head's weight after `hidden` has returned.
        fully_shard(network, mesh=data, reshard_after_forward=False)
        register_fsdp_forward_method(network, "hidden")
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return network

    def objective(self, objective: Objective) -> Objective:
        """The objective on this process's part of a batch, for `network`."""

        def of_a_part(network: Transformer, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
            seen = cast(Transformer, _Seen(network, self, batch))
            loss, weight = objective(seen, self._columns(batch), dtype)
            if not torch.is_grad_enabled():
                self.release(network)
            return loss, weight

        return of_a_part

    def release(self, network: Transformer) -> None:
        cast(Any, network).reshard()  # as the end of a backward pass does

    def part(self, batch: Batch) -> Batch:
        """This process's rows: the n-th of as many equal parts as there are data ranks, with empty rows at the end
        where they do not divide. The processes of a context or tensor group have the same rows."""
        assert batch.bidirectional is None or self.context == 1
        rows = self._rows(batch.tokens.shape[0])
        mine = batch.rows(self.at["data"] * rows, (self.at["data"] + 1) * rows)
        return _padded(mine, rows - mine.tokens.shape[0])

    def _rows(self, rows: int) -> int:
        return -(-rows // self.data)

    def micro_rows(self, rows: int, micro_rows: int) -> int:
        mine = self._rows(rows)
        return max(n for n in range(1, min(micro_rows, mine) + 1) if mine % n == 0)

    def _columns(self, batch: Batch) -> Batch:
        """The positions that this process reads, and the labels of those whose states it ends with."""
        width = batch.tokens.shape[1] // self.context
        start = self.at["context"] * width
        own = width // self.tensor
        first = start + self.at["tensor"] * own
        read = slice(start, start + width)
        return replace(
            batch,
            tokens=batch.tokens[:, read],
            positions=batch.positions[:, read],
            documents=batch.documents[:, read],
            labels=batch.labels[:, first : first + own],
            other_labels=None if batch.other_labels is None else batch.other_labels[:, first : first + own],
        )

    def sums(self, loss: Tensor, weight: int) -> tuple[float, int]:
        total, weights = self.ranks.sum(float(loss), float(weight))
        return total, int(weights)

    def number(self, tensor: Tensor) -> float:
        return float(full_matrix(tensor))

    def sum(self, *numbers: float) -> list[float]:
        return self.ranks.sum(*numbers)

    def gather(self, value: Any) -> list[Any]:
        return self.ranks.gather(value)

    def of_first(self, number: float) -> float:
        return self.sum(number if self.first else 0.0)[0]

    def save(self, folder: Path, step: int, state: dict[str, Any], run: Identity, quality: float | None) -> None:
        save_sharded(self.ranks, folder, step, state, run, quality)

    def load(
        self,
        folder: Path,
        progress: Progress,
        run: Identity,
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
    ) -> tuple[int, dict[str, Any]] | None:
        return load_sharded(self.ranks, folder, progress, run, network, optimizers)

    def finish(self, network: Transformer, model: Transformer) -> None:
        """Give the model of the first process what was learnt. The others end here, with `Followed`."""
        whole = model.state_dict()
        for name, tensor in network.state_dict().items():
            full = full_matrix(tensor.detach())
            if self.first:
                whole[name].copy_(full)
        if not self.first:
            raise Followed


def _check(config: ModelConfig, row_tokens: int, context: int, tensor: int) -> None:
    for name, degree, what, size in (
        ("tensor", tensor, "query heads", config.num_attention_heads),
        ("tensor", tensor, "key/value heads", config.num_key_value_heads),
        ("tensor", tensor, "units of intermediate_size", config.intermediate_size),
        ("context", context * tensor, "tokens of a row", row_tokens),
    ):
        if size % degree:
            times = f" (context x tensor = {degree})" if name == "context" and tensor > 1 else ""
            raise UserError(
                f"runtime.parallel.{name}{times}: {size} {what} cannot be divided by {degree}; lower it, or change the "
                "number of them"
            )
    if tensor > 1 and config.model_type == "olmo3":
        raise UserError("olmo3 norms all heads at once, which tensor parallelism parts: set runtime.parallel.tensor: 1")
    if config.has_experts and context * tensor > 1:
        raise UserError(
            "experts are balanced over whole rows: set runtime.parallel.tensor and runtime.parallel.context to 1"
        )
    if not config.causal and context > 1:
        raise UserError(f"{config.model_type} sees both sides of a token: set runtime.parallel.context: 1")


def _share_matrices(network: Transformer, mesh: DeviceMesh) -> None:
    """Matrices by columns, then by rows; between them each process has all features of its share of the positions."""
    tied = network.lm_head.weight is network.model.embed_tokens.weight
    outer: dict[str, ParallelStyle] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "model.norm": SequenceParallel(use_local_output=True),
    }
    if not tied:
        outer["lm_head"] = ColwiseParallel()
    parallelize_module(network, mesh, outer)
    if tied:
        network.lm_head.weight = network.model.embed_tokens.weight
    for layer in network.model.layers:
        attention = cast(Layer, layer).self_attn
        attention.heads //= mesh.size()
        attention.kv_heads //= mesh.size()
        others = (None,) * 5
        plan: dict[str, ParallelStyle] = {
            "input_layernorm": SequenceParallel(),
            "self_attn": PrepareModuleInput(
                input_layouts=(Shard(1), *others), desired_input_layouts=(Replicate(), *others)
            ),
            **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
            "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
            "post_attention_layernorm": SequenceParallel(),
            "mlp": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
        }
        if list(attention.q_norm.parameters()):  # one weight for all heads, of which each process has some
            for name in ("self_attn.q_norm", "self_attn.k_norm"):
                plan[name] = SequenceParallel(sequence_dim=2, use_local_output=True)
        parallelize_module(layer, mesh, plan)


class _Seen:
    """What an objective sees of a spread network: the states of its part of the positions, and the whole head."""

    def __init__(self, network: Transformer, spread: Spread, batch: Batch) -> None:
        self._network, self._spread, self._batch = network, spread, batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: None = None,
        bidirectional_B: Tensor | None = None,
    ) -> Tensor:
        if self._spread.context == 1:
            return self._network.hidden(tokens_BT, positions_BT, documents_BT, bidirectional_B=bidirectional_B)
        shared = _SharedRow(self._network.config, self._batch.documents, self._spread.batches["context"])
        return self._network.hidden(tokens_BT, positions_BT, cache=shared)

    @property
    def lm_head(self) -> Any:
        weight = self._network.lm_head.weight
        if isinstance(weight, DTensor):  # each process predicts its positions: the gradients are parts of a sum
            weight = weight.full_tensor(grad_placements=[Partial()])
        return _Head(weight)


class _Head:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class _SharedRow(KVCache):
    """In the place of a cache of what came before: what the other processes of the context hold of the same rows."""

    def __init__(self, config: ModelConfig, documents_BT: Tensor, mesh: DeviceMesh) -> None:
        self.documents, self.mesh = documents_BT, mesh
        self.capacity = documents_BT.shape[1]
        positions = torch.arange(self.capacity, device=documents_BT.device)[None]
        self.turns: dict[Kind, tuple[Tensor, Tensor]] = {}
        for kind in sorted(set(config.kinds)):
            cos, sin = rotary(positions, config.head_dim, config.rope_theta, config.scaling(kind))
            self.turns[kind] = cos[0, 0], sin[0, 0]

    def mask(self, positions_BT: Tensor, window: int | None = None) -> Tensor:
        width = positions_BT.shape[1]
        start = self.mesh.get_local_rank() * width
        every = torch.arange(self.capacity, device=positions_BT.device)
        own = every[start : start + width, None]
        seen = (every <= own) & (every > own - (window or self.capacity))
        mine = self.documents[:, start : start + width]
        return (mine[:, None, :, None] == self.documents[:, None, None, :]) & seen

    @torch.compiler.disable
    def update(self, layer: int, positions_BT: Tensor, k_BKTA: Tensor, v_BKTA: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (
            DTensor.from_local(each, self.mesh, [Shard(2)], run_check=False).full_tensor(grad_placements=[Partial()])
            for each in (k_BKTA, v_BKTA)
        )
        return keys, values


def _padded(batch: Batch, rows: int) -> Batch:
    """With so many rows more, as the loader pads: they predict nothing."""
    if not rows:
        return batch
    shape = (rows, batch.tokens.shape[1])

    def more(part: Tensor, fill: int) -> Tensor:
        return torch.cat((part, torch.full(shape, fill, dtype=part.dtype)))

    bidirectional, others = batch.bidirectional, batch.other_labels
    return Batch(
        more(batch.tokens, 0),
        more(batch.labels, IGNORE),
        torch.cat((batch.positions, torch.arange(shape[1]).expand(shape))),
        more(batch.documents, -1),
        None if bidirectional is None else torch.cat((bidirectional, bidirectional.new_zeros(rows))),
        None if others is None else torch.cat((others, others.new_zeros(rows, *others.shape[1:]))),
        batch.other_share,
    )
