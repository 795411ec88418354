"""Small trainings: what tests learn from, and with what."""

import sys

from tests.images import write_zarr
from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.training.build import learner_of
from tileloom.models.training.loop import train
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
COURSE = Course(steps=6, batch=2, log=1, check=3, sheet=6, checkpoint=2)


def archive(folder, *, size=192, seed=5):
    """A scene from the air, as its path."""
    picture, _ = Terra(seed, 3).look(Box(0, 0, size, size))
    return str(write_zarr(folder / "scene.zarr", picture, names=("c", "y", "x")))


def crops_of(image, *, size=16, label=None, **cutting):
    """Crops of one image, some of it held out."""
    return Crops([Scene(image, label=label)], Cutting(size, held_out=cutting.pop("held_out", 0.3), **cutting))


def learner(crops, config=UNET, *, drop_label=0.0, **learning):
    """A small learner on the processor."""
    subject = Subject(config=config, drop_label=drop_label)
    settings = Learning(**{"rate": 1e-3, "warmup": 2, **learning})
    return learner_of(subject, settings, crops, provenance={"version": "test"}, device="cpu")


def trained(image, output, course=COURSE, **options):
    """Train to the end of a course; returns the step at which it began."""
    crops = crops_of(image)
    return train(learner(crops), crops, course, place(output), seed=3, **options)


if __name__ == "__main__":
    trained(*sys.argv[1:3])
