"""Weights files, as far as they can be looked at without torch."""

from __future__ import annotations

from hashlib import blake2b, file_digest
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..tiling.errors import InputError
from .shapes import Shapes
from .signatures import Reading, Told, read

SAFE = ".safetensors"
SUFFIXES = (SAFE, ".pt", ".pth", ".ckpt", ".bin")

# Loads torch: only to look into a file that is no .safetensors.
_TORCH_READER = ".checkpoint"


def is_weights(name: str) -> bool:
    """Whether a model's name is the path of a file."""
    return "/" in name or Path(name).suffix in SUFFIXES


def shapes_of(file: str) -> Shapes:
    """The names and shapes of a file's tensors, none of which is read."""
    refuse_no_file(file)
    if Path(file).suffix != SAFE:
        shapes: Shapes = import_module(_TORCH_READER, __package__).torch_shapes(file)
        return shapes
    try:
        with safe_open(file, framework="np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{file} is no whole {SAFE} file ({error}): copy or download it again") from None


def refuse_no_file(file: str) -> None:
    """Refuse a path where no file is, or whose suffix is not that of a weights file."""
    if not Path(file).exists():
        raise InputError(f"{file}: does not exist")
    if Path(file).suffix not in SUFFIXES or not Path(file).is_file():
        raise InputError(f"{file} is no weights file: give one of the kinds {', '.join(SUFFIXES)}")


def weights_digest(file: str) -> str:
    """A digest of a file's bytes."""
    refuse_no_file(file)
    with Path(file).open("rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()


def read_weights(file: str, told: Told | None = None) -> Reading:
    """The network that a file holds, by its tensors' shapes and what the user told of it."""
    try:
        return read(shapes_of(file), told)
    except InputError as error:
        raise InputError(_of(file, str(error))) from None


def _of(file: str, problem: str) -> str:
    """A problem with the name of the file it is in."""
    return problem if file in problem or problem.startswith("model.") else f"{file} {problem}"
