"""Networks from weights files, wrapped into the one meaning of a denoiser, and a classifier's pull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..tiling.errors import InputError, TileloomError
from .adm import AdmClassifier, AdmUNet
from .checkpoint import load_tensors, with_weights
from .contract import Contract, Model, asked_network, live_in, network_contract, split_model
from .denoiser import Condition, labels_of
from .device import own_memory
from .hole_filler import HoleFiller
from .patchdm import PatchUNet
from .patchdm_denoiser import PatchDenoiser
from .patchdm_shapes import own_tensors
from .patchdm_style import style_of
from .prediction import Prediction
from .reasons import innermost, reason
from .schedule import beta_table
from .semantic import SemanticUNet
from .semantic_denoiser import ROOM, ROOM_SHARE, SemanticDenoiser
from .signatures import EPS, Told
from .spatial import SpatialNet
from .spatial_config import SpatialReading
from .style import Style
from .weights import read_weights

# Where what fails to compile says so; importing these would cost seconds that most jobs have no use for.
_COMPILERS = ("torch._dynamo", "torch._inductor")


@dataclass(frozen=True, eq=False)
class AdmDenoiser:
    """An ADM U-Net as a denoiser: eps, and v where it learned the variance.

    ``compiled`` says that torch compiles the network at its first call, for that call's shape. ``prediction`` turns
    what the network predicts into eps, None where it is that already.
    """

    network: AdmUNet
    contract: Contract
    compiled: bool = False
    prediction: Prediction | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The U-Net."""
        return (self.network,)

    @property
    def numerics(self) -> Mapping[str, str]:
        """Precision of the convolutions, memory format, and whether it is compiled."""
        return {**self.network.numerics, "compiled": "yes" if self.compiled else "no"}

    def predict(self, x_BCHW: Tensor, t_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """The network's channels; a window's level makes no difference to it."""
        classes = self.network.config.num_classes
        y_B = None if classes is None else labels_of(conditions, len(t_B)).to(t_B.device)
        try:
            predicted: Tensor = self.network(x_BCHW, t_B, y_B)
        except RuntimeError as error:
            if not type(error).__module__.startswith(_COMPILERS):
                raise
            why = reason(innermost(error))
            raise TileloomError(f"{self.contract.name} cannot be compiled here ({why}): leave compile out") from error
        return predicted if self.prediction is None else self.prediction.answer(predicted, x_BCHW, t_B)

    def memory(self, batch_shape: tuple[int, ...]) -> tuple[int, int]:
        """The weights; then the way down's outputs, all kept for the way up, and a block's own maps."""
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.network.parameters())
        batch, _, height, width = batch_shape
        config = self.network.config
        live = live_in(config)
        return weights, 4 * batch * height * width * live


def load_denoiser(model: Model, *, device: str = "cpu") -> AdmDenoiser | SemanticDenoiser | PatchDenoiser | HoleFiller:
    """The denoiser of a weights file, by path and options; or what fills holes, where that is in it."""
    file, options = split_model(model)
    asked, reading = asked_network(file, options)
    contract = network_contract(file, reading, asked)
    tensors = own_tensors(load_tensors(file), asked.told.weights)
    network = with_weights(reading.config, tensors, file=file, device=device)
    if isinstance(network, SpatialNet):
        return HoleFiller(network, contract)
    if isinstance(reading, SpatialReading) or not isinstance(network, AdmUNet | SemanticUNet | PatchUNet):
        raise InputError(f"{file} holds no U-Net")
    network.set_precision(asked.precision)
    if asked.lies_channels_last:
        network.set_channels_last()
    prediction = None
    if reading.predicts != EPS:
        prediction = Prediction(reading.predicts, tuple(beta_table(reading.betas, contract.timesteps)))
    if isinstance(network, PatchUNet):
        style = None if asked.style is None else style_of(network, Style.parse(asked.style)).to(device)
        return PatchDenoiser(network, contract, asked.guidance, style, prediction=prediction)
    if isinstance(network, SemanticUNet):
        own = own_memory(device)
        room = ROOM if own is None else int(ROOM_SHARE * own)
        return SemanticDenoiser(network, contract, asked.guidance_scale, prediction, room)
    if asked.compile:
        network.compile(dynamic=False)
    return AdmDenoiser(network, contract, asked.compile, prediction)


def load_classifier(file: str, told: Told | None = None, *, device: str = "cpu") -> AdmClassifier:
    """The classifier of a weights file."""
    reading = read_weights(file, told)
    network = with_weights(reading.config, load_tensors(file), file=file, device=device)
    if not isinstance(network, AdmClassifier):
        raise InputError(f"{file} is {reading.kind}, which cannot guide: name the file of a classifier")
    return network


def class_gradient(
    classifier: AdmClassifier, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor, *, scale: float | Tensor
) -> Tensor:
    """Classifier guidance: ``scale * d/dx sum_b log p(y_b | x_b)`` at noisy images and their original timesteps."""
    # Also where the caller takes no gradients: what inference mode made must be copied to be differentiated.
    with torch.inference_mode(mode=False), torch.enable_grad():
        x_BCHW = x_BCHW.clone().requires_grad_()
        scores_BK = classifier(x_BCHW, t_B.clone()).log_softmax(dim=1)
        chosen_B = scores_BK.gather(1, y_B.clone()[:, None])
        (gradient_BCHW,) = torch.autograd.grad(chosen_B.sum(), x_BCHW)
    return gradient_BCHW * scale
