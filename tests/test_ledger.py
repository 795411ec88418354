"""The ledger: whole segments, one writer, and no damage that goes unseen."""

import json

import numpy as np
import pytest

from tileloom.tiling.errors import CorruptChunk, LedgerTaken, StoreError
from tileloom.tiling.ledger import Entry, Ledger, Status, salvage
from tileloom.tiling.place import place
from tileloom.tiling.store import write_array, write_json


def done(*tiles):
    return [Entry(tile, Status.DONE, f"in{tile}", f"out{tile}") for tile in tiles]


def segments(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_what_is_committed_is_read_back_in_order(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.commit(done(3, 1))
    ledger.commit([Entry(2, Status.DEGRADED, reason="no luck, 'quoted' and ünusual")], facts={"a": 1})
    ledger.commit(shards=[(0, 1, 2), (1, 0, 0)])
    ledger.commit(done(2), facts={"a": 2, "b": [True]})
    for again in (ledger, Ledger(tmp_path / "ledger")):
        assert list(again.entries()) == [
            *done(3, 1),
            Entry(2, Status.DEGRADED, reason="no luck, 'quoted' and ünusual"),
            *done(2),
        ]
        assert again.shards == {(0, 1, 2), (1, 0, 0)}
        assert again.facts == {"a": 2, "b": [True]}


def test_an_opened_ledger_leaves_no_trace(tmp_path):
    assert list(Ledger(tmp_path / "ledger").entries()) == []
    assert not list(tmp_path.iterdir())


def test_more_segments_than_eight_digits_sort_are_far_away(tmp_path):
    ledger = Ledger(tmp_path)
    for tile in range(12):
        ledger.commit(done(tile))
    assert [entry.tile for entry in Ledger(tmp_path).entries()] == list(range(12))


def test_of_two_drivers_the_second_to_commit_stops(tmp_path):
    Ledger(tmp_path).commit(done(0))
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    one.commit(done(1))
    with pytest.raises(LedgerTaken, match="another run took over"):
        other.commit(done(2))
    with pytest.raises(LedgerTaken):
        other.commit(shards=[(0, 0, 0)])
    assert other.shards == set()
    one.commit(done(3))
    assert [entry.tile for entry in Ledger(tmp_path).entries()] == [0, 1, 3]
    assert not list(tmp_path.glob("*.partial"))


def test_a_later_driver_goes_on_where_the_earlier_was(tmp_path):
    Ledger(tmp_path).commit(done(1))
    later = Ledger(tmp_path)
    later.commit(done(2))
    assert [path.name for path in segments(tmp_path)] == ["00000000.json", "00000001.json"]
    assert [entry.tile for entry in Ledger(tmp_path).entries()] == [1, 2]


@pytest.fixture
def three(tmp_path):
    ledger = Ledger(tmp_path)
    for tile in (1, 2, 3):
        ledger.commit(done(tile), shards=[(0, tile, 0)])
    return tmp_path


def test_any_flipped_bit_is_found(three):
    path = segments(three)[1]
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptChunk, match=r"00000001\.json is damaged"):
            Ledger(three)


@pytest.mark.parametrize("size", [0, 1, 20, -1])
def test_a_truncated_segment_is_found(size, three):
    path = segments(three)[2]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptChunk, match=r"00000002\.json"):
        Ledger(three)


def test_damage_after_opening_is_found_by_reading(three):
    ledger = Ledger(three)
    segments(three)[0].write_bytes(b"{}\n")
    with pytest.raises(CorruptChunk, match=r"00000000\.json"):
        list(ledger.entries())


def test_whole_segments_are_salvaged_from_among_damaged_ones(three):
    segments(three)[1].write_bytes(json.dumps({"tiles": [[7, "done", "", "", ""]]}).encode())
    assert list(salvage(three)) == done(1, 3)


def test_half_written_segments_count_for_nothing(three):
    (three / "00000003.json.0123.partial").write_bytes(b'{"tiles"')
    ledger = Ledger(three)
    assert [entry.tile for entry in ledger.entries()] == [1, 2, 3]
    ledger.commit(done(4))
    assert [entry.tile for entry in Ledger(three).entries()] == [1, 2, 3, 4]


def test_an_exclusive_file_is_written_once(tmp_path):
    path = tmp_path / "deep" / "file"
    place(path).write(b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        place(path).write(b"second", exclusive=True)
    assert path.read_bytes() == b"first"
    place(path).write(b"third")
    assert path.read_bytes() == b"third"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for write in (
        lambda path: place(path).write(b""),
        lambda path: write_json(path, {}),
        lambda path: write_array(path, np.zeros(3)),
    ):
        with pytest.raises(StoreError, match=r"cannot write .*file/below"):
            write(tmp_path / "file" / "below")
