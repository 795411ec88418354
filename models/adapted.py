"""Networks that were made elsewhere, wrapped into the one meaning of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from .contract import Contract
from .denoiser import Condition, labels_of
from .prediction import Prediction

# Takes (x, t), or with classes (x, t, y), and returns a prediction.
Network = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A network and what its output means.

    ``weight_bytes`` is what it keeps, ``live_channels`` how many numbers live at once for each pixel of
    a window: an estimate from above. ``networks`` are its modules, where it is made of such. ``numerics``:
    it runs as its author made it, by whatever library computes it.
    """

    contract: Contract
    network: Network
    prediction: Prediction
    weight_bytes: int
    live_channels: int
    networks: Sequence[nn.Module] = ()
    numerics: Mapping[str, str] = field(default_factory=lambda: {"precision": "fp32"})

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """eps, and the variance's place where the network learned it; a window's level makes no difference."""
        told = [x_BCHW, t_B]
        if self.contract.classes is not None:
            told.append(labels_of(conditions, len(t_B)).to(t_B.device))
        return self.prediction.answer(self.network(*told).float(), x_BCHW, t_B)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """The weights, and the maps that live at once."""
        batch, _, height, width = batch_shape
        return self.weight_bytes, 4 * batch * height * width * self.live_channels


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
