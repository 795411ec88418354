"""The commands about clusters: write the files that start one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import click

from .. import __version__
from ..cluster.layout import Layout, Target, cluster_files, default_instance, default_zone, write_files
from ..tiling.errors import InputError
from .commands_look import example

_LABEL = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
_ADDRESS = r"[A-Za-z0-9][-.A-Za-z0-9]*"
# What an option must look like, as its value becomes part of a YAML file and, some of them, of a shell command.
_FORMS = {
    "name": (_LABEL, "up to 40 lower-case letters, digits and dashes, a letter first"),
    "image": (r"[a-z0-9][-\w./:@]*", "the name of an image, such as registry.example.com/me/tileloom:1"),
    "workers": (r"\d+:\d+", "MIN:MAX, such as 0:8"),
    "host": (_ADDRESS, "an address without login, such as 10.0.0.5"),
    "instance": (r"[a-z][-.a-z0-9]*", "a machine type, such as g6.2xlarge"),
    "zone": (r"[a-z]+(-[a-z]+)+-?\d+-?[a-z]", "a zone of the cloud, such as us-west-2a or us-central1-a"),
    "project": (r"[a-z][-a-z0-9.:]*", "the id of a project of Google Cloud"),
    "redis": (_ADDRESS + r":\d+", "ADDRESS:PORT, such as redis:6379"),
}
_DATA = {
    Target.LOCAL: (r"/[-\w./]*", "the path of a folder that every machine has, such as /data"),
    Target.AWS: (_ADDRESS + r":/[-\w./]*", "an NFS export, such as fs-1.efs.us-west-2.amazonaws.com:/"),
    Target.GCP: (_ADDRESS + r":/[-\w./]*", "an NFS export, such as 10.0.0.2:/share"),
    Target.KUBERNETES: (_LABEL, "the name of a claim, such as tileloom-data"),
}
# Options that only some targets have a use for.
_ONLY = {
    "host": (Target.LOCAL,),
    "instance": (Target.AWS, Target.GCP),
    "zone": (Target.AWS, Target.GCP),
    "project": (Target.GCP,),
    "redis": (Target.KUBERNETES,),
}


@click.group(epilog=example("tileloom cluster init kubernetes --out cluster --image registry.example.com/tileloom:1"))
def cluster() -> None:
    """Write the files that start a Ray cluster.

    `tileloom cluster init --help` lists the kinds of clusters.
    """


@cluster.command(
    short_help="Write the files that start a cluster.",
    epilog=example(
        "tileloom cluster init local --out c --image registry.lan/tileloom:1 --host 10.0.0.5 --host 10.0.0.6",
        "tileloom cluster init aws --out c --image me/tileloom:1 --data fs-1.efs.us-west-2.amazonaws.com:/",
        "tileloom cluster init gcp --out c --image me/tileloom:1 --data 10.0.0.2:/share --project my-project",
        "tileloom cluster init kubernetes --out c --image me/tileloom:1 --workers 0:16",
    ),
)
@click.argument("target", type=click.Choice([target.value for target in Target]))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to write them.")
@click.option("--image", required=True, metavar="IMAGE", help="The image to build and run, with its registry.")
@click.option("--name", default="tileloom", show_default=True, metavar="NAME", help="What the cluster is called.")
@click.option("--workers", metavar="MIN:MAX", help="Nodes that compute tiles; 0:4, for local all hosts but the first.")
@click.option("--gpus", type=click.IntRange(0), default=1, show_default=True, metavar="N", help="GPUs of a worker.")
@click.option("--data", metavar="WHERE", help="The folder all nodes share: NFS export, path (local) or claim.")
@click.option("--host", multiple=True, metavar="ADDRESS", help="For local: a machine, the head first; repeatable.")
@click.option("--instance", metavar="TYPE", help="For aws and gcp: the workers' machine type; by the number of GPUs.")
@click.option("--zone", metavar="ZONE", help="For aws and gcp: where it runs; us-west-2a or us-central1-a.")
@click.option("--project", metavar="ID", help="For gcp: the id of the project.")
@click.option("--redis", metavar="ADDRESS:PORT", help="For kubernetes: keep the head's state in this Redis.")
def init(
    *,
    target: str,
    out: Path,
    image: str,
    name: str,
    workers: str | None,
    gpus: int,
    data: str | None,
    host: tuple[str, ...],
    instance: str | None,
    zone: str | None,
    project: str | None,
    redis: str | None,
) -> None:
    """Write commented files that start a cluster on TARGET: local, aws, gcp or kubernetes.

    For local (machines of your own, by SSH), aws and gcp a file for `ray up`; for kubernetes a RayCluster, a RayJob
    and a claim for KubeRay; for each a Dockerfile. They are yours to edit; files that exist are never overwritten.
    """
    where = Target(target)
    one = {"image": image, "name": name, "workers": workers, "data": data, "instance": instance, "zone": zone}
    one |= {"project": project, "redis": redis}
    _check(where, {"host": host} | {option: (text,) for option, text in one.items() if text is not None})
    cloud = where in (Target.AWS, Target.GCP)
    layout = Layout(
        target=where,
        image=image,
        name=name,
        workers=_workers(workers, host[1:]),
        gpus=gpus,
        data=data or _data(where, name),
        hosts=host,
        instance=instance or (default_instance(where, gpus) if cloud else None),
        zone=zone or (default_zone(where) if cloud else None),
        project=project,
        redis=redis,
    )
    for path in write_files(out, cluster_files(layout)):
        click.echo(f"wrote {path}")
    click.echo(f"next, in the source of tileloom {__version__}: {_wheel_command(out)}")
    click.echo(f"then: docker build --tag {image} {quote(str(out))} && docker push {image}")
    click.echo("and then as docs/cluster.md says")


def _check(target: Target, given: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse options that the target has no use for or that do not look like what they are."""
    forms = _FORMS | {"data": _DATA[target]}
    for option, texts in given.items():
        pattern, looks = forms[option]
        for text in texts:
            if target not in _ONLY.get(option, tuple(Target)):
                raise InputError(f"--{option} is for {' and '.join(_ONLY[option])} alone; leave it out for {target}")
            if not re.fullmatch(pattern, text, re.ASCII):
                raise InputError(f"--{option} must be {looks}, not '{text}'")
    hosts = given["host"]
    if target is Target.LOCAL and len(set(hosts)) < max(2, len(hosts)):
        raise InputError("--host is needed for the head and again for every worker, each address once")
    if target is Target.GCP and "project" not in given:
        raise InputError("--project is needed for gcp: the id of the project that the machines run in")


def _workers(text: str | None, hosts: tuple[str, ...]) -> tuple[int, int]:
    """MIN:MAX; without it four machines at most, or all that there are."""
    if text is None:
        return (len(hosts), len(hosts)) if hosts else (0, 4)
    least, most = map(int, text.split(":"))
    if not 1 <= most >= least:
        raise InputError(f"--workers {text}: MAX must be 1 or more, and MIN not above it, such as 0:8")
    if hosts and most > len(hosts):
        raise InputError(f"--workers {text}: there are {len(hosts)} hosts besides the head; name more with --host")
    return least, most


def _data(target: Target, name: str) -> str:
    if target in (Target.AWS, Target.GCP):
        raise InputError(f"--data is needed for {target}: the folder that all nodes share, {_DATA[target][1]}")
    return "/data" if target is Target.LOCAL else f"{name}-data"


def _wheel_command(folder: Path) -> str:
    return f"pip wheel --no-deps --wheel-dir {quote(str(folder.absolute()))} ."
