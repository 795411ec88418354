"""What does not fit into memory lies in files, and comes back as it was."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.house import ROOT
from tileloom.cluster.shelf import Shelf


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def files(folder):
    """Files of things."""
    return [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "owner"]


def array(n):
    return np.full(25, n, np.float32)


def fill(shelf, count):
    for n in range(count):
        shelf.put(n, array(n), array(n).nbytes)


def test_what_fits_stays_in_memory(temporary):
    shelf = Shelf(1000)
    fill(shelf, 10)
    assert files(temporary) == []
    assert shelf.get(3) is shelf.get(3)


@pytest.mark.parametrize("room", [0, 99, 100, 250, 999])
def test_no_more_than_there_is_room_for_is_in_memory(temporary, room):
    shelf = Shelf(room)
    fill(shelf, 10)
    assert len(files(temporary)) == 10 - room // 100
    assert shelf._bytes == sum(size for _, size in shelf._held.values()) <= room
    for n in reversed(range(10)):
        assert n in shelf
        np.testing.assert_array_equal(shelf.take(n), array(n))
        assert n not in shelf
    assert files(temporary) == []
    assert shelf._bytes == 0


def test_what_came_first_goes_to_files_first():
    shelf = Shelf(300)
    fill(shelf, 5)
    assert [shelf.get(n) is shelf.get(n) for n in range(5)] == [False, False, True, True, True]


def test_what_is_got_stays_and_what_is_dropped_is_gone(temporary):
    shelf = Shelf(100)
    fill(shelf, 2)
    for n in (0, 1):
        np.testing.assert_array_equal(shelf.get(n), array(n))
        np.testing.assert_array_equal(shelf.get(n), array(n))
        shelf.drop(n)
        shelf.drop(n)
        assert n not in shelf
    assert files(temporary) == []
    with pytest.raises(KeyError):
        shelf.take(0)


@pytest.mark.parametrize("room", [0, 1000])
def test_what_is_put_under_a_taken_key_takes_its_place(temporary, room):
    shelf = Shelf(room)
    shelf.put("key", array(1), 100)
    shelf.put("key", array(2), 100)
    np.testing.assert_array_equal(shelf.get("key"), array(2))
    assert len(files(temporary)) == (room == 0)
    assert shelf._bytes == min(room, 100)


def test_files_go_with_the_shelf(temporary):
    shelf = Shelf(0)
    fill(shelf, 3)
    assert len(files(temporary)) == 3
    del shelf
    assert list(temporary.iterdir()) == []


SCRIPT = """
import os, signal, sys
from tileloom.cluster.shelf import Shelf

shelf = Shelf(0)
shelf.put("key", "thing", 5)
print("put", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(temporary):
    other = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"put\n"
    [theirs] = files(temporary)
    mine = Shelf(0)
    fill(mine, 1)
    assert theirs.exists()
    other.communicate()
    assert theirs.exists()
    another = Shelf(0)
    fill(another, 1)
    assert not theirs.parent.exists()
    assert len(files(temporary)) == 2
    np.testing.assert_array_equal(mine.get(0), array(0))
