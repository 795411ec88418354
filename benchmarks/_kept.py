"""Files that a benchmark keeps to go on with: whole, or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def keep(file: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place, in a folder made for it, and move it there once it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.with_suffix(".part")
    write(begun)
    begun.replace(file)
