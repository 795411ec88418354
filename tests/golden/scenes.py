"""What a sampling file is a run on: its network, its measurement, and where its pixels are known."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tests.golden.networks import classifier_of, unet_of
from tileloom.models.contract import Contract
from tileloom.models.denoiser import Condition, Pull
from tileloom.models.engine import Engine
from tileloom.models.guidance import Guided
from tileloom.models.networks import AdmDenoiser
from tileloom.models.operators import Operator
from tileloom.models.parity import Parity
from tileloom.tiling.measurement import MaskSite, Measurement

BANDS = 3
SITES = {"inpainting": MaskSite.MEASURED, "mask_color_sr": MaskSite.TARGET}
SCALED, GRAY = ("sr_averagepooling", "sr_color", "mask_color_sr"), ("colorization", "sr_color", "mask_color_sr")
OPERATORS = {*SCALED, *GRAY, *SITES, "denoising"}


def denoiser_of(golden):
    """The network of a file, and the classifier that guides it where it has one."""
    network = unet_of(golden)
    multiple = network.config.size_multiple
    terms = Contract("golden", bands=BANDS, size_multiple=multiple, native_tile=multiple, smallest_tile=multiple)
    denoiser = AdmDenoiser(network, terms)
    return Guided(denoiser, classifier_of(golden)) if guides(golden.config) else denoiser


def guides(config):
    return config.get("classifier") is not None


def told_of(config):
    """What the network of a file is told of every tile."""
    label = None if config["unet"].get("num_classes") is None else config["class_label"]
    pull = Pull(config["class_label"], config.get("classifier_scale", 1.0)) if guides(config) else None
    return Condition(label=label, pull=pull)


def engine_of(denoiser, solver, shape, *, levels=1):
    """One window of a shape at a time, as it was recorded."""
    return Engine(denoiser, solver, tile=shape, bands=BANDS, batch=1, levels=levels)


def measurement_of(deg, scale, sigma=0.0):
    """What a recorded operator measures; ``sigma`` on the model's range."""
    if deg not in OPERATORS:
        raise ValueError(f"no operator is called {deg}")
    return Measurement(scale if deg in SCALED else 1, deg in GRAY, SITES.get(deg, MaskSite.NONE), sigma / 2)


def known_of(golden, images):
    """Where values are known, (band, row, column), for every image of a batch; None without masks."""
    if "mask" not in golden:
        return [None] * images
    mask = golden["mask"][(None,) * (4 - golden["mask"].ndim)]
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("mask is neither 0 nor 1 somewhere, and a value is known or it is not")
    return list(np.broadcast_to(mask == 1, (images, BANDS, *mask.shape[-2:])))


@dataclass(frozen=True, eq=False)
class Observed:
    """A clean image (band, row, column) and what is measured of it; ``known`` of the same axes where it has a mask."""

    clean: np.ndarray
    measurement: Measurement
    parity: Parity
    known: np.ndarray | None = None

    @property
    def shape(self):
        """Rows and columns of the result, which whole blocks make up."""
        return tuple(side // self.measurement.scale * self.measurement.scale for side in self.clean.shape[1:])

    @property
    def visible(self):
        return self.known if self.measurement.mask is MaskSite.TARGET else None

    @property
    def operator(self):
        """What measures the image as a whole."""
        visible = None if self.visible is None else torch.tensor(self.visible)
        return Operator(self.measurement, bands=BANDS, shape=self.shape, visible=visible, parity=self.parity)

    @property
    def y(self):
        """The measurement; it holds pixels themselves where it can, those that are lost too."""
        clean = torch.tensor(self.clean)
        if self.clean.shape[1:] == self.shape:
            plain = self.measurement.scale == 1 and not self.measurement.gray
            return self.clean if plain else self.operator.A(clean).numpy()
        # An image that is cut by blocks was recorded as means of as many, but unequal ones.
        scale = self.measurement.scale
        pooled = F.adaptive_avg_pool2d(clean, [side // scale for side in self.shape])
        return (pooled.mean(0, keepdim=True) if self.measurement.gray else pooled).numpy()
