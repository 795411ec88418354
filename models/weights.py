"""Weights files, as far as they can be looked at without torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b, file_digest
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..tiling.errors import InputError
from .patchdm_config import PatchConfig
from .patchdm_shapes import is_patches
from .patchdm_signatures import PatchReading, read_described, read_patches
from .shapes import Shapes
from .signatures import Description, Reading, Told, read
from .spatial_config import SPATIAL, SpatialDescription, SpatialReading

SAFE = ".safetensors"
SUFFIXES = (SAFE, ".pt", ".pth", ".ckpt", ".bin")
# Suffixes that only programs have; they may have those of weights too.
TORCHSCRIPT, EXPORTED = ".ts", ".pt2"

# Loads torch: only to look into a file that is no .safetensors.
_TORCH_READER = ".checkpoint"
_DIGEST = 16
# What comes with the package: NAME.safetensors is the model NAME.
SHIPPED = Path(__file__).parent / "shipped"
# The key of what a file of our own says of itself, among the texts that .safetensors keep beside tensors.
DESCRIPTION = "tileloom"


def is_path(name: str) -> bool:
    """Whether a model's name is the path of a file or folder."""
    return "/" in name or Path(name).suffix in (*SUFFIXES, TORCHSCRIPT, EXPORTED)


def shipped() -> dict[str, str]:
    """The weights files that come with the package, by the names that jobs have for them."""
    return {file.stem: str(file) for file in sorted(SHIPPED.glob(f"*{SAFE}"))}


def title_of(file: str) -> str:
    """What a weights file is called: by its name, without a suffix where it comes with the package."""
    path = Path(file)
    return path.stem if path.parent == SHIPPED else path.name


def program_in(file: str) -> str | None:
    """The suffix of the kind of program that a file holds, by what its archive lists: nothing of it is loaded."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return TORCHSCRIPT
    return EXPORTED if any(name.endswith("/archive_format") for name in names) else None


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


def description_of(file: str) -> Description | SpatialDescription | None:
    """What a file that was trained here says of its network; None for any other."""
    refuse_no_file(file)
    if Path(file).suffix != SAFE:
        return None
    try:
        with safe_open(file, framework="np") as opened:
            told = (opened.metadata() or {}).get(DESCRIPTION)
            return None if told is None else _described(json.loads(told))
    except SafetensorError as error:
        raise InputError(f"{file} is no whole {SAFE} file ({error}): copy or download it again") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} describes its network in words unknown here ({error}): use the tileloom that it was made with"
        ) from None


def _described(told: Mapping[str, Any]) -> Description | SpatialDescription:
    return (SpatialDescription if told["kind"] == SPATIAL else Description).restored(told)


def refuse_no_file(file: str) -> None:
    """Refuse a path where no file is, or whose suffix is not that of a weights file."""
    if not Path(file).exists():
        raise InputError(f"{file}: does not exist")
    if Path(file).suffix not in SUFFIXES or not Path(file).is_file():
        raise InputError(f"{file} is no weights file: give one of the kinds {', '.join(SUFFIXES)}")


def weights_digest(file: str) -> str:
    """A digest of a weights file's bytes."""
    refuse_no_file(file)
    return digest_of(file)


def digest_of(*files: str) -> str:
    """A digest of the bytes of one file, or of several with their names, wherever they lie."""
    digests = [_digest(Path(file)) for file in files]
    if len(files) == 1:
        return digests[0]
    named = "".join(f"{Path(file).name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return blake2b(named.encode(), digest_size=_DIGEST).hexdigest()


def _digest(file: Path) -> str:
    found = file.stat()
    return _digest_as_it_is(file, found.st_size, found.st_mtime_ns)


@lru_cache
def _digest_as_it_is(file: Path, size: int, changed: int) -> str:
    """A file's digest, read again only where it has changed: it may be large, and every image of a job asks."""
    with file.open("rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=_DIGEST)).hexdigest()


def read_weights(file: str, told: Told | None = None) -> Reading | PatchReading | SpatialReading:
    """The network that a file holds, by its tensors' shapes and what the user told of it."""
    shapes, told, described = shapes_of(file), told or Told(), description_of(file)
    if isinstance(described, SpatialDescription):
        return SpatialReading(described)
    try:
        if described and isinstance(described.config, PatchConfig):
            return read_described(described, told)
        if not described and is_patches(shapes):
            return read_patches(shapes, told)
        return read(shapes, told, described)
    except InputError as error:
        raise InputError(_of(file, str(error))) from None


def _of(file: str, problem: str) -> str:
    """A problem with the name of the file it is in."""
    return problem if file in problem or problem.startswith("model.") else f"{file} {problem}"
