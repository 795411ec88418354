"""Models that were made elsewhere: exact denoisers of unrelated pixels as programs and as a plug-in."""

import sys
import warnings
from functools import cache
from io import BytesIO
from typing import Optional

import numpy as np
import torch
from torch import nn

from tileloom.models.schedule import betas

STD = 0.5
LOG_ABAR = np.cumsum(np.log1p(-betas("linear")))


class Pixels(nn.Module):
    """The exact denoiser of pixels drawn from N(mean, 0.5^2), each alone; what it predicts is up to its maker."""

    def __init__(self, predicts="eps"):
        super().__init__()
        self.predicts = predicts
        self.register_buffer("log_abar", torch.from_numpy(LOG_ABAR).float())

    def forward(self, x, t):
        return self.told(x, t, torch.zeros_like(t))

    def told(self, x, t, mean):
        low = t.floor().long().clamp(0, 998)
        part = t - low
        log_abar = self.log_abar[low] * (1 - part) + self.log_abar[low + 1] * part
        abar = log_abar.exp()[:, None, None, None]
        a, s = abar.sqrt(), (1 - abar).sqrt()
        eps = s / (abar * 0.25 + 1 - abar) * (x - a * mean[:, None, None, None])
        x0 = (x - s * eps) / a
        if self.predicts == "eps":
            return eps
        if self.predicts == "v":
            return a * eps - s * x0
        return x0


class PixelsOfClasses(Pixels):
    """The same for classes, whose means are apart."""

    def forward(self, x, t, y):
        return self.told(x, t, 0.1 * y)


class Pooled(Pixels):
    """Needs windows that can be halved twice."""

    def forward(self, x, t):
        small = nn.functional.avg_pool2d(x, 4)
        return self.told(x, t, torch.zeros_like(t)) + 0 * nn.functional.interpolate(small, scale_factor=4.0)


class WithVariance(Pixels):
    """Tells a variance beside its prediction."""

    def forward(self, x, t):
        return torch.cat([self.told(x, t, torch.zeros_like(t)), torch.tanh(x)], dim=1)


class Whole(Pixels):
    """Knows whole timesteps only."""

    def forward(self, x, t):
        return self.told(x, t.floor(), torch.zeros_like(t))


class PerhapsOfClasses(Pixels):
    """Takes classes, and does without."""

    def forward(self, x, t, y: Optional[torch.Tensor] = None):  # noqa: UP045  TorchScript reads it so
        mean = torch.zeros_like(t)
        if y is not None:
            mean = 0.1 * y
        return self.told(x, t, mean)


class Two(Pixels):
    """Returns a pair."""

    def forward(self, x, t):
        return self.told(x, t, torch.zeros_like(t)), x


def examples(module, *, batch=2, size=16):
    """Inputs that a module takes."""
    told = (torch.randn(batch, 3, size, size), torch.full((batch,), 3.5))
    return (*told, torch.ones(batch, dtype=torch.int64)) if isinstance(module, PixelsOfClasses) else told


@cache
def _script(kind, predicts):
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(kind(predicts).eval()), buffer)
    return buffer.getvalue()


def script(folder, kind=Pixels, *, predicts="eps", name="net.ts"):
    """A TorchScript program, as its path."""
    (folder / name).write_bytes(_script(kind, predicts))
    return str(folder / name)


@cache
def _exported(kind, predicts, batch, size):
    module = kind(predicts).eval()
    told = examples(
        module, batch=2 if batch is None else batch if isinstance(batch, int) else batch[1], size=size or 16
    )
    rows = {}
    if not isinstance(batch, int):
        low, high = batch or (None, None)
        rows = {0: torch.export.Dim("rows", min=low, max=high)}
    sides = {} if size else {2: 4 * torch.export.Dim("height"), 3: 4 * torch.export.Dim("width")}
    shapes = [{**rows, **sides}, *[rows] * (len(told) - 1)]
    buffer = BytesIO()
    torch.export.save(torch.export.export(module, told, dynamic_shapes=tuple(shapes)), buffer)
    return buffer.getvalue()


def exported(folder, kind=Pixels, *, predicts="eps", batch=None, size=None, name="net.pt2"):
    """An exported program, as its path: for any batch, or (least, most) or so many, and any side or only one."""
    (folder / name).write_bytes(_exported(kind, predicts, batch, size))
    return str(folder / name)


PLUGIN = '''
"""A denoiser that says when it is imported."""
from pathlib import Path

from tests.foreign import Pixels
from tileloom.models.adapted import Adapted
from tileloom.models.contract import Contract
from tileloom.models.prediction import Prediction
from tileloom.tiling.errors import InputError

Path(__file__).with_name("imported").touch()


def contract(options):
    if set(options) - {"weights"}:
        raise InputError("model.weights is the only option of acme")
    return Contract("acme", bands=3, smallest_tile=4)


def files(options):
    return [options["weights"]] if "weights" in options else []


def load(options, device):
    return Adapted(contract(options), Pixels().to(device), Prediction("eps", ()), 0, 16)
'''


def install(monkeypatch, folder, *, name="acme", version="1.2", code=PLUGIN, project="acme-restore"):
    """Install a plug-in for as long as a test lasts; returns the file that its import makes."""
    module = project.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[tileloom.denoisers]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    return folder / "imported"
