"""How something is trained, as plain data; torch stays out, so that a job is read and refused at once."""

from __future__ import annotations

from dataclasses import dataclass

from ..contract import Precision
from ..signatures import Trained
from ..spatial_config import SpatialConfig


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network that is trained, for noise of these ``betas``.

    Its first weights are those of the file ``start``, or drawn from the seed where there is none.

    A U-Net ``predicts`` eps or v. If it has classes, the last one stands for none, and a share ``drop_label`` of the
    crops is told that; one of labels is told nothing of such. What fills holes learns by the ``features`` of a
    ResNet-50's file, None for those of its critic, and ``alone``, without a critic, until that step.
    """

    config: Trained | SpatialConfig
    betas: str = "linear"
    predicts: str = "eps"
    drop_label: float = 0.0
    seed: int = 0
    start: str | None = None
    features: str | None = None
    alone: int = 0


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How networks learn: AdamW's ``rate``, reached after ``warmup`` steps, and its ``weight_decay``.

    From then on the rate halves in every ``halving`` steps; 0: it stays. AdamW's ``betas`` are what its two means keep
    of a step. Gradients longer than ``clip`` are shortened to it; ``ema`` is how much of the running mean of weights a
    step keeps. ``precision`` is that of the convolutions; ``recompute`` computes what lies inside stages again when
    gradients need it, which takes a third more time and far less memory.
    """

    rate: float = 1e-4
    warmup: int = 500
    halving: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.9999
    precision: Precision = "fp32"
    recompute: bool = False
    betas: tuple[float, float] = (0.9, 0.999)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, which does not depend on how many there will be."""
        risen = self.rate * min(1.0, (step + 1) / max(1, self.warmup))
        return risen * 0.5 ** (max(0, step - self.warmup) / self.halving) if self.halving else risen


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long training takes, and what it leaves when.

    All but ``steps`` and ``batch`` are numbers of steps; a log line is the mean since the last. ``check`` tells the
    loss on what is held out. ``half`` publishes weights in 16 bits.
    """

    steps: int
    batch: int
    log: int = 50
    check: int = 500
    sheet: int = 1000
    checkpoint: int = 500
    half: bool = True
