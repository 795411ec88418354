"""A run as a trace that browsers show (https://ui.perfetto.dev, chrome://tracing): who did which tile, and when.

The file is in the Trace Event Format: a worker is a "process", each slot of its batch a "thread", a tile an event,
with what is known of its reading and writing inside it; times are microseconds of the driver's clock from the run's
beginning. Nothing is kept in memory but when each slot was free. After every write the file is whole JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from ..cluster.timesheet import Shift, Timesheet
from ..cluster.worker import Report
from ..tiling.errors import InputError
from ..tiling.frontier import Frontier
from ..tiling.plan import WeavePlan

_HEAD = b'{"displayTimeUnit": "ms", "traceEvents": [\n'
_TAIL = b"\n]}\n"


@dataclass
class _Row:
    """A worker's number in the file, and until when each of its slots held a tile."""

    number: int
    shift: Shift
    ends: list[float] = field(default_factory=list)

    def slot(self, began: float, ended: float) -> int:
        """The slot that was free last before a tile began: tiles are settled in the order in which they end."""
        free = [slot for slot, end in enumerate(self.ends) if end <= began]
        slot = max(free, key=self.ends.__getitem__, default=len(self.ends))
        self.ends[slot : slot + 1] = [ended]
        return slot


class Timeline:
    """Writes the tiles of a run to a file as they are settled; a context."""

    def __init__(self, file: str | PathLike[str]) -> None:
        """Begin the file, over one that there is."""
        path = Path(file)
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--timeline: {path} cannot be written: name a file in a folder that exists")
        self._began = monotonic()
        self._rows: dict[str, _Row] = {}
        self._first = True
        try:
            # Unbuffered: what is written is in the file, however the run ends.
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise InputError(f"--timeline: {path} cannot be written: {error.strerror}") from error
        self._file.write(_HEAD + _TAIL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, reports: Sequence[Report], frontier: Frontier, timesheet: Timesheet) -> None:
        """Write settled tiles of images that the frontier knows."""
        if not reports:
            return
        events = [event for report in reports for event in self._events(report, frontier, timesheet)]
        text = ",\n".join(map(json.dumps, events)).encode()
        self._file.seek(-len(_TAIL), 2)
        # One write, so that a run that is killed leaves a whole file.
        self._file.write((b"" if self._first else b",\n") + text + _TAIL)
        self._first = False

    def _events(self, report: Report, frontier: Frontier, timesheet: Timesheet) -> Iterator[dict[str, Any]]:
        row = self._rows.get(report.worker)
        if row is None:
            shift = next(shift for shift in timesheet.shifts if shift.name == report.worker)
            row = self._rows[report.worker] = _Row(len(self._rows) + 1, shift)
            yield _event("M", "process_name", row.number, 0, args={"name": f"{shift.name} on {shift.node}"})
        # By the worker's own clock as near as that is known; what never told a time was lost just now.
        began = report.began + row.shift.clock - self._began if report.seconds else monotonic() - self._began
        number, slot = row.number, row.slot(began, began + report.seconds)
        plan = frontier.plan(report.image)
        key = plan.key(report.tile) if isinstance(plan, WeavePlan) else None
        told = {"image": frontier.name(report.image), "tile": report.tile, "outcome": report.outcome.value}
        if key:
            told |= key._asdict()
        name = f"{told['image']}: {key or f'tile {report.tile}'}"
        yield _event("X", name, number, slot, **_times(began, report.seconds), args=told)
        yield from (
            _event("X", part, number, slot, **_times(since, seconds))
            for part, since, seconds in _parts(report, began)
            if seconds
        )


def _parts(report: Report, began: float) -> Iterator[tuple[str, float, float]]:
    """(name, beginning, seconds) of what a tile's time went into."""
    computing = report.seconds - report.reading - report.writing
    yield "reading", began, report.reading
    yield "computing", began + report.reading, computing if report.calls else 0.0
    yield "writing", began + report.reading + computing, report.writing


def _event(phase: str, name: str, process: int, thread: int, **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"ph": phase, "name": name, "pid": process, "tid": thread, **facts}


def _times(since: float, seconds: float) -> dict[str, float]:
    """When and how long, in microseconds."""
    return {"ts": round(1e6 * since, 1), "dur": round(1e6 * seconds, 1)}
