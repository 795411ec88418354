"""Several looms in one process: their letters come late, twice and in any order, and any of them may be lost.

Work is whole numbers, so that every sum is exact and any wrong or missing neighbour shows; ``expected`` computes the
same on the whole image at once.
"""

from collections import Counter, deque
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from tileloom.cluster.loom import Loom
from tileloom.cluster.placement import Placement
from tileloom.cluster.usage import Stopwatch
from tileloom.cluster.weaving import Lockstep, Weaving
from tileloom.cluster.worker import Brief
from tileloom.tiling.box import TileKey
from tileloom.tiling.canvas import hash_pixels
from tileloom.tiling.errors import CorruptChunk
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.plan import WeavePlan
from tileloom.tiling.work import Block, TileInputs

MODULUS = 8191
REACH = 2
WINDOW, CELL = 16, 12
BLOCKS = (24, 36, 48)
# Turns after which a run is taken to go on for ever, without anything to be done, or at all.
IDLE, TURNS = 3_000, 400_000


def lattice_of(height, width, block, *, align=1):
    windows = Grid(height, width, WINDOW, CELL, 0, align)
    return Lattice(windows, Grid(height, width, block, block, 0, align, least=WINDOW))


def whole_of(lattice, bands, *, image="image", seed=0):
    """All that is known of a level: whole numbers, measured with some noise."""
    box = lattice.windows.box
    y = np.random.default_rng(seed).integers(0, 100, (bands, *box.shape)).astype(np.float32)
    measured = np.ones(box.shape, bool)
    return TileInputs(image, TileKey(0, 0, 0), box, Measurement(sigma=0.1), y, measured)


def reaching(field):
    """The sum of all values within reach of each; the field's edge, so wide, is lost."""
    height, width = (size - 2 * REACH for size in field.shape[1:])
    shifts = [(down, right) for down in range(2 * REACH + 1) for right in range(2 * REACH + 1)]
    return sum(field[:, down : down + height, right : right + width] for down, right in shifts)


def expected(whole, steps, phases):
    """What a whole level must come to."""
    x, edge = whole.y + 1, ((0, 0), (REACH, REACH), (REACH, REACH))
    for step in range(steps):
        between = x
        for _ in range(phases):
            between = reaching(np.pad(between, edge)) % MODULUS
        x = (between + 3 * x + whole.y + step) % MODULUS
    return x


@dataclass
class Adder:
    """A BlockWork of whole numbers: each round a block adds up what is within reach of its pixels."""

    steps: int = 7
    phases: int = 2
    slots: int = 4
    room: int = 2**30

    def begin(self, lattice, number, inputs, saved, at):
        return Block(lattice, number, inputs, at, inputs.y + 1 if saved is None else saved)

    def calls(self, block):
        return 0 if block.between else len(block.lattice.begun(block.number))

    def strips(self, block):
        [field] = block.between or (block.x,)
        box = block.inputs.box
        seen = {n: block.lattice.box(n).pad(REACH).intersect(box) for n in block.lattice.around[block.number]}
        return {n: (field[:, *part.within(box)].copy(),) for n, part in seen.items()}

    def advance(self, blocks):
        return [self._further(block, strips) for block, strips in blocks]

    def _further(self, block, strips):
        box, level = block.inputs.box, block.lattice.windows.box
        outer = box.pad(REACH)
        # What no strip tells is no number; beyond the level there is nothing.
        field = np.full((len(block.x), *outer.shape), np.nan, np.float32)
        for edge in edges(outer, level):
            field[:, *edge.within(outer)] = 0
        [field[:, *box.within(outer)]] = block.between or (block.x,)
        for n, (part,) in strips.items():
            field[:, *block.lattice.box(n).intersect(outer).within(outer)] = part
        between = reaching(field) % MODULUS
        if (block.round + 1) % self.phases:
            return replace(block, round=block.round + 1, between=(between,))
        x = (between + 3 * block.x + block.inputs.y + block.round // self.phases) % MODULUS
        return replace(block, round=block.round + 1, x=x, between=())


def edges(outer, level):
    """What a box has beyond the level."""
    yield replace(outer, bottom=max(outer.top, level.top))
    yield replace(outer, top=min(outer.bottom, level.bottom))
    yield replace(outer, right=max(outer.left, level.left))
    yield replace(outer, left=min(outer.right, level.right))


class Disk:
    """What all workers share of an image: its inputs, what was saved of its blocks at some step, and the result."""

    def __init__(self, lattice, whole):
        self.lattice, self.whole = lattice, whole
        self.finished, self.kept = {}, {}

    def block(self, tile):
        row, col = self.lattice.place(tile)
        return replace(self.whole.crop(self.lattice.box(tile)), key=TileKey(0, row, col))

    def canvas(self, level):
        return Part(self.lattice, self.finished)

    def saved(self, level, step):
        return Part(self.lattice, self.kept.setdefault(step, {}))

    def drop_saved(self, level, *, before=None):
        for step in [step for step in self.kept if before is None or step < before]:
            del self.kept[step]

    @property
    def result(self):
        box = self.lattice.blocks.box
        found = np.full((len(next(iter(self.finished.values()))), *box.shape), np.nan, np.float32)
        for block, pixels in self.finished.items():
            found[:, *self.lattice.box(block).slices] = pixels
        return found


@dataclass(frozen=True)
class Part:
    """Pixels by block."""

    lattice: Lattice
    pixels: dict

    def write(self, row, col, pixels):
        self.pixels[row * self.lattice.blocks.cols.count + col] = pixels.copy()
        return hash_pixels(pixels)

    def read(self, box):
        [block] = [n for n in range(self.lattice.count) if self.lattice.box(n) == box]
        if block not in self.pixels:
            raise CorruptChunk(f"nothing is saved of {box}")
        return self.pixels[block].copy()


class Book:
    """A ledger in memory."""

    def __init__(self):
        self.facts, self.entries = {}, []

    def commit(self, entries=(), *, facts=None):
        self.entries += entries
        self.facts |= facts or {}


class Holder:
    """A loom with its mail, and a note of every round that it took a block through."""

    def __init__(self, cluster, name):
        self.name, self._cluster = name, cluster
        worker = SimpleNamespace(work=self, watch=Stopwatch(), open=lambda image, brief: None, access=cluster.access)
        self.loom = Loom(worker, cluster.send)
        self.mail, self.news = deque(), deque()

    def __repr__(self):
        return self.name

    def __getattr__(self, name):
        return getattr(self._cluster.work, name)

    def begin(self, *given):
        block = self._cluster.work.begin(*given)
        self._cluster.note(self, block)
        return block

    def advance(self, blocks):
        after = self._cluster.work.advance(blocks)
        for block in after:
            if isinstance(block, Block):
                self._cluster.note(self, block)
        return after


class Scattered(Placement):
    """Gives blocks to holders by chance."""

    def __init__(self, random, *given):
        super().__init__(*given)
        self._random = random

    def _split(self, blocks, holders):
        found = {}
        for block in blocks:
            found.setdefault(holders[self._random.integers(len(holders))], []).append(block)
        return found


class Cluster:
    """A driver and its looms; what happens next is drawn by chance, from a seed."""

    def __init__(self, work, disks, *, looms=1, seed=0, every=2, books=None):
        self.work, self.disks, self.every = work, disks, every
        self.random = np.random.default_rng(seed)
        self.books = books or [Book() for _ in disks]
        self.weavings = []
        for number, (disk, book) in enumerate(zip(disks, self.books, strict=True)):
            image = SimpleNamespace(name="image", lattices=(disk.lattice,), plan=WeavePlan((disk.lattice.blocks,)))
            self.weavings.append(Weaving(number, Lockstep(Brief(image, b""), 0, book, every)))
        self.placement = Scattered(self.random, lambda holder, mail: holder.mail.append(mail), lambda holder: holder)
        self.halos, self.sent = [], Counter()
        self.rounds = []
        self.ahead = 0
        self.holders = [Holder(self, f"loom {n}") for n in range(looms)]
        self.lost, self.stopped = [], set()

    def access(self, image):
        return self.disks[image]

    def note(self, holder, block):
        image = next(n for n, disk in enumerate(self.disks) if disk.whole.image == block.inputs.image)
        weaving = self.weavings[image]
        self.rounds.append((image, block.number, block.round))
        self.ahead = max(self.ahead, block.round - weaving.step * self.work.phases)

    def send(self, peer, halo):
        self.sent[halo.weave, halo.round, halo.source] += halo.nbytes
        self.halos.append((peer, halo))

    @property
    def under_way(self):
        return [weaving for weaving in self.weavings if weaving.left and weaving.weave not in self.stopped]

    def run(self, disturb=lambda cluster: None):
        """To the end of all levels; ``disturb`` may lose holders before every turn."""
        idle = 0
        for _ in range(TURNS):
            disturb(self)
            self.placement.place(self.under_way, self.holders)
            if not self.under_way:
                return self._closed()
            idle = 0 if self._turn() else idle + 1
            assert idle < IDLE, "nothing comes of anything any more"
        raise AssertionError("this goes on for ever")

    def _turn(self):
        """Something that may happen next."""
        holder = self.holders[self.random.integers(len(self.holders))]
        chance = self.random.random()
        if chance < 0.3 and self.halos:
            at = self.random.integers(len(self.halos))
            peer, halo = self.halos[at]
            if self.random.random() < 0.8:
                self.halos.pop(at)
            if peer in self.holders:
                peer.loom.post(halo)
            return True
        if chance < 0.4 and holder.mail:
            holder.loom.post(holder.mail.popleft())
            return True
        if chance < 0.5 and holder.news:
            self._heard(holder.news.popleft())
            return True
        before = len(self.rounds)
        told = holder.loom.advance(0.0)
        if told:
            holder.news.append(told)
        assert holder.loom._shelf._bytes <= self.work.room
        return len(self.rounds) > before

    def _heard(self, news):
        for told in news:
            weaving = self.weavings[told.weave[0]]
            if weaving.left and weaving.heard(told):
                self.placement.settled(weaving)

    def lose(self, *holders):
        """Holders die with all that they hold, and with what they had told nobody."""
        for holder in holders:
            self.holders.remove(holder)
            self.lost.append(set(self.held_by(holder)))
            self.placement.lost(holder)

    def hire(self, count=1):
        """New holders come."""
        self.holders += [Holder(self, f"loom {len(self.lost) + len(self.holders)}") for _ in range(count)]

    def _closed(self):
        """All is delivered, and nobody keeps anything."""
        for peer, halo in self.halos:
            peer.loom.post(halo)
        for holder in self.holders:
            while holder.mail:
                holder.loom.post(holder.mail.popleft())
            holder.loom.advance(0.0)
            shelf = holder.loom._shelf
            assert not holder.loom.busy
            assert not {**shelf._held, **shelf._filed}
            assert not shelf._bytes
        return self

    def held_by(self, holder):
        """(image, block) of all that somebody holds."""
        held = self.placement._held.items()
        return [(image, block) for (image, _), blocks in held for block, at in blocks.items() if at is holder]

    def moment(self):
        """Some number of rounds after which there are some left."""
        rounds = sum(disk.lattice.count for disk in self.disks) * (1 + self.work.steps * self.work.phases)
        return int(self.random.integers(1, 0.95 * rounds))

    @property
    def redone(self):
        """How many rounds more than needed each block was taken through."""
        counts = Counter((image, block) for image, block, _ in self.rounds)
        needed = 1 + self.work.steps * self.work.phases
        return {at: count - needed for at, count in counts.items() if count != needed}


class Losses:
    """Loses holders once so many rounds are behind, as often as it is told, and hires others or none."""

    def __init__(self, *after, count=1, hire=1):
        self._after, self._count, self._hire = list(after), count, hire

    def __call__(self, cluster):
        if self._after and len(cluster.rounds) >= self._after[0]:
            self._after.pop(0)
            chosen = cluster.random.permutation(len(cluster.holders))[: self._count]
            cluster.lose(*[cluster.holders[at] for at in chosen])
            cluster.hire(self._hire)
