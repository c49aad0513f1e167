"""The engine gives the tokens of the whole sequence for windows and experts too, with rows that come and go."""

from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from lmcraft.inference import Engine, Sampling
from lmcraft.model import ModelConfig, Transformer

WINDOWS = {"model_type": "olmo3", "sliding_window": 6, "layer_types": ("sliding_attention", "full_attention")}
EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 32}}


@pytest.mark.parametrize("changes", [WINDOWS, EXPERTS, WINDOWS | YARN], ids=["windows", "experts", "windows, yarn"])
def test_batched_greedy_decoding_is_that_of_the_whole_sequence(changes: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    config = tiny_model(tokenizer).config
    model = Transformer(ModelConfig(**{**config.model_dump(), **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
            parameter.add_(float(parameter.ndim == 1))
    engine = Engine(model.eval(), tokenizer)
    prompts = [list(range(10, 10 + length)) for length in (1, 4, 9, 30, 17)]
    lengths = (40, 3, 20, 11, 25)
    settings = [Sampling(max_tokens=n, temperature=0.0, stop_tokens=()) for n in lengths]
    for prompt, answer in zip(prompts, engine.generate(prompts, settings), strict=True):
        ids = [*prompt, *answer.tokens]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, len(prompt) - 1 : -1, : tokenizer.vocab_size]
        drawn = logits.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
        assert torch.all(logits.max(1).values - drawn < 1e-4), "each token is the best one, or ties with it"
    likelihood = engine.log_likelihood([prompts[3]])[0]
    with torch.no_grad():
        whole = model(torch.tensor([prompts[3]]))[0].log_softmax(-1)
    expected = whole[torch.arange(29), torch.tensor(prompts[3][1:])].numpy()
    assert abs(likelihood - expected).max() < 1e-4
