"""Several processes that share a training learn the same, each from its own crops, and one of them writes."""

import json
import multiprocessing

import pytest

from tests.trainings import COURSE, archive, crops_of, learner, together
from tileloom.models.training.checkpoints import Checkpoints
from tileloom.models.training.loop import CHECKPOINTS, train
from tileloom.tiling.errors import InputError
from tileloom.tiling.place import place


class Three:
    """Three peers, of which nobody else answers."""

    rank, count = 1, 3

    def average(self, tensors):
        """Nobody else has any."""


@pytest.mark.slow
def test_peers_learn_the_same_from_their_own_crops(tmp_path):
    image = archive(tmp_path)
    told = (2, str(tmp_path / "meeting"), image, str(tmp_path / "run"))
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=together, args=(rank, *told)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    one, other = (json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in range(2))
    assert one["weights"] == other["weights"]
    # Shares of one crop each; what the first one took besides is what it told the archive's digest by.
    assert set(range(1, 12, 2)) == set(other["seen"])
    assert set(range(0, 12, 2)) <= set(one["seen"])
    assert Checkpoints(place(tmp_path / "run" / CHECKPOINTS)).newest().step == 6


def test_peers_other_than_the_first_write_nothing(tmp_path):
    crops = crops_of(archive(tmp_path))
    seen = []
    small = learner(crops, peers=Three())
    course = type(COURSE)(steps=2, batch=3, log=1, check=1, sheet=1, checkpoint=1)
    train(small, crops, course, place(tmp_path / "run"), seed=0, report=lambda *told: seen.append(told))
    assert [step for step, *_ in seen] == [1, 2]
    assert not (tmp_path / "run").exists()


def test_a_batch_that_peers_cannot_share_is_refused(tmp_path):
    crops = crops_of(archive(tmp_path))
    with pytest.raises(InputError, match="batch is 2, which 3 workers cannot share evenly"):
        train(learner(crops, peers=Three()), crops, COURSE, place(tmp_path / "run"), seed=0)
