"""The driver's side of lock-step: which step all blocks of a level have committed, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from ..tiling.frontier import Pool
from ..tiling.ledger import Entry, Ledger, Status
from ..tiling.lockstep import Lattice
from .loom import Weave, Woven
from .worker import Brief, RunReport


@dataclass(frozen=True, eq=False)
class Lockstep:
    """A level whose blocks advance together: resumed with a :class:`RunReport`.

    Every ``every`` steps all of its blocks are saved; ``told`` hears of every step of every block once.
    """

    brief: Brief
    level: int
    ledger: Ledger
    every: int
    told: Callable[[int], None] = lambda _: None

    @property
    def lattice(self) -> Lattice:
        """The level."""
        return self.brief.plan.lattices[self.level]


def saved_step(ledger: Ledger, level: int) -> int:
    """The step of a level that all of its blocks have committed."""
    step: int = ledger.facts.get(_fact(level), 0)
    return step


def _fact(level: int) -> str:
    return f"woven level {level}"


class Weaving:
    """A level under way: what is committed of it, and what is left."""

    def __init__(self, image: int, task: Lockstep, pool: Pool = None) -> None:
        """Go on from the last step that the ledger knows all blocks to have committed, by workers of a pool."""
        self.task, self.pool = task, pool
        self.weave: Weave = image, task.level
        self.step = saved_step(task.ledger, task.level)
        self.left = set(range(task.lattice.count))
        self.report = RunReport()
        self._saved = dict.fromkeys(self.left, self.step)
        self._reached = dict(self._saved)
        task.told(sum(self._reached.values()))
        # Every pixel depends on the whole level, and so on all that the image depends on.
        self._inputs = blake2b(task.brief.settings, digest_size=16).hexdigest()

    @property
    def reached(self) -> Mapping[int, int]:
        """The steps that each block has behind it."""
        return self._reached

    def begin_again(self, blocks: Iterable[int]) -> None:
        """Blocks get a holder, and go on from the step that all have committed, whatever they had saved since.

        No later one is settled before they have saved it again: until then they read what was saved of this one.
        """
        self._saved |= dict.fromkeys(blocks, self.step)

    def heard(self, told: Woven) -> bool:
        """Commit what a worker did; whether all blocks have now committed a later step than before."""
        self.report.calls += told.calls
        self.report.sent += told.sent
        before = sum(self._reached.values())
        self._reached |= {block: max(step, self._reached[block]) for block, step in told.reached.items()}
        self.task.told(sum(self._reached.values()) - before)
        if told.error is not None:
            raise told.error
        self._finish({block: output for block, output in told.finished if block in self.left})
        for block, step in told.saved:
            self._saved[block] = max(step, self._saved[block])
        settled = min(self._saved.values())
        if settled <= self.step:
            return False
        self.task.ledger.commit(facts={_fact(self.task.level): settled})
        self.step = settled
        return True

    def _finish(self, finished: dict[int, str]) -> None:
        first = self.task.brief.plan.plan.tiles(self.task.level).start
        entries = [Entry(first + block, Status.DONE, self._inputs, output) for block, output in finished.items()]
        if entries:
            self.task.ledger.commit(entries)
        self.left -= finished.keys()
        self.report.done += len(finished)
