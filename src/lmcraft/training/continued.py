"""Continued pretraining: a model that was trained or imported, for more text, a longer context or a new vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch

from lmcraft.model import ModelConfig, Transformer, load_model, refuse_spoilt_weights
from lmcraft.recipe.stage import UserError
from lmcraft.tokens import Tokenizer
from lmcraft.training.config import PretrainConfig

SHAPE = {
    "depth": "num_hidden_layers",
    "architecture": "model_type",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "head_dim": "head_dim",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "tie_embeddings": "tie_word_embeddings",
    "sliding_window": "sliding_window",
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "moe_intermediate_size": "moe_intermediate_size",
}
"""Settings of the shape -> fields of `ModelConfig`: a model that goes on brings them with it."""


def continue_from(
    directory: Path, config: PretrainConfig, tokenizer: Tokenizer, special: dict[str, int]
) -> Transformer:
    """The model of a directory, ready to go on with tokens of `tokenizer`; `special` are the ids of its control tokens.

    Raises UserError when the settings ask for another shape or for a context that its positions do not reach, and when
    its tokenizer is another and `new_vocabulary` is not set.
    """
    shape = continued_shape(ModelConfig.read(directory), config)
    other = _tokenizer_sha256(directory) != tokenizer.sha256
    if other and not config.new_vocabulary:
        raise UserError(
            "the tokens were not made by the tokenizer of the input model: give `tokens` that model as its "
            "tokenizer, or set new_vocabulary: true to train the model's embeddings anew"
        )
    if not other:
        refuse_ids_beyond(directory, tokenizer, shape)
    if config.new_vocabulary and not other:
        raise UserError("new_vocabulary is set, but the input model has this tokenizer already; leave it out")
    loaded = load_model(directory)
    refuse_spoilt_weights(loaded, directory)
    state = loaded.state_dict()
    if other:
        shape = shape.model_copy(update={"vocab_size": tokenizer.vocab_size})
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            state[name] = _carried_over(state[name], directory, tokenizer)
    model = Transformer(shape.model_copy(update=dict(special)))
    model.load_state_dict(state)
    return model


def continued_shape(shape: ModelConfig, config: PretrainConfig) -> ModelConfig:
    """The shape of an input model after what the settings may change: its context, its positions, its objective."""
    for name, field in SHAPE.items():
        wanted, found = getattr(config, name), getattr(shape, field)
        if wanted is not None and wanted != found:
            raise UserError(f"{name} is set to {wanted}, but the input model has {found}; leave {name} out")
    if config.parameters is not None:
        raise UserError("parameters is set, but the input model brings its size with it; leave parameters out")
    twins = {"llama", "eurobert"}  # the same weights: one looks back, the other both ways
    family = {"masked": "eurobert", "mixed": "llama"}.get(config.objective, shape.model_type)
    if {family, shape.model_type} - twins and family != shape.model_type:
        raise UserError(f"objective {config.objective} trains llama or eurobert; the input model is {shape.model_type}")
    if config.objective == "next_token" and not shape.causal:
        raise UserError(f"objective next_token trains no {shape.model_type}, which sees what follows; use masked")
    changes: dict[str, Any] = {"model_type": family}
    if config.rope_theta is not None:
        changes["rope_theta"] = config.rope_theta
    if config.rope_scaling is not None:
        known = shape.rope_scaling.original_max_position_embeddings if shape.rope_scaling else None
        scaling: dict[str, Any] = {
            "original_max_position_embeddings": known or shape.max_position_embeddings,
            **config.rope_scaling.model_dump(exclude_none=True),
        }
        reach = round(scaling["original_max_position_embeddings"] * scaling["factor"])
        if not shape.max_position_embeddings < config.context <= reach:
            raise UserError(
                f"rope_scaling stretches the input model's {scaling['original_max_position_embeddings']} positions to "
                f"{reach}, but context is {config.context} (the model's is {shape.max_position_embeddings}): raise "
                "context beyond the model's, and factor until it reaches context"
            )
        if config.rope_scaling.rope_type == "linear":
            del scaling["original_max_position_embeddings"]  # transformers knows no such key of linear scaling
        changes["rope_scaling"] = scaling
    if config.context > shape.max_position_embeddings:
        if config.rope_scaling is None and config.rope_theta is None:
            raise UserError(
                f"context is {config.context}, but the input model's is {shape.max_position_embeddings}: set context "
                "to that, or set rope_scaling (or rope_theta) to extend it"
            )
        changes["max_position_embeddings"] = config.context
    return ModelConfig(**{**shape.model_dump(), **changes})


def refuse_ids_beyond(directory: Path, tokenizer: Tokenizer, shape: ModelConfig) -> None:
    """Raises UserError when the tokenizer beside a model gives ids that the model has no embedding for."""
    if tokenizer.vocab_size > shape.vocab_size:
        raise UserError(
            f"{directory}: its tokenizer has {tokenizer.vocab_size} tokens, but its embeddings only "
            f"{shape.vocab_size}: the two do not belong together; restore them from their source"
        )


def refuse_what_needs_a_model(config: PretrainConfig) -> None:
    """Raises UserError for settings that say how an input model goes on."""
    for name in ("rope_scaling", "new_vocabulary"):
        if getattr(config, name):
            raise UserError(f"{name} changes an input model, and this step has none: add `model` to its inputs")


def _tokenizer_sha256(directory: Path) -> str | None:
    try:
        return Tokenizer.load(directory).sha256
    except UserError:
        return None  # a foreign one, which no tokens can have been made with


def _carried_over(table_VD: torch.Tensor, directory: Path, tokenizer: Tokenizer) -> torch.Tensor:
    """The embeddings of a new vocabulary from those of the model's own, [V', D]."""
    file = directory / "tokenizer.json"
    try:
        old = tokenizers.Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{file} cannot be read ({error}): restore it, or leave new_vocabulary out") from None
    new = tokenizers.Tokenizer.from_str(tokenizer.json).get_vocab(with_added_tokens=True)
    fresh = table_VD.mean(0).repeat(tokenizer.vocab_size, 1)
    for token, number in new.items():
        if old.get(token, len(table_VD)) < len(table_VD):  # a tokenizer may have tokens without an embedding
            fresh[number] = table_VD[old[token]]
    return fresh
