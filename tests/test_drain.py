"""Workers that are told to go: their tiles are saved on their way and gone on with elsewhere, with the same bytes."""

import socket
from threading import Thread

import pytest

from tests.metadata import metadata
from tests.stubwork import STEPS
from tests.test_ray import GRIDS, assert_same, cluster, expected, grid_tile, on_ray, woven  # noqa: F401
from tileloom.cluster.nodes import goes_away
from tileloom.tiling.ledger import Status


def paused(run):
    return [entry for ledger in run.ledgers for entry in ledger.entries() if entry.status is Status.PAUSED]


def test_a_worker_that_gets_sigterm_saves_its_tiles(tmp_path, expected):  # noqa: F811
    """No death and no failure is allowed at all."""
    run = woven(tmp_path / "run", on_ray, faults=["term-0-1-1"], pause=0.2, restarts=0, retries=0)
    assert run.faults.struck == ["term-0-1-1"]
    assert [line for line in run.said if "goes and is replaced: it was told to end" in line]
    assert_gone_on(run, expected)


def test_tiles_that_are_not_saved_in_time_begin_anew_and_are_nobodys_fault(tmp_path, expected):  # noqa: F811
    # Only one of the images has a tile at this place, so that both faults strike the same worker.
    settings = {"restarts": 0, "retries": 0, "drain_seconds": 1, "patience": 200}
    run = woven(tmp_path / "run", on_ray, faults=["term-0-1-3", "hang-0-1-3"], pause=0.1, **settings)
    assert run.faults.struck == ["term-0-1-3", "hang-0-1-3"]
    assert [line for line in run.said if "goes and is replaced: it was told to end" in line]
    assert run.total("failures") == 0
    assert grid_tile(0, 1, 3) not in {entry.tile for entry in paused(run)}
    assert_same(run, expected)


def test_an_address_that_does_not_answer_is_said_once(tmp_path, expected):  # noqa: F811
    run = woven(tmp_path / "run", on_ray, drain_url="http://127.0.0.1:1/spot")
    assert [line.partition(":1/spot ")[2] for line in run.said] == [
        "does not tell whether a machine goes: <urlopen error [Errno 111] Connection refused>"
    ]
    assert_same(run, expected)


ANSWERS = {
    "nothing there": ((404, b"no"), False),
    "not so": ((200, b"FALSE\n"), False),
    "empty": ((200, b""), False),
    "so": ((200, b"TRUE"), True),
    "when": ((200, b'{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'), True),
}


@pytest.mark.parametrize(("answer", "goes"), ANSWERS.values(), ids=ANSWERS)
def test_a_machine_says_whether_it_goes(answer, goes):
    with metadata() as (machine, url):
        machine.answer = answer
        assert goes_away(url) is goes
        assert machine.asked == 1


@pytest.mark.parametrize("code", [401, 500])
def test_an_answer_that_cannot_tell_is_an_error(code):
    with metadata() as (machine, url):
        machine.answer = code, b""
        with pytest.raises(OSError, match=f"HTTP Error {code}"):
            goes_away(url)


def test_an_answer_that_is_no_http_is_an_error_that_repeats_no_address():
    def answer(server):
        with server.accept()[0] as asked:
            asked.recv(4096)
            asked.sendall(b"garbage\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(OSError, match=r"^BadStatusLine$"):
            goes_away(f"http://127.0.0.1:{server.getsockname()[1]}/warning")
        thread.join()


def assert_gone_on(run, expected):  # noqa: F811
    """Tiles were saved on their way, no call was made twice, and nothing is left of what was saved."""
    assert paused(run)
    assert run.total("failures") == 0
    assert run.total("paused") == len(paused(run))
    assert run.total("spared") > 0
    assert run.total("calls") == STEPS * sum(grid.count for grid in GRIDS)
    assert not list(run.folder.glob("*/work/paused/*"))
    assert_same(run, expected)
