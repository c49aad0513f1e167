"""Documents -> tokenizer and tokens: training and loading the tokenizer, the chat template, packing into shards."""

from lmcraft.tokens.shards import TokenShards
from lmcraft.tokens.tokenizer import Tokenizer

__all__ = ["TokenShards", "Tokenizer"]
