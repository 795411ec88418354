"""The shape of a semantic diffusion network, as plain data; torch stays out, so that a plan can read it."""

from __future__ import annotations

from dataclasses import dataclass

from ..tiling.errors import InputError
from .adm_config import EncoderConfig

# What every norm of the decoder makes of the labels before it makes its gains and shifts of that.
HIDDEN = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticConfig(EncoderConfig):
    """The U-Net that draws what a map of labels says: ``num_classes`` of them, and where ``edges`` those of instances.

    Edges lie in a channel of their own behind those of the classes.
    """

    num_classes: int
    edges: bool = False

    def __post_init__(self) -> None:
        """Refuse what the norms and heads cannot divide, and parts that such a network never has."""
        EncoderConfig.__post_init__(self)
        if self.num_classes < 1:
            raise InputError(f"its labels have {self.num_classes} classes: there is at least one")
        if not self.use_scale_shift_norm:
            raise InputError("a semantic network is told the time by scale and shift, and this one is not")

    @property
    def label_channels(self) -> int:
        """Channels of the labels as the network is told them."""
        return self.num_classes + self.edges
