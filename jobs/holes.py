"""What a job may ask of a model that fills holes: less than of a denoiser, and each refusal names the key."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..models.contract import Contract
from ..tiling.errors import InputError
from ..tiling.inputs import boxes
from ..tiling.source import open_mask
from .spec import GuidanceSpec, JobSpec, Travel

# Pixels along a side of what is read of a mask at once.
_LOOKED_AT = 2048


def refuse_unfit(spec: JobSpec, contract: Contract) -> None:
    """Refuse a job that a model which fills holes has no use for; no file is looked at."""
    if contract.holes:
        for problem in _problems(spec, contract.name):
            raise InputError(problem)


def refuse_hopeless_mask(spec: JobSpec, contract: Contract) -> None:
    """Refuse a mask without a hole, or without anything around it; of most masks little has to be read."""
    if not contract.holes or spec.mask is None:
        return
    mask = open_mask(spec.mask)
    missing, known = any(spec.normal_task.margins), False
    for box in boxes(mask.height, mask.width, _LOOKED_AT):
        lost = np.asarray(mask.read(box)[0] != 0)
        missing, known = missing or bool(lost.any()), known or not lost.all()
        if missing and known:
            return
    if known:
        raise InputError(
            f"mask {spec.mask} marks nothing as missing, so no hole is to be filled: give one that is not 0 somewhere"
        )
    raise InputError(
        f"mask {spec.mask} marks everything as missing, and model {contract.name} goes on from what is known around a "
        "hole: give one that is 0 somewhere"
    )


def _problems(spec: JobSpec, model: str) -> Iterator[str]:
    """What is wrong with it, in sentences; none is looked for behind the first."""
    told = spec.normal_task
    if told.blank or not told.measurement.exact or not (told.masked or any(told.margins)):
        yield f"model {model} fills holes and does nothing else: set task to inpaint, or name a denoiser"
    if spec.sampler != "ddnm":
        yield f"sampler is {spec.sampler}, and model {model} draws no noise away but fills holes: leave sampler out"
    if spec.eta is not None:
        yield f"eta is {spec.eta:g}, and model {model} has no noise to draw anew at each step: leave eta out"
    if spec.spacing != "auto":
        yield f"spacing is {spec.spacing}, and model {model} has no schedule of noise: leave spacing out"
    if spec.begin != "auto":
        yield f"begin is {spec.begin:g}, and model {model} takes no noise away: leave begin out"
    if spec.travel != Travel():
        yield f"travel goes back along a schedule of noise, and model {model} has none: leave travel out"
    if spec.weave not in ("auto", "msr", "naive"):
        yield f"weave is {spec.weave}, and model {model} fills one tile after the other: set weave to msr"
    if spec.guidance != GuidanceSpec():
        yield f"guidance pulls noise to a class, and model {model} takes none away: leave guidance out"
    for name, asked in spec.parity.model_dump().items():
        if asked and name not in ("half_stride", "coarse_everywhere"):
            yield f"parity.{name} is of samplers of noise, and model {model} is none: drop it"
