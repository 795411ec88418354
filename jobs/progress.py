"""How a run is seen: a live bar on a terminal, plain lines in a log, JSON where a program reads along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from .logs import log, wants_json
from .pace import Pulse, duration

LINE_EVERY_SECONDS = 10.0
_BAR = 12


class Beat(Protocol):
    """How a run does of late; as a text, what it does in a second and whatever else there is to tell."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end; None where that cannot be told."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        ...


class Watcher(Protocol):
    """Is told of the phases of a run."""

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        ...

    def advance(self, count: int, pulse: Pulse | None = None) -> None:
        """So many pieces more are finished; of tiles it is known how the run does."""
        ...

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""

    def advance(self, count: int, pulse: Pulse | None = None) -> None:
        """So many pieces more are finished; of tiles it is known how the run does."""


@dataclass
class Stage:
    """A phase of a run, how far it is, and how the run did when that was last known."""

    phase: str
    total: int
    unit: str
    count: int = 0
    pulse: Beat | None = None
    began: float = field(init=False)
    said: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.said = monotonic()

    def advance(self, count: int, pulse: Beat | None) -> None:
        """So many pieces more are finished."""
        self.count += count
        self.pulse = pulse or self.pulse

    @property
    def line_is_due(self) -> bool:
        """Whether a log was told of it long enough ago; it then counts as told."""
        now = monotonic()
        if now - self.said < LINE_EVERY_SECONDS:
            return False
        self.said = now
        return True

    @property
    def rate(self) -> str:
        """How fast it goes."""
        if self.pulse:
            return str(self.pulse)
        return f"{self.count / max(monotonic() - self.began, 1e-9):.1f} {self.unit}/s"

    @property
    def left(self) -> str:
        """When it will be through; empty words as long as that cannot be told."""
        if self.pulse:
            seconds = self.pulse.seconds_left
        else:
            passed = monotonic() - self.began
            seconds = passed * (self.total - self.count) / self.count if self.count else None
        return "" if seconds is None else f"{duration(seconds)} left"

    def __str__(self) -> str:
        told = (f"{self.phase}: {self.count} of {self.total} {self.unit}", self.rate, self.left)
        return ", ".join(filter(None, told))


class Terminal:
    """A progress bar where a person looks on, a line now and then where a log does."""

    def __init__(self, console: Console) -> None:
        """Show progress on ``console``."""
        self._console = console
        room = max(_BAR, console.width - 3 * _BAR)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR),
            MofNCompleteColumn(),
            # What has no room is left out, so that the bar stays in its line.
            TextColumn("{task.fields[told]}", table_column=Column(no_wrap=True, max_width=room)),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage = Stage("", 0, "")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        self._stage = Stage(phase, total, unit)
        self._task = self._bar.add_task(phase, total=total, told="")
        if not self._console.is_terminal:
            self._print(f"{phase}: {total} {unit}")

    def advance(self, count: int, pulse: Beat | None = None) -> None:
        """So many pieces more are finished; of tiles it is known how the run does."""
        stage = self._stage
        stage.advance(count, pulse)
        if self._task is not None:
            told = ", ".join(filter(None, (stage.left, stage.rate)))
            self._bar.update(self._task, completed=stage.count, told=told)
        if not self._console.is_terminal and stage.line_is_due:
            self._print(str(stage))

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""
        self._print(text)

    def _print(self, text: str) -> None:
        # A log has no width.
        self._console.print(text, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)


class JsonLines:
    """One JSON object a line, for programs."""

    def __init__(self) -> None:
        """Nothing has begun yet."""
        self._stage = Stage("", 0, "")

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        self._stage = Stage(phase, total, unit)
        log("info", "phase", phase=phase, total=total, unit=unit)

    def advance(self, count: int, pulse: Beat | None = None) -> None:
        """So many pieces more are finished; of tiles it is known how the run does."""
        stage = self._stage
        stage.advance(count, pulse)
        if stage.line_is_due or (count and stage.count == stage.total):
            facts = {"phase": stage.phase, "count": stage.count, "total": stage.total, "unit": stage.unit}
            log("info", "progress", **facts, **(stage.pulse.as_json() if stage.pulse else {}))

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""
        log("warning", "message", message=text)


Display = Terminal | JsonLines
"""Watchers that can show any run, of tiles or not."""


@contextmanager
def watching() -> Iterator[Display]:
    """Whoever looks on at the command that is run: a person, a log, or with ``--log-json`` a program."""
    if wants_json(click.get_current_context()):
        yield JsonLines()
        return
    with Terminal(Console(stderr=True)) as terminal:
        yield terminal
