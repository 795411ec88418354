"""One run an output where no system keeps a lock: signs of life, and takeover from who gives none."""

import json
import os
import subprocess
import sys
import threading

import pytest

from tests.objects import bucket as bucket
from tests.objects import server as server
from tests.objects import stored
from tileloom.tiling import lock
from tileloom.tiling.errors import LedgerTaken
from tileloom.tiling.lock import hold
from tileloom.tiling.place import place
from tileloom.tiling.process import host, this_process


@pytest.fixture
def folder(bucket, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.3)
    monkeypatch.setattr(lock, "_gone", [])
    return place(bucket) / "out.zarr" / ".tileloom"


def left_behind(folder, **facts):
    """A lock that nobody renews."""
    holder = {"host": ["elsewhere", ""], "pid": 1, "started": "1", "run": "x", "beat": 3, **facts}
    (folder / "lock-00000004").write(json.dumps(holder).encode())


def test_it_is_held_once_and_let_go(folder):
    with hold(folder, of="out.zarr") as taken_over:
        assert not taken_over
        with (
            pytest.raises(LedgerTaken, match=r"another run is working on out.zarr: wait for it"),
            hold(folder, of="out.zarr"),
        ):
            pytest.fail("held twice")
    assert folder.children() == []
    with hold(folder, of="out.zarr") as taken_over:
        assert not taken_over


def test_it_is_let_go_by_a_run_that_fails(folder):
    with pytest.raises(KeyboardInterrupt), hold(folder, of="out.zarr"):
        raise KeyboardInterrupt
    assert folder.children() == []


def test_the_holder_gives_signs_of_life(folder):
    with hold(folder, of="out.zarr"):
        (held,) = folder.children()
        beats = {json.loads(held.read())["beat"]}
        while len(beats) < 3:
            beats.add(json.loads(held.read())["beat"])
        told = json.loads(held.read())
    assert (told["pid"], told["host"]) == (os.getpid(), host())


def test_a_silent_holder_elsewhere_is_taken_over_after_three_beats(folder, monkeypatch):
    left_behind(folder)
    slept = []
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    with hold(folder, of="out.zarr") as taken_over:
        assert taken_over
        assert [found.name for found in folder.children()] == ["lock-00000005"]
    assert slept == [0.3] * lock.MISSED


def test_a_process_that_held_many_outputs_is_watched_once(folder, monkeypatch):
    other = folder.parents[0] / "other.zarr" / ".tileloom"
    slept = []
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    for held in (folder, other):
        left_behind(held, run=str(held))
        with hold(held, of="out.zarr") as taken_over:
            assert taken_over
    assert len(slept) == lock.MISSED


def test_a_dead_holder_here_is_taken_over_at_once(folder, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(lock.time, "sleep", lambda _: pytest.fail("waited for the dead"))
    left_behind(folder, host=host(), pid=ended.pid, started="1")
    with hold(folder, of="out.zarr") as taken_over:
        assert taken_over


def test_another_process_with_the_number_of_a_dead_one_is_not_the_holder(folder, monkeypatch):
    monkeypatch.setattr(lock.time, "sleep", lambda _: pytest.fail("waited for a stranger"))
    left_behind(folder, host=host(), pid=os.getppid(), started="1")
    with hold(folder, of="out.zarr") as taken_over:
        assert taken_over


def test_a_living_but_silent_process_here_is_watched(folder, monkeypatch):
    slept = []
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    left_behind(folder, host=host(), pid=os.getpid(), started=this_process()["started"])
    with hold(folder, of="out.zarr") as taken_over:
        assert taken_over
    assert len(slept) == lock.MISSED


def test_a_holder_that_ends_while_it_is_watched_is_followed(folder, monkeypatch):
    left_behind(folder)
    monkeypatch.setattr(lock.time, "sleep", lambda _: (folder / "lock-00000004").remove())
    with hold(folder, of="out.zarr"):
        assert [found.name for found in folder.children()] == ["lock-00000005"]


def test_of_many_that_take_over_one_holder_one_does(folder):
    left_behind(folder)
    entered, refused = [], []
    ready, decided = threading.Barrier(6), threading.Barrier(6)

    def take():
        ready.wait()
        try:
            with hold(folder, of="out.zarr"):
                entered.append(1)
                decided.wait()
        except LedgerTaken:
            refused.append(1)
            decided.wait()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, 5)


def test_a_store_that_is_away_does_not_end_the_beats(folder, server):
    with hold(folder, of="out.zarr"):
        (held,) = folder.children()
        server.stop()
        server.start()
        before = json.loads(held.read())["beat"]
        while json.loads(held.read())["beat"] == before:
            pass
    assert stored(str(folder)) == {}
