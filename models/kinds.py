"""The ways to name a model, which of them are code, and for each its terms and what stands for it in a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from ..tiling.errors import InputError
from .contract import Contract, Model, gaussian_contract, split_model, telling_options, weights_contract
from .folder import folder_contract, read_folder
from .plugins import installed, origin, plugin_contract, plugin_digest
from .programs import exported_contract, torchscript_contract
from .weights import EXPORTED, TORCHSCRIPT, digest_of, is_path, program_in, shipped, weights_digest

Describe = Callable[[str, Mapping[str, object]], Contract]
BUILT_IN: dict[str, Describe] = {"gaussian": lambda _, options: gaussian_contract(options)}


class Kind(Enum):
    """The ways to name a model, in words."""

    BUILT_IN = "a built-in model"
    WEIGHTS = "a weights file"
    FOLDER = "a diffusers folder"
    TORCHSCRIPT = "a TorchScript program"
    EXPORTED = "an exported program"
    PLUGIN = "a plug-in"

    @property
    def is_code(self) -> bool:
        """Whether to load it, or to ask it for its terms, is to run what its author wrote."""
        return self in (Kind.TORCHSCRIPT, Kind.EXPORTED, Kind.PLUGIN)


_PROGRAMS = {TORCHSCRIPT: Kind.TORCHSCRIPT, EXPORTED: Kind.EXPORTED}
_CONTRACTS: dict[Kind, Describe] = {
    Kind.WEIGHTS: weights_contract,
    Kind.FOLDER: folder_contract,
    Kind.TORCHSCRIPT: torchscript_contract,
    Kind.EXPORTED: exported_contract,
    Kind.PLUGIN: plugin_contract,
}


def model_kind(name: str) -> Kind:
    """How a model is named; of a file the list of its contents is read, and no more."""
    if not is_path(name):
        if name in BUILT_IN:
            return Kind.BUILT_IN
        if name in shipped():
            return Kind.WEIGHTS
        if name in installed():
            return Kind.PLUGIN
        if Path(name).is_dir():
            raise InputError(f"no model is called {name!r}: for the folder of that name give ./{name}")
        raise InputError(
            f"no model is called {name!r}; there are {', '.join((*BUILT_IN, *shipped(), *installed()))}, or give the "
            "path of a weights file such as model.safetensors, or of a folder such as ./model"
        )
    path = Path(name)
    if path.is_dir():
        return Kind.FOLDER
    found = program_in(name) if path.exists() else None
    if path.suffix in _PROGRAMS:
        if not path.exists():
            raise InputError(f"{name}: does not exist")
        if found != path.suffix:
            raise InputError(f"{name} is no whole program of the kind {path.suffix}: save or copy it again")
    return _PROGRAMS[found] if found else Kind.WEIGHTS


def trusted_kind(model: Model, *, trusted: bool) -> Kind:
    """How a model is named; refuses one that is code and is not trusted, before anything of it is run."""
    name, _ = split_model(model)
    kind = model_kind(name)
    if kind.is_code and not trusted:
        whose = f" of {origin(name)}" if kind is Kind.PLUGIN else ""
        raise InputError(
            f"model {name} is {kind.value}{whose}, which is code and may do whatever you may: "
            "give --trust-model if you trust whoever made it"
        )
    return kind


def contract_of(model: Model, *, trusted: bool = False) -> Contract:
    """The contract of a model, by name and options; its weights are not loaded, and code is run only if trusted."""
    kind = trusted_kind(model, trusted=trusted)
    name, options = split_model(model)
    return (BUILT_IN[name] if kind is Kind.BUILT_IN else _CONTRACTS[kind])(name, options)


def identity_of(model: Mapping[str, object]) -> dict[str, object]:
    """What stands for a model in a job, by what it is: where its files lie makes no difference.

    Nor does it, for a weights file, whether an option is left out or written at its default.
    A plug-in is asked for its files, which is to run it: see first that it is trusted.
    """
    name, options = split_model(model)
    kind = model_kind(name)
    if kind is Kind.BUILT_IN:
        return {"model": dict(model)}
    if kind is Kind.PLUGIN:
        return {"model": dict(model), "weights": plugin_digest(name, options)}
    digest = _files_digest(name, kind)
    if kind is Kind.WEIGHTS:
        options = telling_options(name, options)
    return {"model": {**options, "name": "weights"}, "weights": digest}


def _files_digest(name: str, kind: Kind) -> str:
    if kind is Kind.FOLDER:
        return digest_of(*map(str, read_folder(name).files))
    return weights_digest(name) if kind is Kind.WEIGHTS else digest_of(name)
