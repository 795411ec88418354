"""Archives that are gone on with: after a takeover, past inputs that cannot be read, from where an image stopped."""

from contextlib import contextmanager

from tests.archives import archive
from tileloom.jobs import course
from tileloom.jobs.state import only_run
from tileloom.tiling.errors import StoreAway, StoreError
from tileloom.tiling.ledger import fence


def test_a_takeover_fences_the_journal_and_the_run_goes_on_behind(tmp_path, monkeypatch):
    place = archive(tmp_path)
    place.rows("a")
    assert place.run().whole
    place.rows("a", "b", "c")

    @contextmanager
    def taking_over(output):
        with only_run(output):
            if str(output) == str(place.output):
                fence(output / ".tileloom" / "journal")
            yield

    monkeypatch.setattr("tileloom.jobs.run_archive.only_run", taking_over)
    assert place.run().whole


def test_inputs_that_cannot_be_read_stop_nobody_however_many(tmp_path, monkeypatch):
    place = archive(tmp_path, rows=["a", "b", "c", "a2", "c2"])

    def refuse(spec):
        if spec.id in "abc":
            raise StoreError(f"{spec.input} cannot be read or written (403 Forbidden)")
        return real(spec)

    real = course.digests_of
    monkeypatch.setattr("tileloom.jobs.run_archive.digests_of", refuse)
    summary = place.run()
    assert (summary.done, summary.failed, summary.stopped) == (2, ["a", "b", "c"], [])
    assert "403 Forbidden" in place.report()["b"]["reason"]


def test_retry_goes_on_with_an_image_that_was_stopped_halfway(tmp_path, monkeypatch):
    """It has a generation already, which a redo would leave."""
    place = archive(tmp_path, rows=["a"])

    def stop(*_, **__):
        raise StoreAway("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr("tileloom.tiling.publish.Pyramid.open", stop)
        assert place.run().stopped
    begun = sorted(path.name for path in (place.result("a") / ".tileloom").iterdir() if path.is_dir())
    summary = place.run(redo=course.Redo.FAILED)
    assert summary.whole
    assert summary.calls == 0
    assert sorted(path.name for path in (place.result("a") / ".tileloom").iterdir() if path.is_dir()) == begun
