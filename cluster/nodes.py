"""The machines that workers are on: whether one is about to be taken away, and what it is."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import ray
from ray._private.state import state

# Seconds in which a machine's own address has to answer.
_ANSWER = 2.0
# Bytes of its answer that are read.
_MOST = 1024
# Google's machines answer no request without it, and the others do not mind.
_HEADERS = {"Metadata-Flavor": "Google"}
# Resources by which a node only says what it is.
_KIND = "accelerator_type:"
_NOT_FOUND = 404


def goes_away(url: str) -> bool:
    """Whether a machine's own address tells that it will be taken away: it then has an answer other than FALSE.

    Raises OSError where nobody answers, or nobody who could know.
    """
    try:
        # A machine asks itself: no proxy stands between.
        with build_opener(ProxyHandler({})).open(Request(url, headers=_HEADERS), timeout=_ANSWER) as answer:
            told: bytes = answer.read(_MOST)
    except HTTPError as error:
        if error.code == _NOT_FOUND:
            return False
        raise
    except HTTPException as error:
        # Its text may hold the whole address.
        raise OSError(type(error).__name__) from None
    return told.strip().upper() not in (b"", b"FALSE")


def draining() -> set[str]:
    """The nodes that Ray knows to be about to go: they run what they run, and are given nothing more."""
    return set(state.get_draining_nodes())


def kinds_of(node: str) -> frozenset[str]:
    """Every name that a node has for what it is: its labels' values and its resources."""
    told = next((one for one in ray.nodes() if one["NodeID"] == node), None)  # type: ignore[no-untyped-call]
    return frozenset(_names(told)) if told else frozenset()


def _names(told: dict[str, dict[str, str]]) -> Iterator[str]:
    yield from told["Labels"].values()
    yield from (resource.removeprefix(_KIND) for resource in told["Resources"])
