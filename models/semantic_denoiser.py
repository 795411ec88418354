"""A semantic diffusion network as a denoiser: every window has labels of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock, Thread, current_thread
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiling.label_window import LabelWindow
from .adapted import bytes_of
from .contract import Contract, live_in
from .denoiser import Condition
from .prediction import Prediction
from .semantic import Gains, Labels, Modulation, SemanticUNet, SpadeNorm, one_hot
from .semantic_config import HIDDEN

# What is kept of tiles in flight on a processor, and the share of an accelerator's own memory.
ROOM, ROOM_SHARE = 512 * 2**20, 0.25


@dataclass(eq=False)
class _Row:
    """The labels of one window, (layer, row, column): its classes, -1 for none, and edges where there are any.

    What norms make of them is the same at every step, and kept if it ``keeps``. It is made of one row at a time, kept
    or not, so that its bits are the same.
    """

    layers_1NHW: Tensor
    keeps: bool
    made: dict[SpadeNorm | Gains, Modulation] = field(default_factory=dict)

    def modulation(self, norm: SpadeNorm | Gains, size: torch.Size, network: SemanticUNet) -> Modulation:
        """What a norm makes of it."""
        found = self.made.get(norm)
        if found is None:
            # The nearest of few numbers a pixel instead of a channel a class.
            near_1NHW = F.interpolate(self.layers_1NHW, size=size, mode="nearest")
            edges_1HW = near_1NHW[:, 1] if near_1NHW.shape[1] > 1 else None
            found = norm.modulation(one_hot(near_1NHW[:, 0], edges_1HW, network.config), size)
            if self.keeps:
                self.made[norm] = found
        return found


@dataclass(frozen=True, eq=False)
class _Rows(Labels):
    """The labels of a batch of unrelated windows."""

    network: SemanticUNet
    rows: Sequence[_Row]

    def modulation(self, norm: SpadeNorm | Gains, size: torch.Size) -> Modulation:
        """Of each row by itself, once for those that are told the same."""
        made = {row: row.modulation(norm, size, self.network) for row in dict.fromkeys(self.rows)}
        gammas, betas = zip(*(made[row] for row in self.rows), strict=True)
        return torch.cat(gammas), torch.cat(betas)


@dataclass(frozen=True, eq=False)
class SemanticDenoiser:
    """A semantic diffusion network as a denoiser: eps, and v where it learned the variance.

    With a guidance ``scale`` s above 1 eps is ``eps' + s (eps - eps')``, of which eps' is told that no pixel shows
    anything; the variance stays that of the labels. Both are halves of one batch. It keeps what norms make of as many
    windows as lie in the batches of all lanes, however many are alive, and ``room`` bytes at most. ``prediction`` turns
    what the network predicts into eps, None where it is that already.
    """

    network: SemanticUNet
    contract: Contract
    scale: float = 1.0
    prediction: Prediction | None = None
    room: int = ROOM
    _rows: WeakKeyDictionary[LabelWindow, _Row] = field(default_factory=WeakKeyDictionary, init=False, repr=False)
    _untold: dict[tuple[int, ...], _Row] = field(default_factory=dict, init=False, repr=False)
    _lanes: WeakSet[Thread] = field(default_factory=WeakSet, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The U-Net."""
        return (self.network,)

    @property
    def numerics(self) -> Mapping[str, str]:
        """Precision of the convolutions and memory format."""
        return self.network.numerics

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """Eps of windows with the labels that they are told, if any; padding is told what the last of them is."""
        size, bands = tuple(x_BCHW.shape[-2:]), x_BCHW.shape[1]
        most = self._places(len(t_B), size)
        nothing = [self._row(None, size, x_BCHW.device, most)] * len(t_B) if self.scale > 1 else []
        rows = [self._row(one.labels, size, x_BCHW.device, most) for one in conditions or (Condition(),)]
        rows += rows[-1:] * (len(t_B) - len(rows))
        labels = _Rows(self.network, rows + nothing)
        if not nothing:
            return self._answer(self.network(x_BCHW, t_B, labels), x_BCHW, t_B)
        told_BCHW, untold_BCHW = self.network(x_BCHW.repeat(2, 1, 1, 1), t_B.repeat(2), labels).chunk(2)
        away_BCHW = untold_BCHW[:, :bands] + self.scale * (told_BCHW[:, :bands] - untold_BCHW[:, :bands])
        return self._answer(torch.cat([away_BCHW, told_BCHW[:, bands:]], dim=1), x_BCHW, t_B)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """The weights; then the way down's outputs, all kept for the way up, and what is kept of the labels."""
        batch, _, height, width = batch_shape
        config = self.network.config
        rows = batch * (2 if self.scale > 1 else 1)
        live = live_in(config)
        passing = 4 * height * width * (rows * live + HIDDEN + 2 * config.label_channels)
        kept = min(self.room, self._lane_places(batch) * self._kept_bytes((height, width)))
        return bytes_of(self.network.parameters()), passing + kept

    def _answer(self, told_BCHW: Tensor, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return told_BCHW if self.prediction is None else self.prediction.answer(told_BCHW, x_BCHW, t_B)

    def _places(self, batch: int, size: tuple[int, ...]) -> int:
        """How many rows may be kept: as many as are billed to all lanes that ask, each a thread, while they live."""
        with self._lock:
            self._lanes.add(current_thread())
            return min(self.room // self._kept_bytes(size), len(self._lanes) * self._lane_places(batch))

    def _lane_places(self, batch: int) -> int:
        """Its windows; and where all are asked for a second time, what is told nothing."""
        return batch + (self.scale > 1)

    def _row(self, window: LabelWindow | None, size: tuple[int, ...], device: torch.device, most: int) -> _Row:
        """The row of a window, as it was made before where it is kept."""
        with self._lock:
            row = self._untold.get(size) if window is None else self._rows.get(window)
            if row is None:
                # Without guidance a trial alone is told nothing, and would leave it in a window's place.
                wanted = window is not None or self.scale > 1
                keeps = wanted and len(self._untold) + len(self._rows) < most
                row = _Row(self._layers(window, size).to(device), keeps)
                if keeps and window is None:
                    self._untold[size] = row
                elif keeps and window is not None:
                    self._rows[window] = row
        return row

    def _layers(self, window: LabelWindow | None, size: tuple[int, ...]) -> Tensor:
        layers_NHW = torch.zeros((2 if self.network.config.edges else 1, *size))
        if window is None:
            layers_NHW[0] = -1
        else:
            arrays = [torch.from_numpy(array.astype("float32")) for _, array in window.arrays()]
            layers_NHW = torch.stack(arrays)
        return layers_NHW[None]

    def _kept_bytes(self, size: tuple[int, ...]) -> int:
        """What the norms make of one window."""
        height, width = size
        return int(height * width * self.network.modulated) * self.network.torso_dtype.itemsize
