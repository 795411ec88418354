"""How long machines and workers were held, and what that costs."""

import pytest

from tileloom.cluster import timesheet
from tileloom.cluster.timesheet import Timesheet

KINDS = {"a": frozenset({"A100", "spot"}), "b": frozenset({"T4", "spot"})}


@pytest.fixture
def sheet(monkeypatch):
    """Both workers of one machine for ten seconds, then one there and one on another for twenty."""
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(timesheet, "monotonic", lambda: next(clock))
    sheet = Timesheet(_looked=timesheet.monotonic())
    sheet.look(["a", "a"], KINDS.get)
    sheet.look(["a", "b"], KINDS.get)
    return sheet


def test_machines_count_once_and_workers_each(sheet):
    assert sheet.worker_seconds == 2 * 10 + 2 * 20
    assert {node: held.seconds for node, held in sheet.nodes.items()} == {"a": 30.0, "b": 20.0}
    assert sheet.node_seconds == 50.0


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"A100": 3600.0, "T4": 360.0}, 30 + 2),
        ({"T4": 360.0, "spot": 36.0}, 2 + 0.3),
        ({"spot": 36.0, "T4": 360.0}, 0.5),
        ({"A100": 3600.0}, None),
        ({}, None),
    ],
)
def test_the_first_price_that_names_a_machine_counts(sheet, prices, cost):
    assert sheet.cost(prices) == (None if cost is None else pytest.approx(cost))
