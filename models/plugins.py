"""Denoisers of other distributions, found by entry point. Naming them imports nothing; importing one runs its code.

A distribution offers a denoiser by an entry point of the group ``tileloom.denoisers``, which names a module
or object with the functions of :class:`Plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from ..tiling.errors import InputError
from .contract import Contract, Model, check_label, label_of, split_model
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


def plugin(name: str) -> Plugin:
    """The plug-in of a name: its code is run."""
    sharing = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if len(sharing) > 1:
        owners = " and ".join(sorted(entry.dist.name if entry.dist else "unknown" for entry in sharing))
        raise InputError(f"model {name} is brought by {owners}: uninstall all but one of them")
    try:
        found: Plugin = sharing[0].load()
    except ImportError as error:
        raise InputError(
            f"plug-in {name} ({origin(name)}) cannot be imported ({error}): install what it needs"
        ) from error
    return found


def plugin_contract(name: str, options: Mapping[str, object]) -> Contract:
    """The terms that a plug-in gives for a job's options."""
    contract = plugin(name).contract(options)
    if not isinstance(contract, Contract):
        raise InputError(f"plug-in {name} ({origin(name)}) gives no contract for its options: report it to its authors")
    if contract.classes is not None:
        check_label(name, contract.classes, label_of({"name": name, **options}))
    return contract


def load_plugin(model: Model, *, device: str = "cpu") -> Any:  # noqa: ANN401  its type would load torch
    """The denoiser of a plug-in."""
    name, options = split_model(model)
    return plugin(name).load(options, device)


def plugin_digest(name: str, options: Mapping[str, object]) -> str:
    """What stands for a plug-in in a job: who brings it, in which version, and a digest of its files."""
    files = plugin(name).files(options)
    return f"{origin(name)} {digest_of(*files)}" if files else origin(name)
