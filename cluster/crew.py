"""The actors of a job on a Ray cluster: started, heard, watched over and replaced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import RayError, RaySystemError, RayTaskError, RuntimeEnvSetupError

from ..tiling.errors import TileloomError, lacks_memory
from ..tiling.frontier import Item, Pool
from .classes import Description, differences, pool_of
from .connect import COLOURS, connect, last_line, refuse_silence
from .executor import Batches, CrewSpec, MakeWork
from .nodes import draining, kinds_of
from .timesheet import Shift, Timesheet
from .usage import Activity, Doing

# Seconds after which whoever listens looks up although nothing was heard.
TICK = 0.5
# Calls that one look hears at most.
_MANY = 64
# Seconds without any worker after which that is said, and then again.
_QUIET = 10.0
# Seconds of silence after which a worker is asked what it is about, and then again.
_SILENT = 20.0
# Seconds that the processes of a dying node may take to go one after the other.
_GRACE = 0.5
# The label by which Ray tells nodes apart.
_NODE = "ray.io/node-id"
# What Ray says of an actor that it had put, or was about to put, on a node that went.
_WITH_NODE = "because its node has died"
# Both are read when torch loads, which is once an actor unpickles what makes its work.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


@dataclass(eq=False)
class Hand:
    """An actor and what it was given: tiles, calls by method and the moment they were made, ``images`` it knows.

    Where the job takes workers of any numeric class, its ``pool`` is that of its own.
    ``heard`` and ``used`` are when it last answered and last had something to do, ``leaving`` since when it goes.
    One that was silent for a while is ``asked`` what it is about, which is ``doing`` until it is heard again.
    """

    name: str
    actor: Any
    calls: dict[Any, tuple[str, float]] = field(default_factory=dict)
    held: set[Item] = field(default_factory=set)
    shift: Shift | None = None
    slots: int = 0
    pool: Pool = None
    images: set[int] = field(default_factory=set)
    heard: float = 0.0
    used: float = field(default_factory=monotonic)
    leaving: float | None = None
    asked: float = 0.0
    doing: Doing | None = None

    @property
    def node(self) -> str:
        """The node it is on; empty words as long as it has no place."""
        return self.shift.node if self.shift else ""

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  Ray's own type has no name
        """Start a call; what it comes to is heard later."""
        made = getattr(self.actor, method).remote(*arguments)
        self.calls[made] = method, monotonic()
        return made

    def under_way(self, method: str) -> int:
        """Calls of a method that have not come back."""
        return sum(called == method for called, _ in self.calls.values())

    @property
    def working(self) -> bool:
        """Whether it has something to do."""
        return any(self.under_way(method) for method in ("advance", "do", "weave"))


@dataclass(frozen=True)
class Heard:
    """What a call came to; a chore may have raised an ``error``."""

    hand: Hand
    call: Any
    told: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Lost:
    """An actor that is gone with its calls; ``alone``: it died by itself, not with its node, nor was it let go."""

    hand: Hand
    alone: bool
    reason: str


class Crew:
    """As many actors as there is work for, within what a job asks for; all of one numeric class, unless any will do.

    ``wanted`` is how many of each pool the work at hand could use, None being those of whichever. Those beyond it are
    let go when they have rested for a while, so that their nodes go, and are hired again as actors that wait for a
    place, so that nodes come. Which pool one will be of is known once it is there.
    """

    description: Description

    def __init__(
        self,
        make_work: MakeWork,
        spec: CrewSpec,
        *,
        batches: Batches,
        say: Callable[[str], None],
        actor: Any,  # noqa: ANN401  Ray's classes have no type
    ) -> None:
        """Connect, start one worker, and with the batch that it has the others; ``actor`` is Ray's class of them."""
        self._make_work, self._spec, self._say, self._actor = make_work, spec, say, actor
        self.batches = dict(batches)
        self.classes: dict[Pool, Description] = {}
        self._numbers = count(1)
        self._deaths = 0
        self._hiring = 0.0
        self._manned = self._said = monotonic()
        self._going: set[str] = set()
        self._complaints: set[str] = set()
        self.wanted: Mapping[Pool, int] = {None: 1}
        self._looked = monotonic()
        self._needed: dict[Pool, float] = {}
        self.timesheet = Timesheet()
        self.hands: list[Hand] = []
        self._late: dict[Any, Hand] = {}
        self._started = connect(spec)
        try:
            self._least, self._most = 1, 1
            while not any(hand.slots for hand in self.hands):
                list(self.listen())
            self._most = spec.workers
            self._least = self._most if spec.least is None else min(spec.least, self._most)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the actors, and Ray if it was started for this job."""
        try:
            for hand in self.hands:
                if hand.shift:
                    hand.shift.ended = monotonic()
                with suppress(RayError, ValueError):
                    ray.kill(hand.actor)
        finally:
            if self._started:
                ray.shutdown()

    @property
    def complete(self) -> bool:
        """Whether every hand that has a place can be given work, so that none is about to look for some."""
        return all(hand.slots for hand in self.hands if hand.node and hand.leaving is None)

    @property
    def ready(self) -> list[Hand]:
        """The hands that have their network and can be given work."""
        return [hand for hand in self.hands if hand.slots and hand.leaving is None]

    @property
    def favoured(self) -> list[Hand]:
        """Those of them that are given work: no more than can use it, so that the others come to rest."""
        room = {pool: max(self._least, wanted) for pool, wanted in self.wanted.items()}
        if not self.classes:
            return self.ready[: room.get(None, 0)]
        return [hand for hand in self.ready if _seated(hand, room)]

    @property
    def _staying(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.leaving is None]

    @property
    def _wanted(self) -> int:
        spare, missing = self._compared()
        # Those of other pools keep nobody from coming who could be of the right one, as many as that wants at most.
        asked = sum(self.wanted.values()) + min(sum(count for pool, count in spare.items() if pool), missing)
        return max(self._least, min(asked, self._most))

    def _compared(self) -> tuple[Counter[Pool], int]:
        """How many of each pool stay that are not wanted, and how many are wanted but not there, or not yet."""
        room = dict(self.wanted)
        spare = Counter(hand.pool for hand in self._staying if hand.pool and not _seated(hand, room))
        missing = sum(room.values())
        coming = sum(not hand.pool for hand in self._staying)
        return spare + Counter({None: coming - missing}), missing

    def listen(self) -> Iterator[Heard | Lost]:
        """What calls have come to since, and who was lost or let go; whoever was lost is replaced."""
        while len(self._staying) < self._wanted and monotonic() >= self._hiring:
            self.hands.append(self._hired())
        calls = {call: hand for hand in self.hands for call in hand.calls}
        asked = [*calls, *self._late]
        if not asked:
            sleep(TICK)
        done, _ = ray.wait(asked, num_returns=1, timeout=TICK) if asked else ([], [])
        if done:
            done, _ = ray.wait(asked, num_returns=min(len(asked), _MANY), timeout=0)
        for call in self._late.keys() & set(done):
            self._heard_late(call)
        # An actor that died is first heard of by the call that waits all the time: what it did before comes first.
        for call in sorted(calls.keys() & set(done), key=lambda call: calls[call].calls[call][0] == "watch"):
            if calls[call] in self.hands:
                yield from self._heard(calls[call], call)
        for hand in list(self.hands):
            if self._overdue(hand):
                yield self._lose(hand, f"a call took more than {self._spec.patience:g} s")
        if monotonic() - self._looked > TICK:
            self._looked = monotonic()
            self._ask_the_silent()
            self._heed_drains()
            yield from self._let_go()
        self._wait_for_capacity()

    def _hired(self) -> Hand:
        spec, name = self._spec, f"worker {next(self._numbers)}"
        needs: dict[str, Any] = {"num_cpus": spec.cpus, "num_gpus": spec.gpus}
        if self._going:
            needs["label_selector"] = {_NODE: f"!in({','.join(sorted(self._going))})"}
        needs["runtime_env"] = {"env_vars": _ENVIRONMENT}
        actor = self._actor.options(**needs).remote(name, self._make_work, spec.drain_url)
        hand = Hand(name, actor)
        hand.call("where")
        return hand

    def _heed_drains(self) -> None:
        """Tell the hands on nodes that Ray is draining to save their tiles."""
        doomed = draining()
        for hand in self.hands:
            if hand.node in doomed and hand.leaving is None:
                hand.call("drain")
                self._must_go(hand, "its node is draining")

    def _let_go(self) -> Iterator[Lost]:
        """Strike off those that must go and have saved their tiles, or had the time to, and those that rested long."""
        now, spec = monotonic(), self._spec
        for hand in list(self.hands):
            if hand.working:
                hand.used = now
            if hand.leaving is not None and (not hand.working or now - hand.leaving > spec.drain_seconds):
                yield self._strike_off(hand, "its machine goes")
        staying, (spare, _) = self._staying, self._compared()
        self._needed |= {hand.pool: now for hand in staying if not spare[hand.pool]}
        most = len(staying) - self._least
        rested = [
            hand for hand in reversed(staying) if now - max(hand.used, self._needed.get(hand.pool, 0)) > spec.idle
        ]
        for hand in rested:
            if spare[hand.pool] > 0 and most > 0:
                spare[hand.pool] -= 1
                most -= 1
                yield self._strike_off(hand, "there is nothing for it to do")

    def _must_go(self, hand: Hand, reason: str) -> None:
        hand.leaving = monotonic()
        self.timesheet.lost[reason] += 1
        self._say(f"{hand.name} goes and is replaced: {reason}")

    def _strike_off(self, hand: Hand, reason: str) -> Lost:
        self.hands.remove(hand)
        self._late.update((call, hand) for call, (method, _) in hand.calls.items() if method == "advance")
        if hand.shift:
            hand.shift.ended = monotonic()
        with suppress(RaySystemError):
            # Raised of an actor that was not made yet when its node went.
            ray.kill(hand.actor)
        return Lost(hand, alone=False, reason=reason)

    def _heard(self, hand: Hand, call: Any) -> Iterator[Heard | Lost]:  # noqa: ANN401  Ray's own type has no name
        method, _ = hand.calls[call]
        heard = monotonic()
        # What is answered beside the work tells nothing of it.
        if method not in ("doing", "give", "post", "drain"):
            hand.heard, hand.doing = heard, None
        failed: Exception | None = None
        try:
            told = ray.get(call)
        except RayTaskError as error:
            own = _own(error, hand)
            # Memory lacks for all images alike.
            if method != "do" or lacks_memory(error.cause) or lacks_memory(own):
                raise own from error
            told, failed = None, own
        except RayError as error:
            if getattr(error, "actor_init_failed", False) or isinstance(error, RuntimeEnvSetupError):
                raise TileloomError(f"{hand.name} cannot be started: {last_line(error)}") from error
            # The call stays among the hand's, so that whoever hears of the loss knows what was lost.
            yield self._lose(hand, " ".join(str(error).split()))
            return
        del hand.calls[call]
        if method == "where":
            hand.shift = Shift(hand.name, told.node)
            self.timesheet.begin(hand.shift, kinds_of(told.node))
            hand.shift.told(hand.shift.usage, told.now, heard)
            hand.call("load", self.batches)
            hand.call("watch")
            self._complain(told.problem)
        elif method == "watch":
            if told.with_machine:
                self._going.add(hand.node)
            if hand.leaving is None:
                self._must_go(hand, told.reason)
        elif method == "load":
            self._loaded(hand, told)
        elif method == "doing":
            hand.doing = told
        elif method not in ("give", "post", "drain"):
            if hand.shift and told:
                hand.shift.told(told.usage, told.now, heard)
            yield Heard(hand, call, told, failed)

    def _heard_late(self, call: Any) -> None:  # noqa: ANN401  Ray's own type has no name
        """What somebody had done who was struck off since: it counts, and others do it again all the same."""
        hand, heard = self._late.pop(call), monotonic()
        # Most such calls end with their actor, and whatever they raise is nobody's concern any more.
        with suppress(RayError):
            told = ray.get(call)
            self.timesheet.late += len(told.reports)
            if hand.shift:
                hand.shift.told(told.usage, told.now, heard)

    def _loaded(self, hand: Hand, description: Description) -> None:
        """A worker has its network: the first one says what all must be, unless they may be of any class."""
        if self.batches.setdefault(description.device, description.batch) != description.batch:
            # Several began on such devices at once, and their trials came out otherwise.
            hand.call("load", self.batches)
            return
        if not hasattr(self, "description"):
            self.description = description
        if self._spec.classes == "any":
            hand.pool = pool_of(description.numeric_class)
            self.classes.setdefault(hand.pool, description)
        elif other := differences(self.description.numeric_class, description.numeric_class):
            raise TileloomError(
                f"{hand.name} on node {hand.node[:8]} computes otherwise than the others ({other}), and bytes "
                "would depend on who does what: give the job workers of one kind, or let it take those of any with "
                "cluster.classes"
            )
        hand.slots, hand.used = description.slots, monotonic()

    def _overdue(self, hand: Hand) -> bool:
        """Whether a call takes longer than any may; one that waits for a place on the cluster does not count."""
        made = [made for method, made in hand.calls.values() if method != "watch"]
        if not hand.node or not made:
            return False
        return monotonic() - max(hand.heard, min(made)) > self._spec.patience

    def _lose(self, hand: Hand, reason: str) -> Lost:
        """Strike a hand off; one that died by itself counts as a death."""
        going = hand.leaving is not None or _WITH_NODE in reason
        # Whoever never had a place did not die of anything.
        alone = not going and bool(hand.node) and _stands(hand.node)
        self._hiring = monotonic() + (0 if hand.node else TICK)
        self._deaths += alone
        reason = _brief(reason)
        if hand.leaving is None:
            self.timesheet.lost[reason] += 1
        if self._deaths > self._spec.restarts:
            raise TileloomError(
                f"workers died {self._deaths} times, which is more than restarts allows ({self._spec.restarts}); "
                f"the last one: {reason}"
            )
        self._say(f"{hand.name} was lost {'' if alone else 'with its node '}and is replaced: {reason}")
        return replace(self._strike_off(hand, reason), alone=alone)

    def forgive(self, deaths: int) -> None:
        """Deaths for which a tile or a chore was found guilty, which has a cap of its own, use up no restarts."""
        self._deaths -= deaths

    def _ask_the_silent(self) -> None:
        """Ask those that work and have said nothing for a while what they are about."""
        now = monotonic()
        for hand in self.hands:
            if hand.slots and hand.working and now - max(hand.heard, hand.asked) > _SILENT:
                hand.asked = now
                hand.call("doing")

    def why(self) -> list[str]:
        """What workers wait for, and what those are about of whom nothing was heard for a while."""
        placeless = sum(not hand.node for hand in self.hands)
        loading = sum(bool(hand.node) and not hand.slots for hand in self.hands)
        return [
            *([f"{_workers(placeless)} waiting for a node: {self._lacks()}"] if placeless else []),
            *([f"{_workers(loading)} loading the network"] if loading else []),
            *(_silence(hand, hand.doing) for hand in self.hands if hand.doing),
        ]

    def _complain(self, problem: str) -> None:
        """Say of the address that should tell when machines go what is wrong with it, once."""
        if problem and problem not in self._complaints:
            self._complaints.add(problem)
            self._say(problem)

    def _wait_for_capacity(self) -> None:
        """Say that nobody works, and after a while give up."""
        now = monotonic()
        if not self._wanted or any(hand.node for hand in self.hands):
            self._manned = self._said = now
        elif now - self._manned > self._spec.capacity:
            raise TileloomError(f"no worker could be had for {self._spec.capacity:g} s: {self._lacks()}")
        elif now - self._said > _QUIET:
            self._said = now
            self._say(f"waiting for a worker: {self._lacks()}")

    def _lacks(self) -> str:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return (
            f"each needs {self._spec.cpus:g} CPUs and {self._spec.gpus:g} GPUs, the cluster has "
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs in all"
        )


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _silence(hand: Hand, doing: Doing) -> str:
    """What a worker is about that has not been heard for a while."""
    where = {Activity.READING: " from the store", Activity.WRITING: " to the store"}.get(doing.activity, "")
    told = f"{hand.name} on node {hand.node[:8]} was {doing.activity}{where} for {doing.seconds:.0f} s when last asked"
    return f"{told}: {doing.said}" if doing.said else told


def _seated(hand: Hand, room: dict[Pool, int]) -> bool:
    """Whether there is room for a hand in its own pool or among those of whichever, which it then takes."""
    for pool in dict.fromkeys((hand.pool, None)):
        if room.get(pool, 0) > 0:
            room[pool] -= 1
            return True
    return False


def _brief(reason: str) -> str:
    """The telling sentence of what Ray says of a loss, which is a page."""
    reason = COLOURS.sub("", reason)
    told = re.search(r"(?:The actor died because|Worker exit detail:|The actor is temporarily) [^.]+", reason)
    return told[0] if told else reason.partition(". ")[0]


def _stands(node: str) -> bool:
    """Whether a node is up. Ray takes a while to notice that one is gone, so it is asked itself, twice."""
    told = {one["NodeID"]: one for one in ray.nodes()}.get(node)  # type: ignore[no-untyped-call]
    for pause in (0.0, _GRACE):
        sleep(pause)
        if told is None or not told["Alive"]:
            return False
        try:
            refuse_silence(f"{told['NodeManagerAddress']}:{told['NodeManagerPort']}")
        except OSError:
            return False
    return True


def _own(error: RayTaskError, hand: Hand) -> Exception:
    """What was raised on the worker, as it was raised there."""
    cause = error.cause
    if isinstance(cause, TileloomError | OSError):
        return cause
    return TileloomError(f"{hand.name} failed: {type(cause).__name__}: {last_line(cause)}")
