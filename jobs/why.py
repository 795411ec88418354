"""What the unfinished tiles of an output wait for: as the run says that goes on, or what would be next if none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..tiling.place import Place
from .archive import LEFT, Register, is_archive, stored_archive
from .compile import compile_job
from .look import Phase, job_status, open_state, stored_job
from .manifest import Manifest
from .now import Now, read_now
from .phases import new_frontier
from .state import JobState, tile_states

# Tiles or images that are named as the next.
_NAMED = 3


@dataclass(frozen=True)
class Why:
    """The last sign of life of a run, and if none goes on what would be next."""

    now: Now | None
    next: list[str]

    @property
    def running(self) -> bool:
        """Whether a run goes on, as far as can be known."""
        return self.now is not None and self.now.alive

    def lines(self) -> Iterator[str]:
        """What goes on, for a person."""
        now = self.now
        if now and self.running:
            yield f"running: {now.who}: {now.phase}"
            if now.looked_ago:
                yield f"looked: {now.looked_ago} ago"
            if now.pulse:
                yield f"pace: {now.pulse}"
            yield from (f"waits: {line}" for line in now.waits)
            yield from (f"said: {line}" for line in now.said)
            return
        yield f"nobody runs it; the last run did not end by itself: {now.who}" if now else "nobody runs it"
        yield from (f"next: {line}" for line in self.next)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        now = self.now and self.now.as_json() | {"age": round(self.now.age, 1)}
        return {"running": self.running, "now": now, "next": self.next}


def why(output: Place) -> Why:
    """What an output's tiles wait for."""
    now = read_now(output)
    if now is None:
        # One image of an archive, whose run is that of all.
        now = next((read_now(folder) for folder in output.parents[:1] if is_archive(folder)), None)
    if now and now.alive:
        return Why(now, [])
    return Why(now, list(_next_images(output) if is_archive(output) else _next_tiles(open_state(output))))


def _next_images(output: Place) -> Iterator[str]:
    state = stored_archive(output)
    manifest = Manifest(state.manifest)
    ended = Register(output, state.generation).ended(manifest)
    left = [int(number) for number in manifest.order() if ended[number] in LEFT]
    if not left:
        yield "nothing is left to do"
        return
    names = ", ".join(manifest[number].id for number in left[:_NAMED])
    yield f"{len(left)} images are left, first {names}"


def _next_tiles(state: JobState) -> Iterator[str]:
    bits, status = state.bits(), job_status(state)
    if bits is None or status.phase is not Phase.RESTORING:
        yield "nothing is left to do" if status.phase is Phase.DONE else status.phase.value
        return
    spec = stored_job(state)
    image = compile_job(spec, contract=state.contract).image
    frontier = new_frontier(spec)
    frontier.add(image.name, image.plan, state=tile_states(bits, state.ledger()))
    yield from frontier.why()
    yield f"first {', '.join(str(image.plan.key(tile)) for _, tile in frontier.take(_NAMED))}"
