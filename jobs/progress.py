"""How a run is seen: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 10.0


class Watcher(Protocol):
    """Is told of the phases of a run."""

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        ...

    def advance(self, count: int, note: str = "") -> None:
        """So many pieces more are finished."""
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

    def advance(self, count: int, note: str = "") -> None:
        """So many pieces more are finished."""


class Terminal:
    """A progress bar where a person looks on, a line now and then where a log does."""

    def __init__(self, console: Console) -> None:
        """Show progress on ``console``."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._phase, self._unit, self._total, self._count = "", "", 0, 0
        self._began = self._said = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        self._phase, self._unit, self._total, self._count = phase, unit, total, 0
        self._began = self._said = monotonic()
        self._task = self._bar.add_task(phase, total=total, rate="")
        if not self._console.is_terminal:
            self._console.print(f"{phase}: {total} {unit}", highlight=False)

    def advance(self, count: int, note: str = "") -> None:
        """So many pieces more are finished."""
        self._count += count
        now = monotonic()
        rate = self._count / max(now - self._began, 1e-9)
        shown = f"{rate:.1f} {self._unit}/s {note}".rstrip()
        if self._task is not None:
            self._bar.update(self._task, completed=self._count, rate=shown)
        if not self._console.is_terminal and now - self._said >= LINE_EVERY_SECONDS:
            self._said = now
            left = (self._total - self._count) / rate if rate else 0
            self._console.print(
                f"{self._phase}: {self._count} of {self._total}, {shown}, {left:.0f} s left", highlight=False
            )

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
