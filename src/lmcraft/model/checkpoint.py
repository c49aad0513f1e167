"""Model directories in the Hugging Face layout: `config.json`, `model.safetensors`, `generation_config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmcraft.model.config import ModelConfig
from lmcraft.model.network import Transformer
from lmcraft.recipe.stage import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save_model(
    model: Transformer, directory: Path, dtype: str = "float32", stop_tokens: list[int] | None = None
) -> None:
    """Write the model so that `transformers` loads it with no code of ours. `dtype` is that of the stored weights."""
    directory.mkdir(parents=True, exist_ok=True)
    config = model.config
    state = {
        name: value.detach().to("cpu", DTYPES[dtype]).contiguous()
        for name, value in model.state_dict().items()
        if not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    save_file(dict(sorted(state.items())), directory / "model.safetensors", metadata={"format": "pt"})
    _write_json(directory / "config.json", config.to_huggingface(dtype))
    generation = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": stop_tokens or config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    _write_json(directory / "generation_config.json", {k: v for k, v in generation.items() if v is not None})


def load_model(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
    """Read a dense Qwen3 or Llama directory. Raises UserError when missing, damaged or of another architecture."""
    config = ModelConfig.read(directory)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(f"{directory} holds no *.safetensors: lmcraft loads no other weights format")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}); rebuild or restore it") from None
    with torch.device("meta"):
        model = Transformer(config)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state.get("model.embed_tokens.weight", torch.empty(0))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"{directory}: parameter {wrong!r} does not fit config.json (expected {expected.get(wrong)}, "
            f"found {found.get(wrong)}); the weights are of another architecture"
        )
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.to(device).eval()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
