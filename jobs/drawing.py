"""How a job's tiles are drawn where it leaves that open: with as little noise as it can be, if that suits its task."""

from __future__ import annotations

from typing import NamedTuple

from ..models.contract import Contract
from ..models.recipe import spacing_of
from ..models.schedule import Spacing
from .spec import JobSpec, ParitySpec, Travel

LOW_NOISE_STEPS = 16


class Drawing(NamedTuple):
    """Steps of the schedule and how they lie; ``eta`` None is the sampler's own."""

    steps: int
    spacing: Spacing
    eta: float | None


def drawing_of(spec: JobSpec, contract: Contract) -> Drawing:
    """What the job says, else what suits it.

    Where means of pixels were measured, exactly and everywhere, what fits them differs little, and the mean of all that
    is nearer to the truth than a sample: a network then draws without fresh noise, most of its steps where little is
    left. Whoever asks for anything else about the way is left alone.
    """
    plain = spec.sampler == "ddnm" and spec.travel == Travel() and spec.guide is None and spec.parity == ParitySpec()
    low = plain and contract.learned and spec.eta in (None, 0) and _measured_everywhere(spec)
    usual = LOW_NOISE_STEPS if low else contract.steps
    spacing: Spacing = "fine" if low else spacing_of(contract, spec.sampler)
    return Drawing(
        steps=usual if spec.steps == "auto" else spec.steps,
        spacing=spacing if spec.spacing == "auto" else spec.spacing,
        eta=0.0 if low else spec.eta,
    )


def _measured_everywhere(spec: JobSpec) -> bool:
    told = spec.normal_task
    whole = not (told.masked or told.blank or told.edit or any(told.margins))
    return whole and told.measurement.scale > 1 and not told.measurement.gray and not told.measurement.sigma
