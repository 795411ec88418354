"""What recorded files held, so that altered weights show even where no output depends on them.

A norm of one channel a group takes out whatever bias its input had: such an array can be anything, and a
replay comes to the same. So a file that is a recorded one in all but its weights is an altered copy of it.
Of files of other recordings no digest is kept: there, a bias that a norm takes out cannot be noticed.
``python -m tests.golden.digests FOLDER...`` writes anew.
"""

import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tests.golden.arrays import Golden

RECORDED = Path(__file__).parent / "digests.txt"
WEIGHTS = ("sd.", "csd.")


def digests_of(golden):
    """Of all that is no weight, and of the weights."""
    rest, weights = blake2b(digest_size=8), blake2b(digest_size=8)
    for name in sorted(golden):
        array = golden.stored(name)
        digest = weights if name.startswith(WEIGHTS) else rest
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return rest.hexdigest(), weights.hexdigest()


@cache
def recorded():
    """The digest of the weights of every recorded file, by that of the rest."""
    lines = (line.split() for line in RECORDED.read_text(encoding="utf-8").splitlines())
    return {rest: weights for _, rest, weights in lines}


def altered(golden):
    """Whether a file is a recorded one with other weights."""
    rest, weights = digests_of(golden)
    return recorded().get(rest, weights) != weights


def main(folders):
    """Write the digests of all files of some folders."""
    files = sorted(file for folder in folders for file in Path(folder).glob("*.npz"))
    lines = [" ".join([file.stem, *digests_of(Golden(file))]) for file in files]
    RECORDED.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
