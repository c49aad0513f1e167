"""What this machine can do: precision of matrix products, whether torch.compile works, the matmul-bound rate."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import time
from typing import Any

import torch

from lmcraft.model import ModelConfig
from lmcraft.recipe.stage import Runtime, UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 1 GiB a block, instead of handing it back to the system.

    A training step allocates the same blocks every time. Given back and asked for again, each is filled with zeros
    page by page: attention by plain products took twice as long for it (docs/log.md). Nothing outside glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the processor multiplies it in hardware (AMX, AVX512-BF16, NVIDIA from Ampere), else
    float32. float16 is not offered: it would need loss scaling. Of `float8`, what is not multiplied in it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch 2.11
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def wants_compile(runtime: Runtime, device: torch.device, operations: float) -> bool:
    """`auto` compiles when that works here and the run is long enough to earn back the start-up.

    The length is judged by operations, not by a clock, so that a resumed run decides as the first one did.
    """
    enough = 1e15 if device.type == "cuda" else 5e12
    if runtime.compile == "off" or (runtime.compile == "auto" and operations < enough):
        return False
    if runtime.ranks is not None and runtime.ranks.shares_layers:
        # Measured with torch 2.15 on a CPU: compiled layers of two tensor processes gave another gradient.
        reason: str | None = "runtime.parallel.tensor and context train uncompiled"
    else:
        reason = _why_not_compile(device)
    if reason and runtime.compile == "on":
        raise UserError(f"compile is on, but {reason}; mend that or set compile: off")
    if reason:
        runtime.progress.note(f"  not compiled (slower by a fifth or so): {reason}")
    return not reason


def _why_not_compile(device: torch.device) -> str | None:
    """None when torch.compile works: a CPU needs a C++ compiler and Python's headers, CUDA brings Triton."""
    if device.type not in ("cpu", "cuda"):
        return f"torch.compile is not used on {device.type}"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        return "there is no C++ compiler (g++ or clang++)"
    from torch._inductor import config as inductor

    # By default a program for each set of vector instructions is compiled and run, five seconds in all, to learn what
    # works. The trial below shows it too, so they are taken for granted first, and asked for only where that fails.
    asked = inductor.cpp.vec_isa_ok
    for vectors in dict.fromkeys((True if asked is None else asked, asked)):
        inductor.cpp.vec_isa_ok = vectors
        try:
            torch.compile(lambda x: x * 2 + 1)(torch.ones(64, device=device))
            return None
        except Exception as error:  # whatever a broken tool chain throws: training goes on without it
            reason = f"torch.compile fails on this machine ({str(error).strip().splitlines()[0][:100]})"
    return reason


def matmul_seconds_per_token(
    config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device, budget_s: float = 1.5
) -> float:
    """The floor of a training step: seconds that its matrix products alone take per token, measured here and now.

    Each linear layer's forward product and its two gradients at the step's own shapes and precision, with nothing
    between them; an expert's with the rows that it gets when all get as many; attention's products and everything
    elementwise are left out. The fastest of up to 50 repeats counts: other work on the machine can only slow them down.
    """
    d, a = config.hidden_size, config.head_dim
    heads, kv, layers = config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers
    sparse = sum(config.sparse(layer) for layer in range(layers))
    experts, chosen, width = config.num_experts or 1, config.num_experts_per_tok or 1, config.moe_intermediate_size or 1
    share = max(1, tokens * chosen // experts)
    shapes: dict[tuple[int, int, int], int] = {}
    for inputs, outputs, most, times in (
        (d, heads * a, tokens, layers),
        (d, kv * a, tokens, 2 * layers),
        (heads * a, d, tokens, layers),
        (d, config.intermediate_size, tokens, 2 * (layers - sparse)),
        (config.intermediate_size, d, tokens, layers - sparse),
        (d, experts, tokens, sparse),
        (d, width, share, 2 * chosen * sparse),
        (width, d, share, chosen * sparse),
        (d, config.vocab_size, tokens, 1),
    ):
        if times:
            shapes[inputs, outputs, most] = shapes.get((inputs, outputs, most), 0) + times
    seconds = 0.0
    for (inputs, outputs, most), times in shapes.items():
        rows = min(most, max(64, 2**24 // outputs))
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        w = torch.randn(outputs, inputs, device=device, dtype=dtype)
        g = torch.randn(rows, outputs, device=device, dtype=dtype)

        def three_products(x: Any = x, w: Any = w, g: Any = g) -> None:
            torch.mm(x, w.t())
            torch.mm(g, w)
            torch.mm(g.t(), x)

        seconds += times * _fastest_seconds(three_products, device, budget_s / len(shapes)) / rows
    return seconds


def matmul_flops_per_token(config: ModelConfig) -> float:
    """Operations of the products that `matmul_seconds_per_token` times."""
    return config.flops_per_token(context=0)


def _fastest_seconds(run: Any, device: torch.device, budget_s: float) -> float:
    def once() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    times: list[float] = []
    while sum(times) < budget_s and len(times) < 50:
        times.append(once())
    return min(times)
