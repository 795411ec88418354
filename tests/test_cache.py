import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache, read_window


def chunk(value, nbytes=100):
    return np.full(nbytes, value, np.uint8)


def never():
    raise AssertionError("loaded a chunk that is kept")


def test_a_chunk_is_loaded_once():
    cache = ChunkCache(1000)
    first = cache.get(("a", (0, 0)), lambda: chunk(1))
    assert cache.get(("a", (0, 0)), never) is first
    assert (cache.hits, cache.misses, cache.nbytes, len(cache)) == (1, 1, 100, 1)


def test_the_least_recently_used_chunk_goes_first():
    cache = ChunkCache(200)
    cache.get(("a", 0), lambda: chunk(0))
    cache.get(("a", 1), lambda: chunk(1))
    cache.get(("a", 0), never)
    cache.get(("a", 2), lambda: chunk(2))
    assert cache.get(("a", 0), never)[0] == 0
    assert cache.get(("a", 1), lambda: chunk(9))[0] == 9


def test_a_chunk_larger_than_the_cache_is_kept_until_the_next_one():
    cache = ChunkCache(50)
    cache.get(("a", 0), lambda: chunk(0))
    assert cache.get(("a", 0), never)[0] == 0
    cache.get(("a", 1), lambda: chunk(1, 10))
    assert (len(cache), cache.nbytes) == (1, 10)


def test_put_replaces_what_is_kept():
    cache = ChunkCache(1000)
    cache.get(("a", 0), lambda: chunk(0))
    cache.put(("a", 0), chunk(1, 30))
    assert cache.get(("a", 0), never).tolist() == [1] * 30
    assert cache.nbytes == 30


def test_drop_forgets_one_array_only():
    cache = ChunkCache(1000)
    for array in ("a", "b"):
        for index in range(3):
            cache.put((array, index), chunk(index))
    cache.drop("a")
    assert (len(cache), cache.nbytes) == (3, 300)
    assert cache.get(("b", 2), never)[0] == 2
    assert cache.get(("a", 2), lambda: chunk(7))[0] == 7


def test_chunks_are_read_only():
    cache = ChunkCache(1000)
    mine = chunk(1)
    cache.put(("a", 0), mine)
    for array in (mine, cache.get(("a", 0), never), cache.get(("a", 1), lambda: chunk(2))):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


def test_a_kept_view_neither_changes_with_its_owner_nor_keeps_it_alive():
    cache = ChunkCache(1000)
    owner = chunk(1, 10_000)
    cache.put(("a", 0), owner[:10])
    owner[:] = 2
    kept = cache.get(("a", 0), never)
    assert kept.tolist() == [1] * 10
    assert kept.base is None


@pytest.mark.parametrize("change", ["put", "drop"])
def test_a_load_that_raced_with_a_write_is_not_kept(change):
    cache = ChunkCache(1000)

    def load():
        old = chunk(1)
        if change == "put":
            cache.put(("a", 0), chunk(2))
        else:
            cache.drop("a")
        return old

    cache.get(("a", 0), load)
    assert cache.get(("a", 0), lambda: chunk(2))[0] == 2


def test_a_failed_load_leaves_nothing_behind():
    cache = ChunkCache(1000)
    with pytest.raises(AssertionError):
        cache.get(("a", 0), never)
    assert len(cache) == 0
    assert cache.get(("a", 0), lambda: chunk(3))[0] == 3


def test_threads_always_get_the_chunk_they_asked_for():
    cache = ChunkCache(700)
    start = threading.Barrier(8)

    def ask(thread):
        start.wait()
        indices = np.random.default_rng(thread).integers(0, 20, 500)
        return all((cache.get(("a", int(i)), lambda i=i: chunk(int(i))) == i).all() for i in indices)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert cache.nbytes == 100 * len(cache) <= 700
    assert cache.hits + cache.misses == 8 * 500


SIDE = st.integers(1, 9)


@st.composite
def windows(draw):
    """An image of any size, its chunks, where its first chunk begins, and a box within it."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    origin = draw(st.tuples(st.integers(-8, 8), st.integers(-8, 8)))
    top, left = draw(st.integers(0, height)), draw(st.integers(0, width))
    box = Box(top, left, draw(st.integers(top, height)), draw(st.integers(left, width)))
    return (height, width), (draw(SIDE), draw(SIDE)), origin, box


@given(windows())
def test_windows_equal_slices_of_the_whole(case):
    (height, width), size, origin, box = case
    image = np.arange(2 * height * width, dtype=np.uint16).reshape(2, height, width)

    def load(row, col):
        y, x = row * size[0], col * size[1]
        return image[:, y : y + size[0], x : x + size[1]]

    window = read_window(box.shift(*origin), chunk=size, origin=origin, load=load, bands=2, dtype=image.dtype)
    expected = image[:, *box.slices]
    assert window.shape == expected.shape
    assert (window == expected).all()


def test_a_window_within_one_chunk_is_not_copied():
    whole = np.zeros((3, 8, 8), np.float32)
    window = read_window(Box(8, 8, 12, 12), chunk=(8, 8), load=lambda *_: whole, bands=3, dtype=whole.dtype)
    assert np.shares_memory(window, whole)


def test_a_window_over_several_chunks_is_read_only_and_loads_each_once():
    loaded = []

    def load(row, col):
        loaded.append((row, col))
        return np.zeros((1, 4, 4), np.uint8)

    window = read_window(Box(2, 2, 10, 6), chunk=(4, 4), load=load, bands=1, dtype=np.uint8)
    assert loaded == [(row, col) for row in range(3) for col in range(2)]
    assert not window.flags.writeable
