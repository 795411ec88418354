"""What a run shows to Prometheus, on the metrics page that Ray has on the driver's node; nothing of single tiles."""

from __future__ import annotations

from collections import Counter as Tally
from time import monotonic

from ray.util.metrics import Counter, Gauge

from .timesheet import Timesheet

# Seconds between two looks at the figures: Ray itself passes them on every few seconds.
_EVERY = 1.0


class Metrics:
    """The figures of the run that this process drives, each under ``tileloom_`` and its name."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._told_at = 0.0
        self._before: Tally[str] = Tally()
        self._counters = {
            name: Counter(f"tileloom_{name}", text)
            for name, text in {
                "tiles_done": "Tiles whose pixels were written.",
                "tiles_failed": "Tries of tiles that failed.",
                "network_calls": "Network calls, of one tile each.",
                "workers_lost": "Workers that were lost and replaced.",
            }.items()
        }
        self._gauges = {
            name: Gauge(f"tileloom_{name}", text)
            for name, text in {
                "batch_fill": "Share of batch slots that held a tile, from the beginning of the run.",
                "workers_up": "Workers that have a place on the cluster.",
                "backlog": "Tiles and tasks that wait for a worker.",
            }.items()
        }

    @property
    def due(self) -> bool:
        """Whether it is time to tell."""
        return monotonic() - self._told_at > _EVERY

    def tell(self, timesheet: Timesheet, *, backlog: int) -> None:
        """Pass on what has changed since."""
        self._told_at = monotonic()
        usage = timesheet.usage
        counted = {
            "tiles_done": usage.tiles,
            "tiles_failed": usage.failures,
            "network_calls": usage.calls,
            "workers_lost": timesheet.lost.total(),
        }
        for name, new in (Tally(counted) - self._before).items():
            self._counters[name].inc(new)
        self._before = Tally(counted)
        self._gauges["batch_fill"].set(usage.fill)
        self._gauges["workers_up"].set(len(timesheet.present))
        self._gauges["backlog"].set(backlog)
