"""Networks of labels are trained like any other: crops come with the class of each pixel, and nothing is lost."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.commandline import tileloom, written
from tests.images import write_zarr
from tests.nets import SEMANTIC
from tests.test_labels import blocks, edges_one_by_one
from tests.trainings import learner
from tileloom.jobs.train_spec import load_training
from tileloom.models.contract import weights_contract
from tileloom.models.denoiser import Condition
from tileloom.models.networks import load_denoiser
from tileloom.models.training.checkpoints import Checkpoints
from tileloom.models.training.loop import CHECKPOINTS, LOG, MODEL, train
from tileloom.models.training.objective import LOSS, Batch, Draws
from tileloom.models.training.recipe import Course
from tileloom.models.weights import description_of
from tileloom.tiling.box import Box
from tileloom.tiling.crops import Crops, Cutting, Scene
from tileloom.tiling.errors import InputError
from tileloom.tiling.label_window import LabelWindow
from tileloom.tiling.place import place

SIZE, CLASSES = 96, 5
CONFIG = replace(SEMANTIC, channel_mult=(1,), attention_resolutions=(), num_head_channels=32)
COURSE = Course(steps=4, batch=2, log=1, check=4, sheet=4, checkpoint=2)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A picture whose red is its class and whose green is its instance, and maps of both."""
    folder = tmp_path_factory.mktemp("scene")
    classes, instances = blocks(SIZE, SIZE, values=CLASSES), blocks(SIZE, SIZE, size=7, values=50, seed=2)
    picture = np.stack([classes * 40, instances, np.zeros_like(classes)]).astype("uint8")
    files = {"image": picture, "classes": classes[None].astype("uint8"), "instances": instances[None].astype("int32")}
    paths = {
        name: str(write_zarr(folder / f"{name}.zarr", array, names=("c", "y", "x"))) for name, array in files.items()
    }
    return Scene(**paths)


def crops_of(scene, **how):
    told = {"size": 16, "held_out": 0.3, "classes": CLASSES, "mapped": True, "edges": True, **how}
    return Crops([scene], Cutting(**told))


def trained(scene, output, course=COURSE, *, config=CONFIG, drop_label=0.5, **how):
    crops = crops_of(scene, **{"size": 8, "held_out": 0.0, **how})
    small = learner(crops, config, drop_label=drop_label)
    return train(small, crops, course, place(output), seed=3)


# --- crops ---


def test_labels_are_cut_and_turned_as_pixels_are(scene):
    crops = crops_of(scene, flips=True, turns=True)
    whole = np.pad(edges_one_by_one(blocks(SIZE, SIZE, size=7, values=50, seed=2)), 1)
    turned = 0
    for number in range(20):
        crop = crops.take("train", number)
        red, green = (np.rint((crop.pixels[band] + 1) * 127.5) for band in (0, 1))
        assert np.array_equal(red, 40 * crop.labels.classes.astype(float))
        # Edges within the crop are those of its own instances, at its border those of the whole map.
        assert np.array_equal(edges_one_by_one(green)[1:-1, 1:-1], crop.labels.edges[1:-1, 1:-1])
        box = crop.labels.box
        same = np.array_equal(whole[1:-1, 1:-1][box.slices], crop.labels.edges)
        turned += not same
        assert same or whole[1:-1, 1:-1][box.slices].sum() == crop.labels.edges.sum()
        assert crop.label is None
    assert turned > 5


def test_a_window_is_mirrored_and_then_turned():
    window = LabelWindow(Box(0, 0, 2, 2), np.array([[1, 2], [3, 4]], np.uint16))
    assert window.turned(0, mirrored=True).classes.tolist() == [[2, 1], [4, 3]]
    assert window.turned(1, mirrored=False).classes.tolist() == [[2, 4], [1, 3]]
    assert window.turned(1, mirrored=True).classes.tolist() == [[1, 3], [2, 4]]


def test_the_digest_of_data_heeds_its_maps(scene, tmp_path):
    other = blocks(SIZE, SIZE, values=CLASSES, seed=9)[None].astype("uint8")
    path = write_zarr(tmp_path / "classes.zarr", other, names=("c", "y", "x"))
    assert crops_of(scene).digest != crops_of(replace(scene, classes=str(path))).digest


def test_crops_that_are_not_mapped_are_known_as_before():
    assert repr(Cutting(16, classes=3)) == repr(Cutting(16, classes=3, mapped=True, edges=True))


def test_a_class_that_the_network_does_not_have_is_told(scene):
    crops = crops_of(scene, classes=CLASSES - 1)
    says = r"classes.zarr holds 4 near rows \d+:\d+.*none of the network's 4 classes"
    with pytest.raises(InputError, match=says):
        [crops.take("train", number) for number in range(20)]


def test_without_a_map_nothing_is_learned(scene):
    with pytest.raises(InputError, match="has no map of classes"):
        crops_of(replace(scene, classes=None))


# --- the loss ---


def batch_of(crops, count=4):
    taken = [crops.take("train", number) for number in range(count)]
    labels = np.array([[array for _, array in crop.labels.arrays()] for crop in taken], np.int64)
    x_BCHW = torch.from_numpy(np.stack([crop.pixels for crop in taken]))
    return Batch(x_BCHW, None, ("",) * count, labels_BNHW=torch.from_numpy(labels))


def test_of_some_crops_nothing_is_told(scene):
    crops = crops_of(scene)
    objective = learner(crops, CONFIG, drop_label=0.5).objective
    batch = batch_of(crops, 6)
    y = objective.told(batch)
    dropped = objective.dropped(y, Draws(0, 0))
    kept = [bool(one.any()) for one in dropped]
    assert any(kept)
    assert not all(kept)
    for one, told, whole in zip(kept, dropped, y, strict=True):
        assert torch.equal(told, whole if one else torch.zeros_like(whole))
    never = learner(crops, CONFIG).objective
    assert never.dropped(y, Draws(0, 0)) is y


def test_labels_make_a_difference_to_the_loss_once_something_is_learned(scene):
    """Colours follow from classes, so that with them the noise is easier to see."""
    crops = crops_of(scene)
    small = learner(crops, CONFIG, rate=5e-3)
    batch = batch_of(crops)
    for step in range(12):
        small.learn(batch, Draws(0, step), step)
    told = small.objective.loss(batch, Draws(0, 99), 0)[LOSS]
    shuffled = replace(batch, labels_BNHW=batch.labels_BNHW.roll(1, 0))
    assert told < small.objective.loss(shuffled, Draws(0, 99), 0)[LOSS]


# --- what it leaves ---


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    assert trained(scene, output) == 0
    return output


def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(scene, whole, tmp_path):
    output = tmp_path / "run"
    assert trained(scene, output, replace(COURSE, steps=2)) == 0
    assert trained(scene, output) == 2
    assert (output / MODEL).read_bytes() == (whole / MODEL).read_bytes()
    lines = [
        [line for line in map(json.loads, (folder / LOG).read_text().splitlines()) if LOSS in line]
        for folder in (output, whole)
    ]
    assert lines[0] == lines[1]
    kept = [Checkpoints(place(folder / CHECKPOINTS)).newest().tensors for folder in (output, whole)]
    for part, tensors in kept[0].items():
        assert all(torch.equal(tensor, kept[1][part][name]) for name, tensor in tensors.items()), part


def test_a_job_takes_what_was_trained(whole):
    model = str(whole / MODEL)
    terms = weights_contract(model, {})
    assert (terms.bands, terms.native_tile, terms.label_classes, terms.label_edges) == (3, 8, 5, True)
    assert description_of(model).config == CONFIG
    told = load_denoiser({"name": model, "guidance_scale": 1.5}).predict(
        torch.zeros(1, 3, 16, 16), torch.tensor([5.0]), [Condition()]
    )
    assert told.shape == (1, 6, 16, 16)


# --- the job of a training ---

TINY = {"kind": "semantic", "width": 32, "levels": [1], "blocks": 1, "attention": [], "classes": CLASSES}
SHORT = {"output": "out", "crop": 8, "steps": 1, "batch": 2, "held_out": 0.0}


def training(folder, scene, *, entry=(), **keys):
    data = {"image": scene.image, "classes": scene.classes, **dict(entry)}
    told = {"data": data, "network": TINY, **SHORT, **keys}
    return written(folder, "train.yaml", **{key: value for key, value in told.items() if value is not None})


def test_the_command_trains_it_and_a_job_draws_with_it(scene, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"instances": scene.instances}
    said = tileloom(
        capfd, "train", training(tmp_path, scene, entry=entry, network={**TINY, "edges": True}, drop_label=0.2)
    )
    assert said.code == 0, said.errors
    words = ("--model", f"out/{MODEL}", "--instances", scene.instances, "--steps", "1", "--tile", "32", "--dry-run")
    assert tileloom(capfd, "synthesize", scene.classes, "drawn.zarr", *words).code == 0


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"network": {**TINY, "classes": None}}, "network.classes: a semantic network is told the class of each pixel"),
        ({"entry": {"classes": None, "label": 1}}, "has no map, and a semantic network learns from one: give classes"),
        ({"entry": {"instances": "i.zarr"}}, "has instances, and the network no edges: set network.edges"),
        (
            {"network": {**TINY, "kind": "unet", "edges": True}},
            "network.edges: means nothing to a network of kind unet",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(scene, tmp_path, keys, says):
    if "network" in keys:
        keys = {"network": {key: value for key, value in keys["network"].items() if value is not None}}
    if "entry" in keys:
        given = {"classes": scene.classes, **keys["entry"]}
        data = {"image": scene.image, **{key: value for key, value in given.items() if value is not None}}
        keys = {"data": data}
    with pytest.raises(InputError) as refused:
        load_training(training(tmp_path, scene, **keys))
    assert says in str(refused.value)
