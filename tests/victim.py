"""Runs jobs that die by SIGKILL, at a chosen point of the work or after a chosen time.

One process imports everything once and forks a child a job: it never computes itself, so no thread is
lost in a fork. ``Victims`` is the tests' end of it; the other end reads and answers one line of JSON a job.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.house import ROOT
from tileloom.jobs.archive import Archive, Register
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.run_archive import run_archive
from tileloom.jobs.spec import JobSpec
from tileloom.jobs.state import JobState
from tileloom.models.engine import Engine
from tileloom.models.joint import JointWork
from tileloom.tiling.access import ImageAccess
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.ledger import Ledger
from tileloom.tiling.place import Prefix
from tileloom.tiling.pyramid import Pyramid

# Where a child can be told to die: before or after the n-th call.
POINTS = {
    "job saved": (JobState, "save"),
    "coarser input": (ImageAccess, "lift"),
    "survey": (ImageAccess, "survey"),
    "survey saved": (JobState, "save_bits"),
    "step": (Engine, "step"),
    "chunk": (Canvas, "write"),
    "round": (JointWork, "advance"),
    "saved dropped": (ImageAccess, "drop_saved"),
    "commit": (Ledger, "commit"),
    "segment linked": (os, "link"),
    "object written": (Prefix, "write"),
    "file renamed": (Path, "replace"),
    "pyramid laid out": (Pyramid, "create"),
    "shard": (Pyramid, "_write"),
    "tidied": (JobState, "tidy"),
    "image ended": (Register, "add"),
}


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status (minus the signal, if one killed it), its seconds, the tiles it began."""

    status: int
    seconds: float
    begun: list


class Victims:
    """Starts runs in children of one process that stays."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.victim"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._logs = count()

    def run(self, spec, folder, *, manifest=None, point=None, seconds=None):
        """Run a job, or the archive of a manifest.

        ``point`` is (name, "before" or "after", n), ``seconds`` the time until it is killed.
        """
        log = folder / f"begun-{next(self._logs)}"
        log.touch()
        order = {"spec": spec.model_dump(mode="json"), "manifest": manifest, "log": str(log)}
        order |= {"point": point, "seconds": seconds}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        begun = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
        return Ended(answer["status"], answer["seconds"], begun)

    def close(self):
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve():
    """Fork a child a line, and say how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        child = os.fork()
        if not child:
            _live(order)
        if order["seconds"] is not None:
            time.sleep(order["seconds"])
            # The child is not waited for yet, so that its number is its own even if it has ended.
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "seconds": time.perf_counter() - began}), flush=True)


def _live(order):
    """The child's life: one job, to its end if nothing kills it."""
    status = 1
    try:
        _note_begun_tiles(order["log"])
        if order["point"]:
            _die_at(*order["point"])
        spec = JobSpec.model_validate_json(json.dumps(order["spec"]))
        if order["manifest"]:
            run_archive(Archive(order["manifest"], spec), Silent())
        else:
            run_job(spec, Silent())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _note_begun_tiles(path):
    """Write down every tile whose restoration begins; a line that was written outlives its writer."""
    log, begin = os.open(path, os.O_WRONLY | os.O_APPEND), Engine.begin

    def noted(self, inputs):
        os.write(log, f"{inputs.key.level} {inputs.key.row} {inputs.key.col}\n".encode())
        return begin(self, inputs)

    Engine.begin = noted


def _die_at(name, when, n):
    owner, method = POINTS[name]
    original, calls = getattr(owner, method), count(1)

    def deadly(*args, **options):
        last = next(calls) == n
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, method, deadly)


if __name__ == "__main__":
    _serve()
