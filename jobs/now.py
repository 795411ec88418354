"""What a running job says of itself every few seconds, in a small file of its output, for whoever asks from afar.

``OUTPUT/.tileloom/now.json`` is there while a run goes on. One that was killed leaves it behind.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from time import time
from typing import Any, Self

from ..tiling.errors import InputError
from ..tiling.place import Located, Place, place
from ..tiling.process import ended, this_process
from ..tiling.store import write_json
from .pace import Pulse, duration
from .state import HIDDEN

EVERY_SECONDS = 5.0
"""Between two writings."""
# So many of these without a sign, and a run on another machine is taken for dead.
_MISSED = 3


@dataclass(frozen=True)
class Now:
    """A sign of life: whose and of when, how far the run is, what it waits for, and what it said last.

    It is given even while the run is at something long; ``looked`` is when it last looked at its pace and its waits.
    """

    process: dict[str, Any]
    time: float
    phase: str
    pulse: Pulse | None
    waits: list[str]
    said: list[str]
    looked: float | None = None

    @classmethod
    def of_this_process(
        cls, *, phase: str, pulse: Pulse | None, waits: list[str], said: list[str], looked: float | None
    ) -> Self:
        """A sign of life of the run that this process drives."""
        return cls(this_process(), time(), phase, pulse, waits, said, looked)

    def as_json(self) -> dict[str, Any]:
        """The sign as plain JSON."""
        return asdict(self) | {"pulse": self.pulse and self.pulse.as_json()}

    @property
    def age(self) -> float:
        """Seconds since then."""
        return _since(self.time)

    @property
    def looked_ago(self) -> str | None:
        """How old its pace and its waits are; None where it has not looked yet."""
        return None if self.looked is None else duration(_since(self.looked))

    @property
    def alive(self) -> bool:
        """Whether the run goes on: of one on this machine the system knows, of another its signs have to tell."""
        over = ended(self.process)
        return self.age < _MISSED * EVERY_SECONDS if over is None else not over

    @property
    def who(self) -> str:
        """Whose sign it is, and how old."""
        return f"process {self.process['pid']} on {self.process['host'][0]}, last heard of {duration(self.age)} ago"


def _since(moment: float) -> float:
    return max(0.0, time() - moment)


def write_now(output: Located, now: Now) -> None:
    """Give a sign of life."""
    write_json(_file(output), now.as_json())


def forget_now(output: Located) -> None:
    """The run has ended by itself."""
    _file(output).remove()


def read_now(output: Located) -> Now | None:
    """The last sign of life at an output; None where no run goes on, and none was killed."""
    file = _file(output)
    try:
        stored = json.loads(file.read())
        return Now(**stored | {"pulse": stored["pulse"] and Pulse.read(stored["pulse"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: remove it, a run writes it anew") from error


def _file(output: Located) -> Place:
    return place(output) / HIDDEN / "now.json"
