"""How a job's tiles are drawn where it leaves that open: near to the truth, if that suits its task."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..models.contract import Contract, label_of
from ..models.recipe import spacing_of
from ..models.schedule import Spacing, steps_below
from ..tiling.errors import InputError
from .spec import JobSpec, ParitySpec, Travel

Weave = Literal["msr", "joint", "patches", "naive"]
"""How tiles work together: those of a job, once what it leaves open is settled."""
LOW_NOISE_STEPS = 16
SURFACE, SURFACE_STEPS, SURFACE_ETA = 0.15, 12, 0.85
"""The noise that a surface over holes begins under, and the steps and the share of fresh noise from there on."""
# Weaves that draw a tile to its end before its neighbours look at it.
_ALONE = ("msr", "naive")


class Drawing(NamedTuple):
    """Steps of the schedule, how they lie and what noise they ``begin`` under; ``eta`` None is the sampler's own."""

    steps: int
    spacing: Spacing
    eta: float | None
    begin: float


def drawing_of(spec: JobSpec, contract: Contract, weave: Weave) -> Drawing:
    """What the job says, else what suits it; whoever asks for anything else about the way is left alone.

    Where means of pixels were measured, exactly and everywhere, what fits them differs little, and the mean of all that
    is nearer to the truth than a sample: a network then draws without fresh noise, most of its steps where little is
    left. Where pixels are missing, a surface through the others tells more of them than a network does that sees all
    through much noise: it then draws what the surface lacks. But what is told what to draw is not told by a surface.
    """
    _refuse_no_surface(spec, weave)
    plain = spec.sampler == "ddnm" and spec.travel == Travel() and spec.guide is None and spec.parity == ParitySpec()
    learned = plain and contract.learned and not contract.holes
    low = learned and spec.eta in (None, 0) and _measured_everywhere(spec)
    begin = spec.begin
    if begin == "auto":
        told = contract.label_classes is not None or label_of(spec.model) is not None
        bends = learned and spec.steps == "auto" and not told and _has_holes(spec) and weave in _ALONE
        begin = SURFACE if bends and steps_below(contract.betas, SURFACE, total=contract.timesteps) else 1.0
    bends = begin < 1 and plain
    usual = LOW_NOISE_STEPS if low else SURFACE_STEPS if bends else contract.steps
    if begin < 1:
        usual = max(1, min(usual, steps_below(contract.betas, begin, total=contract.timesteps)))
    spacing: Spacing = "fine" if low or bends else spacing_of(contract, spec.sampler)
    own = 0.0 if low else SURFACE_ETA if bends else None
    return Drawing(
        steps=usual if spec.steps == "auto" else spec.steps,
        spacing=spacing if spec.spacing == "auto" else spec.spacing,
        eta=own if spec.eta is None else spec.eta,
        begin=begin,
    )


def _refuse_no_surface(spec: JobSpec, weave: Weave) -> None:
    """Refuse to begin with a surface where there is none."""
    if spec.begin == "auto" or spec.begin == 1:
        return
    asked = f"begin is {spec.begin:g}, and"
    if not _has_holes(spec):
        raise InputError(
            f"{asked} only pixels that are known exactly show through noise: set task to inpaint, or leave begin out"
        )
    if weave not in _ALONE:
        raise InputError(f"{asked} a surface is bent over one tile at a time: set weave to msr, or leave begin out")
    if spec.parity.carry:
        raise InputError(f"{asked} with parity.carry a tile begins with the one before it: leave one of them out")


def _has_holes(spec: JobSpec) -> bool:
    """Whether some pixels are missing, and all others known exactly."""
    told = spec.normal_task
    return told.masked and told.measurement.exact and not (told.blank or told.edit or any(told.margins))


def _measured_everywhere(spec: JobSpec) -> bool:
    told = spec.normal_task
    whole = not (told.masked or told.blank or told.edit or any(told.margins))
    return whole and told.measurement.scale > 1 and not told.measurement.gray and not told.measurement.sigma
