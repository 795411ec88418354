"""What stands in an output folder: which job made it, how far it came, and where its working arrays lie.

::

    out.zarr/.tileloom/job.json              the job, what its result depends on, the current generation
    out.zarr/.tileloom/FINGERPRINT-N/        generation N: ledger, survey, coarser inputs, canvases

A redo begins a new generation that takes over what still holds. The earlier ones stay whole until it is
finished, however often it is interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..cluster.worker import Prior
from ..models.contract import Contract
from ..tiling.box import TileKey
from ..tiling.errors import CorruptChunk, InputError
from ..tiling.frontier import TileState
from ..tiling.inputs import KEEPS, OWNS
from ..tiling.ledger import Ledger, Status, fence, salvage
from ..tiling.lock import hold
from ..tiling.patience import impatient
from ..tiling.place import Located, Place, place
from ..tiling.plan import WeavePlan
from ..tiling.store import read_array, write_array, write_json
from .spec import JobSpec

HIDDEN = ".tileloom"
JOB, ARCHIVE, JOURNAL = "job.json", "archive.json", "journal"
DROPPED = "scratch dropped"


@dataclass(frozen=True)
class JobState:
    """The job of an output folder and its current generation.

    ``parts`` is all that decides the result's bytes, by name: the job's fields, digests of the inputs,
    the numeric class of the machine. ``contract`` holds the model's terms, so that to look at a result is
    not to load a model. ``inherits`` names the folders of the earlier generations that this one may
    build on, newest first, until it is finished. ``anew`` tells of the generations that were begun since no worker
    of the numeric class before was there.
    """

    output: Place
    spec: dict[str, Any]
    parts: dict[str, Any]
    contract: Contract
    generation: int = 0
    inherits: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()

    @classmethod
    def load(cls, output: Located) -> Self | None:
        """The job that began this output; None where there is no output yet."""
        output = place(output)
        path = output / HIDDEN / JOB
        # What is most often asked of an output is asked first: stores may be far.
        try:
            content = path.read()
        except (FileNotFoundError, NotADirectoryError):
            cls._refuse_another(output)
            return None
        try:
            stored = json.loads(content)
            contract = Contract.restored(stored["contract"])
            spec, parts, generation = (stored[name] for name in ("spec", "parts", "generation"))
            inherits, anew = tuple(stored["inherits"]), tuple(stored.get("anew", ()))
            return cls(output, spec, parts, contract, generation, inherits, anew)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged: choose another output or remove {output}") from error

    @staticmethod
    def _refuse_another(output: Place) -> None:
        """Refuse an output that holds something other than a job."""
        found = {one.name for one in output.children()}
        # A run that was killed before its job stood leaves its lock, and perhaps half a file.
        if HIDDEN in found and (output / HIDDEN / ARCHIVE).is_file():
            raise InputError(f"{output} holds an archive, which is no result of one image: choose another output")
        if found - {HIDDEN} or (not found and output.is_file()):
            raise InputError(f"{output} exists and is no tileloom result: choose another output or remove it")

    def save(self) -> None:
        """Make this the output's job."""
        write_json(
            self.output / HIDDEN / JOB,
            {
                "spec": self.spec,
                "parts": self.parts,
                "contract": self.contract.stored(),
                "generation": self.generation,
                "inherits": list(self.inherits),
                "anew": list(self.anew),
            },
        )

    def forget(self) -> None:
        """Let the output have no job."""
        (self.output / HIDDEN / JOB).remove()
        self.root.remove()

    @property
    def numeric_class(self) -> Mapping[str, str]:
        """That of the workers of this generation."""
        found: Mapping[str, str] = self.parts["numeric class"]
        return found

    @property
    def fingerprint(self) -> str:
        """The identity of everything that decides the bytes."""
        return blake2b(json.dumps(self.parts, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def root(self) -> Place:
        """Where this generation works."""
        return self.output / HIDDEN / f"{self.fingerprint}-{self.generation}"

    def ledger(self) -> Ledger:
        """What this generation has committed."""
        return Ledger(self.root / "ledger")

    def job(self) -> JobSpec:
        """The job as it was given, with its output where it lies now."""
        return JobSpec.model_validate_json(json.dumps(self.spec | {"output": str(self.output)}))

    def bits(self) -> NDArray[np.uint8] | None:
        """The survey's bits a tile; None before the survey is finished."""
        path = self.root / "survey"
        try:
            return read_array(path).astype(np.uint8) if path.is_file() else None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptChunk(f"the survey {path} is damaged") from error

    def save_bits(self, bits: NDArray[np.uint8]) -> None:
        """Keep the finished survey."""
        write_array(self.root / "survey", bits)

    def tidy(self) -> None:
        """Remove older generations, now that this one is finished."""
        if self.inherits:
            replace(self, inherits=()).save()
        for folder in (self.output / HIDDEN).folders():
            if folder != self.root:
                folder.remove()

    def drop_scratch(self, ledger: Ledger) -> None:
        """Remove the working arrays; ledger and survey stay, so that the job is known to be finished."""
        if not ledger.facts.get(DROPPED):
            ledger.commit(facts={DROPPED: True})
        for folder in self.root.children():
            if folder.name.startswith(("canvas-", "inputs-")):
                folder.remove()


def begun_at(output: Located) -> bool:
    """Whether a folder holds anything to go on with: a job, or an archive."""
    return any((place(output) / HIDDEN / name).is_file() for name in (JOB, ARCHIVE))


@contextmanager
def only_run(output: Located) -> Iterator[None]:
    """Hold the output for one run, until it ends, however it does."""
    output = place(output)
    created = list(takewhile(lambda folder: not folder.exists(), (output, *output.parents)))
    with hold(output / HIDDEN, of=str(output)) as taken_over:
        if taken_over:
            for folder in (output / HIDDEN).folders():
                fence(folder if folder.name == JOURNAL else folder / "ledger")
        try:
            yield
        except BaseException:
            # What cannot be removed now stays: the next run takes no offence.
            with impatient(), suppress(OSError):
                _remove_unbegun(output, created)
            raise


def _remove_unbegun(output: Place, created: list[Place]) -> None:
    """Remove an output that got neither a job nor an archive, and the folders that were made for it."""
    if begun_at(output):
        return
    if created:
        output.remove()
    for folder in created[1:]:
        folder.remove_if_empty()


def fresh_states(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A :class:`TileState` a tile of an image that nothing was done for, from its survey."""
    states = np.full(bits.shape, TileState.BORN, np.uint8)
    states[bits & KEEPS != 0] = TileState.RELAY
    states[bits & OWNS != 0] = TileState.TODO
    return states


def tile_states(bits: NDArray[np.uint8], ledger: Ledger) -> NDArray[np.uint8]:
    """A :class:`TileState` a tile, from the survey and what is committed."""
    states = fresh_states(bits)
    for entry in ledger.entries():
        if entry.status is not Status.PAUSED:
            states[entry.tile] = TileState.DONE if entry.status is Status.DONE else TileState.DEGRADED
    return states


@dataclass(frozen=True)
class DegradedTile:
    """A tile that was given up, where it lies, and why."""

    key: TileKey
    box: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} ({self.box}): {self.reason}"


def degraded_tiles(plan: WeavePlan, ledger: Ledger) -> list[DegradedTile]:
    """What the ledger lists as given up."""
    given_up = ledger.degraded.items()
    return [DegradedTile(plan.key(tile), str(plan.owns(tile)), entry.reason) for tile, entry in given_up]


def earlier_results(state: JobState, count: int) -> Callable[[int], tuple[Prior, ...]]:
    """What earlier generations made of each of ``count`` tiles, newest first; their digests stay on disk."""
    folders = [state.output / HIDDEN / name for name in state.inherits]
    tables = [(str(folder), _digests(folder / "ledger", state.root, count)) for folder in folders]

    def priors(tile: int) -> tuple[Prior, ...]:
        found = ((root, table[tile].tobytes().hex()) for root, table in tables if table[tile].any())
        return tuple(Prior(root, digests[:32], digests[32:]) for root, digests in found)

    return priors


def _digests(ledger: Place, root: Place, count: int) -> NDArray[np.uint8]:
    """(tile, 32): digest of the inputs and hash of the output of what is done, zeros elsewhere; a file, not memory."""
    with root.temporary_file() as file:
        table: NDArray[np.uint8] = np.memmap(file, np.uint8, "w+", shape=(count, 32))
    for entry in salvage(ledger):
        if entry.status is Status.DONE and entry.tile < count:
            table[entry.tile] = np.frombuffer(bytes.fromhex(entry.inputs + entry.output), np.uint8)
    return table


def settings_bytes(parts: Mapping[str, Any]) -> bytes:
    """What decides a tile's bytes besides the pixels it is given; dtype and publish count at publishing only."""
    unread = ("input", "mask", "labels", "instances", "dtype", "publish")
    kept = {name: value for name, value in parts.items() if name not in unread}
    return json.dumps(kept, sort_keys=True).encode()
