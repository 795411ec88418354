"""The device that torch finds here: what its arithmetic depends on, and what memory it has."""

from __future__ import annotations

import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

CPU, CUDA = "cpu", "cuda"


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
        return {"device": _cpu_model(), "instructions": torch.backends.cpu.get_cpu_capability()}
    major, minor = torch.cuda.get_device_capability(device)
    return {"device": torch.cuda.get_device_name(device), "instructions": f"sm_{major}{minor}"}


def own_memory(device: str) -> int | None:
    """Bytes that this process may hold of the device's own memory; None for a device that has none of its own."""
    if device == CPU:
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device))


def _cpu_model() -> str:
    """The processor's name as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
