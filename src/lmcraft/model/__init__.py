"""Config -> network: the transformer, its shape, and checkpoint directories in the Hugging Face layout."""

from lmcraft.model.checkpoint import load_model, refuse_spoilt_weights, save_model
from lmcraft.model.config import ModelConfig
from lmcraft.model.network import KVCache, Transformer

__all__ = ["KVCache", "ModelConfig", "Transformer", "load_model", "refuse_spoilt_weights", "save_model"]
