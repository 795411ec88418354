"""What a run's workers did and held, as its report tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..cluster.timesheet import Shift, Timesheet
from ..cluster.usage import Activity
from .pace import counted

# Workers of which each has a line of its own where a person reads.
_MOST_LINES = 16


@dataclass(frozen=True)
class WorkerRecord:
    """One worker: how long it was there by the driver's clock, and what it did in that time by its own.

    What it did not tell of, since it had nothing to do or was lost before it could, is ``waiting``.
    """

    name: str
    node: str
    seconds: float
    loading: float
    reading: float
    computing: float
    writing: float
    chores: float
    waiting: float
    tiles: int
    failures: int
    calls: int
    fill: float

    def __str__(self) -> str:
        return (
            f"{self.name} on {self.node[:8]}: {self.seconds:.0f} s, {_shares(self.seconds, asdict(self))}; "
            f"{self.tiles} tiles, {self.calls} network calls, batches {self.fill:.0%} full"
        )


@dataclass(frozen=True)
class Workforce:
    """All workers of a run until now; the cost is known where prices tell it.

    ``restarts`` are the reasons for which workers were lost and replaced, ``late`` are reports on images that had
    ended, which changed nothing.
    """

    workers: list[WorkerRecord]
    node_seconds: float
    worker_seconds: float
    idle_share: float
    cost: float | None
    fill: float
    retries: int
    restarts: dict[str, int]
    late: int

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        told = {name: _rounded(value) for name, value in asdict(self).items() if name != "fill"}
        told["workers"] = [{name: _rounded(value) for name, value in asdict(one).items()} for one in self.workers]
        return told

    def lines(self) -> Iterator[str]:
        """The figures for a person."""
        if not self.workers:
            return
        nodes = len({one.node for one in self.workers})
        cost = "" if self.cost is None else f", cost {self.cost:.2f}"
        times = f"{self.worker_seconds:.0f} s on {self.node_seconds:.0f} s of machines"
        totals = {activity.value: sum(getattr(one, activity) for one in self.workers) for activity in Activity}
        yield (
            f"{counted(len(self.workers), 'worker')} on {counted(nodes, 'node')}: {times}{cost}; "
            f"{_shares(self.worker_seconds, totals)}; batches {self.fill:.0%} full"
        )
        if 1 < len(self.workers) <= _MOST_LINES:
            yield from map(str, self.workers)
        if self.retries:
            yield f"tries of tiles that failed: {self.retries}"
        for reason, often in self.restarts.items():
            yield f"{counted(often, 'worker')} lost and replaced: {reason}"
        if self.late:
            yield f"{counted(self.late, 'report')} came too late to count"


def workforce(timesheet: Timesheet, prices: Mapping[str, float] | None, *, retries: int) -> Workforce:
    """What a run's workers did and held until now; ``retries`` are tries that failed."""
    # Before the workers' own seconds, which go on: those of a machine are not to be more.
    held = sum(timesheet.held.values())
    workers = [_record(shift) for shift in timesheet.shifts]
    seconds = sum(one.seconds for one in workers)
    return Workforce(
        workers=workers,
        node_seconds=held,
        worker_seconds=seconds,
        idle_share=sum(one.waiting for one in workers) / seconds if seconds else 0.0,
        cost=timesheet.cost(prices or {}),
        fill=timesheet.usage.fill,
        retries=retries,
        restarts=dict(timesheet.lost),
        late=timesheet.late,
    )


def _record(shift: Shift) -> WorkerRecord:
    did = asdict(shift.usage) | {"waiting": shift.waiting}
    del did["offered"]
    return WorkerRecord(name=shift.name, node=shift.node, seconds=shift.seconds, fill=shift.usage.fill, **did)


def _shares(seconds: float, did: Mapping[str, Any]) -> str:
    """How a time was spent, what is nothing left out."""
    shares = {activity: did[activity] / seconds if seconds else 0.0 for activity in Activity}
    return ", ".join(f"{share:.0%} {activity}" for activity, share in shares.items() if round(100 * share))


def _rounded(value: Any) -> Any:  # noqa: ANN401  any figure
    return round(value, 4) if isinstance(value, float) else value
