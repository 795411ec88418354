"""A real autoscaler of Ray on one machine: nodes are processes, made and ended as demand says."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

HEAD = "f" * 51 + "00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
NODE_TYPE = "tile.node"


@contextmanager
def autoscaled(*, most, idle_seconds):
    """The address of a cluster whose head computes nothing, with up to ``most`` nodes of one CPU."""
    folder = Path(tempfile.mkdtemp(prefix="tl"))
    port, client_port = free_ports(2)
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling(f"127.0.0.1:{port}", most=most, idle_seconds=idle_seconds)))
    own = {
        **{"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        **{"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD, "RAY_CLOUD_INSTANCE_ID": HEAD},
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # A Ray that was started by this process has settled how it talks to every other one.
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
    }
    words = [
        *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=0", f"--port={port}"),
        *("--node-ip-address=127.0.0.1", f"--ray-client-server-port={client_port}", "--include-dashboard=false"),
        *("--disable-usage-stats", "--object-store-memory=80000000"),
        *(f"--temp-dir={folder}", f"--autoscaling-config={config}"),
    ]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(words, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    try:
        until_listening(head, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        end(head, folder)
        shutil.rmtree(folder, ignore_errors=True)


def autoscaling(address, *, most, idle_seconds):
    provider = {"type": "external", "module": PROVIDER, "launch_multiple": True}
    nothing = {"node_config": {}, "resources": {}, "min_workers": 0, "max_workers": 0}
    return {
        "cluster_name": "tiles",
        "max_workers": most,
        "idle_timeout_minutes": idle_seconds / 60,
        "upscaling_speed": 10,
        "provider": provider | {"gcs_address": address, "head_node_id": HEAD},
        "available_node_types": {
            "ray.head.default": nothing,
            NODE_TYPE: nothing
            | {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "max_workers": most}
            | {"labels": {"machine": "spot.small"}},
        },
        "head_node_type": "ray.head.default",
        **{"auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": []},
        **{"head_start_ray_commands": [], "worker_start_ray_commands": [], "setup_commands": []},
        **{"initialization_commands": [], "head_setup_commands": [], "worker_setup_commands": []},
    }


def free_ports(count):
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


def until_listening(head, port, log):
    while head.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(log.read_text())


def end(head, folder):
    """End the head, then whatever still runs out of this cluster's own folder."""
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(20)
    left = [head.pid, *processes_of(folder)]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.wait()


def processes_of(folder):
    """Ray's processes each name the folder that they work in."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                    yield int(entry.name)
