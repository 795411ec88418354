"""A golden file, and what comparing with it came to."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Compared:
    """How far an array is off, and how far it may be, in the same measure."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self):
        # An error that is no number is none that is small enough.
        return self.error <= self.tolerance

    @property
    def share(self):
        """The error in units of the tolerance; infinite for one that is no number, or that should be 0."""
        if self.ok and not self.tolerance:
            return 0.0
        return self.error / self.tolerance if self.tolerance and np.isfinite(self.error) else np.inf


class Golden:
    """The arrays of a ``.npz`` file by name; it knows which of them nobody asked for."""

    def __init__(self, file):
        with open(file, "rb") as raw, np.load(raw) as opened:
            self._arrays = {name: opened[name] for name in opened.files}
        self.name, self._folder = Path(file).stem, Path(file).parent
        self.unread = set(self._arrays)

    def __contains__(self, name):
        return name in self._arrays

    def __iter__(self):
        return iter(self._arrays)

    def stored(self, name):
        """An array as the file has it; this does not count as a use."""
        return self._arrays[name]

    def __getitem__(self, name):
        """An array; half precision only stores what was drawn in it, and is computed with in float32."""
        self.unread.discard(name)
        array = self._arrays[name]
        return array.astype(np.float32) if array.dtype == np.float16 else array

    @cached_property
    def config(self):
        return json.loads(str(self["config_json" if "config_json" in self else "config"]))

    def beside(self, stem):
        """Another file of the same folder; None where there is none."""
        file = self._folder / f"{stem}.npz"
        return Golden(file) if file.exists() else None

    def tensor(self, name):
        return torch.from_numpy(self[name])

    def optional(self, name):
        return self.tensor(name) if name in self else None

    def state_dict(self, prefix):
        """The tensors of one network, by its own names."""
        return {name.removeprefix(prefix): self.tensor(name) for name in self if name.startswith(prefix)}

    def absolute(self, name, ours, tolerance, unit=1.0):
        """The largest difference from an array, in units of 1 or of what is given along it."""
        return Compared(name, _largest(ours, self[name], unit), tolerance)

    def of_its_largest(self, name, ours, tolerance):
        """The largest difference from an array, as a share of the array's largest value (of 1 where all are 0)."""
        return Compared(name, _largest(ours, self[name]) / (float(np.abs(self[name]).max()) or 1.0), tolerance)

    def relative(self, name, ours, tolerance):
        """The largest difference from an array, each as a share of the value itself (of 1 where that is 0)."""
        expected = self[name]
        return Compared(name, _largest(ours, expected, np.where(expected == 0, 1, np.abs(expected))), tolerance)

    def truncated(self, name, ours, tolerance):
        """Whole numbers cut from ours, which must lie in the step that each of them names.

        They may differ by one wherever rounding crosses a whole number.
        """
        theirs = self[name].astype(np.float64)
        if ours.shape != theirs.shape:
            return Compared(name, np.inf, tolerance)
        ours = ours.clip(0, np.iinfo(self[name].dtype).max)
        return Compared(name, _largest(ours, ours.clip(theirs, theirs + 1)), tolerance)

    def words(self, name, ours):
        """Words compare by how many of them differ."""
        theirs = self[name]
        differ = np.inf if theirs.shape != (len(ours),) else np.count_nonzero(theirs != np.array(ours))
        return Compared(name, float(differ), 0)

    def each(self, measure, ours, *how):
        """What comes of those arrays, by name, that the file has."""
        return [getattr(self, measure)(name, value, *how) for name, value in ours.items() if name in self]

    def exact(self, name, ours):
        """Whole numbers."""
        return self.absolute(name, ours, 0)

    def compared(self, name, error, tolerance=0):
        """Something that was counted."""
        return Compared(name, error, tolerance)

    def count(self, name, facts, walk):
        """What the config says of how many transitions a walk has."""
        ours = {"n_transitions": walk.calls + walk.undos, "n_reverse": walk.calls, "n_undo": walk.undos}
        off = [abs(ours[key] - said) for key, said in facts.items() if key in ours]
        return Compared(f"{name} counts", max(off, default=0), 0)


def _largest(ours, expected, scale=1.0):
    ours = np.asarray(ours)
    if ours.shape != expected.shape:
        return np.inf
    return float(np.max(np.abs(ours.astype(np.float64) - expected.astype(np.float64)) / scale, initial=0.0))
