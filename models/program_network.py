"""Programs as denoisers. To load one is to run what its author wrote: whoever calls this has been told to trust it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from ..tiling.errors import InputError
from .adapted import Adapted, Network, bytes_of
from .contract import LIVE_MAPS, Contract, Model, split_model
from .prediction import Prediction
from .programs import ProgramOptions, Shapes, exported_contract, program_options, torchscript_contract


def load_torchscript(model: Model, *, device: str = "cpu") -> Adapted:
    """The denoiser of a TorchScript program, by path and options."""
    file, options = split_model(model)
    contract = torchscript_contract(file, options)
    try:
        # torch prefers its newer form; this file is what there is.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.load(file, map_location=device).eval()  # type: ignore[no-untyped-call]
        inputs = program.forward.schema.arguments[1:]
    except (RuntimeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is no whole TorchScript program ({_last(error)}): save or copy it again") from None
    required = sum(not one.has_default_value() for one in inputs)
    _refuse_inputs(file, range(required, len(inputs) + 1), contract.classes)

    def predicted(*told: Tensor) -> Tensor:
        # Unless told not to, the interpreter rewrites a program after its first runs, and its bits with it.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # documented, but not listed
            found: Tensor = program(*told)
        return found

    asked = program_options(file, options)
    tensors = list(program.state_dict().values())
    return _adapted(file, predicted, contract=contract, asked=asked, tensors=tensors, device=device)


def load_exported(model: Model, *, device: str = "cpu") -> Adapted:
    """The denoiser of an exported program, by path and options."""
    file, options = split_model(model)
    contract, program = exported_contract(file, options), _exported(file)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    kept = [*program.state_dict.values(), *program.constants.values()]
    tensors = [one for one in kept if isinstance(one, Tensor)]
    asked = program_options(file, options)
    return _adapted(file, program.module(), contract=contract, asked=asked, tensors=tensors, device=device)


def exported_shapes(file: str, classes: int | None) -> Shapes:
    """What an exported program tells of its input; a file that has not changed is not loaded again for it."""
    found = Path(file).stat()
    return _shapes(file, classes, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=8)
def _shapes(file: str, classes: int | None, stamp: tuple[int, ...]) -> Shapes:
    program = _exported(file)
    inputs = [_input(program, name, file) for name in program.graph_signature.user_inputs]
    _refuse_inputs(file, range(len(inputs), len(inputs) + 1), classes)
    window, timesteps = inputs[0], inputs[1]
    if window.dtype is not torch.float32 or timesteps.dtype is not torch.float32:
        raise InputError(
            f"{file} takes windows of {window.dtype} and timesteps of {timesteps.dtype}, and is given both as "
            "float32, timesteps with fractions: export it with such examples"
        )
    if window.ndim != 4 or timesteps.ndim != 1 or not isinstance(window.shape[1], int):
        raise InputError(
            f"{file} does not take windows (batch, band, row, column) of so many bands, and a timestep for each: "
            "export it with such examples"
        )
    batch, rows, columns = (_Side.of(program, window.shape[axis], file) for axis in (0, 2, 3))
    ends = [side.most for side in (rows, columns) if side.most is not None]
    sizes = max(rows.least, columns.least), min(ends, default=None)
    if sizes[1] is not None and sizes[0] > sizes[1]:
        raise InputError(f"{file} takes no square windows, which tiles are: export it for those")
    return Shapes(window.shape[1], lcm(rows.multiple, columns.multiple), sizes, (batch.least, batch.most))


@dataclass(frozen=True)
class _Side:
    """What lengths a dimension may have; ``most`` None for any."""

    multiple: int
    least: int
    most: int | None

    @classmethod
    def of(cls, program: ExportedProgram, length: int | torch.SymInt, file: str) -> Self:
        """A dimension of an example: a number, or a multiple of a free one."""
        if isinstance(length, int):
            return cls(length, length, length)
        factor, free = length.node.expr.as_coeff_Mul()
        if not (factor.is_Integer and free.is_Symbol):
            raise InputError(f"{file} takes lengths {length}, which is no multiple: export it with such, as in 8 * Dim")
        limits = program.range_constraints[free]
        most = int(factor * limits.upper) if limits.upper.is_Integer else None
        return cls(int(factor), int(factor * max(1, limits.lower)), most)


def _exported(file: str) -> ExportedProgram:
    try:
        return torch.export.load(file)
    except Exception as error:  # it raises whatever it stumbles over
        raise InputError(f"{file} is no whole exported program ({_last(error)}): export it again") from None


def _input(program: ExportedProgram, name: object, file: str) -> Tensor:
    """An input as it was exported: its shape and type, without values."""
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found = nodes.get(str(name))
    if not isinstance(found, Tensor):
        raise InputError(f"{file} has an input that is no tensor: export it for (x, t), or (x, t, y) with classes")
    return found


def _refuse_inputs(file: str, counts: range, classes: int | None) -> None:
    """Refuse a program that does not take what it will be given; ``counts`` are the numbers of inputs it takes."""
    if counts.start == 3 and classes is None:
        raise InputError(f"{file} takes a third input, the class: say how many there are with model.classes")
    if (2 if classes is None else 3) not in counts:
        takes = "(x, t)" if classes is None else "(x, t, y), as model.classes says"
        raise InputError(
            f"{file} takes {counts.stop - 1} inputs, but should take {takes}: save it so, or mend the option"
        )


def _adapted(
    file: str, network: Network, *, contract: Contract, asked: ProgramOptions, tensors: list[Tensor], device: str
) -> Adapted:
    """A program as a denoiser, once it has shown that it can be run."""
    widest = max((len(tensor) for tensor in tensors if tensor.ndim == 4), default=1)
    live = LIVE_MAPS * max(widest, contract.bands or 1)
    _try(file, network, contract=contract, device=device)
    return Adapted(contract, network, Prediction(asked.predicts, asked.betas), bytes_of(tensors), live)


@torch.inference_mode()
def _try(file: str, network: Network, *, contract: Contract, device: str) -> None:
    """Refuse a program that fails on a usual window, or returns what is no prediction."""
    batch, size, bands = contract.batch_limits[0], contract.native_tile, contract.bands or 1
    told = [torch.zeros((batch, bands, size, size), device=device), torch.full((batch,), 0.5, device=device)]
    if contract.classes is not None:
        told.append(torch.zeros(batch, dtype=torch.int64, device=device))
    shape = "x".join(map(str, told[0].shape))
    try:
        found: object = network(*told)
    except Exception as error:  # a program may raise anything
        raise InputError(
            f"{file} fails on windows of {shape} ({_last(error)}): "
            "see that bands, image_size and size_multiple are those it was made for"
        ) from error
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise InputError(f"{file} returns no tensor of floats but {type(found).__name__}: save it to return one alone")
    if found.shape not in (told[0].shape, (batch, 2 * bands, size, size)):
        raise InputError(
            f"{file} returns {'x'.join(map(str, found.shape))} for windows of {shape}: "
            "it should return as many channels, or twice as many where it learned the variance"
        )


def _last(error: Exception) -> str:
    """The end of a long error: what was wrong."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
