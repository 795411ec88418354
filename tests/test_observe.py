"""What a level was given: mirrored windows, what counts as measured, what is wanted, and the coarser levels."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileloom.tiling import inputs
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import CorruptChunk
from tileloom.tiling.grid import Grid
from tileloom.tiling.inputs import KEEPS, OWNS, LevelInputs, boxes, survey
from tileloom.tiling.measurement import Lift, MaskSite, Measurement
from tileloom.tiling.observe import (
    MEASURED,
    VALID,
    Observation,
    everything,
    is_nodata,
    lifted,
    mirrored,
    observe,
    repeat,
)
from tileloom.tiling.scaling import Scaling

UNIT = Scaling(-1.0, 1.0)
SIZES = st.integers(1, 9)


class Stored:
    """An image in memory, read as any other; what is asked beyond it is a mistake."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.bands, self.height, self.width = pixels.shape
        self.reads = []

    def read(self, box):
        assert Box(0, 0, self.height, self.width).contains(box)
        assert not box.empty
        self.reads.append(box)
        window = self.pixels[:, *box.slices]
        window.flags.writeable = False
        return window


def noise(bands, height, width, seed=0):
    return np.random.default_rng(seed).standard_normal((bands, height, width)).astype(np.float32)


def padded(array, by):
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(by, by)] * 2, mode="symmetric")


@given(
    height=SIZES,
    width=SIZES,
    top=st.integers(-30, 30),
    left=st.integers(-30, 30),
    rows=st.integers(1, 30),
    cols=st.integers(1, 30),
)
def test_windows_are_mirrored_as_numpy_pads(height, width, top, left, rows, cols):
    stored = Stored(noise(2, height, width))
    box = Box(top, left, top + rows, left + cols)
    window = mirrored(stored.read, height, width, box)
    np.testing.assert_array_equal(window, padded(stored.pixels, 60)[:, *box.shift(60, 60).slices])
    assert len(stored.reads) == 1


def test_flags_and_masks_are_mirrored_too():
    mask = np.arange(6).reshape(2, 3)
    window = mirrored(lambda box: mask[box.slices], 2, 3, Box(-3, -4, 5, 7))
    np.testing.assert_array_equal(window, padded(mask, 9)[6:14, 5:16])


def test_repeat_makes_blocks():
    values = np.array([[[1, 2]], [[3, 4]]])
    assert repeat(values, 2)[1].tolist() == [[3, 3, 4, 4], [3, 3, 4, 4]]
    assert repeat(values, 1) is values


@given(
    height=SIZES,
    width=SIZES,
    scale=st.sampled_from([1, 2, 3]),
    top=st.integers(-6, 6),
    left=st.integers(-6, 6),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_a_window_is_y_where_it_is_measured(height, width, scale, top, left, rows, cols, seed):
    rng = np.random.default_rng(seed)
    pixels, lost = noise(2, height, width, seed), rng.random((1, height, width)) < 0.3
    pixels[:, rng.random((height, width)) < 0.2] = -9999
    seen = observe(
        Stored(pixels),
        Stored(lost),
        measurement=Measurement(scale=scale, mask=MaskSite.MEASURED),
        scaling=UNIT,
        nodata=-9999,
    )
    at = Box(top, left, top + rows, left + cols)
    y, measured, visible = seen.window(at.scale(scale))
    known = ~lost[0] & (pixels != -9999).all(axis=0)
    where = at.shift(20, 20).slices
    np.testing.assert_array_equal(measured, padded(known, 20)[where])
    np.testing.assert_array_equal(y, np.where(measured, padded(UNIT.to_model(pixels), 20)[:, *where], 0))
    assert visible is None


def test_a_target_mask_is_seen_on_its_own_grid():
    lost = np.random.default_rng(0).random((1, 6, 8)) < 0.5
    seen = observe(
        Stored(noise(1, 3, 4)),
        Stored(lost),
        measurement=Measurement(scale=2, mask=MaskSite.TARGET),
        scaling=UNIT,
        nodata=None,
    )
    _, measured, visible = seen.window(Box(-2, 0, 10, 12))
    assert measured.all()
    np.testing.assert_array_equal(visible, padded(~lost[0], 4)[2:14, 4:16])
    # All of it is restored: what is hidden, and what only its block's mean is known of.
    assert seen.wanted(Box(0, 0, 6, 8)).all()


@pytest.mark.parametrize("nodata", [0.0, 7.0, -9999.0, float("nan"), 300.5])
def test_a_pixel_is_missing_where_every_band_says_so(nodata):
    for dtype in ("uint8", "uint16", "float32"):
        pixels = np.full((3, 4, 4), 9).astype(dtype)
        if np.dtype(dtype).kind == "f" or nodata in (0.0, 7.0):
            pixels[:, 1, 2] = nodata
            pixels[1, 3, 3] = nodata
        expected = np.zeros((4, 4), bool)
        expected[1, 2] = np.dtype(dtype).kind == "f" or nodata in (0.0, 7.0)
        np.testing.assert_array_equal(is_nodata(pixels, nodata), expected)


@pytest.mark.parametrize("nodata", [float("nan"), -9999.0, -3.4028234663852886e38, 3.4028234663852886e38])
@pytest.mark.parametrize("scale", [1, 2])
def test_what_is_missing_is_neither_measured_nor_wanted(nodata, scale):
    pixels = noise(2, 4, 5)
    pixels[:, 1:3, 2] = nodata
    missing = np.zeros((4, 5), bool)
    missing[1:3, 2] = True
    seen = observe(Stored(pixels), None, measurement=Measurement(scale=scale), scaling=Scaling(0, 1), nodata=nodata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, measured, _ = seen.window(Box(0, 0, 4 * scale, 5 * scale))
    np.testing.assert_array_equal(measured, ~missing)
    assert np.isfinite(y).all()
    assert not y[:, missing].any()
    wanted = seen.wanted(Box(0, 0, 4 * scale, 5 * scale))
    np.testing.assert_array_equal(wanted, np.zeros_like(wanted) if scale == 1 else repeat(~missing, scale))


@pytest.mark.parametrize(
    ("measurement", "known"),
    [
        (Measurement(mask=MaskSite.MEASURED), True),
        (Measurement(mask=MaskSite.MEASURED, sigma=0.1), False),
        (Measurement(mask=MaskSite.MEASURED, gray=True), False),
        (Measurement(mask=MaskSite.MEASURED, scale=2), False),
    ],
)
def test_only_exactly_known_pixels_are_not_wanted(measurement, known):
    lost = np.zeros((1, 4, 6), bool)
    lost[0, 1, 2] = True
    seen = observe(Stored(noise(1, 4, 6)), Stored(lost), measurement=measurement, scaling=UNIT, nodata=None)
    image = Box(0, 0, 4, 6).scale(measurement.scale)
    np.testing.assert_array_equal(seen.wanted(image), lost[0] if known else np.ones(image.shape, bool))


@given(top=st.integers(-5, 8), left=st.integers(-5, 8), rows=st.integers(1, 9), cols=st.integers(1, 9))
def test_nothing_beyond_the_image_is_wanted(top, left, rows, cols):
    scale = 2
    seen = observe(Stored(noise(1, 3, 4)), None, measurement=Measurement(scale=scale), scaling=UNIT, nodata=None)
    at = Box(top, left, top + rows, left + cols)
    inside = np.zeros((40, 40), bool)
    inside[10:13, 10:14] = True
    np.testing.assert_array_equal(seen.wanted(at.scale(scale)), repeat(inside[at.shift(10, 10).slices], scale))


def _mean(x, factor):
    bands, height, width = x.shape
    return x.reshape(bands, height // factor, factor, width // factor, factor).mean(axis=(2, 4))


def _all(mask, factor):
    height, width = mask.shape
    return mask.reshape(height // factor, factor, width // factor, factor).all(axis=(1, 3))


def _measure(measurement, x, visible=None):
    y = np.where(visible, x, 0) if visible is not None else x
    y = y.mean(axis=0, keepdims=True) if measurement.gray else y
    return _mean(y, measurement.scale)


def _observation(measurement, y, known, visible):
    stored, flags = Stored(y.astype(np.float32)), (known * MEASURED | VALID).astype(np.uint8)
    return Observation(
        measurement=measurement,
        bands=len(y),
        height=y.shape[1],
        width=y.shape[2],
        read_y=stored.read,
        read_flags=lambda box: flags[box.slices],
        read_visible=None if visible is None else lambda box: visible[box.slices],
    )


@given(
    scale=st.sampled_from([1, 2, 4]),
    gray=st.booleans(),
    site=st.sampled_from(MaskSite),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_what_is_lifted_is_what_the_pooled_image_measures(scale, gray, site, rows, cols, seed):
    """The law of coarser levels: A'(pool(x)) = lift(A(x)), wherever all below was known."""
    rng, factor = np.random.default_rng(seed), 2
    measurement = Measurement(scale=scale, gray=gray, mask=site)
    coarser = measurement.coarsen(factor)
    # Where nothing is downsampled, a mask on the target is one on the measurement, and is called that.
    if coarser is None or (site is MaskSite.TARGET and scale == 1):
        return
    height, width = (4 * factor * size for size in (rows, cols))
    x = noise(3, height, width, seed).astype(np.float64)
    visible = rng.random((height, width)) < 0.8 if site is MaskSite.TARGET else None
    known = rng.random((height // scale, width // scale)) < 0.8 if site is MaskSite.MEASURED else None
    y = _measure(measurement, x, visible)
    known = np.ones(y.shape[1:], bool) if known is None else known
    fine = _observation(measurement, y, known, visible)
    measurement, lift = coarser
    whole = Box(0, 0, y.shape[1] // lift.pool, y.shape[2] // lift.pool)
    coarse_y, flags = lifted(fine, lift, whole)
    if visible is not None:
        known = known & _all(visible, scale)
    expected = _all(known, lift.pool)
    np.testing.assert_array_equal(flags & MEASURED != 0, expected)
    assert (flags & VALID != 0).all()
    direct = _measure(measurement, _mean(x, factor))
    assert coarse_y.dtype == np.float32
    np.testing.assert_allclose(coarse_y[:, expected], direct[:, expected], rtol=0, atol=1e-6)


@given(height=SIZES, width=SIZES, seed=st.integers(0, 3))
def test_a_level_of_odd_size_is_lifted_as_if_it_were_mirrored(height, width, seed):
    pixels, lost = noise(2, height, width, seed), np.random.default_rng(seed).random((height, width)) < 0.3
    fine = _observation(Measurement(mask=MaskSite.MEASURED), pixels, ~lost, None)
    box = Box(0, 0, -(-height // 2), -(-width // 2))
    y, flags = lifted(fine, Lift(pool=2), box)
    even = np.s_[20 : 20 + 2 * box.height, 20 : 20 + 2 * box.width]
    known = _all(~padded(lost, 20)[even], 2)
    np.testing.assert_array_equal(flags & MEASURED != 0, known)
    expected = _mean(padded(pixels, 20)[:, *even].astype(np.float64), 2)
    np.testing.assert_allclose(y[:, known], expected[:, known], rtol=0, atol=1e-6)


def test_a_coarse_pixel_is_valid_where_any_pixel_below_exists():
    flags = np.zeros((3, 5), np.uint8)
    flags[2, 4], flags[0, 1] = VALID | MEASURED, VALID
    fine = Observation(
        measurement=Measurement(mask=MaskSite.MEASURED),
        bands=1,
        height=3,
        width=5,
        read_y=Stored(noise(1, 3, 5)).read,
        read_flags=lambda box: flags[box.slices],
    )
    _, lift = lifted(fine, Lift(pool=2), Box(0, 0, 2, 3))
    # The corner's block is the one pixel and its mirror images, all of them measured.
    assert lift.tolist() == [[VALID, 0, 0], [0, 0, VALID | MEASURED]]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 and tasks of 8 pixels, so that small levels have many."""
    monkeypatch.setattr(inputs, "CHUNK", 4)
    monkeypatch.setattr(inputs, "TASK", 8)


def _level(folder, fine):
    return LevelInputs(folder, fine, Lift(pool=2), cache=ChunkCache(2**20))


def _fine(height=41, width=27):
    lost = np.random.default_rng(1).random((height, width)) < 0.1
    return _observation(Measurement(mask=MaskSite.MEASURED), noise(2, height, width), ~lost, None)


def test_a_coarser_level_is_made_in_tasks_and_read_back(small_chunks, tmp_path):
    fine, coarser = _fine(), Measurement(mask=MaskSite.MEASURED)
    made = _level(tmp_path, fine)
    for box in reversed(list(made.tasks())):
        made.lift(box)
    whole = Box(0, 0, 21, 14)
    y, flags = lifted(fine, Lift(pool=2), whole)
    for level in (made, _level(tmp_path, fine)):
        seen = level.observation(coarser)
        assert (seen.bands, seen.height, seen.width) == (2, 21, 14)
        np.testing.assert_array_equal(seen.read_y(whole), y)
        np.testing.assert_array_equal(seen.read_flags(whole), flags)
        np.testing.assert_array_equal(seen.read_y(Box(3, 2, 11, 9)), y[:, 3:11, 2:9])
        np.testing.assert_array_equal(seen.read_flags(Box(3, 2, 11, 9)), flags[3:11, 2:9])


@pytest.mark.parametrize("name", ["y", "flags"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_lost_chunk_of_a_coarser_level_is_named(name, damage, small_chunks, tmp_path):
    made = _level(tmp_path, _fine())
    for box in made.tasks():
        made.lift(box)
    path = tmp_path / name / "c" / "0" / "2" / "1"
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)
    seen = _level(tmp_path, _fine()).observation(Measurement(mask=MaskSite.MEASURED))
    with pytest.raises(CorruptChunk, match=rf"c/0/2/1.*{damage}"):
        seen.window(Box(0, 0, 21, 14))


@given(height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(1, 12))
def test_boxes_cover_an_area_once(height, width, size):
    count = np.zeros((height, width), int)
    for box in boxes(height, width, size):
        assert max(box.shape) <= size
        assert box.top % size == box.left % size == 0
        count[box.slices] += 1
    assert (count == 1).all()


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    geometry=st.sampled_from([(16, 12, 2), (16, 8, 0), (8, 3, 4), (16, 16, 0)]),
    share=st.sampled_from([0, 0.002, 0.05, 1]),
    size=st.sampled_from([1, 2, 16]),
    seed=st.integers(0, 9),
)
def test_the_survey_finds_which_tiles_own_and_keep_something_wanted(height, width, geometry, share, size, seed):
    grid = Grid(height, width, *geometry)
    lost = np.random.default_rng(seed).random((height, width)) < share
    seen = _observation(Measurement(mask=MaskSite.MEASURED), noise(1, height, width), ~lost, None)
    wanted = np.zeros(grid.box.shape, bool)
    wanted[:height, :width] = lost
    for tiles in boxes(grid.rows.count, grid.cols.count, size):
        bits = survey(seen, grid, tiles)
        for row in range(tiles.top, tiles.bottom):
            for col in range(tiles.left, tiles.right):
                owns = wanted[grid.owns(row, col).slices].any()
                keeps = wanted[grid.keeps(row, col).slices].any()
                assert bits[row - tiles.top, col - tiles.left] == owns * OWNS | keeps * KEEPS


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.sampled_from([1, 2, 4]),
    sigma=st.sampled_from([0.0, 0.1]),
    geometry=st.sampled_from([(16, 8, 4), (16, 8, 0), (8, 4, 0), (16, 16, 0), (64, 32, 8)]),
    size=st.sampled_from([1, 2, 16]),
)
def test_the_survey_of_what_nothing_is_missing_from_reads_nothing(height, width, scale, sigma, geometry, size):
    stored = Stored(np.zeros((1, height, width), np.float32))
    seen = observe(stored, None, measurement=Measurement(scale=scale, sigma=sigma), scaling=UNIT, nodata=None)
    slow = Observation(seen.measurement, 1, height, width, seen.read_y, lambda box: everything(box))
    assert (seen.complete, slow.complete) == (True, False)
    grid = Grid(height * scale, width * scale, *geometry, align=4)
    for tiles in boxes(grid.rows.count, grid.cols.count, size):
        bits = survey(seen, grid, tiles)
        assert bits.dtype == np.uint8
        np.testing.assert_array_equal(bits, survey(slow, grid, tiles))
    assert not stored.reads


@pytest.mark.parametrize(
    ("site", "nodata", "complete", "folded"),
    [
        (MaskSite.NONE, None, True, True),
        (MaskSite.NONE, 0.0, False, False),
        (MaskSite.MEASURED, None, False, False),
        (MaskSite.TARGET, None, True, False),
        (MaskSite.TARGET, 0.0, False, False),
    ],
)
def test_a_level_is_complete_where_no_flag_can_be_missing(site, nodata, complete, folded, tmp_path):
    lost = np.random.default_rng(0).random((1, 16, 24)) < 0.3
    scale = 2 if site is MaskSite.TARGET else 1
    measurement = Measurement(scale=scale, mask=site, sigma=0.1)
    source, mask = Stored(noise(2, 16 // scale, 24 // scale)), None if site is MaskSite.NONE else Stored(lost)
    fine = observe(source, mask, measurement=measurement, scaling=UNIT, nodata=nodata)
    assert fine.complete == complete
    for name, lift in (("pool", Lift(pool=2)), ("fold", Lift(fold=scale))):
        made = LevelInputs(tmp_path / name, fine, lift, cache=ChunkCache(2**20))
        whole = Box(0, 0, made.height, made.width)
        made.lift(whole)
        coarse = made.observation(Measurement(sigma=0.1))
        expected = complete if name == "pool" or scale == 1 else folded
        assert coarse.complete == expected == (not (tmp_path / name / "flags").exists())
        np.testing.assert_array_equal(coarse.read_flags(whole), lifted(fine, lift, whole)[1])
        np.testing.assert_array_equal(coarse.read_y(whole), lifted(fine, lift, whole)[0])
