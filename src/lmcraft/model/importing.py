"""Stage `import`: a model directory made elsewhere, on disk or on the Hugging Face hub -> a model."""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field
from safetensors import SafetensorError, safe_open

from lmcraft.model.checkpoint import load_model, refuse_spoilt_weights, save_model, weight_files
from lmcraft.model.config import ModelConfig
from lmcraft.recipe.stage import LOCATION, Inputs, Runtime, Source, Stage, StageConfig, UserError
from lmcraft.tokens import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
PLAIN_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", "README.md", *TOKENIZER_FILES)
STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class ImportConfig(StageConfig):
    """Settings of an import."""

    model: str = Field(
        min_length=1,
        json_schema_extra=LOCATION,
        description="A folder in the Hugging Face layout, or hf://organisation/name[@revision]. Families: qwen3, "
        "llama, olmo3, qwen3_moe, eurobert; weights in safetensors, in one file or many; no code of theirs is run.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Type of the stored weights; null: as they are, float32 where the source mixes types."
    )


def run(config: ImportConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the model in lmcraft's layout, with its tokenizer's files as they are.

    Raises UserError when the directory is of an unknown family, has a tensor too many, too few, of another shape or
    with a value that is NaN or infinite, holds its weights in pickles, or brings no tokenizer.
    """
    folder = _folder(config, runtime)
    stored = _stored_types(weight_files(folder))
    dtype = config.dtype or (stored[0] if len(stored) == 1 else "float32")
    _check_tokenizer(folder)
    model = load_model(folder)
    refuse_spoilt_weights(model, folder, dtype)
    save_model(model, out, dtype, _stop_tokens(folder))
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    unusable = _why_no_tokenizer(folder)
    if unusable:
        runtime.progress.note(
            f"  lmcraft cannot encode with its tokenizer ({unusable}): train it on with a tokenizer of your own, "
            "new_vocabulary: true"
        )
    return {
        "family": model.config.model_type,
        "parameters": model.config.parameters(),
        "active_parameters": model.config.parameters(active=True),
        "source_dtype": stored,
        "dtype": dtype,
        "licence": _licence(folder / "README.md"),
        "tokenizer": unusable or "usable",
    }


def sources(config: ImportConfig, runtime: Runtime) -> list[Source]:
    """Every file that is read, with its digest; the name of the hub's model or of the folder stands before it."""
    name = config.model.rstrip("/")
    label = name if name.startswith("hf://") else Path(name).expanduser().resolve().name
    folder = _hub_folder(name, runtime) if name.startswith("hf://") else _folder(config, runtime)
    if folder is None:  # while planning nothing is fetched: no content has this digest, so nothing is up to date
        return [Source(f"{label} (not fetched yet)", sha256(b"not fetched yet").hexdigest())]
    found = []
    for path in [*(folder / each for each in PLAIN_FILES if (folder / each).is_file()), *weight_files(folder)]:
        with path.open("rb") as file:
            found.append(Source(f"{label}/{path.name}", file_digest(file, "sha256").hexdigest(), path.stat().st_size))
    return found


def check(config: ImportConfig, runtime: Runtime) -> None:
    if config.model.startswith("hf://"):
        _parts_of_address(config.model)
    else:
        folder = _folder(config, runtime)
        ModelConfig.read(folder)
        weight_files(folder)
        _check_tokenizer(folder)


def _folder(config: ImportConfig, runtime: Runtime) -> Path:
    if config.model.startswith("hf://"):
        folder = _hub_folder(config.model, runtime)
        assert folder is not None, "a run may fetch"
        return folder
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        raise UserError(f"model {config.model!r} is no folder; give one, or hf://organisation/name")
    return folder


def _hub_folder(address: str, runtime: Runtime) -> Path | None:
    """The model's files in the cache, fetched if need be; None when they are not there and may not be fetched.

    Only what is read is asked for: neither pickles nor code.
    """
    name, revision = _parts_of_address(address)
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UserError('hf:// needs huggingface_hub, which is not installed: pip install "lmcraft[hub]"') from None
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=runtime.cache / "hub",
            allow_patterns=[*PLAIN_FILES, "*.safetensors"],
            local_files_only=runtime.planning,
            endpoint=os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"),
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        if runtime.planning and isinstance(error, LocalEntryNotFoundError):
            return None
        raise UserError(f"{address!r} cannot be fetched: {_first_line(error)}") from None
    except Exception as error:  # its HTTP library's, whichever that is
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests"):
            raise
        raise UserError(f"{address!r} cannot be fetched: {_first_line(error)}") from None
    return Path(found)


def _parts_of_address(address: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"hf://(?!datasets/|spaces/)(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?/?", address)
    if match is None:
        raise UserError(f"{address!r} is not of the form hf://organisation/name[@revision]")
    return match[1], match[2]


def _stored_types(files: list[Path]) -> list[str]:
    """Types of the stored tensors. Raises UserError for those that are no plain weights (quantised ones)."""
    types = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if not name.endswith("rotary_emb.inv_freq")]  # noqa: SIM118
                found = {name: tensors.get_slice(name).get_dtype() for name in names}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}); restore it from its source") from None
        for name, dtype in found.items():
            if dtype not in STORED:
                raise UserError(
                    f"{file}: {name} is stored as {dtype}; lmcraft imports float32, bfloat16 and float16, so give the "
                    "model as it was before quantisation"
                )
            types.add(STORED[dtype])
    return sorted(types)


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} holds no tokenizer.json: save the tokenizer beside the model (save_pretrained)")


def _why_no_tokenizer(folder: Path) -> str | None:
    try:
        Tokenizer.load(folder)
    except UserError as error:
        return str(error).removeprefix(f"{folder}: ").partition(";")[0]
    return None


def _stop_tokens(folder: Path) -> list[int] | None:
    """The tokens that end a text, where the directory says so for generation."""
    try:
        stop = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        raise UserError(f"{folder / 'generation_config.json'} is not valid JSON; restore it from its source") from None
    return [stop] if isinstance(stop, int) else stop


def _licence(card: Path) -> str | None:
    """The licence that a model card declares in the YAML block at its top."""
    if not card.is_file():
        return None
    block = re.match(r"---\s*\n(.*?)\n---\s*\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        said = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        return None
    if not isinstance(said, dict):
        return None
    licence = said.get("license_name") if said.get("license") == "other" else said.get("license")
    return str(licence) if licence else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


STAGE = Stage(
    name="import",
    version=1,
    config=ImportConfig,
    inputs={},
    output="model",
    run=run,
    help="Take in a model made elsewhere: a directory in the Hugging Face layout, or one of the hub.",
    check=check,
    sources=sources,
)
