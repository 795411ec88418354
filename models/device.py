"""The device that torch finds here: what its arithmetic depends on, and what memory it has."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

CPU, CUDA = "cpu", "cuda"
# What matrix libraries ask a processor for before they choose a kernel, and the variables that forbid them some of it.
_UNITS = {
    *("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_fp16", "amx_int8"),
}
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")


def best_device() -> str:
    """The accelerator where there is one (``CUDA_VISIBLE_DEVICES`` can hide it), else the processor."""
    return CUDA if torch.cuda.is_available() else CPU


def fix_arithmetic() -> None:
    """Let nothing but a row's own numbers and the batch's shape decide the bits of a forward pass, in all of torch.

    Sums are split by threads, so there is one. Kernels are not chosen by timing, and float32 is float32.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def uncompiled() -> AbstractContextManager[object]:
    """Within it, networks run as they are written, although they are to be compiled."""
    # Where nothing was to be compiled, torch's compiler is not even loaded, which takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def device_class(device: str) -> dict[str, str]:
    """The device's model and instruction set."""
    if device == CPU:
        return {"device": _cpu_model(), "instructions": " ".join([torch.backends.cpu.get_cpu_capability(), *_units()])}
    major, minor = torch.cuda.get_device_capability(device)
    return {"device": torch.cuda.get_device_name(device), "instructions": f"sm_{major}{minor}"}


def own_memory(device: str) -> int | None:
    """Bytes that this process may hold of the device's own memory; None for a device that has none of its own."""
    if device == CPU:
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device))


def knows_bf16() -> bool:
    """Whether the best device here computes in bf16 itself, rather than in float32 with numbers cut to it."""
    if best_device() == CUDA:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_units())


def _cpu_model() -> str:
    """The processor's name, family, model and stepping as the system tells them: in a cloud the name alone is vague."""
    told = _cpu_facts()
    numbers = [told[name] for name in ("cpu family", "model", "stepping") if name in told]
    name = told.get("model name") or platform.processor() or platform.machine()
    return " ".join([name, *numbers])


def _units() -> list[str]:
    """What kernels are chosen by besides: units of the processor, and the environment's cap on them."""
    flags = set(_cpu_facts().get("flags", "").split())
    caps = [f"{name}={os.environ[name]}" for name in _CAPS if name in os.environ]
    return [*sorted(flags.intersection(_UNITS)), *caps]


@cache
def _cpu_facts() -> dict[str, str]:
    """What the system tells of its first processor."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return {}
    lines = listing.read_text().partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
