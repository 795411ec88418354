"""From a recipe to a learner: the network with its first weights, and what its file will say of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...tiling.crops import Crops
from ...tiling.errors import InputError
from ..adm import AdmClassifier, AdmUNet, UNet
from ..adm_blocks import AttentionBlock, ResBlock
from ..adm_config import AdmConfig
from ..checkpoint import load_tensors, make
from ..critic import Critic
from ..device import best_device, device_class
from ..patchdm import PatchUNet
from ..resnet import load_trunk
from ..semantic import SemanticUNet, SpadeBlock
from ..signatures import Description
from ..spatial import SpatialNet
from ..spatial_config import SpatialConfig, SpatialDescription
from ..weights import description_of
from .classifying import Classifying
from .diffusion import Denoising
from .filling import Filling
from .learner import Learner
from .objective import Objective
from .painting import Painting
from .patching import Patching
from .peers import Alone, Peers
from .recipe import Learning, Subject

_ALONE = Alone()


def learner_of(
    subject: Subject,
    learning: Learning,
    crops: Crops,
    *,
    provenance: dict[str, Any],
    device: str | None = None,
    peers: Peers = _ALONE,
) -> Learner:
    """A learner at step 0, on the accelerator where there is one."""
    learner = Learner(objective_of(subject, crops, provenance), learning, device=device or best_device(), peers=peers)
    if subject.start is not None:
        _refuse_other_noise(subject, subject.start)
        learner.begin_with(load_tensors(subject.start), file=subject.start)
    return learner


def _refuse_other_noise(subject: Subject, start: str) -> None:
    """Refuse a model whose output means something else; files from elsewhere do not tell."""
    described = description_of(start)
    for name in ("predicts", "betas"):
        theirs, ours = getattr(described, name, None), getattr(subject, name)
        if theirs is not None and theirs != ours:
            key = f"network.{name}" if name == "predicts" else name
            raise InputError(
                f"{start} was trained with {key} {theirs}, and this training has {ours}: set it to the same"
            )


def objective_of(subject: Subject, crops: Crops, provenance: dict[str, Any]) -> Objective:
    """What a network is to learn from crops."""
    config = subject.config
    if isinstance(config, SpatialConfig):
        return _filling(subject, config, crops, provenance)
    classes = config.num_classes if isinstance(config, AdmConfig) else None
    described = Description(
        config=config,
        image_size=crops.cutting.size,
        betas=subject.betas,
        predicts=subject.predicts,
        spans=crops.spans,
        dtype=crops.dtype,
        null_class=classes - 1 if classes and subject.drop_label else None,
        provenance=provenance,
    ).stored()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.seed)
        network = make(config)
    _silence(network)
    if isinstance(network, SemanticUNet):
        return Painting(network, subject.betas, subject.predicts, subject.drop_label, described)
    if isinstance(network, AdmUNet):
        return Denoising(network, subject.betas, subject.predicts, subject.drop_label, described)
    if isinstance(network, PatchUNet):
        return Patching(network, subject.betas, subject.predicts, described)
    assert isinstance(network, AdmClassifier)
    return Classifying(network, subject.betas, described)


def _filling(subject: Subject, config: SpatialConfig, crops: Crops, provenance: dict[str, Any]) -> Filling:
    """What a network that fills holes is to learn."""
    described = SpatialDescription(config, crops.cutting.size, crops.spans, crops.dtype, provenance).stored()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.seed)
        network, critic = SpatialNet(config), Critic(config)
    trunk = None if subject.features is None else load_trunk(subject.features)
    return Filling(network, critic, trunk, described, subject.alone)


def _silence(network: nn.Module) -> None:
    """Let every block begin as its skip, and a U-Net as 0, as ADM does."""
    last: list[nn.Module] = [network.last] if isinstance(network, UNet) else []
    for part in network.modules():
        if isinstance(part, ResBlock | SpadeBlock):
            last.append(part.out_layers[-1])
        elif isinstance(part, AttentionBlock):
            last.append(part.proj_out)
    with torch.no_grad():
        for layer in last:
            for parameter in layer.parameters():
                parameter.zero_()


def numerics_of(device: str) -> dict[str, str]:
    """What the bits of a training depend on besides its job and data."""
    return device_class(device) | {"torch": str(torch.__version__), "numpy": np.__version__}
