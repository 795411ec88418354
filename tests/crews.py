"""Workers of any numeric class in this process: Ray's executor and actors as they are, and no Ray between."""

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from unittest.mock import patch

import numpy as np

from tileloom.cluster import ray_executor, tile_actor
from tileloom.cluster.crew import Crew, Hand, Heard, Lost
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.tile_actor import TileActor
from tileloom.cluster.timesheet import Timesheet

EVEN, ODD = "even", "odd"
PLAIN = None


class Forced:
    """A work of another numeric class, and with other bits."""

    def __init__(self, work, kind):
        self._work, self._kind = work, kind
        self.numeric_class = {**work.numeric_class, "kind": kind}

    def __getattr__(self, name):
        return getattr(self._work, name)

    def finish(self, state):
        window = self._work.finish(state)
        return window + np.float32(0.25) if self._kind == ODD else window


@dataclass(frozen=True)
class Forcing:
    """Makes works of a kind."""

    make: object
    kind: str

    def __call__(self, batches=MappingProxyType({})):
        return Forced(self.make(batches), self.kind)


class _Method:
    def __init__(self, calls, method):
        self._calls, self._method = calls, method

    def options(self, **_):
        return self

    def remote(self, *arguments):
        call = object()
        self._calls.append((call, self._method, arguments))
        return call


class _Actor:
    """Does its calls one by one, whenever its crew has it do one."""

    def __init__(self, actor):
        self.calls, self.whole = deque(), actor
        for name in ("give", "advance", "do", "doing", "drain", "load", "post", "weave"):
            setattr(self, name, _Method(self.calls, getattr(actor, name)))


class CrewHere(Crew):
    """Hires workers of the kinds it is told, in that order, and none beyond.

    ``kill`` ends all of a kind, ``drain`` tells all to save their tiles.
    """

    def __init__(self, make_work, spec, *, batches, say, kinds):
        self._make_work, self._spec, self._say = make_work, spec, say
        self.batches, self.classes = dict(batches), {}
        self._numbers, self._kinds = count(1), deque(kinds)
        self._least, self._most, self.wanted = 0, spec.workers, {None: 1}
        self.timesheet, self.hands, self._struck = Timesheet(), [], set()
        self._late, self._needed = {}, {}
        self.hire()

    def hire(self):
        """The next one comes."""
        name, kind = f"worker {next(self._numbers)}", self._kinds.popleft()
        with patch.object(tile_actor, "signal"), patch("logging.Logger.addHandler"):
            actor = TileActor(name, Forcing(self._make_work, kind) if kind else self._make_work)
        hand = Hand(name, _Actor(actor))
        self.hands.append(hand)
        self._loaded(hand, actor.load(self.batches))

    def kill(self, kind):
        """Let all of a kind die before they do another call."""
        self._struck |= {hand for hand in self.hands if f'"kind": "{kind}"' in hand.pool}

    def drain(self):
        for hand in self.hands:
            hand.actor.whole.drain()

    def close(self):
        pass

    def why(self):
        return []

    def listen(self):
        while self._kinds and len(self.hands) < self._wanted:
            self.hire()
        for hand in list(self.hands):
            if hand in self._struck:
                self.hands.remove(hand)
                yield Lost(hand, alone=True, reason="it was struck")
            else:
                yield from self._one_call(hand)

    def _one_call(self, hand):
        while hand.actor.calls:
            call, method, arguments = hand.actor.calls.popleft()
            # Another worker's halo is no call of the crew.
            name, _ = hand.calls.pop(call, ("post", 0.0))
            try:
                told, error = method(*arguments), None
            except Exception as raised:
                told, error = None, raised
            if name == "load":
                self._loaded(hand, told)
            elif name not in ("give", "drain", "doing", "post"):
                yield Heard(hand, call, told, error)
                return


@contextmanager
def crew_of(*kinds):
    """Every run on workers has those of these kinds; gives the crews, the last one of the run that goes on."""
    crews = []

    def crew(make_work, spec, *, batches, say, actor):
        crews.append(CrewHere(make_work, spec, batches=batches, say=say, kinds=kinds))
        return crews[-1]

    with (
        patch.object(ray_executor, "Crew", crew),
        patch.object(RayExecutor, "__exit__", lambda *_: None),
        # Whoever waits for halos keeps the others here from making them.
        patch.object(tile_actor, "TELL_SECONDS", 0.0),
    ):
        yield crews
