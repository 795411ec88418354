"""``python -m tests.golden FOLDER``: replay every golden file of a folder, a line each; exit code 1 on any failure."""

import os
import sys
from pathlib import Path

# Torch reads both when it loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.golden.kinds import files_in, verdict


def main(words):
    """Replay the folder that is named; returns the exit code."""
    if len(words) != 1 or not Path(words[0]).is_dir():
        print("usage: python -m tests.golden FOLDER", file=sys.stderr)
        return 2
    failed = passed = 0
    for file in files_in(words[0]):
        came_to = verdict(file)
        print(came_to, flush=True)
        failed += bool(came_to.problem)
        passed += not came_to.problem
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
