"""Scratch canvases and the files around them: one writer a chunk, and never zeros for what is not there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.canvas import Canvas, hash_pixels
from tileloom.tiling.errors import CorruptChunk, NotOwned
from tileloom.tiling.grid import Grid
from tileloom.tiling.place import Folder, place
from tileloom.tiling.store import ensure_array, read_array, write_array

BANDS = 2
GRIDS = [
    Grid(45, 61, 16, 12, 2),
    Grid(16, 16, 16, 8, 0),
    Grid(1, 40, 16, 5, 7),
    Grid(40, 33, 16, 16, 0),
    Grid(50, 50, 16, 4, 4, 4),
]


def opened(folder, grid):
    return Canvas(folder / "canvas", grid, bands=BANDS, cache=ChunkCache(2**24))


def tiles(grid):
    return [(row, col) for row in range(grid.rows.count) for col in range(grid.cols.count)]


def pixels_of(grid, seed=0):
    return np.random.default_rng(seed).standard_normal((BANDS, *grid.box.shape)).astype(np.float32)


def test_an_array_that_somebody_else_made_just_after_somebody_looked_is_opened(tmp_path, monkeypatch):
    layout = {"shape": (1, 8, 8), "chunk": (1, 4, 4), "dtype": "float32", "fill": 0.0}
    ensure_array(tmp_path / "array", **layout)[...] = 3.0
    monkeypatch.setattr(Folder, "is_file", lambda _: False)
    assert (ensure_array(tmp_path / "array", **layout)[...] == 3).all()


def filled(folder, grid):
    canvas, pixels = opened(folder, grid), pixels_of(grid)
    for row, col in tiles(grid):
        canvas.write(row, col, pixels[:, *grid.owns(row, col).slices])
    return canvas, pixels


def chunks(folder):
    return {str(path.relative_to(folder / "canvas")): path for path in (folder / "canvas").rglob("c/0/*/*")}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_any_window_of_what_the_tiles_wrote(grid, tmp_path):
    written, pixels = filled(tmp_path, grid)
    rng = np.random.default_rng(1)
    for canvas in (written, opened(tmp_path, grid)):
        np.testing.assert_array_equal(canvas.read(grid.box), pixels)
        for _ in range(20):
            top, left = (int(rng.integers(0, size)) for size in grid.box.shape)
            box = Box(
                top, left, int(rng.integers(top, grid.box.bottom)) + 1, int(rng.integers(left, grid.box.right)) + 1
            )
            np.testing.assert_array_equal(canvas.read(box), pixels[:, *box.slices])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_tile_writes_chunks_that_no_other_tile_writes(grid, tmp_path):
    canvas, pixels = opened(tmp_path, grid), pixels_of(grid)
    seen = set()
    for row, col in reversed(tiles(grid)):
        canvas.write(row, col, pixels[:, *grid.owns(row, col).slices])
        new = set(chunks(tmp_path)) - seen
        assert new
        seen |= new
        before = {name: path.read_bytes() for name, path in chunks(tmp_path).items()}
        canvas.write(row, col, pixels[:, *grid.owns(row, col).slices] + 1)
        changed = {name for name, path in chunks(tmp_path).items() if path.read_bytes() != before[name]}
        assert changed == new
        if 0 < row < grid.rows.count - 1 and 0 < col < grid.cols.count - 1:
            assert len(new) == 1


def test_pixels_written_again_replace_the_old(tmp_path):
    grid = GRIDS[0]
    canvas, pixels = filled(tmp_path, grid)
    owned = grid.owns(1, 1)
    canvas.write(1, 1, pixels[:, *owned.slices] * 2)
    pixels[:, *owned.slices] *= 2
    for reader in (canvas, opened(tmp_path, grid)):
        np.testing.assert_array_equal(reader.read(grid.box), pixels)


def test_a_callers_array_may_change_after_it_was_written(tmp_path):
    grid = GRIDS[0]
    canvas, owned = opened(tmp_path, grid), grid.owns(1, 1)
    pixels = np.ones((BANDS, *owned.shape), np.float32)
    canvas.write(1, 1, pixels)
    pixels[:] = 7
    assert (canvas.read(owned) == 1).all()


def test_the_hash_is_of_the_owned_pixels(tmp_path):
    grid = GRIDS[0]
    canvas, pixels = opened(tmp_path, grid), pixels_of(grid)
    for row, col in tiles(grid):
        window = pixels[:, *grid.owns(row, col).slices]
        assert canvas.write(row, col, window) == hash_pixels(window.copy())
        assert hash_pixels(opened(tmp_path, grid).read(grid.owns(row, col))) == hash_pixels(window)
    assert hash_pixels(pixels) != hash_pixels(np.nextafter(pixels, np.float32(np.inf)))


def test_a_tile_of_zeros_leaves_its_chunks(tmp_path):
    grid = GRIDS[0]
    for _ in range(2):
        canvas = opened(tmp_path, grid)
        for row, col in tiles(grid):
            canvas.write(row, col, np.zeros((BANDS, *grid.owns(row, col).shape), np.float32))
        rows, cols = (-(-(axis.length + axis.chunk_offset) // axis.stride) for axis in (grid.rows, grid.cols))
        assert len(chunks(tmp_path)) == rows * cols
        assert not opened(tmp_path, grid).read(grid.box).any()


@pytest.mark.parametrize("shape", [(BANDS, 16, 16), (BANDS, 12, 11), (1, 12, 12), (BANDS, 12 * 12), (BANDS, 13, 12)])
def test_what_is_not_owned_is_refused(shape, tmp_path):
    canvas = opened(tmp_path, GRIDS[0])
    assert GRIDS[0].owns(1, 1).shape == (12, 12)
    with pytest.raises(NotOwned, match="row 1 column 1"):
        canvas.write(1, 1, np.zeros(shape, np.float32))
    assert not chunks(tmp_path)


@pytest.mark.parametrize("at", [(-1, 0), (0, -1), (4, 0), (0, 5), (99, 99)])
def test_a_tile_that_is_not_in_the_grid_owns_nothing(at, tmp_path):
    grid = GRIDS[0]
    assert (grid.rows.count, grid.cols.count) == (4, 5)
    canvas, owned = opened(tmp_path, grid), grid.owns(*at)
    with pytest.raises(NotOwned, match=f"row {at[0]} column {at[1]}"):
        canvas.write(*at, np.zeros((BANDS, max(owned.height, 0), max(owned.width, 0)), np.float32))
    assert not chunks(tmp_path)


def test_a_missing_chunk_is_named(tmp_path):
    grid = GRIDS[0]
    filled(tmp_path, grid)
    chunks(tmp_path)["c/0/1/2"].unlink()
    fresh = opened(tmp_path, grid)
    with pytest.raises(CorruptChunk, match=r"chunk c/0/1/2 of .*canvas is missing"):
        fresh.read(grid.box)
    lost = Box(12, 24, 24, 36).shift(-grid.rows.chunk_offset, -grid.cols.chunk_offset)
    with pytest.raises(CorruptChunk):
        fresh.read(Box(lost.top, lost.left, lost.top + 1, lost.left + 1))
    assert fresh.read(Box(lost.bottom, lost.left, lost.bottom + 1, lost.right)).shape == (BANDS, 1, 12)


def test_a_canvas_that_no_tile_wrote_holds_nothing(tmp_path):
    with pytest.raises(CorruptChunk, match="missing"):
        opened(tmp_path, GRIDS[1]).read(GRIDS[1].box)


def _flip(data, at):
    damaged = bytearray(data)
    damaged[at] ^= 0x10
    return bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:3],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: _flip(data, 0),
        lambda data: _flip(data, len(data) // 2),
        lambda data: _flip(data, -1),
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "3 bytes", "half", "one short", "one more", "first", "middle", "checksum", "zeros"],
)
def test_a_damaged_chunk_is_named(damage, tmp_path):
    grid = GRIDS[0]
    filled(tmp_path, grid)
    path = chunks(tmp_path)["c/0/2/3"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptChunk, match=r"canvas: chunk c/0/2/3"):
        opened(tmp_path, grid).read(grid.box)


def test_arrays_are_made_once_and_never_emptied(tmp_path):
    layout = {"shape": (1, 8, 8), "chunk": (1, 4, 4), "dtype": "float32", "fill": 0.0}
    ensure_array(tmp_path / "a", **layout)[:] = 5
    assert (ensure_array(tmp_path / "a", **layout)[:] == 5).all()


def test_only_half_written_files_are_swept(tmp_path):
    kept = [tmp_path / "zarr.json", tmp_path / "c" / "partial", tmp_path / "c" / "0" / "1"]
    left = [tmp_path / "zarr.json.12.partial", tmp_path / "c" / "0" / "1.34.partial"]
    for path in kept + left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert place(tmp_path).sweep() == 2
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)
    assert place(tmp_path).sweep() == 0


@settings(max_examples=30)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtype=st.sampled_from(["uint8", "bool", "float32", "<i8"]),
    seed=st.integers(0, 99),
)
def test_small_arrays_come_back(tmp_path_factory, shape, dtype, seed):
    array = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    path = tmp_path_factory.mktemp("arrays") / "array"
    write_array(path, array)
    back = read_array(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
