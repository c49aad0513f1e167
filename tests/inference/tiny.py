"""A tiny tokenizer and a tiny random network, made in a second, for the tests of `inference` and `serving`."""

from pathlib import Path

import torch

from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.tokenizer import default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe

TEXT = "Paris is the capital of France. Où est la tour Eiffel ? ¿Qué es el número π? 東京 🙂 " * 20
CONTEXT = 96


def tiny_tokenizer() -> Tokenizer:
    config = TokenizerConfig(vocab_size=512, min_frequency=1)
    return Tokenizer(train_bpe(iter([TEXT]), config), default_chat_template())


def tiny_model(tokenizer: Tokenizer, context: int = CONTEXT, extra_vocabulary: int = 5) -> Transformer:
    """Random everywhere (a fresh network's layers are the identity), grouped queries, a vocabulary with padding."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + extra_vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def save_tiny(directory: Path) -> Path:
    tokenizer = tiny_tokenizer()
    save_model(tiny_model(tokenizer), directory)
    tokenizer.save(directory)
    return directory
