"""The lazy view: the right pixels, only the chunks that are asked for, never silence about damage."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from tileloom.tiling.errors import CorruptChunk, InputError
from tileloom.tiling.pyramid import Pyramid, PyramidSpec
from tileloom.tiling.view import open_result


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 60_000, (3, 90, 70)).astype(np.uint16)


@pytest.fixture
def root(tmp_path, image):
    spec = PyramidSpec(3, 90, 70, "uint16", chunk=16, shard=32)
    pyramid = Pyramid.create(tmp_path / "out.zarr", spec, attributes={})
    for index in pyramid.tasks(0):
        pyramid.write_base(index, lambda box: image[(slice(None), *box.slices)])
    for level in range(1, spec.levels):
        for index in pyramid.tasks(level):
            pyramid.write_coarser(level, index)
    return tmp_path / "out.zarr"


def test_it_is_a_dask_array_of_the_result(root, image):
    view = open_result(root)
    assert isinstance(view, da.Array)
    assert (view.shape, view.dtype, view.chunksize) == (image.shape, image.dtype, (3, 16, 16))
    np.testing.assert_array_equal(view.compute(), image)
    assert float(view.mean().compute()) == pytest.approx(image.mean())
    np.testing.assert_array_equal(open_result(str(root))[1:, 5:40:3, ::-1].compute(), image[1:, 5:40:3, ::-1])


def test_every_level_opens(root):
    group = zarr.open_group(root, mode="r")
    for level in range(4):
        np.testing.assert_array_equal(open_result(root, level).compute(), group[str(level)][:])


def test_only_the_chunks_asked_for_are_decoded(root, monkeypatch):
    asked = []
    read = Pyramid.read
    monkeypatch.setattr(Pyramid, "read", lambda self, level, box: asked.append(box) or read(self, level, box))
    view = open_result(root)
    assert asked == []
    view[:, 20:30, 20:30].compute()
    assert [box.shape for box in asked] == [(16, 16)]


def test_a_result_opened_again_is_read_again(root):
    before = open_result(root)[0, 0, 0].compute()
    Pyramid.open(root).write_base((0, 0), lambda box: np.full((3, *box.shape), before + 1, np.uint16))
    assert open_result(root)[0, 0, 0].compute() == before + 1


def test_it_can_be_sent_to_another_process(root, image):
    view = pickle.loads(pickle.dumps(open_result(root)))
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(view.compute(), image)


def test_damage_raises_where_it_is_read_and_nowhere_else(root, image):
    (root / "0" / "c" / "0" / "2" / "2").unlink()
    view = open_result(root)
    np.testing.assert_array_equal(view[:, :64].compute(), image[:, :64])
    with pytest.raises(CorruptChunk, match=r"shard \(2, 2\) is missing"):
        view[:, 80:, 65:].compute()


@pytest.mark.parametrize("level", [-1, 4, 99])
def test_a_level_that_is_not_there_is_refused(root, level):
    with pytest.raises(InputError, match=f"has levels 0 to 3, no level {level}"):
        open_result(root, level)


def test_a_place_without_a_result_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="holds no result"):
            open_result(path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
