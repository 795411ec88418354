"""Joining a Ray cluster, or starting one on this machine; whatever stands against it is one sentence, said early."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, inf
from socket import create_connection
from typing import Any

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError
from ray.experimental.internal_kv import _internal_kv_get

from ..tiling.errors import InputError
from .executor import CrewSpec

# Seconds in which a cluster or a node has to answer at all.
ANSWER = 5.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# How Ray says that no token was sent; all else that it says of tokens is of wrong ones.
_NO_TOKEN = ("couldn't find", "cannot be opened or is empty", "currently 'disabled'", "Missing authentication token")


def connect(spec: CrewSpec) -> bool:
    """Join the cluster, or start one on this machine; whether this process was not connected before."""
    if ray.is_initialized():
        return False
    try:
        if spec.address is None:
            # Accelerators are those that Ray finds: one that is only claimed would compute on the processor.
            _init("local", num_cpus=max(1, ceil(spec.cpus * spec.workers)), include_dashboard=False)
        else:
            _join(spec.address)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise unreachable(spec.address, error) from None
    try:
        if spec.address is None:
            _refuse_missing_accelerators(spec)
        else:
            _refuse_nodes_without_room(spec)
    except InputError:
        ray.shutdown()
        raise
    return True


def show_token() -> None:
    """Let Ray send the token that is at hand: it does so by itself only to a cluster that it finds by itself."""
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def unreachable(address: str | None, error: Exception) -> InputError:
    """Why there is no cluster to talk to."""
    if isinstance(error, AuthenticationError):
        file = os.environ.get("RAY_AUTH_TOKEN_PATH")
        none = f"wants a token, and none is at hand{f' in {file}' if file else ''}"
        what = none if any(words in str(error) for words in _NO_TOKEN) else "does not know the token that is at hand"
        return InputError(
            f"the cluster at {address} {what}: put the cluster's own into ~/.ray/auth_token, or name its file in "
            "RAY_AUTH_TOKEN_PATH, and leave RAY_AUTH_MODE unset"
        )
    where = f"the cluster at {address} cannot be reached" if address else "Ray cannot be started here"
    return InputError(f"{where} ({last_line(error)}): check the address, and that the cluster is up")


def last_line(error: BaseException) -> str:
    """The last line of what an error says, without colours: where Ray puts the cause."""
    lines = [line.strip().rstrip(".") for line in COLOURS.sub("", str(error)).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


def refuse_silence(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try again for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        with create_connection((host, int(port)), timeout=ANSWER):
            pass


def _init(address: str, **options: Any) -> None:  # noqa: ANN401  Ray's own
    """Ray's own start, which would take over SIGTERM; how a run ends is not its to say."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _join(address: str) -> None:
    if "://" in address:
        raise ValueError("a job joins a cluster from one of its nodes, by HOST:PORT or auto")
    refuse_silence(address)
    # Asked first, as Ray would try a token that is wrong for 20 seconds, and not say that it is; and asked without one,
    # as a driver that has a token refuses what nodes without tell it, and takes all its workers for dead.
    at = canonicalize_bootstrap_address_or_die(address)
    try:
        told = get_cluster_metadata(GcsClient(address=at))
    except AuthenticationError:
        show_token()
        told = get_cluster_metadata(GcsClient(address=at))
    theirs, ours = (told["ray_version"], told["python_version"]), (ray.__version__, platform.python_version())
    if theirs != ours:
        raise InputError(
            f"the cluster at {address} has Ray {theirs[0]} and Python {theirs[1]}, here are Ray {ours[0]} and Python "
            f"{ours[1]}, and they must be the same: run the job in the cluster's own image, or submit it"
        )
    _init(address)


def _refuse_missing_accelerators(spec: CrewSpec) -> None:
    there = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if spec.gpus * spec.workers > there:
        raise InputError(
            f"cluster.gpus asks for {spec.gpus * spec.workers:g} accelerators in all, and this machine has {there:g}: "
            "ask for fewer workers, or for a share of one each"
        )


def _refuse_nodes_without_room(spec: CrewSpec) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]

    def grows() -> bool:
        told = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}").get("autoscaler_report")
        return may_grow(told and told["active_nodes"], [node["NodeID"] for node in nodes])

    refuse_workers_without_room(spec, [node["Resources"] for node in nodes], grows=grows, where=str(spec.address))


def refuse_workers_without_room(
    spec: CrewSpec, nodes: Sequence[Mapping[str, float]], *, grows: Callable[[], bool], where: str
) -> None:
    """Refuse workers for which no node's resources suffice, on a cluster to which no other nodes come."""
    large = [node for node in nodes if node.get("CPU", 0) >= spec.cpus and node.get("GPU", 0) >= spec.gpus]
    # A node that does not say what memory it has may have any.
    if any(node.get("memory", inf) >= spec.memory for node in large) or grows():
        return
    if large:
        there = ", ".join(sorted({_gigabytes(node["memory"]) for node in large}))
        raise InputError(
            f"a worker needs about {_gigabytes(spec.memory)} of memory, and no node of the cluster at {where} that has "
            f"its CPUs and GPUs has so much ({there}): lower batch, lanes or tile, or add a larger node"
        )
    there = ", ".join(sorted({f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes}))
    raise InputError(
        f"a worker needs {spec.cpus:g} CPUs and {spec.gpus:g} GPUs, and no node of the cluster at {where} has "
        f"so many ({there}): ask for less with cluster.cpus and cluster.gpus, or add a node"
    )


def may_grow(active: Iterable[str] | None, nodes: Iterable[str]) -> bool:
    """Whether nodes may come by themselves, by the names of the ``active`` node types that an autoscaler tells.

    Those of a cluster without node types are named after the nodes themselves. A dashboard spells names its own way.
    """
    return active is None or not {_plain(f"node_{node}") for node in nodes} >= set(map(_plain, active))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
