"""The published pyramid: right pixels at every level, whole shards, and no damage that goes unnoticed."""

import pickle
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.box import Box
from tileloom.tiling.errors import CorruptChunk, InputError, NotOwned, StoreError
from tileloom.tiling.pyramid import Pyramid, PyramidSpec, halve

MIB = 2**20


def publish(root, image, *, nodata=None, chunk=16, shard=32, attributes=None):
    """The whole pyramid of an image in memory."""
    spec = PyramidSpec(*image.shape, image.dtype.name, nodata, chunk=chunk, shard=shard)
    pyramid = Pyramid.create(root, spec, attributes=attributes or {})
    for index in pyramid.tasks(0):
        pyramid.write_base(index, lambda box: image[(slice(None), *box.slices)])
    for level in range(1, spec.levels):
        for index in pyramid.tasks(level):
            pyramid.write_coarser(level, index)
    return pyramid


def half_by_hand(image, nodata=None):
    """Pixel by pixel, in fractions: Python rounds them half to even."""
    bands, height, width = image.shape
    out = np.zeros((bands, -(-height // 2), -(-width // 2)), image.dtype)
    exists = np.zeros(out.shape, bool)
    for at in np.ndindex(out.shape):
        pixels = image[:, 2 * at[1] : 2 * at[1] + 2, 2 * at[2] : 2 * at[2] + 2].reshape(bands, -1).T
        block = np.array([pixel[at[0]] for pixel in pixels if not missing(pixel, nodata)], image.dtype)
        if block.size == 0:
            out[at] = nodata
        elif image.dtype.kind == "f":
            out[at] = sum(map(float, block)) / block.size
        else:
            out[at] = round(Fraction(int(block.astype(np.int64).sum()), block.size))
        exists[at] = block.size > 0
    for row, col in np.ndindex(out.shape[1:]):
        pixel = out[:, row, col]
        if nodata is not None and exists[0, row, col] and (pixel == nodata).all():
            pixel[:] = np.nextafter(pixel, np.float32(np.inf)) if image.dtype.kind == "f" else pixel + 1
    return out


def missing(pixel, nodata):
    """Whether the bands of one pixel all say that it does not exist."""
    return nodata is not None and all(value == nodata or (value != value and nodata != nodata) for value in pixel)


def random_image(rng, shape, dtype, nodata):
    if np.dtype(dtype).kind == "f":
        image = rng.normal(size=shape).astype(dtype)
    else:
        image = (
            rng.integers(0, 6, shape).astype(dtype) if nodata is not None else rng.integers(0, 256, shape).astype(dtype)
        )
    if nodata is not None:
        image[:, rng.random(shape[1:]) < 0.4] = nodata
        # In one band alone it is a value like any other, unless it is no number.
        if nodata == nodata:
            image[rng.random(shape) < 0.3] = nodata
    return image


@settings(max_examples=25, deadline=None)
@given(
    bands=st.sampled_from([1, 3, 4, 13]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    kind=st.sampled_from(
        [
            ("uint8", None),
            ("uint8", 3),
            ("uint16", 0),
            ("int16", 5),
            ("float32", None),
            ("float32", np.nan),
            ("float32", 0),
        ]
    ),
    seed=st.integers(0, 2**16),
)
def test_a_level_is_the_exact_mean_of_the_one_before(bands, height, width, kind, seed):
    dtype, nodata = kind
    image = random_image(np.random.default_rng(seed), (bands, height, width), dtype, nodata)
    pixel = None if nodata is None else np.dtype(dtype).type(nodata)
    np.testing.assert_array_equal(halve(image, nodata=pixel), half_by_hand(image, nodata))
    assert halve(image, nodata=pixel).dtype == image.dtype


@settings(max_examples=12, deadline=None)
@given(
    bands=st.sampled_from([1, 3, 4, 13]),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    kind=st.sampled_from([("uint8", None), ("uint8", 0), ("uint16", 2), ("float32", np.nan)]),
    seed=st.integers(0, 2**16),
)
def test_every_level_read_with_plain_zarr(tmp_path_factory, bands, height, width, kind, seed):
    dtype, nodata = kind
    image = random_image(np.random.default_rng(seed), (bands, height, width), dtype, nodata)
    root = tmp_path_factory.mktemp("pyramid") / "out.zarr"
    pyramid = publish(root, image, nodata=nodata, chunk=32, shard=64)
    group = zarr.open_group(root, mode="r")
    for level, array in enumerate(pyramid.arrays):
        np.testing.assert_array_equal(group[str(level)][:], image)
        np.testing.assert_array_equal(pyramid.read(level, pyramid.box(level)), image)
        assert array.shape == image.shape
        image = halve(image, nodata=pyramid.nodata)
    assert max(pyramid.arrays[-1].shape[1:]) <= 32
    assert str(len(pyramid.arrays)) not in group


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32"])
def test_integer_means_are_exact_at_the_ends_of_the_type(dtype):
    limits = np.iinfo(dtype)
    for low, high in ((limits.max, limits.max - 1), (limits.min, limits.min + 1)):
        for block in ([low, low, high, high], [low, high, high, high], [low] * 4):
            image = np.array(block, dtype).reshape(1, 2, 2)
            assert int(halve(image)[0, 0, 0]) == round(Fraction(sum(map(int, block)), 4))


def test_means_round_half_to_even_so_that_levels_do_not_drift():
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4]], np.uint8)
    assert halve(pairs.reshape(1, 1, 8))[0, 0].tolist() == [0, 2, 2, 4]
    noise = np.random.default_rng(0).integers(0, 256, (1, 512, 512)).astype(np.uint8)
    level = noise
    for _ in range(5):
        level = halve(level)
    assert abs(level.mean() - noise.mean()) < 0.05


def test_nodata_never_darkens_and_a_mean_never_turns_into_nodata():
    image = np.array([[[0, 9, 0, 0], [9, 9, 0, 0]]], np.uint8)
    assert halve(image, nodata=np.uint8(0)).tolist() == [[[9, 0]]]
    assert halve(np.array([[[4, 6], [4, 6]]], np.uint8), nodata=np.uint8(5)).tolist() == [[[6]]]
    assert halve(np.array([[[255, 254], [255, 255]]], np.uint8), nodata=np.uint8(255)).tolist() == [[[254]]]
    assert 0 < halve(np.array([[[1, -1]]], np.float32), nodata=np.float32(0))[0, 0, 0] < 1e-30


def test_a_band_that_holds_nodata_alone_is_a_value_of_a_known_pixel():
    red = np.zeros((3, 2, 2), np.uint8)
    red[0] = 200
    red[:, 1, 1] = 0
    assert halve(red, nodata=np.uint8(0))[:, 0, 0].tolist() == [200, 0, 0]
    # A mean of nodata is moved on only where every band has it.
    both = np.array([[[4, 6]], [[6, 4]]], np.uint8)
    assert halve(both, nodata=np.uint8(5))[:, 0, 0].tolist() == [6, 6]
    assert halve(both + np.array([[[0]], [[2]]], np.uint8), nodata=np.uint8(5))[:, 0, 0].tolist() == [5, 7]


def test_float_means_are_not_lost_to_overflow_or_infinities():
    top = np.finfo(np.float32).max
    assert halve(np.full((1, 2, 2), top, np.float32))[0, 0, 0] == top
    assert np.isnan(halve(np.array([[[np.inf, -np.inf]]], np.float32)))[0, 0, 0]


@pytest.mark.parametrize(
    ("spec", "chunks", "shards", "levels"),
    [
        (PyramidSpec(3, 100_000, 100_000, "uint8"), (3, 512, 512), (3, 2048, 2048), 9),
        (PyramidSpec(3, 1, 1, "uint8"), (3, 1, 1), (3, 1, 1), 1),
        (PyramidSpec(1, 512, 513, "uint16"), (1, 512, 512), (1, 512, 1024), 2),
        (PyramidSpec(3, 3, 5000, "uint8"), (3, 3, 512), (3, 3, 2048), 5),
        (PyramidSpec(13, 9000, 9000, "float32"), (13, 512, 512), (13, 1024, 1024), 6),
        (PyramidSpec(300, 3000, 3000, "float32"), (300, 128, 128), (300, 128, 128), 6),
    ],
)
def test_layout(spec, chunks, shards, levels):
    assert (spec.chunks(0), spec.shards(0), spec.levels) == (chunks, shards, levels)
    for level in range(spec.levels):
        assert all(s % c == 0 for s, c in zip(spec.shards(level), spec.chunks(level), strict=True))
        assert np.prod(spec.shards(level), dtype=float) * np.dtype(spec.dtype).itemsize <= 64 * MIB
    last = spec.levels - 1
    assert spec.shape(last) == spec.chunks(last)


def test_shards_partition_every_level(tmp_path):
    pyramid = Pyramid.create(tmp_path / "a", PyramidSpec(1, 75, 131, "uint8", chunk=8, shard=16), attributes={})
    for level in range(len(pyramid.arrays)):
        boxes = [pyramid.shard_box(level, index) for index in pyramid.tasks(level)]
        assert sum(box.area for box in boxes) == pyramid.box(level).area
        assert len(set(boxes)) == len(boxes)
    with pytest.raises(NotOwned, match="no shard"):
        pyramid.shard_box(0, (5, 0))
    with pytest.raises(NotOwned, match="no shard"):
        pyramid.write_base((-1, 0), lambda box: np.zeros((1, *box.shape), np.uint8))


def test_rendering_is_asked_for_one_chunk_at_a_time_inside_the_image(tmp_path):
    pyramid = Pyramid.create(tmp_path / "a", PyramidSpec(1, 45, 50, "uint8", chunk=16, shard=32), attributes={})
    asked = []

    def render(box):
        asked.append(box)
        return np.zeros((1, *box.shape), np.uint8)

    pyramid.write_base((1, 1), render)
    assert sum(box.area for box in asked) == pyramid.shard_box(0, (1, 1)).area == Box(32, 32, 45, 50).area
    assert all(Box(32, 32, 45, 50).contains(box) and box.height <= 16 and box.width <= 16 for box in asked)


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 16), np.float32), np.zeros((1, 8, 8), np.uint8)])
def test_rendered_pixels_are_never_cast_or_broadcast(tmp_path, wrong):
    pyramid = Pyramid.create(tmp_path / "a", PyramidSpec(1, 16, 16, "uint8"), attributes={})
    with pytest.raises(InputError, match="which needs"):
        pyramid.write_base((0, 0), lambda box: wrong)


def test_a_task_needs_no_more_memory_in_a_larger_image(tmp_path):
    def peak(side):
        image = np.random.default_rng(0).integers(0, 256, (3, side, side)).astype(np.uint8)
        pyramid = publish(tmp_path / str(side), image, chunk=32, shard=64)
        tracemalloc.start()
        pyramid.write_coarser(1, (0, 0))
        pyramid.write_base((0, 0), lambda box: image[(slice(None), *box.slices)])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(128)
    assert peak(512) < 1.2 * peak(128)


def test_a_shard_of_nothing_but_fill_leaves_a_file(tmp_path):
    publish(tmp_path / "a", np.zeros((1, 40, 40), np.uint8))
    again = Pyramid.open(tmp_path / "a")
    again.write_base((0, 0), lambda box: np.zeros((1, *box.shape), np.uint8))
    for level in range(len(again.arrays)):
        for index in again.tasks(level):
            again.check(level, index)


@pytest.mark.parametrize("copy", [lambda p: p, lambda p: pickle.loads(pickle.dumps(p)), lambda p: Pyramid.open(p.name)])
def test_workers_write_through_their_own_handle(tmp_path, copy):
    image = np.random.default_rng(1).normal(size=(2, 50, 40)).astype(np.float32)
    image[:, 10:30, 10:30] = np.nan
    spec = PyramidSpec(2, 50, 40, "float32", np.nan, chunk=16, shard=32)
    first = Pyramid.create(tmp_path / "a", spec, attributes={})
    for index in first.tasks(0):
        copy(first).write_base(index, lambda box: image[(slice(None), *box.slices)])
    for level in (1, 2):
        for index in first.tasks(level):
            copy(first).write_coarser(level, index)
    once = halve(image, nodata=np.float32(np.nan))
    np.testing.assert_array_equal(first.read(2, first.box(2)), halve(once, nodata=np.float32(np.nan)))


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", -9999.0), ("uint8", np.nan), ("uint16", 0.5), ("float32", -1.7e308)]
)
def test_nodata_that_no_pixel_can_hold_counts_as_none(tmp_path, dtype, nodata):
    spec = PyramidSpec(1, 4, 4, dtype, nodata)
    assert spec.fill is None
    assert Pyramid.create(tmp_path / "a", spec, attributes={}).arrays[0].fill_value == 0


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 255.0), ("int16", -9999.0), ("float32", np.nan), ("float32", -np.inf)]
)
def test_nodata_is_the_fill_value_and_survives_opening(tmp_path, dtype, nodata):
    Pyramid.create(tmp_path / "a", PyramidSpec(1, 4, 4, dtype, nodata), attributes={})
    pyramid = Pyramid.open(tmp_path / "a")
    np.testing.assert_array_equal(pyramid.nodata, np.dtype(dtype).type(nodata))
    np.testing.assert_array_equal(pyramid.arrays[0].fill_value, pyramid.nodata)
    assert pyramid.nodata.dtype == dtype


def shard_files(root):
    return sorted(path for path in Path(root).rglob("*") if path.is_file() and path.name != "zarr.json")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("flip") / "out.zarr"
    return root, publish(root, np.random.default_rng(2).integers(0, 256, (2, 40, 70)).astype(np.uint8))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_in_any_shard_is_found(published, data):
    root, pyramid = published
    file = data.draw(st.sampled_from(shard_files(root)))
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :])
    level, _, _, row, col = file.relative_to(root).parts
    try:
        with pytest.raises(CorruptChunk, match=f"level {level} of .*shard \\({row}, {col}\\) is damaged"):
            pyramid.check(int(level), (int(row), int(col)))
    finally:
        file.write_bytes(content)
    pyramid.check(int(level), (int(row), int(col)))


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_truncated_shard_is_found(tmp_path, keep):
    pyramid = publish(tmp_path / "a", np.random.default_rng(3).integers(0, 256, (1, 40, 40)).astype(np.uint8))
    file = tmp_path / "a" / "0" / "c" / "0" / "1" / "1"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CorruptChunk, match="level 0"):
        pyramid.check(0, (1, 1))


def test_damage_is_named_by_its_chunk_and_other_chunks_still_read(tmp_path):
    image = np.random.default_rng(4).integers(0, 256, (1, 32, 32)).astype(np.uint8)
    pyramid = publish(tmp_path / "a", image)
    file = tmp_path / "a" / "0" / "c" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1  # chunks lie in Morton order: the first bytes are the north-west chunk's
    file.write_bytes(content)
    with pytest.raises(CorruptChunk, match="chunk at rows 0:16, columns 0:16"):
        pyramid.read(0, Box(0, 0, 32, 32))
    np.testing.assert_array_equal(pyramid.read(0, Box(16, 0, 32, 32)), image[:, 16:])
    with pytest.raises(CorruptChunk):
        pyramid.write_coarser(1, (0, 0))


def test_a_missing_shard_is_an_error_not_fill(tmp_path):
    image = np.random.default_rng(5).integers(0, 256, (1, 70, 70)).astype(np.uint8)
    pyramid = publish(tmp_path / "a", image)
    (tmp_path / "a" / "0" / "c" / "0" / "1" / "2").unlink()
    for attempt in (
        lambda: pyramid.check(0, (1, 2)),
        lambda: pyramid.read(0, Box(0, 0, 70, 70)),
        lambda: pyramid.write_coarser(1, (0, 1)),
    ):
        with pytest.raises(CorruptChunk, match=r"level 0 of .*shard \(1, 2\) is missing"):
            attempt()
    pyramid.check(0, (1, 1))


def test_writing_again_mends_a_damaged_shard(tmp_path):
    image = np.random.default_rng(6).integers(0, 256, (1, 40, 40)).astype(np.uint8)
    pyramid = publish(tmp_path / "a", image)
    for content in (b"", b"not a shard"):
        (tmp_path / "a" / "0" / "c" / "0" / "1" / "1").write_bytes(content)
        pyramid.write_base((1, 1), lambda box: image[(slice(None), *box.slices)])
        np.testing.assert_array_equal(pyramid.read(0, pyramid.box(0)), image)


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    image = np.random.default_rng(7).integers(0, 256, (3, 90, 50)).astype(np.uint16)
    publish(tmp_path / "a", image)
    publish(tmp_path / "b", image)
    files = shard_files(tmp_path / "a")
    assert files
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_creating_again_replaces_the_levels_and_nothing_else(tmp_path):
    root = tmp_path / "a"
    publish(root, np.ones((1, 200, 200), np.uint8), attributes={"old": 1})
    (root / ".tileloom").mkdir()
    (root / ".tileloom" / "ledger").write_text("kept")
    pyramid = publish(root, np.full((1, 20, 20), 7, np.uint8), attributes={"new": 2})
    assert [array.shape for array in Pyramid.open(root).arrays] == [(1, 20, 20), (1, 10, 10)]
    assert pyramid.read(1, Box(0, 0, 10, 10)).min() == 7
    assert not {"2", "3", "4"} & {path.name for path in root.iterdir()}
    assert (root / ".tileloom" / "ledger").read_text() == "kept"
    assert zarr.open_group(root, mode="r").attrs.asdict() == {"new": 2}


def test_arrays_say_what_they_are(tmp_path):
    pyramid = publish(tmp_path / "a", np.zeros((3, 50, 50), np.uint8))
    for array in pyramid.arrays:
        assert array.metadata.dimension_names == ("c", "y", "x")
        inner = array.metadata.to_dict()["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in inner] == ["bytes", "zstd", "crc32c"]


@pytest.mark.parametrize("box", [Box(0, 0, 41, 40), Box(-1, 0, 2, 2), Box(5, 5, 5, 9)])
def test_reading_outside_the_image_is_refused(tmp_path, box):
    pyramid = publish(tmp_path / "a", np.zeros((1, 40, 40), np.uint8))
    with pytest.raises(InputError, match="does not lie inside level 0"):
        pyramid.read(0, box)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0}, "nothing to publish"),
        ({"bands": 0}, "nothing to publish"),
        ({"dtype": "complex64"}, "choose one of uint8"),
        ({"chunk": 512, "shard": 700}, "multiple of chunk"),
        ({"chunk": 512, "shard": 256}, "multiple of chunk"),
    ],
)
def test_impossible_layouts_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        PyramidSpec(**({"bands": 1, "height": 5, "width": 5, "dtype": "uint8"} | values))


def test_places_that_cannot_take_a_result(tmp_path):
    spec = PyramidSpec(1, 4, 4, "uint8")
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="uint8")
    with pytest.raises(InputError, match="choose another place"):
        Pyramid.create(tmp_path / "array.zarr", spec, attributes={})
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match="cannot be written"):
        Pyramid.create(tmp_path / "file" / "out.zarr", spec, attributes={})


def test_places_that_hold_no_result(tmp_path):
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="uint8")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    zarr.open_group(tmp_path / "plain.zarr", mode="w").create_array("0", shape=(1, 2, 2), dtype="uint8")
    zarr.open_group(tmp_path / "nested.zarr", mode="w").create_group("0")
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr" / "zarr.json").write_text('{"zarr_format": 3')
    for name in ("array.zarr", "empty.zarr", "plain.zarr", "nested.zarr", "torn.zarr", "missing.zarr"):
        with pytest.raises(InputError, match="holds no result"):
            Pyramid.open(tmp_path / name)
    assert not (tmp_path / "missing.zarr").exists()


def test_a_full_disk_is_reported_with_the_shard(tmp_path):
    pyramid = publish(tmp_path / "a", np.zeros((1, 40, 40), np.uint8))
    folder = tmp_path / "a" / "0" / "c" / "0" / "1"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(StoreError, match=r"shard \(1, 0\) of level 0"):
        pyramid.write_base((1, 0), lambda box: np.zeros((1, *box.shape), np.uint8))


def test_a_store_object_serves_as_well_as_a_folder():
    store = zarr.storage.MemoryStore()
    image = np.random.default_rng(8).integers(0, 256, (1, 40, 40)).astype(np.uint8)
    publish(store, image)
    np.testing.assert_array_equal(Pyramid.open(store).read(0, Box(0, 0, 40, 40)), image)
