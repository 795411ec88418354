"""Files that start a cluster: written once, commented, then the user's own. Nothing here loads Ray."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from textwrap import indent

from .. import __version__
from ..tiling.errors import InputError

_PLACE = re.compile(r"(?P<margin> *)\{\{(?P<name>\w+)\}\}")
# Both clouds' machines with so many GPUs of one kind (NVIDIA L4); 0 is a machine that computes on its CPUs.
_MACHINES = {
    "aws": {0: "c7i.4xlarge", 1: "g6.2xlarge", 4: "g6.12xlarge", 8: "g6.48xlarge"},
    "gcp": {0: "c3-standard-22", 1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
}
_ZONES = {"aws": "us-west-2a", "gcp": "us-central1-a"}
# What Ray needs on the head to start machines there.
_PACKAGES = {"aws": '"boto3>=1.35" ', "gcp": '"google-api-python-client>=2.150" "cryptography>=43" '}
CPUS_A_GPU, GIB_A_GPU = 4, 16
"""What a worker pod asks for; a worker reads, writes and feeds its GPU."""


class Target(StrEnum):
    """Where a cluster runs."""

    LOCAL = "local"
    AWS = "aws"
    GCP = "gcp"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a user decides about a cluster.

    ``workers``: least and most nodes that compute tiles, ``gpus`` of each. ``data``: the folder that all nodes share:
    an NFS export, a path that every machine of one's own has, or the name of a Kubernetes claim. ``hosts``: machines
    of one's own, the head first. What a target has no use for is None or empty.
    """

    target: Target
    image: str
    name: str
    workers: tuple[int, int]
    gpus: int
    data: str
    hosts: tuple[str, ...] = ()
    instance: str | None = None
    zone: str | None = None
    project: str | None = None
    redis: str | None = None


def cluster_files(layout: Layout) -> dict[str, str]:
    """Name and content of every file that starts such a cluster."""
    values = _values(layout)
    if layout.target is Target.KUBERNETES:
        values["gcs"] = _gcs(layout, values)
        values["spec"] = fill(_template("spec.yaml"), values)
        names = {name: name for name in ("raycluster.yaml", "rayjob.yaml", "data.yaml")}
    else:
        values |= {"options": _template("options.yaml"), "ray_up": _template("ray-up.yaml")}
        names = {"cluster.yaml": f"{layout.target}.yaml"}
    written = {name: fill(_template(template), values) for name, template in names.items()}
    return {**written, "Dockerfile": fill(_template("Dockerfile"), values), "constraints.txt": constraints()}


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template with every ``{{name}}`` replaced; a value of several lines keeps the margin of its place."""

    def value(place: re.Match[str]) -> str:
        text = values[place["name"]].rstrip("\n")
        return indent(text, place["margin"]) if "\n" in text else place["margin"] + text

    return _PLACE.sub(value, template)


def write_files(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Write all of the files or none; one that is there already is never overwritten."""
    paths = [folder / name for name in contents]
    for path in paths:
        if path.exists():
            raise InputError(f"--out: {path} is there already; name another folder or move the file away")
    begun: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            with path.open("x", encoding="utf-8") as file:
                begun.append(path)
                file.write(content)
    except OSError as error:
        for path in begun:
            path.unlink()
        raise InputError(f"--out: {folder} cannot be written ({error.strerror}); name a folder that can be") from error
    return paths


def constraints() -> str:
    """The versions that this release was tested with."""
    return files(__package__.rpartition(".")[0]).joinpath("constraints.txt").read_text(encoding="utf-8")


def default_instance(target: Target, gpus: int) -> str:
    """A machine of a cloud with so many GPUs."""
    machines = _MACHINES[target]
    if gpus not in machines:
        known = ", ".join(map(str, machines))
        raise InputError(f"--instance is needed for {gpus} GPUs on {target}: only {known} have a default machine")
    return machines[gpus]


def default_zone(target: Target) -> str:
    """The zone of a cloud that is as good as any other."""
    return _ZONES[target]


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _values(layout: Layout) -> dict[str, str]:
    least, most = layout.workers
    pins = dict(line.split("==") for line in constraints().splitlines() if "==" in line)
    zone = layout.zone or ""
    return {
        "name": layout.name,
        "image": layout.image,
        "least": str(least),
        "most": str(most),
        "gpus": str(layout.gpus),
        "gpu": str(min(1, layout.gpus)),
        "processes": str(max(1, most) * max(1, layout.gpus)),
        "gpu_option": "--gpus=all" if layout.gpus else "",
        "cpus": str(_cpus(layout)),
        "memory": str(GIB_A_GPU * max(1, layout.gpus)),
        "data": layout.data,
        "head": f'"{next(iter(layout.hosts), "")}"',
        "hosts": ", ".join(f'"{host}"' for host in layout.hosts[1:]),
        "instance": layout.instance or "",
        "zone": zone,
        # us-west-2a is a zone of us-west-2, us-central1-a one of us-central1.
        "region": zone[:-1].rstrip("-"),
        "project": layout.project or "",
        "version": __version__,
        "ray": pins["ray"],
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "packages": _PACKAGES.get(layout.target, ""),
    }


def _cpus(layout: Layout) -> int:
    """CPUs of a worker: what Google's types have at the end of their names, else what its GPUs need."""
    told = re.search(r"-(\d+)$", layout.instance or "")
    return int(told[1]) if told else CPUS_A_GPU * max(1, layout.gpus)


def _gcs(layout: Layout, values: Mapping[str, str]) -> str:
    """The head's state in Redis; without one, how it would be, as a comment."""
    options = fill(_template("gcs.yaml"), {**values, "redis": layout.redis or "redis:6379"})
    if layout.redis:
        return f"# The head's state is kept in Redis: a head that is lost comes back and finds its nodes.\n{options}"
    told = (
        "# To have a lost head come back and find its nodes, keep its state in Redis, with its password in a secret:\n"
    )
    return told + indent(options, "# ")
