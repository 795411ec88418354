"""What the loop of workers on Ray decides by itself: who gets a tile, and what is kept in mind of images."""

from types import MappingProxyType, SimpleNamespace

import pytest

from tests.crews import EVEN, crew_of
from tileloom.cluster.agenda import Agenda
from tileloom.cluster.crew import Hand
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.ray_executor import RayExecutor, _Room
from tileloom.tiling.frontier import Frontier

SLOTS = 3


def make_work(batches=MappingProxyType({})):
    return SimpleNamespace(
        numeric_class={"device": "stub"}, batch_shape=(1,), slots=SLOTS, memory=int, device_memory=None
    )


@pytest.fixture
def executor():
    """One whose first worker is there."""
    with crew_of(EVEN), RayExecutor(make_work, CrewSpec(2)) as executor:
        yield executor


@pytest.mark.parametrize(
    ("maker_holds", "other_holds", "given_to"),
    [
        (1, 1, "maker"),
        (SLOTS - 1, 1, "maker"),
        (0, 0, "maker"),
        (0, 1, "maker"),
        (1, 0, "other"),
        (SLOTS, SLOTS - 1, "other"),
    ],
)
def test_a_tile_goes_where_its_neighbour_was_made_unless_somebody_is_idle(executor, maker_holds, other_holds, given_to):
    other, maker = hands = [Hand(name, actor=None, slots=SLOTS) for name in ("other", "maker")]
    maker.held = {(7, tile) for tile in range(maker_holds)}
    other.held = {(8, tile) for tile in range(other_holds)}
    executor._made_by[0, 1] = maker
    plan = SimpleNamespace(needs=lambda tile: [tile - 2, tile - 1])
    agenda = SimpleNamespace(tiles=lambda image: SimpleNamespace(plan=plan))
    assert executor._best((0, 2), _Room(hands, 0), agenda).name == given_to
    # An image of its own has no neighbours there: whoever has the most room.
    emptiest = "maker" if maker_holds < other_holds else "other"
    assert executor._best((1, 2), _Room(hands, 0), agenda).name == emptiest


def test_whose_workers_died_over_which_tiles_is_forgotten_with_their_image(executor):
    executor._deaths.update({(0, 3): 2, (0, 4): 1, (1, 3): 1})
    with Agenda([], Frontier(), lambda reports: None) as agenda:
        agenda.ended = [0]
        executor._forget(agenda)
    assert executor._deaths == {(1, 3): 1}
