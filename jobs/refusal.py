"""One sentence, naming the key and what was meant, for whatever pydantic finds wrong with a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from ..tiling.errors import InputError

LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Meant:
    """What a key takes; it ends the sentence "KEY must be ..."."""

    text: str


def meant(field: FieldInfo) -> str:
    """What a field takes; an optional one is marked on the type that is optional."""
    inner = (mark for kind in get_args(field.annotation) for mark in getattr(kind, "__metadata__", ()))
    return next(mark.text for mark in chain(field.metadata, inner) if isinstance(mark, Meant))


def parts(field: FieldInfo) -> type[BaseModel] | None:
    """The keys below a key that takes a mapping, or several of one kind."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def at_key(key: str, problem: str) -> PydanticCustomError:
    """What a validator of several keys raises: the key to name, and what is wrong with it."""
    return PydanticCustomError("at_key", "{problem}", {"key": key, "problem": problem})


def refusal(error: ValidationError, job: type[BaseModel], named: Callable[[str], str]) -> InputError:
    """The first mistake in a job, a mistyped key before all others, since it explains them.

    ``named`` turns a key path such as ``travel.length`` into what the user wrote.
    """
    details = error.errors(include_url=False)
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    return InputError(_sentence(first, job, named))


def _sentence(detail: ErrorDetails, job: type[BaseModel], named: Callable[[str], str]) -> str:
    if detail["type"] == "at_key":
        return f"{named(detail['ctx']['key'])}: {detail['msg']}"
    known = list(_known(detail["loc"], job))
    path = [name for name, _ in known]
    if detail["type"] == "extra_forbidden":
        within = parts(known[-1][1]) if known else job
        return _unknown(path, str(detail["loc"][-1]), list((within or job).model_fields), named)
    expected = meant(known[-1][1])
    if detail["type"] == "missing":
        return f"{named('.'.join(path))} is missing: give {expected}"
    return f"{named('.'.join(path))} must be {expected}, not {_shown(detail['input'])}"


def _known(location: tuple[int | str, ...], job: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys on the way to a mistake; pydantic's location goes on into union branches and list items."""
    within: type[BaseModel] | None = job
    for step in location:
        if isinstance(step, int):
            continue
        if within is None or step not in within.model_fields:
            return
        field = within.model_fields[str(step)]
        yield str(step), field
        within = parts(field)


def _unknown(path: list[str], key: str, keys: list[str], named: Callable[[str], str]) -> str:
    near = get_close_matches(key, keys, n=1)
    mend = f"did you mean {'.'.join([*path, near[0]])}?" if near else f"the keys are {', '.join(keys)}"
    return f"{named('.'.join([*path, key]))} is no key of a job; {mend}"


def _shown(value: Any) -> str:  # noqa: ANN401
    """A value as the user may have written it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
