"""Denoisers of other distributions, found by entry point. Naming them imports nothing; importing one runs its code.

A distribution offers a denoiser by an entry point of the group ``tileloom.denoisers``, which names a module
or object with the functions of :class:`Plugin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from ..tiling.errors import InputError, TileloomError
from .contract import Contract, Model, check_label, label_of, split_model
from .reasons import reason
from .weights import digest_of

GROUP = "tileloom.denoisers"


class Plugin(Protocol):
    """What an entry point names. ``options`` are those of the job's model, but for its name."""

    def contract(self, options: Mapping[str, Any]) -> Contract:
        """The denoiser's terms, or an ``InputError`` that names the option. A plan calls it: load no torch for it."""
        ...

    def files(self, options: Mapping[str, Any]) -> Sequence[str]:
        """The paths of all files that decide what the denoiser does; with other ones it is another job."""
        ...

    def load(self, options: Mapping[str, Any], device: str) -> Any:  # noqa: ANN401  its type would load torch
        """The :class:`~tileloom.models.denoiser.Denoiser`, on a device of torch."""
        ...


def installed() -> dict[str, EntryPoint]:
    """The plug-ins there are, by the name that a job gives; none is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def origin(name: str) -> str:
    """The distribution that brings a plug-in, and its version."""
    found = installed()[name].dist
    return f"{found.name} {found.version}" if found else "unknown"


def plugin(name: str) -> Any:  # noqa: ANN401  a plug-in, if its author kept to it
    """What the entry point of a name names, as :class:`Plugin` says: its code is run."""
    sharing = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if len(sharing) > 1:
        owners = " and ".join(sorted(entry.dist.name if entry.dist else "unknown" for entry in sharing))
        raise InputError(f"model {name} is brought by {owners}: uninstall all but one of them")
    with _code_of(name, "cannot be imported"):
        try:
            return sharing[0].load()
        except ImportError as error:
            raise InputError(f"{_named(name)} cannot be imported ({error}): install what it needs") from error


def _named(name: str) -> str:
    return f"plug-in {name} ({origin(name)})"


@contextmanager
def _code_of(name: str, fails: str) -> Iterator[None]:
    """Whatever the code of a plug-in raises as one sentence; its own sentences stay as they are."""
    try:
        yield
    except TileloomError:
        raise
    except Exception as error:
        raise InputError(f"{_named(name)} {fails} ({reason(error)}): report it to its authors") from error


def _asked(name: str, function: str, *told: object) -> Any:  # noqa: ANN401  whatever it returns
    """What a function of a plug-in returns."""
    found = plugin(name)
    with _code_of(name, f"fails in {function}"):
        called = getattr(found, function, None)
        if not callable(called):
            raise InputError(f"{_named(name)} has no function {function}: report it to its authors")
        return called(*told)


def plugin_contract(name: str, options: Mapping[str, object]) -> Contract:
    """The terms that a plug-in gives for a job's options."""
    contract = _asked(name, "contract", options)
    if not isinstance(contract, Contract):
        raise InputError(f"{_named(name)} gives no contract for its options: report it to its authors")
    if contract.classes is not None:
        check_label(name, contract.classes, label_of({"name": name, **options}))
    return contract


def load_plugin(model: Model, *, device: str = "cpu") -> Any:  # noqa: ANN401  its type would load torch
    """The denoiser of a plug-in."""
    name, options = split_model(model)
    denoiser = _asked(name, "load", options, device)
    with _code_of(name, "fails after load"):
        lacks = list(_lacks(denoiser))
    if lacks:
        raise InputError(
            f"{_named(name)} loads {type(denoiser).__name__}, which is no denoiser (it has no {', '.join(lacks)}): "
            "report it to its authors"
        )
    return denoiser


def _lacks(denoiser: object) -> Iterator[str]:
    """What a denoiser has to have, and this has not. Its protocol would load torch."""
    for name, kind in (("contract", Contract), ("numerics", Mapping)):
        if not isinstance(getattr(denoiser, name, None), kind):
            yield name
    for name in ("predict", "memory"):
        if not callable(getattr(denoiser, name, None)):
            yield name


def plugin_digest(name: str, options: Mapping[str, object]) -> str:
    """What stands for a plug-in in a job: who brings it, in which version, and a digest of its files."""
    files = _files(name, options)
    return f"{origin(name)} {digest_of(*files)}" if files else origin(name)


def _files(name: str, options: Mapping[str, object]) -> list[str]:
    """The files that a plug-in names, each of which is there."""
    files = _asked(name, "files", options)
    listed = isinstance(files, Sequence) and not isinstance(files, str)
    if not listed or not all(isinstance(file, str | PathLike) for file in files):
        raise InputError(f"{_named(name)} gives no list of files for its options: report it to its authors")
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"{_named(name)} needs {file}, which is no file: check its options, or install it again")
    return [str(file) for file in files]
