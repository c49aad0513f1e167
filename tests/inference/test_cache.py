"""The network's cache gives what the whole sequence gives, whichever way it is filled."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from lmcraft.inference.devices import SMALL, settle_threads
from lmcraft.model import KVCache, Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(tiny_tokenizer())


@pytest.mark.parametrize("chunks", [[1] * 12, [12], [5, 7], [5, 1, 6]])
@pytest.mark.parametrize("hints", [True, False])
def test_chunks(model: Transformer, chunks: list[int], hints: bool) -> None:
    tokens = torch.randint(0, 250, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model(tokens)
        cache = KVCache(model.config, 4, 40, "cpu", torch.float32)
        for table in (cache.keys, cache.values):
            table.fill_(9.0)  # what an earlier row left behind
        done = 0
        for size in chunks:
            positions = torch.arange(done, done + size).expand(3, size)
            part = cache.rows(0, 3, reach=done + size, prefill=done == 0) if hints else cache.rows(0, 3)
            logits = model(tokens[:, done : done + size], positions, cache=part)
            torch.testing.assert_close(logits, whole[:, done : done + size], rtol=1e-4, atol=1e-4)
            done += size


def test_rows_at_different_positions(model: Transformer) -> None:
    tokens = torch.randint(0, 250, (2, 10), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[4], [7]])
    with torch.inference_mode():
        whole = model(tokens)
        cache = KVCache(model.config, 2, 10, "cpu", torch.float32)
        model(tokens[:, :7], torch.arange(7).expand(2, 7), cache=cache.rows(0, 2, prefill=True))  # row 0: 3 of padding
        for step in range(3):
            logits = model(tokens.gather(1, lengths + step), lengths + step, cache=cache.rows(0, 2))
            for row in range(2):
                expected = whole[row, lengths[row, 0] + step]
                torch.testing.assert_close(logits[row, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 32), (4, 7, 32), (2, 3, 4, 32)])
def test_the_norm_without_gradients_is_that_of_training(shape: tuple[int, ...]) -> None:
    norm = tiny_model(tiny_tokenizer()).model.norm
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fused = norm(x)
    torch.testing.assert_close(fused, norm(x).detach(), rtol=1e-6, atol=1e-6)


def test_small_models_generate_on_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        settle_threads(torch.device("cpu"), SMALL)
        assert torch.get_num_threads() == 2
        settle_threads(torch.device("cpu"), SMALL - 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
