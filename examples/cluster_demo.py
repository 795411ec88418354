"""The demo of a cluster: an archive submitted to a head and two nodes of this machine, one worker killed on the way.

Run it with ``make cluster-demo``. It leaves the results, the report, a timeline for https://ui.perfetto.dev and a
picture of the weave, in which the killed worker's rows end and those of its successor begin.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr
from ray.cluster_utils import Cluster

from tileloom.jobs.archive import load
from tileloom.jobs.compile import compile_job
from tileloom.jobs.manifest import Manifest
from tileloom.models.contract import GaussianSpec
from tileloom.models.gaussian import sample_field
from tileloom.tiling.simulate import Interval
from tileloom.tiling.weave_picture import weave_picture, write_png

FIELD = GaussianSpec(covariance="exponential", length=60, std=0.35, band_correlation=0.85)
IMAGES, SIDE, SCALE, NODES = 6, 512, 4, 2
JOB = {
    "manifest": "images.csv",
    "output": "out",
    "task": f"sr:{SCALE}",
    "tile": 64,
    "steps": 25,
    "model": {"name": "gaussian", **asdict(FIELD)},
}
# Tiles that are done before a worker is killed.
BEFORE = 60


def make_archive(folder: Path) -> Path:
    """Six scenes at a sixteenth of their pixels, their manifest and the job; the job's file."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for at in range(IMAGES):
        scene = np.asarray(sample_field(FIELD, (3, SIDE, SIDE), seed=at))
        small = scene.reshape(3, SIDE // SCALE, SCALE, -1, SCALE).mean(axis=(2, 4))
        pixels = np.rint(127.5 * (small.clip(-1, 1) + 1)).astype(np.uint8)
        array = zarr.create_array(
            folder / f"scene-{at}.zarr", shape=pixels.shape, chunks=pixels.shape, dtype="uint8", dimension_names="cyx"
        )
        array[...] = pixels
    rows = "".join(f"scene-{at},scene-{at}.zarr\n" for at in range(IMAGES))
    (folder / "images.csv").write_text(f"id,input\n{rows}", encoding="utf-8")
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB), encoding="utf-8")
    return folder / "job.yaml"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


@contextmanager
def cluster() -> Iterator[str]:
    """A head that computes nothing and two nodes, all of this machine alone; the address of the dashboard."""
    # A submitted job's python is the one of the cluster's own path; nobody but this machine reaches it.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    head = {"num_cpus": 0, "resources": {"driver": 1}, "include_dashboard": True, "dashboard_port": port}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES):
            made.add_node(num_cpus=1)
        yield f"http://127.0.0.1:{port}"
    finally:
        made.shutdown()


def tileloom(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as a user would give it."""
    print("$ tileloom", *words, flush=True)
    return subprocess.run([str(Path(sys.executable).parent / "tileloom"), *words], capture_output=True, text=True)


def told(*words: str) -> dict[str, Any]:
    """What a command says in JSON; nothing before there is anything to say."""
    said = tileloom(*words, "--json").stdout
    return dict(json.loads(said)) if said else {}


def actors(ancestor: int) -> Iterator[int]:
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


def kill_a_worker(timeline: Path) -> None:
    """Wait until some tiles are done, then kill a worker in the middle of its next ones."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if len(tiles_of(timeline)) >= BEFORE and (workers := sorted(actors(os.getpid()))):
            os.kill(workers[0], signal.SIGKILL)
            print(f"killed worker process {workers[0]}", flush=True)
            return
        time.sleep(0.5)
    raise SystemExit("no worker came to its tiles within five minutes")


def tiles_of(timeline: Path) -> list[dict[str, Any]]:
    """The tiles of a timeline, which is whole JSON after every write."""
    if not timeline.exists():
        return []
    events = json.loads(timeline.read_text(encoding="utf-8"))["traceEvents"]
    return [event for event in events if "tile" in event.get("args", {})]


def picture(timeline: Path, job: Path) -> bytes:
    """Draw who did which tile, and when."""
    archive = load(job)
    manifest = Manifest(archive.manifest)  # type: ignore[union-attr]
    rows = [manifest[at] for at in range(len(manifest))]
    plans = [compile_job(archive.job_of(row)).image.plan for row in rows]  # type: ignore[union-attr]
    numbers = {row.id: at for at, row in enumerate(rows)}
    intervals = [
        Interval(
            worker=event["pid"],
            slot=event["tid"],
            start=event["ts"] / 1e6,
            end=(event["ts"] + event["dur"]) / 1e6,
            image=numbers[event["args"]["image"]],
            tile=event["args"]["tile"],
        )
        for event in tiles_of(timeline)
    ]
    file = timeline.with_name("weave.png")
    write_png(file, weave_picture(intervals, plans, height=480))
    return file.read_bytes()


def main() -> None:
    """Make the archive, submit it, kill a worker, show what came of it."""
    parser = argparse.ArgumentParser(prog="python examples/cluster_demo.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("cluster-demo"), help="the folder of all that is left")
    out = parser.parse_args().out.absolute()
    if out.exists() and any(out.iterdir()) and not (out / "scene-0.zarr").exists():
        parser.error(f"--out is {out}, which holds other things and would be emptied: name another folder")
    job, timeline = make_archive(out), out / "timeline.json"
    with cluster() as address:
        at = ("--address", address)
        print(tileloom("submit", str(job), *at, f"--cluster-workers={NODES}", f"--timeline={timeline}").stdout)
        kill_a_worker(timeline)
        followed = tileloom("logs", "--follow", str(job), *at)
        print(followed.stdout, followed.stderr)
        print(tileloom("list", *at).stdout)
    status = tileloom("status", str(out / "out"))
    print(status.stdout)
    picture(timeline, job)
    if followed.returncode or status.returncode:
        raise SystemExit("the archive is not whole")
    print(f"report: {out / 'out' / '.tileloom' / 'report.json'}\npicture: {out / 'weave.png'}\ntimeline: {timeline}")


if __name__ == "__main__":
    main()
