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
    if not config.causal:
        return  # there is nothing to generate
    generation = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": stop_tokens or config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    _write_json(directory / "generation_config.json", {k: v for k, v in generation.items() if v is not None})


def load_model(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
    """Read a directory of a known family. Raises UserError when missing, damaged or of another architecture."""
    config = ModelConfig.read(directory)
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(directory):
        try:
            state.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}); rebuild or restore it") from None
    # Checkpoints of before 2024 hold what RoPE follows from as well.
    state = {name: value for name, value in state.items() if not name.endswith("rotary_emb.inv_freq")}
    with torch.device("meta"):
        model = Transformer(config)
    if config.tie_word_embeddings:
        table = state.get("model.embed_tokens.weight", torch.empty(0))
        if not torch.equal(state.get("lm_head.weight", table), table):
            raise UserError(
                f"{directory}: config.json ties lm_head.weight to the embeddings, but the stored one is another; set "
                "tie_word_embeddings to false in config.json"
            )
        state["lm_head.weight"] = table
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


def refuse_spoilt_weights(model: Transformer, directory: Path, dtype: str = "float32") -> None:
    """Raises UserError when a weight is NaN or infinite, or would be when stored in `dtype`: one such weight makes
    every loss NaN, hours after it could have been said."""
    for name, value in model.state_dict().items():
        finite = torch.isfinite(value.to(DTYPES[dtype]))
        if not finite.all():
            wrong = int((~finite).sum())
            if torch.isfinite(value).all():
                raise UserError(
                    f"{directory}: {wrong} of {value.numel()} weights in {name} are too large for {dtype}; set "
                    "dtype to bfloat16 or float32"
                )
            raise UserError(
                f"{directory}: {wrong} of {value.numel()} weights in {name} are NaN or infinite; restore the "
                "model from its source"
            )


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights: those its index names, else all *.safetensors. Pickled weights are never
    opened: reading a pickle runs what it says. Raises UserError when there are none, or the index points elsewhere."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index} is damaged; restore it from its source") from None
        for name in names:
            if (
                not isinstance(name, str)
                or Path(name).name != name
                or "\\" in name
                or not name.endswith(".safetensors")
            ):
                raise UserError(f"{index} names {name!r}: a part must be a *.safetensors file in the same folder")
            if not (directory / name).is_file():
                raise UserError(f"{directory} lacks {name}, which its index names; restore it from its source")
        return [directory / name for name in names]
    files = sorted(directory.glob("*.safetensors"))
    pickled = sorted(
        path.name for path in directory.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")
    )
    if not files and pickled:
        raise UserError(
            f"{directory} holds its weights in a pickle ({pickled[0]}), which can run any code when it is read and is "
            "never opened: have its author or transformers' save_pretrained write *.safetensors"
        )
    if not files:
        raise UserError(f"{directory} holds no *.safetensors: lmcraft loads no other weights format")
    whole = directory / "model.safetensors"
    return [whole] if whole in files else files


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
