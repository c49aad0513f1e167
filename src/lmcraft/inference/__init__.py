"""Model + prompt -> tokens: the engine that chat, evaluation and the server share."""

from lmcraft.inference.devices import available_devices, resolve_device, resolve_dtype
from lmcraft.inference.engine import ContextError, Engine, Generation, Stream
from lmcraft.inference.sampling import Sampling

__all__ = [
    "ContextError",
    "Engine",
    "Generation",
    "Sampling",
    "Stream",
    "available_devices",
    "resolve_device",
    "resolve_dtype",
]
