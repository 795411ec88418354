"""Values that a user or a file gives by name, read strictly: each refusal names the key and says what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..tiling.errors import InputError


@dataclass(frozen=True, slots=True)
class Fields:
    """Named values; ``where`` goes before a key in a sentence, such as ``model.`` or a file's name."""

    where: str
    values: Mapping[str, Any]

    def refuse_others(self, known: Sequence[str], owner: str) -> None:
        """Refuse a key that is none of the known ones."""
        for key in self.values:
            if key not in known:
                raise InputError(f"{self.where}{key} is no option of {owner}; its options are {', '.join(known)}")

    def whole(self, key: str, *, default: int | None = None, least: int = 1) -> int | None:
        """A whole number; the default where there is none."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refused(key, f"a whole number from {least} up")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A finite number."""
        value = self.values.get(key)
        if value is None:
            return default
        if not _is_number(value):
            raise self.refused(key, "a number")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(map(_is_number, value)):
            raise self.refused(key, "a list of numbers")
        return tuple(map(float, value))

    def variances(self, key: str, found: Iterable[float]) -> tuple[float, ...]:
        """Betas as plain numbers; ``key`` is to blame where they are none."""
        betas = tuple(map(float, found))
        if not all(0 < beta < 1 for beta in betas):
            raise self.refused(key, "what makes all betas lie above 0 and below 1")
        return betas

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Yes or no."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refused(key, "true or false")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of several words, the first where there is none."""
        value = self.values.get(key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self.refused(key, f"one of {', '.join(choices)}")
        return str(value)

    def refused(self, key: str, takes: str) -> InputError:
        """What is wrong with a value."""
        shown = repr(self.values.get(key))
        return InputError(f"{self.where}{key} is {shown if len(shown) < 60 else shown[:60] + '...'}; give {takes}")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value)
