"""Looks on at a run, and tells of it: its watcher, whoever asks for its status, and its timeline."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic, time
from types import TracebackType
from typing import Self

from ..cluster.executor import Executor
from ..cluster.worker import Outcome, Report
from ..tiling.errors import StoreError
from ..tiling.frontier import Frontier
from ..tiling.patience import impatient
from ..tiling.place import Place
from .now import EVERY_SECONDS, Now, forget_now, write_now
from .pace import STEPS, Pace, Pulse
from .progress import Watcher
from .timeline import Timeline

# Seconds after which a sign is repeated where nothing else happens, as in a long task of this very process.
_BEAT = EVERY_SECONDS
# Seconds that the end of a run waits at most for its sign to be taken away.
_PARTING = 5.0
# Seconds between two looks at the pace.
_LOOK = 1.0
# What is kept for whoever asks: messages, and lines on what is waited for, of an archive one an image.
_SAID, _WAITS = 5, 20
# Above all of the program's own loggers.
_LOGGER = "tileloom"


class Lookout:
    """A run's watcher that keeps in mind how far it is; a context, which the run's sign of life lasts as long as."""

    def __init__(self, watcher: Watcher, output: Place, *, timeline: Timeline | None = None) -> None:
        """Nothing has begun yet."""
        self._watcher, self._output, self._timeline = watcher, output, timeline
        self._said: deque[str] = deque(maxlen=_SAID)
        self._waits: list[str] = []
        self._phase = "starting"
        self._listener = _Listener(self.say)
        self._work: tuple[Executor, Frontier] | None = None
        self._pulse: Pulse | None = None
        self._pace = Pace()
        self._looked = self._noted = self._signed = 0.0
        self._noted_at: float | None = None
        self._steps = self._stepped = 0
        self._signing, self._over = Lock(), Event()
        self._beats = Thread(target=self._beat, name="sign of life", daemon=True)
        self.tiles = 0
        """Tiles that were finished in this run."""
        self.retries = 0
        """Tries of tiles that failed."""

    def __enter__(self) -> Self:
        logging.getLogger(_LOGGER).addHandler(self._listener)
        self._sign()
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger(_LOGGER).removeHandler(self._listener)
        self._over.set()
        self._beats.join(_PARTING)

    def begin(self, phase: str, total: int, *, unit: str) -> None:
        """A phase of ``total`` pieces begins."""
        self._phase, self._pulse = f"{phase}, {total} {unit}", None
        self._steps, self._stepped = total if unit == STEPS else 0, 0
        self._watcher.begin(phase, total, unit=unit)

    def advance(self, count: int, pulse: Pulse | None = None) -> None:
        """So many pieces more are finished; of tiles it is known how the run does."""
        self._stepped += count
        self._watcher.advance(count, pulse)

    def say(self, text: str) -> None:
        """Something that an operator would want to know."""
        self._said.append(text)
        self._watcher.say(text)
        self._sign()

    def work_begins(self, executor: Executor, frontier: Frontier) -> None:
        """There are workers, and a queue."""
        self._work = executor, frontier

    def look(self, reports: list[Report], *, to_come: int = 0) -> Pulse | None:
        """Tiles are settled, or only time has passed; tells now and then how the run does.

        ``to_come`` are tiles of images that have not begun.
        """
        if self._work is None:
            return None
        executor, frontier = self._work
        self.tiles += sum(report.finished for report in reports)
        self.retries += sum(report.outcome is Outcome.FAILED for report in reports)
        self._draw(reports, executor, frontier)
        now, left = monotonic(), frontier.left + to_come + max(0, self._steps - self._stepped)
        # The last tiles are told of at once: nothing comes after them.
        if now - self._looked < _LOOK and (left or not reports):
            return None
        self._looked = now
        if self._steps:
            self._pulse = self._pace.pulse(now, executor.timesheet, tiles=self._stepped, left=left, of=STEPS)
        elif left or reports:
            self._pulse = self._pace.pulse(now, executor.timesheet, tiles=self.tiles, left=left)
        else:
            # What is done between tiles is not their pace.
            self._pulse, self._pace = None, Pace()
        if now - self._noted > EVERY_SECONDS:
            self._noted, self._noted_at = now, time()
            waits = executor.why() + frontier.why()
            more = len(waits) - _WAITS
            self._waits = waits[:_WAITS] + ([f"and {more} more"] if more > 0 else [])
            self._sign()
        return self._pulse

    def _draw(self, reports: list[Report], executor: Executor, frontier: Frontier) -> None:
        if self._timeline is None:
            return
        try:
            self._timeline.add(reports, frontier, executor.timesheet)
        except OSError as error:
            self._timeline = None
            self.say(f"the timeline breaks off here: {error.strerror or error}")

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            if monotonic() - self._signed > _BEAT:
                self._sign()
        # Whatever still writes a sign comes first. In a store that has gone away the last one stays behind, as that
        # of a run that was killed.
        with self._signing, impatient(), suppress(StoreError):
            forget_now(self._output)

    def _sign(self) -> None:
        # An older sign must not come after a newer one, and nobody waits for a store that is slow to take one.
        if not self._signing.acquire(blocking=False):
            return
        try:
            if not self._over.is_set():
                self._signed = monotonic()
                self._write()
        finally:
            self._signing.release()

    def _write(self) -> None:
        now = Now.of_this_process(
            phase=self._phase,
            pulse=self._pulse,
            waits=self._waits,
            said=list(self._said),
            looked=self._noted_at,
        )
        # No reason to end a run: if the store stays away, the next commit will be.
        with impatient(), suppress(StoreError):
            write_now(self._output, now)


class _Listener(logging.Handler):
    """Says what the program logs, which is of stores that are waited for."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self._say(record.getMessage())
