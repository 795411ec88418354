"""Small networks with random weights, and files of them."""

from dataclasses import replace

import torch
from safetensors.torch import save_file

from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.checkpoint import blank, make
from tileloom.models.patchdm_config import LatentConfig, PatchConfig, StyleEncoderConfig
from tileloom.models.semantic_config import SemanticConfig

UNET = AdmConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_head_channels=-1,
)
CLASSIFIER = ClassifierConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_head_channels=-1,
    out_channels=5,
    image_size=16,
)
WITH_CLASSES = replace(UNET, num_classes=5)
SEMANTIC = SemanticConfig(
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_head_channels=-1,
    num_classes=5,
    edges=True,
)
PATCHES = PatchConfig(
    patch=4,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    embed_channels=16,
    style_channels=6,
    codes=5,
)
STYLE_ENCODER = StyleEncoderConfig(
    model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2,), out_channels=6
)
LATENT = LatentConfig(channels=6, hidden=10, layers=3, skips=(1, 2), time_channels=8)


def network(config=UNET, *, seed=0):
    """A network whose every parameter is random."""
    torch.manual_seed(seed)
    made = make(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.requires_grad_(False).eval()


def shapes(config):
    """Names and shapes of a network's tensors; no memory is used for them."""
    return {name: tuple(tensor.shape) for name, tensor in blank(config).state_dict().items()}


def weights(folder, config=UNET, *, name="net.safetensors", seed=0, **changed):
    """A weights file of a random network, as its path; tensors may be added, or dropped with None."""
    tensors = {**network(config, seed=seed).state_dict(), **changed}
    # What a network holds under two names is written twice.
    tensors = {key: tensor.clone() for key, tensor in tensors.items() if tensor is not None}
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


def normal(*shape, seed=2):
    """Normal values, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(count=2, size=(16, 16), *, seed=1):
    """Noisy images and timesteps, a fractional one among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, 3, *size), generator=generator), torch.linspace(3.5, 900, count)
