"""What differs between two jobs, by what they are known by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue


def changed(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    """What differs between two identities, a line each: ``seed: 1 -> 2``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_plain(before.get(key))} -> {_plain(after.get(key))}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _leaves(tree: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: JsonValue) -> str:
    return "none" if value is None else str(value)
