"""A process, told from any other that ever was, as plain data that other processes read."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def this_process() -> dict[str, Any]:
    """This process: its machine, its number, and when it was started."""
    return {"host": host(), "pid": os.getpid(), "started": _started(os.getpid())}


def ended(process: Mapping[str, Any]) -> bool | None:
    """Whether a process has ended; None where this machine cannot tell, as it is another's."""
    if process["host"] != host() or process["started"] is None:
        return None
    return bool(_started(process["pid"]) != process["started"])


def host() -> list[str]:
    """This machine, which of its processes can be seen from here, and when it was started, as far as that is told.

    Containers may share a machine's name, and so may machines.
    """
    seen, boot = _PROC / "self" / "ns" / "pid", _PROC / "sys" / "kernel" / "random" / "boot_id"
    return [
        socket.gethostname(),
        os.readlink(seen) if seen.exists() else "",
        boot.read_text().strip() if boot.exists() else "",
    ]


def _started(pid: int) -> str | None:
    """When a process was started, in the system's own units; None where there is none, or nobody tells."""
    try:
        told = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name before it, in brackets, may hold anything.
    state, *rest = told.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]
