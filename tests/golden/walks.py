"""The way of a recorded run through its schedule, and the noise it drew on that way."""

import numpy as np

from tests.golden.recorded import RecordedNoise
from tileloom.models.schedule import Schedule, betas, jump_times, respace, space_timesteps

TOTAL = 1000
TABLE, SINGLE = 1e-12, 1e-6


class Respaced:
    """The walk of a file by its settings, and the draws that the product numbers along it.

    ``known`` says that known pixels are noised too, but for the first step.
    """

    def __init__(self, golden, *, known=False):
        jump = dict(golden.config["jump"])
        self.golden, self.known = golden, known
        timesteps = space_timesteps(TOTAL, golden.config["respace"])
        times = jump_times(jump.pop("t_T"), **jump)
        self.schedule = Schedule(respace(betas("linear", TOTAL), timesteps), timesteps, times)

    def compared(self):
        yield from self.golden.each("exact", {"times": self.schedule.times, "timestep_map": self.schedule.timesteps})
        yield from self.golden.each("relative", {"betas": self.schedule.betas}, TABLE)

    def draws(self, *, begins=True):
        """(kind, index, number) of every draw of one tile, in the order of the recorded programs."""
        found = [("init", -1, 0)] if begins else []
        for position, (kind, i) in enumerate(self.schedule.transitions()):
            found.append(("step" if kind == "reverse" else "undo", i, position + 1))
            if self.known and kind == "reverse" and position:
                found.append(("known", i, len(self.schedule.times) + position))
        return found

    @property
    def reverse(self):
        return [i for kind, i in self.schedule.transitions() if kind == "reverse"]


class Strided:
    """The same for the DDIM form: every so many of a thousand steps, its noise named by original timesteps."""

    def __init__(self, golden):
        travel = golden.config["time_travel"]
        count = travel["T_sampling"]
        self.golden, self.stride = golden, TOTAL // count
        timesteps = tuple(range(0, count * self.stride, self.stride))
        times = jump_times(count, jump_length=travel["travel_length"], jump_n_sample=travel["travel_repeat"])
        self.schedule = Schedule(respace(betas("linear", TOTAL), timesteps), timesteps, times)

    def compared(self):
        yield from self.golden.each("exact", {"times": self.schedule.times})
        yield from self.golden.each("relative", {"betas": betas("linear", TOTAL)}, SINGLE)

    def draws(self):
        """(kind, original timestep, number) of every draw."""
        walked = enumerate(self.schedule.transitions(), start=1)
        found = [("step" if kind == "reverse" else "undo", i * self.stride, number) for number, (kind, i) in walked]
        return [("init", -1, 0), *found]


def numbered(golden, boxes, drawn):
    """The recorded noise by image, box and number, and how the file's own account of it compares.

    ``drawn`` has the draws of each box; the images of a batch draw at the same time.
    """
    noise = golden.tensor("noise")
    expected = [(kind, i, tile) for tile, draws in enumerate(drawn) for kind, i, _ in draws]
    if len(noise) != len(expected):
        raise ValueError(f"noise has {len(noise)} draws, and the run takes {len(expected)}")
    kinds, indices, tiles = zip(*expected, strict=True)
    account = golden.each("words", {"noise_kind": kinds})
    account += golden.each("exact", {"noise_t": indices, "noise_tile": tiles})
    taken = [(box, number) for box, draws in zip(boxes, drawn, strict=True) for _, _, number in draws]
    by_place = {}
    for (box, number), batch in zip(taken, noise, strict=True):
        for image, draw in enumerate(batch):
            by_place.setdefault((str(image), box), {})[number] = draw
    return RecordedNoise(golden.name, by_place), account


def walked(golden, walk, tiles):
    """Which reverse steps a file says were made, and of which tiles."""
    steps = np.tile(walk.reverse, tiles)
    return golden.each("exact", {"trace_t": steps, "trace_tile": np.repeat(np.arange(tiles), len(walk.reverse))})
