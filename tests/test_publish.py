"""Shards of a result are written for the generation that it is laid out for, and for no other."""

from types import SimpleNamespace

import numpy as np
import pytest

from tileloom.tiling.errors import TileloomError
from tileloom.tiling.place import place
from tileloom.tiling.publish import lay_out, publish_shard
from tileloom.tiling.pyramid import Pyramid, PyramidSpec

SPEC = PyramidSpec(1, 40, 40, "uint8", chunk=20, shard=20)
WHOLE = [(0, row, col) for row in (0, 1) for col in (0, 1)]


@pytest.fixture
def generation(tmp_path):
    """Makes an image's generation of this name: its pixels are all ``value``, and ``meanwhile`` is what happens."""
    output = place(tmp_path / "out.zarr")

    def make(name, value, meanwhile=lambda: None):
        root = output / ".tileloom" / name

        def render(box, degraded):
            meanwhile()
            return np.full((1, *box.shape), value, np.uint8)

        access = SimpleNamespace(image=SimpleNamespace(root=str(root)), render=render)
        return SimpleNamespace(
            lay_out=lambda: lay_out(output, SPEC, root=root, attributes={}),
            publish=lambda shard: publish_shard(access, output, shard, ()),
        )

    return make


def values(tmp_path):
    pyramid = Pyramid.open(tmp_path / "out.zarr")
    return [np.unique(pyramid.read(level, pyramid.box(level))).tolist() for level in (0, 1)]


def test_a_worker_that_comes_late_leaves_the_result_of_those_after_it_alone(generation, tmp_path):
    before, after = generation("a-0", 1), generation("b-1", 2)
    before.lay_out()
    for shard in (*WHOLE, (1, 0, 0)):
        before.publish(shard)
    assert values(tmp_path) == [[1], [1]]
    after.lay_out()
    for shard in (*WHOLE, (1, 0, 0)):
        after.publish(shard)
    for shard in ((0, 1, 0), (1, 0, 0)):
        with pytest.raises(TileloomError, match=r"laid out anew before shard \(\d, 0\) of level \d could be"):
            before.publish(shard)
    assert values(tmp_path) == [[2], [2]]


def test_a_shard_that_takes_long_is_refused_where_the_image_began_anew_meanwhile(generation, tmp_path):
    after = generation("b-1", 2)
    before = generation("a-0", 1, meanwhile=after.lay_out)
    before.lay_out()
    with pytest.raises(TileloomError, match="was laid out anew"):
        before.publish((0, 0, 0))
    for shard in (*WHOLE, (1, 0, 0)):
        after.publish(shard)
    assert values(tmp_path) == [[2], [2]]


def test_a_result_that_does_not_say_whose_it_is_is_gone_on_with(generation, tmp_path):
    one = generation("a-0", 1)
    one.lay_out()
    (tmp_path / "out.zarr" / ".tileloom" / "laid-out").unlink()
    assert one.publish((0, 1, 1)) == (0, 1, 1)
