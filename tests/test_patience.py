"""What passes is waited for, what does not is told at once, and waiting has an end."""

import asyncio
import errno
import logging
import os
import time

import pytest
from obstore import exceptions as refusals

from tileloom.tiling import patience
from tileloom.tiling.errors import StoreError
from tileloom.tiling.patience import impatient, patiently, patiently_async

PAGE = """Generic S3 error: Error performing PUT https://host/bucket/key?sig=SECRET in 3ms - {}

Debug source:
Generic {{ uri: https://host/bucket/key?sig=SECRET, inner: {} }}"""
CONNECT = PAGE.format("HTTP error: error sending request", "kind: Connect")
ANSWER = "Server returned non-2xx status code: {}: <Error><Message>{}</Message></Error>"


@pytest.fixture
def clock(monkeypatch):
    """Time that only sleeping lets pass; gives the pauses."""
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(patience.asyncio, "sleep", pause)
    return pauses


def failing(error, times):
    """A call that fails so often, and then succeeds."""
    left = [error] * times

    def call():
        if left:
            raise left.pop()
        return "done"

    return call


PASSING = [
    *(OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
    refusals.GenericError(CONNECT),
    *(refusals.GenericError(PAGE.format(ANSWER.format(status, "x"), "")) for status in ("503 Slow Down", "429 x")),
]
LASTING = [
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    OSError(errno.EFBIG, "File too large"),
    ValueError("not a store's"),
    refusals.PermissionDeniedError(PAGE.format(ANSWER.format("403 Forbidden", "no"), "")),
    refusals.GenericError(PAGE.format(ANSWER.format("404 Not Found", "no bucket"), "")),
    refusals.NotSupportedError("no"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_may_pass_is_tried_again_at_growing_intervals(error, clock, caplog):
    with caplog.at_level(logging.WARNING, "tileloom.store"):
        assert patiently(failing(error, 8), "s3://bucket", "key") == "done"
    assert clock == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    (said,) = caplog.messages
    assert said.startswith("waiting for s3://bucket/key (")


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_lasts_is_told_at_once(error, clock):
    with pytest.raises((StoreError, type(error))):
        patiently(failing(error, 1), "s3://bucket/key")
    assert clock == []


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_patience_has_an_end(error, clock):
    with pytest.raises(StoreError, match=r"s3://bucket/key cannot be read or written \(.*, and was for 60 s\)") as told:
        patiently(failing(error, 10**6), "s3://bucket/key")
    assert sum(clock) == pytest.approx(patience.PATIENCE)
    assert "SECRET" not in str(told.value)


def test_the_same_for_what_is_awaited(clock):
    async def call(made=failing(OSError(errno.EIO, "bad"), 3)):  # noqa: B008
        return made()

    assert asyncio.run(patiently_async(call, "store", "key")) == "done"
    assert clock == [0.1, 0.2, 0.4]


def test_nothing_is_waited_for_before_anything_was_begun(clock):
    with impatient(), pytest.raises(StoreError, match=r"bucket cannot be read or written \(no connection\)$"):
        patiently(failing(refusals.GenericError(CONNECT), 1), "s3://bucket")
    assert clock == []
    assert patiently(failing(refusals.GenericError(CONNECT), 1), "s3://bucket") == "done"


def test_the_clients_own_text_is_left_behind(clock):
    """It holds whole requests, and these may be signed."""
    with pytest.raises(StoreError) as told:
        patiently(failing(LASTING[4], 1), "az://container/key")
    assert str(told.value) == "az://container/key cannot be read or written (403 Forbidden: no)"
    assert told.value.__suppress_context__


def test_an_object_is_there_or_not_as_a_file_is(clock):
    for error, wanted in (
        (refusals.AlreadyExistsError("page"), FileExistsError),
        (FileNotFoundError("page"), FileNotFoundError),
    ):
        with pytest.raises(wanted) as told:
            patiently(failing(error, 1), "s3://bucket/key")
        assert told.value.filename == "s3://bucket/key"
        assert "page" not in str(told.value)
