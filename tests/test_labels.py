"""Maps of labels: whatever window of whichever level is read, it is the crop of the whole."""

import pickle

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import write_zarr
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import InputError
from tileloom.tiling.label_window import LabelWindow, edges_of
from tileloom.tiling.labels import PRESETS, LabelMaps, LabelPlan, Unknown, refuse_unknown, same_numbers
from tileloom.tiling.source import open_mask

HEIGHT, WIDTH, CLASSES = 61, 83, 6


def blocks(height=HEIGHT, width=WIDTH, *, size=5, values=CLASSES, seed=0):
    """A map of coarse patches, some of them broken up."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, values, (-(-height // size), -(-width // size)))
    fine = coarse.repeat(size, 0).repeat(size, 1)[:height, :width]
    return np.where(rng.random(fine.shape) < 0.05, rng.integers(0, values, fine.shape), fine)


def written(folder, name, ids, dtype="uint8"):
    path = folder / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, ids.astype(dtype), tile=(16, 16))
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(ids.astype(dtype)))
    else:
        write_zarr(path, ids[None].astype(dtype), names=("c", "y", "x"))
    return str(path)


def maps(plan, *, mask=None, factor=2):
    return LabelMaps(plan, mask=mask, factor=factor, cache=ChunkCache(2**20))


def edges_one_by_one(ids):
    """Whether a pixel differs from any of its neighbours, those beyond the map left out."""
    found = np.zeros(ids.shape, bool)
    found[1:] |= ids[1:] != ids[:-1]
    found[:-1] |= ids[1:] != ids[:-1]
    found[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    found[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    labels, instances = blocks(), blocks(size=9, values=40000, seed=1)
    plan = LabelPlan(
        written(folder, "labels.tif", labels),
        CLASSES,
        same_numbers(CLASSES),
        written(folder, "instances.zarr", instances, "int32"),
        edges=True,
    )
    return {"labels": labels, "instances": instances, "plan": plan, "maps": maps(plan)}


@st.composite
def windows(draw):
    level = draw(st.integers(0, 2))
    height, width = -(-HEIGHT // 2**level), -(-WIDTH // 2**level)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return level, Box(top, left, draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width)))


@settings(max_examples=200, deadline=None)
@given(windows())
def test_labels_and_edges_of_a_window_are_the_crop_of_the_whole_maps(files, window):
    level, box = window
    step = 2**level
    found = files["maps"].window(level, box)
    classes, ids = (files[name][::step, ::step] for name in ("labels", "instances"))
    assert np.array_equal(found.classes, classes[box.slices])
    assert np.array_equal(found.edges, edges_one_by_one(ids)[box.slices])


def test_without_instances_edges_are_those_of_classes(files):
    plan = LabelPlan(files["plan"].labels, CLASSES, same_numbers(CLASSES), edges=True)
    found = maps(plan).window(1, Box(3, 4, 20, 30))
    assert np.array_equal(found.edges, edges_one_by_one(files["labels"][::2, ::2])[3:20, 4:30])
    plain = LabelPlan(files["plan"].labels, CLASSES, same_numbers(CLASSES))
    assert maps(plain).window(0, Box(0, 0, 8, 8)).edges is None


def test_beyond_the_map_lies_its_mirror_without_an_edge_at_its_end(files):
    box = Box(HEIGHT - 4, -3, HEIGHT + 5, 8)
    found = maps(files["plan"]).window(0, box)
    classes, ids = (np.pad(files[name], 9, mode="symmetric") for name in ("labels", "instances"))
    at = box.shift(9, 9).slices
    assert np.array_equal(found.classes, classes[at])
    assert np.array_equal(found.edges, edges_one_by_one(ids)[at])


def test_a_coarse_window_is_the_same_read_in_parts(files, monkeypatch):
    whole = maps(files["plan"]).window(2, Box(0, 0, 16, 21))
    monkeypatch.setattr("tileloom.tiling.labels._READ", 12)
    parts = maps(files["plan"]).window(2, Box(0, 0, 16, 21))
    assert np.array_equal(whole.classes, parts.classes)
    assert np.array_equal(whole.edges, parts.edges)


def test_a_crop_of_a_window_is_the_window_of_the_crop(files):
    opened = maps(files["plan"])
    part = Box(7, 9, 20, 33)
    cut, read = opened.window(0, Box(2, 3, 40, 50)).crop(part), opened.window(0, part)
    assert cut.box == part
    assert np.array_equal(cut.classes, read.classes)
    assert np.array_equal(cut.edges, read.edges)
    bare = LabelWindow(part, read.classes).crop(Box(8, 9, 9, 10))
    assert bare.edges is None
    assert bare.classes.shape == (1, 1)


def test_a_window_travels_without_the_crops_that_were_made_of_it(files):
    whole = files["maps"].window(0, Box(0, 0, HEIGHT, WIDTH))
    alone = len(pickle.dumps(whole))
    for row in range(8):
        whole.crop(Box(row, 0, HEIGHT, WIDTH))
    sent = pickle.dumps(whole)
    assert len(sent) == alone
    arrived = pickle.loads(sent)
    assert arrived.box == whole.box
    part = Box(3, 4, 20, 30)
    for (name, ours), (_, theirs) in zip(whole.crop(part).arrays(), arrived.crop(part).arrays(), strict=True):
        assert np.array_equal(ours, theirs), name


@pytest.mark.parametrize("name", ["labels.png", "labels.tif", "labels.zarr"])
def test_any_raster_is_a_map(tmp_path, name):
    ids = blocks()
    plan = LabelPlan(written(tmp_path, name, ids), CLASSES, same_numbers(CLASSES))
    assert np.array_equal(maps(plan).window(0, Box(0, 0, HEIGHT, WIDTH)).classes, ids)


@pytest.mark.parametrize("content", [np.zeros((8, 8), "float32"), np.zeros((3, 8, 8), "uint8")])
def test_what_is_no_map_is_refused(tmp_path, content):
    path = write_zarr(tmp_path / "odd.zarr", content, names=("c", "y", "x")[-content.ndim :])
    with pytest.raises(InputError, match="a map of labels has one of whole numbers"):
        maps(LabelPlan(str(path), 3, same_numbers(3)))


# --- what values stand for ---


def test_presets_are_numbered_as_their_programs_do():
    counts = {name: preset.classes for name, preset in PRESETS.items()}
    assert counts == {"ade20k": 151, "celeba": 19, "cityscapes": 35, "coco": 183}
    tables = {name: dict(preset.table) for name, preset in PRESETS.items()}
    # As the published program has it: one less in eight bits, and what was 0 is 255 and becomes the last.
    numbers = np.arange(151, dtype="uint8") - 1
    numbers[numbers == 255] = 150
    assert tables["ade20k"] == dict(enumerate(numbers.tolist()))
    assert tables["coco"] == {**{value: value for value in range(182)}, 255: 182}
    assert tables["celeba"] == {value: value for value in range(19)}
    for name, preset in PRESETS.items():
        assert set(tables[name].values()) == set(range(preset.classes)), name


def test_values_are_turned_into_classes(tmp_path):
    ids = np.array([[0, 7], [300, 7]])
    plan = LabelPlan(written(tmp_path, "map.tif", ids, "uint16"), 4, ((300, 3), (0, 1), (7, 0)))
    assert maps(plan).window(0, Box(0, 0, 2, 2)).classes.tolist() == [[1, 0], [3, 0]]


def test_unknown_values_are_told_by_the_first_of_their_pixels_and_how_many_there_are(tmp_path):
    ids = blocks()
    ids[40, 20:23] = 99
    ids[12, 70] = ids[3, 5] = 77
    opened = maps(LabelPlan(written(tmp_path, "map.zarr", ids), CLASSES, same_numbers(CLASSES)))
    parts = [Box(0, 0, 30, WIDTH), Box(30, 0, HEIGHT, 40), Box(30, 40, HEIGHT, WIDTH)]
    with pytest.raises(InputError) as refused:
        refuse_unknown(opened.plan, [opened.unknown(part) for part in parts])
    assert str(refused.value).startswith(opened.plan.labels)
    told = "holds 77 at row 3, column 5, which stands for none of the network's 6 classes (nor do 4 more pixels)"
    assert told in str(refused.value)
    with pytest.raises(InputError, match="holds 99"):
        opened.window(0, Box(39, 19, 42, 24))
    refuse_unknown(opened.plan, [opened.unknown(Box(0, 0, 3, WIDTH))])
    assert [box for box in opened.checks()] == [Box(0, 0, HEIGHT, WIDTH)]


def test_of_a_raster_that_is_no_map_no_more_is_told_than_of_one_odd_pixel(tmp_path):
    heights = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    opened = maps(LabelPlan(written(tmp_path, "map.tif", heights, "uint16"), CLASSES, same_numbers(CLASSES)))
    found = [opened.unknown(box) for box in (Box(0, 0, 30, WIDTH), Box(30, 0, HEIGHT, WIDTH))]
    assert found == [Unknown(0, 6, 6, 30 * WIDTH - 6), Unknown(30, 0, 30 * WIDTH, 31 * WIDTH)]
    with pytest.raises(InputError, match=rf"holds 6 at row 0, column 6.*nor do {HEIGHT * WIDTH - 7} more"):
        refuse_unknown(opened.plan, reversed(found))


# --- what is painted ---


def test_what_is_painted_is_a_class_and_an_instance_of_its_own(files, tmp_path):
    where = np.zeros((HEIGHT, WIDTH), bool)
    where[10:20, 30:50] = True
    mask = open_mask(write_zarr(tmp_path / "mask.zarr", where[None].astype("uint8"), names=("c", "y", "x")))
    plan = files["plan"]
    painted = LabelPlan(plan.labels, CLASSES, plan.table, plan.instances, edges=True, paint=4)
    found = maps(painted, mask=mask).window(0, Box(0, 0, HEIGHT, WIDTH))
    assert np.array_equal(found.classes, np.where(where, 4, files["labels"]))
    assert np.array_equal(found.edges, edges_one_by_one(np.where(where, -1, files["instances"])))
    coarse = maps(painted, mask=mask).window(1, Box(0, 0, 31, 42))
    assert np.array_equal(coarse.classes, np.where(where, 4, files["labels"])[::2, ::2])
    untouched = maps(plan, mask=mask).window(0, Box(0, 0, HEIGHT, WIDTH))
    assert np.array_equal(untouched.classes, files["labels"])


def test_edges_mark_both_sides_of_a_border():
    ids = np.zeros((5, 6), int)
    ids[:, 3:] = 1
    assert edges_of(ids).tolist() == [[False, True, True, False]] * 3
