"""How a job's tiles are drawn, as plain data; torch stays out, so that a plan can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..tiling.errors import InputError
from .adm_config import ClassifierConfig
from .contract import Contract
from .schedule import Spacing
from .weights import read_weights

Sampler = Literal["ddnm", "ddim-ddnm", "repaint", "ddpm", "ddim"]


def spacing_of(contract: Contract, sampler: Sampler) -> Spacing:
    """How the steps that are kept lie among all: Patch-DM's DDIM was published with one stride between them."""
    return "stride" if contract.patch is not None and sampler == "ddim" else "even"


@dataclass(frozen=True, slots=True)
class Guidance:
    """A classifier's weights file, the class it pulls every tile to, and how hard."""

    classifier: str
    label: int
    scale: float = 1.0

    def check(self, tile: int) -> None:
        """Refuse a file that is no classifier, a class it does not know, and tiles of a size it does not take."""
        reading = read_weights(self.classifier)
        config = reading.config
        if not isinstance(config, ClassifierConfig):
            raise InputError(
                f"guidance.classifier is {self.classifier}, which is {reading.kind}: name the file of a classifier"
            )
        if not 0 <= self.label < config.out_channels:
            raise InputError(
                f"guidance.label is {self.label}; give a class of {self.classifier}, 0 to {config.out_channels - 1}"
            )
        if config.pool == "attention" and config.image_size != tile:
            size = config.image_size
            raise InputError(
                f"{self.classifier} takes {size}x{size} pixels and no other size, tiles have {tile}x{tile}: "
                f"set tile to {size}, or leave guidance out"
            )
