"""Small diffusers folders, saved by diffusers itself."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
SCHEDULERS = {"DDPM": DDPMScheduler, "DDIM": DDIMScheduler}


def network(**changes):
    """A network whose every parameter is random."""
    torch.manual_seed(0)
    made = UNet2DModel(**{**SMALL, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.requires_grad_(False).eval()


@cache
def _saved(changes, safe):
    """What diffusers saves of a network: the bytes of each file by its name."""
    with TemporaryDirectory() as folder:
        network(**dict(changes)).save_pretrained(folder, safe_serialization=safe)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def diffused(folder, *, scheduler="DDPM", pipeline=False, safe=True, network=(), **settings):
    """A folder of a network and its scheduler, as its path: a bare one, or that of a pipeline."""
    target = folder / "unet" if pipeline else folder
    target.mkdir(parents=True, exist_ok=True)
    for name, content in _saved(tuple(dict(network).items()), safe).items():
        (target / name).write_bytes(content)
    SCHEDULERS[scheduler](**settings).save_pretrained(folder / "scheduler" if pipeline else folder)
    if pipeline:
        parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", f"{scheduler}Scheduler"]}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": f"{scheduler}Pipeline", **parts}))
    return str(folder)


def changed(folder, file, **values):
    """The same folder with values of a JSON file changed; None takes one away."""
    path = Path(folder) / file
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder
