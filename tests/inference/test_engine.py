import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lmcraft.inference import ContextError, Engine, Sampling
from lmcraft.inference.batch import Batch
from lmcraft.recipe.stage import UserError

PROMPTS = ["Paris", "Où est la tour Eiffel ?", "¿Qué", "is the capital of France. Paris is the capital of", "a", "🙂 π"]


def _prompts(engine: Engine) -> list[list[int]]:
    return [[engine.tokenizer.bos_id, *engine.tokenizer.encode(text)] for text in PROMPTS]


def _recomputed(engine: Engine, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits = engine.model(torch.tensor([tokens]))[0, -1, : engine.tokenizer.vocab_size]
            tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_cached_greedy_equals_full_recomputation_of_every_step(engine: Engine) -> None:
    for prompt in _prompts(engine):
        [generation] = engine.generate([prompt], Sampling(max_tokens=30, temperature=0, stop_tokens=()))
        assert generation.tokens == _recomputed(engine, prompt, 30)
        assert generation.finish == "length" and generation.prompt_tokens == len(prompt)
        assert generation.text == engine.tokenizer.decode(generation.tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(
    engine: Engine, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged prompts, rows that end at different times, more rows than slots, several groups of prefill."""
    monkeypatch.setattr("lmcraft.inference.batch.PREFILL_TOKENS", 40)
    monkeypatch.setattr(Engine, "slots", lambda self, capacity: 4)
    prompts = _prompts(engine) * 2
    samplings = [
        Sampling(
            max_tokens=3 + 5 * (i % 4),
            temperature=temperature,
            top_k=(0, 20)[i % 2],
            top_p=(1, 0.9)[i % 3 == 0],
            seed=i,
        )
        for i in range(len(prompts))
    ]
    together = engine.generate(prompts, samplings)
    alone = [engine.generate([prompt], sampling)[0] for prompt, sampling in zip(prompts, samplings, strict=True)]
    assert together == alone
    streamed = [engine.stream(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
    assert ["".join(stream) for stream in streamed] == [generation.text for generation in alone]
    assert [stream.generation for stream in streamed] == alone


def test_the_seed_decides_the_text_and_none_is_fresh(engine: Engine) -> None:
    prompt = _prompts(engine)[0]
    first, second, other = (engine.generate([prompt], Sampling(max_tokens=40, seed=seed))[0] for seed in (1, 1, 2))
    assert first == second != other
    fresh = engine.generate([prompt] * 2, Sampling(max_tokens=40))
    assert fresh[0] != fresh[1]


def test_top_k_of_one_is_greedy(engine: Engine) -> None:
    greedy = engine.generate(_prompts(engine), Sampling(max_tokens=12, temperature=0))
    assert greedy == engine.generate(_prompts(engine), Sampling(max_tokens=12, temperature=5, top_k=1, seed=3))


def test_stop_tokens_end_the_generation(engine: Engine) -> None:
    prompt = _prompts(engine)[0]
    [free] = engine.generate([prompt], Sampling(max_tokens=20, temperature=0, stop_tokens=()))
    stop = free.tokens[7]
    [stopped] = engine.generate([prompt], Sampling(max_tokens=20, temperature=0, stop_tokens=(stop,)))
    first = free.tokens.index(stop)
    assert stopped.finish == "stop"
    assert stopped.tokens == free.tokens[: first + 1]
    assert stopped.text == engine.tokenizer.decode(free.tokens[:first])


def test_a_stop_string_is_not_emitted_though_it_straddles_deltas(engine: Engine) -> None:
    sampling = Sampling(max_tokens=60, temperature=0.0, stop_tokens=())
    prompt = _prompts(engine)[1]
    free = list(engine.stream(prompt, sampling))
    text = "".join(free)
    for start in range(0, len(text) - 6, 8):
        stop = text[start : start + 6]  # longer than most deltas
        stream = engine.stream(prompt, Sampling(max_tokens=60, temperature=0.0, stop_tokens=(), stop=("\x00", stop)))
        pieces = list(stream)
        assert "".join(pieces) == text[: text.index(stop)] == stream.generation.text
        assert stream.generation.finish == "stop"


def test_generation_ends_at_the_context(engine: Engine) -> None:
    prompt = [5] * (engine.context - 3)
    [generation] = engine.generate([prompt], Sampling(max_tokens=50, temperature=0, stop_tokens=()))
    assert len(generation.tokens) == 3 and generation.finish == "length"
    assert generation.tokens == _recomputed(engine, prompt, 3)


def test_the_padding_of_the_vocabulary_is_never_drawn(engine: Engine) -> None:
    generations = engine.generate([[3]] * 20, Sampling(max_tokens=50, temperature=100.0, stop_tokens=()))
    assert max(max(generation.tokens) for generation in generations) < engine.tokenizer.vocab_size


def test_rows_join_and_leave_a_running_batch(engine: Engine) -> None:
    sampling = Sampling(max_tokens=12, temperature=0, stop_tokens=())
    prompts = _prompts(engine)
    expected = [engine.generate([prompt], sampling)[0].tokens for prompt in prompts]
    batch: Batch = engine.batch(3)
    rows = [engine.row(prompt, sampling) for prompt in prompts]
    batch.admit(rows[:2])
    batch.step()
    batch.admit(rows[2:3])
    batch.step()
    batch.drop(rows[0])
    batch.step()
    batch.admit(rows[3:4])
    while batch.rows:
        batch.step()
    assert [row.tokens for row in rows[1:4]] == expected[1:4]
    assert rows[0].finish is None and rows[0].tokens == expected[0][: len(rows[0].tokens)]


def test_log_likelihood_equals_log_softmax_of_the_whole_sequence(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcraft.inference.engine.LOGITS_AT_ONCE", 7 * engine.model.config.vocab_size)
    sequences = [*_prompts(engine), [4], [], list(range(engine.context))]
    scores = engine.log_likelihood(sequences, batch_tokens=40)
    for sequence, score in zip(sequences, scores, strict=True):
        assert score.shape == (max(0, len(sequence) - 1),) and score.dtype == np.float32
        if len(sequence) > 1:
            with torch.inference_mode():
                table = engine.model(torch.tensor([sequence]))[0].log_softmax(-1)
            direct = table[range(len(sequence) - 1), sequence[1:]].numpy()
            np.testing.assert_allclose(score, direct, atol=2e-5)


def test_prompts_that_cannot_be_continued(engine: Engine) -> None:
    with pytest.raises(ContextError, match="has 200 tokens but the context of the model is 96 tokens"):
        engine.stream([1] * 200)
    with pytest.raises(UserError, match="96 tokens"):
        engine.generate([[1], [1] * 96])
    with pytest.raises(UserError, match="97 tokens"):
        engine.log_likelihood([[1] * 97])
    with pytest.raises(UserError, match="empty"):
        engine.generate([[]])
    for bad in (-1, engine.model.config.vocab_size):
        with pytest.raises(UserError, match="token ids must lie"):
            engine.generate([[1, bad]])
    assert engine.generate([]) == []


def test_unknown_device_or_dtype_names_the_choices(model_directory: Path) -> None:
    with pytest.raises(UserError, match=r"device 'tpu9' is not available on this machine; choose one of: auto, .*cpu"):
        Engine.load(model_directory, device="tpu9")
    with pytest.raises(UserError, match="dtype 'int3' is not known; choose one of: auto, float32"):
        Engine.load(model_directory, dtype="int3")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "missing", "nul"])
def test_a_damaged_model_directory_is_named(model_directory: Path, tmp_path: Path, file: str, damage: str) -> None:
    directory = shutil.copytree(model_directory, tmp_path / "damaged")
    content = (directory / file).read_bytes()
    if damage == "missing":
        (directory / file).unlink()
    elif damage == "cut":
        (directory / file).write_bytes(content[: len(content) // 2])
    else:
        (directory / file).write_bytes(b"\0" * len(content))
    with pytest.raises(UserError, match=re.escape(str(directory))):
        Engine.load(directory, device="cpu")


def test_a_tokenizer_of_another_model_is_refused(engine: Engine) -> None:
    class Larger:
        vocab_size = 10**6

    with pytest.raises(UserError, match="belong to different models"):
        Engine(engine.model, Larger())  # type: ignore[arg-type]


def test_bfloat16_generates(model_directory: Path) -> None:
    engine = Engine.load(model_directory, device="cpu", dtype="bfloat16")
    assert engine.dtype == torch.bfloat16
    [generation] = engine.generate([[3, 4]], Sampling(max_tokens=8, temperature=0, stop_tokens=()))
    assert len(generation.tokens) == 8
