"""One engine for chat, evaluation, policy optimisation and the server: prompts in, tokens and text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lmcraft.inference.batch import Batch, Row
from lmcraft.inference.devices import resolve_device, resolve_dtype
from lmcraft.inference.sampling import Sampling
from lmcraft.model import Transformer, load_model
from lmcraft.recipe.stage import UserError
from lmcraft.tokens import Tokenizer

LOGITS_AT_ONCE = 1 << 24
"""Logits that `log_likelihood` holds at a time (64 MiB in float32)."""


@dataclass(frozen=True)
class Generation:
    """`tokens` are all that were drawn, a stop token included; `text` leaves stop tokens and stop strings out."""

    tokens: list[int]
    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int


class Engine:
    """A model with its tokenizer.

    In float32 a row's tokens do not depend on what else is in the batch (up to logits that differ by rounding, about
    1e-6); in bfloat16 the rounding of differently shaped batches may now and then choose another token.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {model.config.vocab_size}; "
                "they belong to different models"
            )
        self.model, self.tokenizer = model, tokenizer
        self.context = model.config.max_position_embeddings

    @classmethod
    def load(cls, directory: Path, device: str = "auto", dtype: str = "auto") -> Engine:
        """Read a model directory. Raises UserError when it is missing or damaged, or the device or dtype unknown."""
        where = resolve_device(device)
        precision = resolve_dtype(dtype, where)
        return cls(load_model(Path(directory), where, precision), Tokenizer.load(Path(directory)))

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> list[Generation]:
        """Continue every prompt (token ids), many at a time; `sampling` for all or one each. Results in the order of
        the prompts. Raises UserError for a prompt that is empty, as long as the context, or of ids out of range."""
        if sampling is None or isinstance(sampling, Sampling):
            sampling = [sampling or Sampling()] * len(prompts)
        rows = [self.row(prompt, each) for prompt, each in zip(prompts, sampling, strict=True)]
        if not rows:
            return []
        waiting = sorted(rows, key=lambda row: len(row.prompt))  # the longest is taken from the end first
        capacity = max(row.length for row in rows)
        batch = self.batch(min(len(rows), self.slots(capacity)), capacity)
        while waiting or batch.rows:
            if waiting and (batch.free >= max(1, batch.slots // 4)):  # joining in groups keeps prefill efficient
                joining = [waiting.pop() for _ in range(min(batch.free, len(waiting)))]
                batch.admit(joining)
            batch.step()
        return [_generation(row) for row in rows]

    def stream(self, prompt: Sequence[int], sampling: Sampling | None = None) -> Stream:
        """Continue one prompt, text delta by text delta. Raises UserError at once for a prompt that does not fit."""
        row = self.row(prompt, sampling or Sampling())
        return Stream(self.batch(1, row.length), row)

    @torch.inference_mode()
    def log_likelihood(self, sequences: Sequence[Sequence[int]], batch_tokens: int = 8192) -> list[np.ndarray]:
        """For each sequence of n tokens the n - 1 log-probabilities (nats, float32) of tokens 1.. given those before.
        Raises UserError for one longer than the context or of ids out of range."""
        self._check_causal()
        for sequence in sequences:
            self._check_ids(sequence)
            if len(sequence) > self.context:
                raise UserError(
                    f"a sequence has {len(sequence)} tokens but the context of the model is {self.context} tokens; "
                    "score it in windows"
                )
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sequences)
        order = sorted((i for i in range(len(sequences)) if len(sequences[i]) > 1), key=lambda i: -len(sequences[i]))
        while order:
            count = max(1, batch_tokens // len(sequences[order[0]]))
            group, order = order[:count], order[count:]
            for i, scores in zip(group, self._score([sequences[i] for i in group]), strict=True):
                results[i] = scores
        return results

    def row(self, prompt: Sequence[int], sampling: Sampling) -> Row:
        """A checked generation, to be admitted to a `batch`."""
        if not len(prompt):
            raise UserError("the prompt is empty; it must hold at least one token (for example tokenizer.bos_id)")
        self._check_causal()
        self._check_ids(prompt)
        if len(prompt) >= self.context:
            raise ContextError(len(prompt), self.context)
        return Row(prompt, sampling, self.tokenizer, self.context)

    def batch(self, slots: int, capacity: int | None = None) -> Batch:
        return Batch(self.model, self.tokenizer.vocab_size, slots, capacity or self.context)

    def slots(self, capacity: int) -> int:
        """How many rows of `capacity` positions to compute together on this device."""
        config = self.model.config
        position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * self.dtype.itemsize
        if self.device.type == "cuda":
            most, budget = 256, torch.cuda.mem_get_info(self.device)[0] // 3
        else:
            most, budget = 64, 1 << 30
        return max(1, min(most, budget // (position * capacity)))

    def _score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        lengths = [len(sequence) - 1 for sequence in sequences]
        T = max(lengths)
        inputs = np.zeros((len(sequences), T), np.int64)
        targets = np.concatenate([np.asarray(sequence[1:], np.int64) for sequence in sequences])
        for i, sequence in enumerate(sequences):
            inputs[i, : lengths[i]] = sequence[:-1]
        real_BT = torch.arange(T)[None, :] < torch.tensor(lengths)[:, None]
        hidden_ND = self.model.hidden(torch.from_numpy(inputs).to(self.device))[real_BT.to(self.device)]
        targets_N = torch.from_numpy(targets).to(self.device)
        step = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        parts = []
        for start in range(0, len(targets), step):
            logits = self.model.lm_head(hidden_ND[start : start + step]).float()
            wanted = logits.gather(-1, targets_N[start : start + step, None])[:, 0]
            parts.append((wanted - logits.logsumexp(-1)).cpu())
        return np.split(torch.cat(parts).numpy(), np.cumsum(lengths)[:-1])

    def _check_causal(self) -> None:
        if not self.model.config.causal:
            raise UserError(
                "this model fills masks and cannot continue a text or say how likely one is: use `lmcraft fill-mask`, "
                "or a model pretrained with objective: next_token or mixed"
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        if len(ids) and not (min(ids) >= 0 and max(ids) < self.model.config.vocab_size):
            raise UserError(
                f"token ids must lie in 0..{self.model.config.vocab_size - 1} (the model's vocabulary); "
                f"found {min(ids)}..{max(ids)}: was the prompt made with another tokenizer?"
            )


class ContextError(UserError):
    """A prompt that leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, context: int):
        super().__init__(
            f"the prompt has {prompt_tokens} tokens but the context of the model is {context} tokens, of which the "
            "answer needs at least one; shorten the prompt"
        )
        self.prompt_tokens, self.context = prompt_tokens, context


class Stream(Iterator[str]):
    """Text deltas of one generation; `generation` is there when they have ended."""

    def __init__(self, batch: Batch, row: Row):
        self._batch, self._row = batch, row

    def __next__(self) -> str:
        row, batch = self._row, self._batch
        while row.finish is None:
            deltas = batch.step() if batch.rows else batch.admit([row])
            if deltas[0][1]:
                return deltas[0][1]
        raise StopIteration

    @property
    def generation(self) -> Generation:
        """Raises AssertionError before the stream is exhausted."""
        return _generation(self._row)


def _generation(row: Row) -> Generation:
    assert row.finish is not None, "the generation has not ended"
    return Generation(row.tokens, row.text, row.finish, len(row.prompt))
