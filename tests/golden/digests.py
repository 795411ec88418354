"""What recorded files held, so that what was altered shows even where no output depends on it.

A norm of one channel a group takes out whatever bias its input had: such an array can be anything, and a
replay comes to the same. So a file that is a recorded one in all but its weights is an altered copy of it.
Of files of other recordings no digest is kept: there, a bias that a norm takes out cannot be noticed.
``python -m tests.golden.digests FOLDER...`` writes anew.
"""

import re
import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tests.golden.arrays import Golden

RECORDED = Path(__file__).parent / "digests.txt"
# Weights, uniform draws of which only counts whether they are small, instances where a network is told no edges of
# them, words beside settings, and noise of last steps.
UNSEEN = ("sd.", "csd.", "sd/", "drop_u_", "instance", "config_json", "z_64")


def digests_of(golden):
    """Of all that outputs show, and of what they may not."""
    rest, unseen = blake2b(digest_size=8), blake2b(digest_size=8)
    for name in sorted(golden):
        array = golden.stored(name)
        digest = unseen if name.startswith(UNSEEN) else rest
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    # Weights in files of their own belong to a recording by what they made of it, and by which of them they are.
    found = re.fullmatch(r"(.*)_weights(_\d+)?", golden.name)
    made = golden.beside(f"{found[1]}_unet" if found[2] else f"{found[1]}_unet_window") if found else None
    if found and made is not None:
        rest.update("".join([*digests_of(made), found[2] or ""]).encode())
    return rest.hexdigest(), unseen.hexdigest()


@cache
def recorded():
    """The digest of what is unseen in every recorded file, by that of the rest."""
    lines = (line.split() for line in RECORDED.read_text(encoding="utf-8").splitlines())
    return {rest: unseen for _, rest, unseen in lines}


def altered(golden):
    """Whether a file is a recorded one with other weights, or other draws that nothing depends on."""
    rest, unseen = digests_of(golden)
    return recorded().get(rest, unseen) != unseen


def main(folders):
    """Write the digests of all files of some folders."""
    files = sorted(file for folder in folders for file in Path(folder).glob("*.npz"))
    lines = [" ".join([file.stem, *digests_of(Golden(file))]) for file in files]
    RECORDED.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
