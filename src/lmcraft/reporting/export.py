"""Stage `export`: a model -> a complete Hugging Face directory with its model card, compared with `transformers`."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lmcraft.inference.devices import use_workers
from lmcraft.model import ModelConfig, load_model, save_model
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError
from lmcraft.reporting.artifacts import lineage, read_artifact
from lmcraft.reporting.card import model_card
from lmcraft.reporting.check import MISSING_EXTRA, check_export
from lmcraft.reporting.page import energies
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.files import write_json, write_text

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class ExportConfig(StageConfig):
    """Settings of an export."""

    name: str = Field("lmcraft-model", min_length=1, description="Name of the model on its card.")
    description: str | None = Field(None, description="A sentence on what the model is for, at the top of its card.")
    licence: str | None = Field(
        None, description="Licence of the model (SPDX); null: that of the training text where all of it has one."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Type of the stored weights; null: as they were trained."
    )
    masked: bool = Field(
        False,
        description="Of a model pretrained with objective: mixed, write the masked LM (EuroBERT) instead of the causal "
        "one (Llama); the weights are the same.",
    )


def run(config: ExportConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write weights, configs, tokenizer, `README.md` and `export.json`; `energy.json` where the training looked.

    Raises ExportDiffers, and leaves no artifact, when `transformers` makes something else of them than lmcraft does;
    UserError when `transformers` is not installed or the model is no model.
    """
    use_workers(runtime.workers)
    model = read_artifact(inputs["model"])
    given = inputs.get("evaluation")
    evaluation = read_artifact(given) if given is not None else None
    documents = [read_artifact(directory) for directory in [inputs.get("documents")] if directory is not None]
    write_directory(model.path, out, config.dtype, config.masked)
    with runtime.progress.task("comparing with transformers", 1, "models") as task:
        # Stored in fewer bits, the weights are others; the comparison is then with what was stored.
        reference = model.path if config.dtype is None else out
        compared = check_export(out, reference, _texts(evaluation.json("samples.json") if evaluation else None))
        task.advance()
    write_json(out / "export.json", compared)
    write_text(
        out / "README.md",
        model_card(config.name, config.description, config.licence, model, evaluation, documents, config.masked),
    )
    if found := energies(lineage([model])):
        total = {name: sum(row[name] for row in found) for name in ("kwh", "gco2e")}
        write_json(out / "energy.json", {**total, "steps": found})
    return {"name": config.name, **compared}


def write_directory(model: Path, out: Path, dtype: str | None, masked: bool = False) -> None:
    """The files that `transformers` reads; none of lmcraft's own. `masked`: of a mixed model, those of a masked LM."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(model)
    if dtype is None:
        names = [path.name for path in sorted(model.glob("*.safetensors"))]
        names += ["config.json", "generation_config.json", "model.safetensors.index.json"]
        for name in names:
            if (model / name).is_file():
                shutil.copyfile(model / name, out / name)
        if not any(name.endswith(".safetensors") for name in names):
            raise UserError(f"{model} holds no *.safetensors; give the directory of a trained model")
    else:
        save_model(load_model(model), out, dtype, list(tokenizer.stop_ids))
    if masked:
        _as_masked(model, out)
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)


def _as_masked(model: Path, out: Path) -> None:
    """Llama and EuroBERT have the same parameters: only the config says that what follows is seen."""
    shape = ModelConfig.read(model)
    if shape.mask_token_id is None or shape.model_type not in ("llama", "eurobert"):
        raise UserError(
            f"{model} was not trained to fill masks and cannot be exported so: leave masked out, or pretrain with "
            "objective: mixed"
        )
    dtype = json.loads((out / "config.json").read_text(encoding="utf-8"))["dtype"]
    write_json(out / "config.json", shape.model_copy(update={"model_type": "eurobert"}).to_huggingface(dtype))
    (out / "generation_config.json").unlink(missing_ok=True)


def _texts(samples: list[dict[str, Any]] | None, most: int = 12) -> list[str]:
    """Questions and answers of the evaluation: real text in the languages of the model."""
    texts = []
    for sample in (samples or [])[:: max(1, len(samples or []) // most)]:
        texts.append("\n".join(message["content"] for message in sample["question"]) + "\n" + sample["answer"])
    # Control tokens inside a text are plain text to us and control tokens to transformers: by design, not compared.
    return [text for text in texts[:most] if "<|" not in text]


def check(config: ExportConfig, runtime: Runtime) -> None:
    """Before hours of training, not after them. Raises UserError when `transformers` is not installed."""
    if find_spec("transformers") is None:
        raise UserError(MISSING_EXTRA)


STAGE = Stage(
    name="export",
    version=2,
    config=ExportConfig,
    inputs={
        "model": Input(kinds=("model",)),
        "evaluation": Input(kinds=("evaluation",), required=False),
        "documents": Input(kinds=("documents",), required=False),
    },
    output="model",
    run=run,
    help="Write a model as a Hugging Face directory with a model card, and check it against transformers.",
    check=check,
    volatile=("energy.json",),
)
