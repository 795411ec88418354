"""Small trainings: what tests learn from, and with what."""

import json
from hashlib import blake2b
from pathlib import Path

from torch import distributed

from tests.images import write_zarr
from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.patchdm_config import PatchConfig
from tileloom.models.training.build import learner_of
from tileloom.models.training.loop import train
from tileloom.models.training.peers import Alone, Group
from tileloom.models.training.recipe import Course, Learning, Subject
from tileloom.tiling.box import Box
from tileloom.tiling.crops import Crops, Cutting, Scene
from tileloom.tiling.place import place
from tileloom.tiling.terra.scene import Terra

UNET = AdmConfig(
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    in_channels=3,
    out_channels=6,
    num_head_channels=32,
    stem=2,
)
CLASSIFIER = ClassifierConfig(
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    in_channels=3,
    out_channels=4,
    num_head_channels=32,
    image_size=16,
)
PATCHES = PatchConfig(
    patch=16,
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    in_channels=3,
    out_channels=3,
    num_head_channels=32,
    stem=2,
    embed_channels=32,
    style_channels=0,
    positions=False,
)
COURSE = Course(steps=6, batch=2, log=1, check=3, sheet=6, checkpoint=2)


def archive(folder, *, size=192, seed=5):
    """A scene from the air, as its path."""
    picture, _ = Terra(seed, 3).look(Box(0, 0, size, size))
    return str(write_zarr(folder / "scene.zarr", picture, names=("c", "y", "x")))


def crops_of(image, *, size=16, label=None, **cutting):
    """Crops of one image, some of it held out."""
    return Crops([Scene(image, label=label)], Cutting(size, held_out=cutting.pop("held_out", 0.3), **cutting))


def learner(crops, config=UNET, *, drop_label=0.0, predicts="eps", peers=None, **learning):
    """A small learner on the processor."""
    subject = Subject(config=config, drop_label=drop_label, predicts=predicts)
    settings = Learning(**{"rate": 1e-3, "warmup": 2, **learning})
    return learner_of(subject, settings, crops, provenance={"version": "test"}, device="cpu", peers=peers or Alone())


def trained(image, output, course=COURSE, *, config=UNET, size=16, peers=None, **options):
    """Train to the end of a course; returns the step at which it began."""
    crops = crops_of(image, size=size)
    return train(learner(crops, config, peers=peers), crops, course, place(output), seed=3, **options)


def together(rank, count, meeting, image, output):
    """One of several processes that train the same."""
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    seen = []
    crops = crops_of(image)
    take = crops.take
    crops.take = lambda use, number: (seen.append(number) if use == "train" else None) or take(use, number)
    small = learner(crops, peers=Group())
    train(small, crops, COURSE, place(output), seed=3)
    told = {"seen": sorted(set(seen)), "weights": digest(small)}
    Path(f"{output}-{rank}.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


def digest(small):
    """A digest of a learner's weights."""
    found = blake2b()
    for tensor in small.saved()["weights"].values():
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()
