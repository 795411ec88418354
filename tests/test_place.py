"""A folder and a prefix of a bucket keep the same promises; whoever uses one cannot tell which it is."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.objects import bucket as bucket
from tests.objects import server as server
from tests.objects import stored
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.errors import CorruptChunk, InputError, LedgerTaken, StoreError
from tileloom.tiling.grid import Grid
from tileloom.tiling.ledger import Entry, Ledger, Status, fence, salvage
from tileloom.tiling.place import Folder, place
from tileloom.tiling.store import ensure_array, read_array, write_array


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path):
    """Somewhere, with nothing there yet."""
    return place(tmp_path) / "a" if request.param == "folder" else place(request.getfixturevalue("bucket")) / "a"


def test_it_is_told_by_its_address(root):
    inner = root / "b" / "c.json"
    assert str(inner) == f"{root}/b/c.json"
    assert place(str(inner)) == inner == inner.absolute()
    assert place(inner) is inner
    assert (inner.name, inner.parents[0].name, inner.parents[1]) == ("c.json", "b", root)
    assert pickle.loads(pickle.dumps(inner)) == inner


def test_nothing_is_there_at_first(root):
    assert not root.exists()
    assert not root.is_folder()
    assert root.children() == []
    assert list(root.files()) == []
    assert list(root.contents(".json")) == []
    with pytest.raises(FileNotFoundError):
        root.read()
    root.remove()
    root.remove_if_empty()
    assert root.sweep() == 0
    root.reach()


def test_a_file_is_written_and_read(root):
    (root / "b" / "file").write(b"first")
    (root / "b" / "file").write(b"second")
    assert (root / "b" / "file").read() == b"second"
    assert (root / "b" / "file").exists()
    assert (root / "b" / "file").is_file()
    assert not (root / "b" / "file").is_folder()
    assert not root.is_file()
    assert root.is_folder()
    assert root.exists()
    assert root.children() == [root / "b"]
    assert (root / "b").children() == [root / "b" / "file"]


def test_a_file_is_created_once(root):
    (root / "file").write(b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        (root / "file").write(b"second", exclusive=True)
    assert (root / "file").read() == b"first"


def test_names_are_listed_in_order_and_never_by_halves(root):
    for name in ("ten", "b.json", "a.json", "a/inner.json", "a/deep/er.json"):
        (root / name).write(name.encode())
    (root.parents[0] / "ab").write(b"beside")
    assert [found.name for found in root.children()] == ["a", "a.json", "b.json", "ten"]
    assert list(root.contents(".json")) == [("a.json", b"a.json"), ("b.json", b"b.json")]
    assert sorted(found.name for found in root.files()) == [
        "a.json",
        "a/deep/er.json",
        "a/inner.json",
        "b.json",
        "ten",
    ]
    assert {found.name: found.size for found in root.files()}["a/deep/er.json"] == len("a/deep/er.json")


def test_another_content_is_told_from_the_first(root):
    def content():
        return [b"".join(found.content()) for found in root.files()]

    (root / "chunk").write(b"one")
    before = content()
    (root / "chunk").write(b"one")
    assert content() == before
    (root / "chunk").write(b"two")
    assert content() != before


def test_what_is_removed_is_gone_with_all_inside_and_nothing_else(root):
    for name in ("a/one", "a/two/three", "ab"):
        (root / name).write(b"x")
    (root / "a").remove_if_empty()
    assert (root / "a" / "one").exists()
    (root / "a").remove()
    assert root.children() == [root / "ab"]
    (root / "ab").remove()
    root.remove_if_empty()
    assert not root.exists()


def test_zarr_lays_nothing_beside_its_arrays(root):
    array = ensure_array(root / "deep" / "array", shape=(1, 8, 8), chunk=(1, 4, 4), dtype="float32", fill=0.0)
    array[...] = 3
    again = ensure_array(root / "deep" / "array", shape=(1, 8, 8), chunk=(1, 4, 4), dtype="float32", fill=0.0)
    assert (pickle.loads(pickle.dumps(again))[...] == 3).all()
    assert sorted(found.name for found in root.files()) == [
        *(f"deep/array/c/0/{row}/{col}" for row in (0, 1) for col in (0, 1)),
        "deep/array/zarr.json",
    ]
    with pytest.raises(FileNotFoundError):
        zarr.open((root / "other").zarr(), mode="r")
    assert not (root / "other").exists()


def test_small_arrays(root):
    write_array(root / "survey", np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(read_array(root / "survey"), [[0, 1, 2], [3, 4, 5]])


def test_a_canvas(root):
    grid = Grid(40, 44, 16, 12, 2)
    canvas = Canvas(root / "canvas", grid, bands=2, cache=ChunkCache(0))
    pixels = np.full((2, *grid.owns(0, 0).shape), 0.25, np.float32)
    canvas.write(0, 0, pixels)
    np.testing.assert_array_equal(canvas.read(grid.owns(0, 0)), pixels)
    with pytest.raises(CorruptChunk, match=r"c/0/\d/\d of .*canvas is missing"):
        canvas.read(grid.owns(0, 1))


def test_a_ledger_of_many_segments(root):
    ledger = Ledger(root)
    for tile in range(40):
        ledger.commit([Entry(tile, Status.DONE, "in", "out")], facts={"last": tile})
    again = Ledger(root)
    assert [entry.tile for entry in again.entries()] == [entry.tile for entry in salvage(root)] == list(range(40))
    assert again.facts == {"last": 39}


def test_of_two_drivers_the_second_to_commit_stops_though_both_did_the_same(root):
    one, other = Ledger(root), Ledger(root)
    one.commit([Entry(1, Status.DONE, "in", "out")])
    with pytest.raises(LedgerTaken):
        other.commit([Entry(1, Status.DONE, "in", "out")])


def test_a_fence_stops_whoever_had_the_ledger_open(root):
    old = Ledger(root)
    old.commit([Entry(1, Status.DONE, "in", "out")])
    fence(root)
    with pytest.raises(LedgerTaken):
        old.commit([Entry(2, Status.DONE, "in", "out")])
    new = Ledger(root)
    new.commit([Entry(3, Status.DONE, "in", "out")])
    assert [entry.tile for entry in Ledger(root).entries()] == [1, 3]


def test_a_file_for_what_need_not_be_kept_leaves_nothing(root):
    with root.temporary_file() as file:
        file.write(b"x" * 10)
        assert not [found for found in root.children() if found.is_folder()]
    assert list(root.files()) == []


# --- what only buckets have ---


def test_a_write_whose_answer_was_lost_counts(bucket):
    """The store has it, and the same request again is told that it is there: it is our own."""
    target = place(bucket) / "segment"
    target.write(b"mine", exclusive=True)
    target.write(b"mine", exclusive=True)
    assert stored(bucket) == {"segment": b"mine"}
    with pytest.raises(FileExistsError):
        target.write(b"another's", exclusive=True)


def test_a_bucket_itself(bucket):
    whole = place(bucket)
    (whole / "a" / "b").write(b"x")
    assert whole.parents == ()
    assert whole.children() == [whole / "a"]
    assert [found.name for found in whole.files()] == ["a/b"]
    assert place(f"{bucket}/") == whole
    whole.remove()
    assert not whole.exists()


def test_a_bucket_that_is_gone(server):
    gone = place("s3://gone-for-good/x")
    with pytest.raises(StoreError, match="cannot write s3://gone-for-good/x: there is no bucket"):
        gone.write(b"")
    with pytest.raises(StoreError, match="404 Not Found: The specified bucket does not exist"):
        gone.children()
    with pytest.raises(InputError, match="check the address"):
        gone.reach()


def test_an_account_that_is_not_named(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"az://container/x cannot be read or written .*Account must be specified"):
        place("az://container/x").reach()


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///key", "s3://b//key", "s3://b/./key", "s3://b/../key", "gs://me@b", "az://b/key?sig=x"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(InputError, match=r"must be (s3|gs|az)://BUCKET/PREFIX and nothing else"):
        place(address)


def test_stores_of_other_kinds():
    with pytest.raises(InputError, match=r"^https://\.\.\.: there are no stores of this kind") as refused:
        place("https://user:sekret@host/x?X-Amz-Signature=abc")
    assert "sekret" not in str(refused.value)


def test_a_write_that_was_done_although_it_was_told_to_have_failed(tmp_path, monkeypatch):
    """As a disk far away does: the link is made, and an error comes back."""
    real, failed = os.link, []

    def link(source, target):
        real(source, target)
        if not failed:
            failed.append(target)
            raise OSError(errno.EIO, "no answer")

    monkeypatch.setattr(os, "link", link)
    place(tmp_path / "mine").write(b"ours", exclusive=True)
    assert failed
    with pytest.raises(FileExistsError):
        place(tmp_path / "mine").write(b"theirs", exclusive=True)
    assert (tmp_path / "mine").read_bytes() == b"ours"


def test_what_cannot_be_removed_is_an_error_of_the_store(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "kept").write_bytes(b"")
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(StoreError, match=r"cannot be read or written|cannot remove"):
        place(tmp_path / "kept").remove()


# --- what only folders have ---


def test_a_folder_serves_as_a_path(tmp_path):
    assert Path(place(tmp_path)) == tmp_path
    assert place("relative").absolute() == Folder(Path.cwd() / "relative")


def test_room_is_that_of_the_nearest_folder(tmp_path, bucket):
    where, free = (place(tmp_path) / "not" / "there").room()
    assert (where, free > 0) == (place(tmp_path), True)
    assert place(bucket).room() is None
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder that this user may write to"):
        (place(tmp_path) / "file" / "below").room()
