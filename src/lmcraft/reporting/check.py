"""Whether an exported directory is, to `transformers`, the model it was exported from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmcraft.inference.engine import Engine
from lmcraft.inference.fill_mask import fill_mask
from lmcraft.model import ModelConfig, Transformer, load_model
from lmcraft.recipe.stage import UserError
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.tokenizer import MASK

TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest logit, in float32."""
GREEDY_TOKENS = 50
MISSING_EXTRA = 'an export is checked with transformers, which is not installed: pip install "lmcraft[export]"'
TEXTS = (
    "The river rises in the mountains and flows into the sea.",
    "# Title\n\nA paragraph, with 1234.5 numbers; and (some) punctuation!\n\n- one\n- two",
    "  indented\tand   spaced \n\n\n end  ",
    "Les élèves naïfs mangèrent où ça coûte 15 €. ¿Qué pasó mañana?",
    "日本語の文章と emoji 👩‍🚀🎉, кириллица, العربية, e\u0301 and \u00e9",
    "def f(x):\n    return x ** 2  # code",
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is a river?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "  2 + 2 = "},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Épelle « où »\nplease"},
    ],
)


class ExportDiffers(RuntimeError):
    """`transformers` makes something else of the exported directory than lmcraft of the model; says what first."""


def check_export(exported: Path, model: Path, texts: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Compare `transformers` on `exported` with lmcraft on `model`, in float32 on the CPU: token ids, chat rendering,
    loss masks, logits, greedy continuations (of a masked LM, what fills its masks). `texts` are further real texts to
    compare on.

    Returns what was compared and how close it came. Raises ExportDiffers at the first difference, UserError when
    `transformers` is not installed.
    """
    ours, tokenizer = load_model(model, "cpu", torch.float32), Tokenizer.load(model)
    masked = not ModelConfig.read(exported).causal
    with _offline():
        theirs, their_tokenizer, version = _load(exported, masked)
        samples = [*TEXTS, *texts]
        _compare_tokens(tokenizer, their_tokenizer, samples)
        chats = CHATS if tokenizer.chat_template else ()
        _compare_chats(tokenizer, their_tokenizer, chats)
        inputs = _inputs(tokenizer, ours, samples, chats, seed)
        worst = _compare_logits(ours, theirs, inputs, masked)
        compared = {
            "transformers": version,
            "texts": len(samples),
            "chats": len(chats),
            "logit_inputs": len(inputs),
            "max_relative_logit_difference": float(f"{worst:.3g}"),
            "tolerance": TOLERANCE,
        }
        if masked:
            return {**compared, "masks_filled": _compare_fillings(Engine(ours, tokenizer), theirs, their_tokenizer)}
        prompts = [tokenizer.encode_prompt(chat) for chat in chats] + inputs[: len(TEXTS)]
        room = ours.config.max_position_embeddings - GREEDY_TOKENS
        prompts = [prompt[: min(room, 64)] for prompt in prompts] if room > 0 else []
        equal, ties = _compare_greedy(ours, theirs, prompts)
    return {
        **compared,
        "prompts": len(prompts),
        "greedy_tokens": GREEDY_TOKENS * len(prompts),
        "greedy_tokens_equal": equal,
        "greedy_ties": ties,
    }


@contextmanager
def _offline() -> Any:
    """The check reads two directories and nothing else, whatever a config names."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _load(directory: Path, masked: bool) -> tuple[Any, Any, str]:
    try:
        import transformers
    except ImportError:
        raise UserError(MISSING_EXTRA) from None
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(directory, local_files_only=True, dtype=torch.float32, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever it is, the directory does not load, and that is the finding
        raise ExportDiffers(f"transformers does not load {directory}: {error}") from error
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
    return model.eval(), tokenizer, transformers.__version__


def _compare_tokens(tokenizer: Tokenizer, theirs: Any, texts: Sequence[str]) -> None:
    for text in texts:
        ours = tokenizer.encode(text)
        _same(f"token ids of {text[:40]!r}", ours, theirs(text, add_special_tokens=False)["input_ids"])
        _same(
            f"token ids of {text[:40]!r} behind the boundary",
            [*tokenizer.leading_ids, *ours],
            theirs(text)["input_ids"],
        )
        _same(f"text of the ids of {text[:40]!r}", tokenizer.decode(ours), theirs.decode(ours))
    for name, ours_id in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("pad", tokenizer.pad_id)):
        _same(f"{name}_token_id", ours_id, getattr(theirs, f"{name}_token_id"))


def _compare_chats(tokenizer: Tokenizer, theirs: Any, chats: Sequence[list[dict[str, str]]]) -> None:
    for number, chat in enumerate(chats, 1):
        for prompt in (True, False):
            what = f"chat {number} {'with' if prompt else 'without'} the assistant's header"
            rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            _same(f"rendering of {what}", tokenizer.render(chat, prompt), rendered)
        ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        _same(f"token ids of chat {number}", tokenizer.encode_prompt(chat), ids)
    if not tokenizer.marks_answers:
        return
    answered = [*CHATS[0], {"role": "assistant", "content": "A stream of water."}]
    made = theirs.apply_chat_template(answered, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = tokenizer.encode_chat(answered)
    _same("token ids of an answered chat", ids, made["input_ids"])
    _same("mask of what the assistant says", mask, made["assistant_masks"])


def _inputs(
    tokenizer: Tokenizer, model: Transformer, texts: Sequence[str], chats: Sequence[list[dict[str, str]]], seed: int
) -> list[list[int]]:
    """Real texts and chats, then random tokens up to the whole context."""
    context = model.config.max_position_embeddings
    real = [[tokenizer.bos_id, *tokenizer.encode(text)][:context] for text in texts]
    real += [tokenizer.encode_prompt(chat)[:context] for chat in chats]
    rng = np.random.default_rng(seed)
    lengths = [1, min(17, context), min(context, 1024)]
    return real + [rng.integers(0, model.config.vocab_size, length).tolist() for length in lengths]


@torch.inference_mode()
def _compare_logits(ours: Transformer, theirs: Any, inputs: Sequence[Sequence[int]], masked: bool) -> float:
    worst, seen = 0.0, torch.ones(1, dtype=torch.bool) if masked else None
    for ids in inputs:
        tokens = torch.tensor([ids])
        a, b = ours(tokens, bidirectional_B=seen).float(), theirs(tokens).logits.float()
        if a.shape != b.shape:
            raise ExportDiffers(f"logits have shape {tuple(b.shape)} in transformers, {tuple(a.shape)} in lmcraft")
        difference = (a - b).abs()
        relative = float(difference.max() / b.abs().max().clamp_min(1e-12))
        if not relative <= TOLERANCE:
            position = int(difference.amax(-1)[0].argmax())
            raise ExportDiffers(
                f"logits differ by {relative:.2g} of the largest (at most {TOLERANCE:g} is allowed), most at position "
                f"{position} of {len(ids)}"
            )
        worst = max(worst, relative)
    return worst


@torch.inference_mode()
def _compare_greedy(ours: Transformer, theirs: Any, prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Equal tokens, and ties: places where lmcraft ranks the two choices equal to within the tolerance.

    `transformers` generates with its cache; our network reads the whole text and must choose the same token at every
    place, which is what generating the same text means.
    """
    equal = ties = 0
    theirs.generation_config.eos_token_id = None  # do not stop early
    for number, prompt in enumerate(prompts, 1):
        tokens = torch.tensor([list(prompt)])
        pad = theirs.generation_config.pad_token_id
        text = theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=GREEDY_TOKENS,
            pad_token_id=pad if pad is not None else 0,
        )
        made = text[0, len(prompt) :]
        logits = ours(text[:, :-1])[0, len(prompt) - 1 :].float()
        if len(made) != GREEDY_TOKENS:
            raise ExportDiffers(f"transformers stopped after {len(made)} of {GREEDY_TOKENS} tokens at prompt {number}")
        for place, (token, row) in enumerate(zip(made.tolist(), logits, strict=True), 1):
            if token == int(row.argmax()):
                equal += 1
            elif float(row.max() - row[token]) <= TOLERANCE * float(row.abs().max()):
                ties += 1
            else:
                raise ExportDiffers(
                    f"greedy token {place} of {GREEDY_TOKENS} after prompt {number} is {token} in transformers, "
                    f"{int(row.argmax())} in lmcraft"
                )
    return equal, ties


def _compare_fillings(engine: Engine, theirs: Any, their_tokenizer: Any) -> int:
    """How many masks were filled with the same tokens, of the same probability, as by the fill-mask pipeline."""
    from transformers import pipeline

    fill = pipeline("fill-mask", model=theirs, tokenizer=their_tokenizer, top_k=5, device="cpu")
    texts = [" ".join([*text.split(" ")[:3], MASK, *text.split(" ")[4:]]) for text in TEXTS]
    texts = [text for text in texts if len(engine.tokenizer.encode_masked(text)) < engine.context]
    for text, (mask,) in zip(texts, fill_mask(engine, texts), strict=True):
        for ours, other in zip(mask, fill(text), strict=True):
            apart = abs(ours.probability - other["score"])
            tie = apart <= TOLERANCE * other["score"]
            if apart > TOLERANCE or not (tie or ours.token == other["token"]):
                raise ExportDiffers(
                    f"{ours.text!r} fills {text[:40]!r} with probability {ours.probability:.4f} in lmcraft, "
                    f"{other['token_str']!r} with {other['score']:.4f} in transformers"
                )
    return len(texts)


def _same(what: str, ours: Any, theirs: Any) -> None:
    if ours == theirs:
        return
    if isinstance(ours, list) and isinstance(theirs, list):
        place = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        ours, theirs = f"{ours[place : place + 3]} at {place}", f"{theirs[place : place + 3]}"
    raise ExportDiffers(f"{what} differ: {ours!r} in lmcraft, {theirs!r} in transformers")
