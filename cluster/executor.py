"""Executors turn a frontier of tiles into committed results; every one of them must give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..tiling.frontier import Frontier, Item, Verdict
from ..tiling.ledger import Entry, Ledger, Status
from ..tiling.plan import WeavePlan
from .worker import Outcome, Prior, Report, Ticket, Worker


@dataclass
class ImageRun:
    """What the driver holds of one image while it runs: never a pixel."""

    plan: WeavePlan
    ledger: Ledger
    degraded: set[int] = field(default_factory=set)
    priors: Callable[[int], tuple[Prior, ...]] = lambda _: ()


@dataclass
class RunReport:
    """What a run did: tiles by how they ended, and failed tries."""

    done: int = 0
    inherited: int = 0
    degraded: int = 0
    failures: int = 0


class Executor(Protocol):
    """Runs a frontier to its end."""

    def run(
        self, frontier: Frontier, images: Mapping[int, ImageRun], *, on_reports: Callable[[list[Report]], None]
    ) -> RunReport:
        """Hand out tiles, commit what comes back, until nothing is left or an image was stopped."""
        ...


class LocalExecutor:
    """One worker in this process: the oracle that every other executor must equal."""

    def __init__(self, worker: Worker[Any]) -> None:
        """Drive ``worker``."""
        self._worker = worker

    def run(
        self, frontier: Frontier, images: Mapping[int, ImageRun], *, on_reports: Callable[[list[Report]], None]
    ) -> RunReport:
        """Hand out tiles, commit what comes back, until nothing is left or an image was stopped."""
        report = RunReport()
        while not frontier.idle or frontier.leased:
            tickets = [ticket(item, images) for item in frontier.take(self._worker.free)]
            reports = self._worker.advance(tickets)
            settle(reports, frontier, images, report)
            on_reports(reports)
        return report


def ticket(item: Item, images: Mapping[int, ImageRun]) -> Ticket:
    """What a worker is told of a tile."""
    image, tile = item
    run = images[image]
    degraded = tuple(other for other in run.plan.reads(tile) if other in run.degraded) if run.degraded else ()
    return Ticket(image, tile, degraded, run.priors(tile))


def settle(reports: Iterable[Report], frontier: Frontier, images: Mapping[int, ImageRun], total: RunReport) -> None:
    """Commit settled tiles, then let the frontier free their dependants, so that none starts on what could be lost."""
    entries: dict[int, list[Entry]] = {}
    finished: list[Item] = []
    for report in reports:
        item = (report.image, report.tile)
        run = images[report.image]
        if report.outcome is not Outcome.FAILED:
            total.done += report.outcome is Outcome.DONE
            total.inherited += report.outcome is Outcome.INHERITED
            entries.setdefault(report.image, []).append(Entry(report.tile, Status.DONE, report.inputs, report.output))
            finished.append(item)
            continue
        total.failures += 1
        if frontier.failed(item, report.reason) is Verdict.DEGRADED:
            total.degraded += 1
            run.degraded.add(report.tile)
            entries.setdefault(report.image, []).append(Entry(report.tile, Status.DEGRADED, reason=report.reason))
    for image, group in entries.items():
        images[image].ledger.commit(group)
    frontier.done(finished)
