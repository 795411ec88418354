"""What recorded files held, array by array, so that an altered weight shows even where no output depends on it.

A norm of one channel a group takes out whatever bias its input had: such an array can be anything, and a
replay comes to the same. So a file that differs from a recorded one in a single array of weights is an
altered one; files of other seeds differ in many. ``python -m tests.golden.digests FOLDER...`` writes anew.
"""

import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tests.golden.arrays import Golden

RECORDED = Path(__file__).parent / "digests.txt"

WEIGHTS = ("sd.", "csd.")


def digest(array):
    content = blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=4)
    content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def digests_of(golden):
    """Of every array, in the order of their names."""
    return tuple(digest(golden.stored(name)) for name in sorted(golden))


@cache
def recorded():
    """The digests of every recorded file."""
    return [tuple(line.split()[1:]) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


def altered(golden):
    """The one array of weights in which a file differs from a recorded one; None for a recorded file and any other."""
    ours, names = digests_of(golden), sorted(golden)
    if ours in recorded():
        return None
    for theirs in recorded():
        if len(theirs) == len(ours):
            others = [name for name, one, other in zip(names, ours, theirs, strict=True) if one != other]
            if len(others) == 1 and others[0].startswith(WEIGHTS):
                return others[0]
    return None


def main(folders):
    """Write the digests of all files of some folders."""
    files = sorted(file for folder in folders for file in Path(folder).glob("*.npz"))
    lines = [" ".join([file.stem, *digests_of(Golden(file))]) for file in files]
    RECORDED.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
