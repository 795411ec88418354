"""``make soak``: archives on a cluster of this machine whose drivers, workers and nodes are killed at random,
workers also with a warning, so that they save their tiles.

Every kill is printed, from a seed. When an archive is finished, its tiles and files are compared with those of a run
that nobody disturbed. The last line says what was lost (tiles that are not done), doubled (tiles, shards or images that
were committed twice) and torn (files with other bytes).
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from ray.cluster_utils import Cluster

from tests.house import ROOT
from tests.images import write_tiff
from tests.pipeline import scene
from tileloom.jobs.archive import Register, load
from tileloom.jobs.progress import Silent
from tileloom.jobs.run_archive import run_archive
from tileloom.tiling.ledger import Ledger, Status

IMAGES = 4
NODES = 2
JOB = {
    "manifest": "images.csv",
    "output": "out",
    "task": "sr:2",
    "tile": 16,
    "steps": 20,
    "batch": 2,
    "lanes": 1,
    "levels": 1,
    "model": {"name": "gaussian", "length": 4.0},
    "publish": {"chunk": 32, "shard": 64},
}
KINDS = {"worker": 5, "driver": 3, "node": 2, "warned worker": 3}


def make_archive(folder):
    """Images of unequal size, and what becomes of them where nobody disturbs."""
    for at in range(IMAGES):
        pixels = np.rint(127 * (scene(3, 40 + 12 * at, 52, seed=at) + 1)).astype(np.uint8)
        write_tiff(folder / f"{at}.tif", pixels)
    (folder / "images.csv").write_text("id,input\n" + "".join(f"image-{at},{at}.tif\n" for at in range(IMAGES)))
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    run_archive(load(folder / "job.yaml"), Silent())
    (folder / "out").rename(folder / "expected")


class Soak:
    """One cluster, and the process that drives it."""

    def __init__(self, folder, seed):
        self._folder, self._random = folder, random.Random(seed)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._addresses = count(2)
        self._nodes = [self._node() for _ in range(NODES)]
        self._driver = None
        self._began = time.monotonic()
        self.kills = Counter()

    def _node(self):
        # Each has an address of its own, so that no driver takes one of them for its own machine and dies with it.
        return self._cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{next(self._addresses)}")

    def close(self):
        if self._driver:
            self._driver.kill()
            self._driver.wait()
        self._cluster.shutdown()

    def drive(self):
        """Begin the archive, or go on with it."""
        options = {"workers": NODES, "cpus": 1, "address": self._cluster.address, "restarts": 10_000, "capacity": 300}
        asked = [text for key, value in options.items() for text in (f"--cluster-{key}", str(value))]
        command = [sys.executable, "-m", "tileloom.jobs.cli", "--debug", "run", str(self._folder / "job.yaml"), *asked]
        with (self._folder / "log").open("a") as log:
            self._driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def weave(self, until):
        """One archive from beginning to end; nobody is killed once the time is over."""
        self.drive()
        while True:
            pause = self._random.uniform(3, 20)
            if self._ended(pause):
                if self._driver.returncode == 0:
                    return
                raise SystemExit(f"the driver ended with {self._driver.returncode}:\n{self._said()}")
            if time.monotonic() < until:
                self.strike(self._random.choices(list(KINDS), KINDS.values())[0])

    def _said(self):
        return "\n".join((self._folder / "log").read_text().splitlines()[-60:])

    def _ended(self, seconds):
        try:
            self._driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def strike(self, kind):
        """Kill one of a kind; what is not there just now cannot be."""
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
            victim = f"driver {self._driver.pid}"
            self.drive()
        elif kind == "node":
            node = self._nodes.pop(self._random.randrange(len(self._nodes)))
            self._cluster.remove_node(node, allow_graceful=False)
            victim = f"node {node.node_id[:8]}"
            self._nodes.append(self._node())
        else:
            while not (workers := sorted(actors(os.getpid()))):
                if self._ended(0.5):
                    return
            pid = self._random.choice(workers)
            os.kill(pid, signal.SIGKILL if kind == "worker" else signal.SIGTERM)
            victim = f"{kind} {pid}"
        self.kills[kind] += 1
        print(f"{time.monotonic() - self._began:7.1f} s  killed {victim}", flush=True)


def actors(ancestor):
    """Processes of workers that descend from a process."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::TileActor"):
                named.append(int(entry.name))
        except (ValueError, OSError):
            # It is no process, or is none any more.
            continue
    for pid in named:
        above = pid
        while above and above != ancestor:
            above = parents.get(above, 0)
        if above:
            yield pid


def faults(output, expected):
    """What is lost, doubled and torn in an archive."""
    found = Counter(lost=0, doubled=0, torn=0)
    images = Counter(record.id for record in Register(output, 0).records())
    found["doubled"] += sum(count - 1 for count in images.values())
    for right in sorted(expected.glob("*.zarr")):
        ours = output / right.name
        tiles = tiles_of(ours)
        wanted = tiles_of(right)
        found["lost"] += sum(tile not in tiles for tile in wanted)
        found["doubled"] += sum(count - 1 for count in tiles.values())
        theirs = pixels_of(right)
        mine = pixels_of(ours)
        found["torn"] += sum(mine.get(name) != data for name, data in theirs.items())
        found["torn"] += len(mine.keys() - theirs.keys())
    return found


def tiles_of(output):
    """How often each tile of an image was committed as done."""
    [ledger] = output.glob(".tileloom/*/ledger")
    return Counter(entry.tile for entry in Ledger(ledger).entries() if entry.status is Status.DONE)


def pixels_of(output):
    """Every file of the published image and of its working arrays, by its place."""
    files = [file for file in output.rglob("*") if file.is_file() and "ledger" not in file.parts]
    own = [file for file in files if ".tileloom" not in file.parts or "canvas-0" in file.parts]
    return {str(file.relative_to(output)): file.read_bytes() for file in own}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # A token of the user's is not for this cluster, which has none: with it, drivers and workers would not talk.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    total, archives = Counter(lost=0, doubled=0, torn=0), 0
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with TemporaryDirectory() as place:
        folder = Path(place)
        make_archive(folder)
        soak = Soak(folder, options.seed)
        until = time.monotonic() + 60 * options.minutes
        try:
            while time.monotonic() < until:
                soak.weave(until)
                found = faults(folder / "out", folder / "expected")
                archives += 1
                total += found
                print(f"archive {archives}: {dict(found)}", flush=True)
                shutil.rmtree(folder / "out")
        finally:
            soak.close()
    kills = ", ".join(f"{soak.kills[kind]} {kind}s" for kind in KINDS)
    told = ", ".join(f"{total[what]} {what}" for what in ("lost", "doubled", "torn"))
    print(f"{archives} archives, killed: {kills}; {told}")
    return 1 if total.total() else 0


if __name__ == "__main__":
    sys.exit(main())
