"""What `tileloom cluster init` writes passes Ray's own checks and KubeRay's schemas, and is what its comments say."""

import gzip
import json
import re
import shlex
import subprocess
import sys

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_command

from tests.commandline import files_in, tileloom
from tests.house import PROJECT, ROOT
from tileloom import __version__
from tileloom.cluster.layout import Layout, Target, cluster_files, constraints, fill

# The operator's definitions, closed; a clone does not bring them along, and without them only Ray's reading is tested.
SCHEMAS = {file.name.partition(".")[0]: file for file in (ROOT.parent / "shared" / "kuberay").glob("*.schema.json.gz")}
IMAGE = "registry.example.com/me/tileloom:1"
NEEDED = {
    "local": ["--host", "10.0.0.5", "--host", "10.0.0.6", "--host", "10.0.0.7"],
    "aws": ["--data", "fs-1.efs.us-west-2.amazonaws.com:/"],
    "gcp": ["--data", "10.0.0.2:/share", "--project", "my-project"],
    "kubernetes": [],
}
BY_RAY_UP = ("local", "aws", "gcp")
SHAPES = [[], ["--workers", "2:2", "--gpus", "0"], ["--name", "null", "--gpus", "4", "--image", "a"]]


@pytest.fixture
def written(tmp_path, capfd):
    """Run `cluster init` into a new folder; its files, those of YAML as what they say."""

    def run(target, *options):
        said = tileloom(capfd, *command(target, tmp_path / "out", *options))
        assert (said.code, said.errors) == (0, []), said
        texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
        return {name: yaml.safe_load(text) if name.endswith(".yaml") else text for name, text in texts.items()}

    return run


def command(target, out, *options):
    return ["cluster", "init", target, "--out", out, "--image", IMAGE, *NEEDED[target], *options]


def started(config, who):
    """The options of `ray start` on the head or on a worker, as a click context has them."""
    line = shlex.split(config[f"{who}_start_ray_commands"][-1])
    assert line[:2] == ["ray", "start"]
    with ray_command.commands["start"].make_context("start", line[2:]) as context:
        return context.params


def pods(spec):
    """(the group, its pod) of every group, the head's first."""
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [(group, group["template"]["spec"]) for group in groups]


# --- for ray up ---


@pytest.mark.parametrize("shape", SHAPES, ids=" ".join)
@pytest.mark.parametrize("target", BY_RAY_UP)
def test_ray_up_accepts_what_is_written(written, target, shape):
    config = written(target, *shape)["cluster.yaml"]
    validate_config(prepare_config(config))


@pytest.mark.parametrize("change", [{"idle_minutes": 5}, {"max_workers": "4"}, {"head_node_type": "heads"}])
def test_rays_check_can_fail(written, change):
    config = written("aws")["cluster.yaml"]
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config | change))


@pytest.mark.parametrize("target", BY_RAY_UP)
def test_the_head_is_for_drivers_alone_and_keeps_to_itself(written, target):
    config = written(target)["cluster.yaml"]
    head, worker = started(config, "head"), started(config, "worker")
    assert (head["num_cpus"], head["num_gpus"], head["dashboard_host"]) == (0, 0, "127.0.0.1")
    assert json.loads(head["resources"]) == {"driver": 1}
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert worker["num_cpus"] is None
    assert "0.0.0.0" not in json.dumps(config)
    assert config["worker_start_ray_commands"][0] == config["head_start_ray_commands"][0] == "ray stop"


@pytest.mark.parametrize("target", ["aws", "gcp"])
def test_cloud_workers_are_spot_machines_that_come_and_go(written, target):
    config = prepare_config(written(target, "--workers", "1:7")["cluster.yaml"])
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert (worker["min_workers"], worker["max_workers"], config["max_workers"]) == (1, 7, 7)
    assert config["idle_timeout_minutes"] == 5
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    spot = ("InstanceMarketOptions", "scheduling")
    assert [any(key in node["node_config"] for key in spot) for node in (head, worker)] == [False, True]
    assert [node["labels"]["ray.io/market-type"] for node in (head, worker)] == ["on-demand", "spot"]


def test_the_clouds_words_for_spot(written):
    config = written("aws")["cluster.yaml"]
    worker = config["available_node_types"]["worker"]["node_config"]
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["provider"]["cache_stopped_nodes"] is False


def test_google_is_told_what_a_worker_has(written):
    config = written("gcp", "--gpus", "8")["cluster.yaml"]
    worker = config["available_node_types"]["worker"]
    assert worker["node_config"]["machineType"] == "g2-standard-96"
    assert worker["resources"] == {"CPU": 96, "GPU": 8}
    assert worker["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert config["provider"] == {
        "type": "gcp",
        "project_id": "my-project",
        "region": "us-central1",
        "availability_zone": "us-central1-a",
    }


def test_a_type_that_does_not_tell_its_cpus_has_those_its_gpus_need(written):
    config = written("gcp", "--gpus", "2", "--instance", "a2-highgpu-2g", "--zone", "europe-west4-b")["cluster.yaml"]
    assert config["available_node_types"]["worker"]["resources"] == {"CPU": 8, "GPU": 2}
    assert config["provider"]["region"] == "europe-west4"


def test_own_machines_are_the_head_and_the_workers(written):
    config = written("local", "--workers", "1:2", "--data", "/mnt/scans")["cluster.yaml"]
    assert config["provider"] == {"type": "local", "head_ip": "10.0.0.5", "worker_ips": ["10.0.0.6", "10.0.0.7"]}
    assert (config["min_workers"], config["max_workers"]) == (1, 2)
    assert "--volume=/mnt/scans:/data" in config["docker"]["run_options"]


def test_without_workers_all_own_machines_work(written):
    config = written("local")["cluster.yaml"]
    assert (config["min_workers"], config["max_workers"]) == (2, 2)


@pytest.mark.parametrize("target", BY_RAY_UP)
def test_containers_get_what_the_worker_needs(written, target):
    docker = written(target)["cluster.yaml"]["docker"]
    assert docker["image"] == IMAGE
    assert {"--env=OMP_WAIT_POLICY=PASSIVE", "--env=RAY_AUTH_MODE=token", "--shm-size=2g"} <= set(docker["run_options"])
    assert docker["worker_run_options"] == ["--gpus=all"]


@pytest.mark.parametrize("target", BY_RAY_UP)
def test_without_gpus_docker_is_asked_for_none(written, target):
    assert written(target, "--gpus", "0")["cluster.yaml"]["docker"]["worker_run_options"] == []


@pytest.mark.parametrize("target", BY_RAY_UP)
def test_the_object_store_fits_its_shared_memory(written, target):
    config = written(target)["cluster.yaml"]
    assert max(started(config, who)["object_store_memory"] for who in ("head", "worker")) <= 2 * 2**30


@pytest.mark.parametrize("target", BY_RAY_UP)
def test_every_node_gets_the_token_and_no_file_holds_it(written, target):
    config = written(target)["cluster.yaml"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


# --- for Kubernetes ---


REDIS = ["--redis", "redis.data:6379"]


# Where there are no schemas, pytest says that this one had none to run with.
@pytest.mark.parametrize("shape", [*SHAPES, REDIS], ids=" ".join)
@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_operators_schema_accepts_what_is_written_and_nothing_misspelt(written, kind, shape):
    check = jsonschema.Draft202012Validator(json.loads(gzip.decompress(SCHEMAS[kind].read_bytes())))
    files = written("kubernetes", *shape)
    manifest = files[f"{kind.removesuffix('s')}.yaml"]
    assert [error.message for error in check.iter_errors(manifest)] == []
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    pods(spec)[-1][1]["restartPolice"] = "Never"
    assert not check.is_valid(manifest)


def autoscaled(cluster):
    """What Ray's autoscaler reads off a RayCluster; it checks it, too."""
    placed = {**cluster, "metadata": {**cluster["metadata"], "namespace": "default"}}
    return _derive_autoscaling_config_from_ray_cr(placed)


@pytest.mark.parametrize("shape", [*SHAPES, REDIS], ids=" ".join)
def test_rays_autoscaler_accepts_what_is_written(written, shape):
    config = autoscaled(written("kubernetes", *shape)["raycluster.yaml"])
    assert {"driver", "worker"} < set(config["available_node_types"])


def test_a_job_has_the_same_cluster(written):
    files = written("kubernetes")
    assert files["rayjob.yaml"]["spec"]["rayClusterSpec"] == files["raycluster.yaml"]["spec"]


def test_tiles_are_for_workers_and_drivers_for_the_driver(written):
    files = written("kubernetes", "--workers", "1:9", "--gpus", "2")
    types = autoscaled(files["raycluster.yaml"])["available_node_types"]
    (head,) = types.keys() - {"driver", "worker"}
    assert (types[head]["resources"]["CPU"], types[head]["resources"]["GPU"]) == (0, 0)
    driver, worker = types["driver"], types["worker"]
    assert (driver["resources"]["CPU"], driver["resources"]["driver"]) == (0, 1)
    assert "GPU" not in driver["resources"]
    assert (driver["min_workers"], driver["max_workers"]) == (1, 1)
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == (8, 2)
    assert (worker["min_workers"], worker["max_workers"]) == (1, 9)
    asked = json.loads(files["rayjob.yaml"]["spec"]["entrypointResources"])
    holders = [
        name for name, kind in types.items() if all(kind["resources"].get(key, 0) >= n for key, n in asked.items())
    ]
    assert holders == ["driver"]
    assert [types[name]["labels"]["ray.io/market-type"] for name in (head, "driver", "worker")] == [
        "on-demand",
        "on-demand",
        "spot",
    ]


def test_the_cluster_scales_in_the_tree_and_asks_for_tokens(written):
    spec = written("kubernetes")["raycluster.yaml"]["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert (spec["autoscalerOptions"]["version"], spec["autoscalerOptions"]["idleTimeoutSeconds"]) == ("v2", 300)
    assert spec["authOptions"] == {"mode": "token"}
    assert f"ray=={spec['rayVersion']}" in constraints().splitlines()


def test_every_pod_is_an_ordinary_users_with_the_shared_folder(written):
    files = written("kubernetes", "--name", "scans")
    claim = files["data.yaml"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group, pod in pods(files["raycluster.yaml"]["spec"]):
        (container,) = pod["containers"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert (
            volumes[mounted["/data"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == "scans-data"
        )
        assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
        assert int(group["rayStartParams"]["object-store-memory"]) <= 2 * 2**30
        assert (pod["securityContext"]["runAsNonRoot"], pod["restartPolicy"]) == (True, "Never")
        assert {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"} in container["env"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_spot_pod_tells_ray_before_it_goes(written):
    *_, (group, pod) = pods(written("kubernetes")["raycluster.yaml"]["spec"])
    assert group["groupName"] == "worker"
    shell = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert shell[:2] == ["/bin/sh", "-c"]
    known, drain, wait = shell[2].split(" && ")
    assert known == 'test -n "$RAY_ADDRESS"'
    name, *words = re.findall(r'"[^"]*"|\S+', drain.removeprefix("ray "))
    with ray_command.commands[name].make_context(name, words) as context:
        assert context.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
        left = context.params["deadline_remaining_seconds"]
    assert wait == f"sleep {left}"
    assert left < pod["terminationGracePeriodSeconds"]


def test_redis_is_an_option_and_else_a_comment(written, tmp_path, capfd):
    files = written("kubernetes", "--redis", "redis.data:6379", "--name", "scans")
    options = files["raycluster.yaml"]["spec"]["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis.data:6379"
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "scans-redis", "key": "password"}}}
    assert tileloom(capfd, *command("kubernetes", tmp_path / "without")).code == 0
    text = (tmp_path / "without" / "raycluster.yaml").read_text()
    assert "gcsFaultToleranceOptions" not in yaml.safe_load(text)["spec"]
    begin = text.index("  # gcsFaultToleranceOptions:")
    asked = re.sub(r"^  # ", "  ", text[begin:].partition("\n\n")[0], flags=re.MULTILINE)
    assert yaml.safe_load(asked)["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"


# --- the image ---


@pytest.mark.parametrize("target", NEEDED)
def test_the_image_is_built_from_the_wheel_with_the_tested_versions(written, target):
    files = written(target)
    assert files["constraints.txt"] == (ROOT / "constraints.txt").read_text()
    lines = files["Dockerfile"].replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and line[0] != "#"]
    said = {name: text for name, text in steps}
    assert said["FROM"] == f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"
    assert said["COPY"].split() == ["constraints.txt", f"tileloom-{__version__}-*.whl", "/opt/tileloom/"]
    (install,) = (text for name, text in steps if "pip install" in text)
    (ray,) = (line for line in constraints().splitlines() if line.startswith("ray=="))
    assert f'"{ray.replace("ray", "ray[default]")}"' in install
    assert "--constraint /opt/tileloom/constraints.txt" in install
    assert ("boto3" in install, "google-api-python-client" in install) == (target == "aws", target == "gcp")
    users = [index for index, (name, _) in enumerate(steps) if name == "USER"]
    assert [steps[index][1] for index in users] == ["ray"]
    assert "--uid 1000 --create-home ray" in files["Dockerfile"]
    for setting in ("HOME=/home/ray", "RAY_AUTH_MODE=token", "OMP_WAIT_POLICY=PASSIVE"):
        assert setting in said["ENV"].split()
    assert not any(name in ("ENTRYPOINT", "CMD") for name, _ in steps)


def test_the_pinned_ray_is_within_what_the_project_asks_for():
    (asked,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("ray"))
    assert asked.startswith("ray[default]>=")
    assert f"ray=={asked.partition('>=')[2].partition(',')[0]}" in constraints()


# --- the command ---


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path, capfd):
    said = tileloom(capfd, *command("kubernetes", tmp_path / "my files"))
    names = ["raycluster.yaml", "rayjob.yaml", "data.yaml", "Dockerfile", "constraints.txt"]
    wrote, rest = said.out.splitlines()[:5], said.out.splitlines()[5:]
    assert wrote == [f"wrote {tmp_path / 'my files' / name}" for name in names]
    assert rest[0].endswith(f"pip wheel --no-deps --wheel-dir '{tmp_path / 'my files'}' .")
    assert rest[1] == f"then: docker build --tag {IMAGE} '{tmp_path / 'my files'}' && docker push {IMAGE}"


@pytest.mark.parametrize("name", ["raycluster.yaml", "constraints.txt"])
def test_no_file_is_overwritten_and_none_written_beside_it(tmp_path, capfd, name):
    (tmp_path / name).write_text("mine")
    before = files_in(tmp_path)
    said = tileloom(capfd, *command("kubernetes", tmp_path))
    assert (said.code, said.out) == (2, "")
    assert said.errors == [
        f"error: --out: {tmp_path / name} is there already; name another folder or move the file away"
    ]
    assert files_in(tmp_path) == before


def test_a_folder_that_cannot_be_is_refused(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    said = tileloom(capfd, *command("kubernetes", tmp_path / "file"))
    assert (said.code, len(said.errors)) == (2, 1)
    assert said.errors[0].startswith(f"error: --out: {tmp_path / 'file'} cannot be written (")


def test_what_was_begun_goes_when_the_rest_cannot_be_written(tmp_path, capfd):
    tmp_path.joinpath("Dockerfile").symlink_to(tmp_path / "nowhere" / "Dockerfile")
    said = tileloom(capfd, *command("aws", tmp_path))
    assert (said.code, len(said.errors)) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("kubernetes", ["--workers", "4"], "--workers must be MIN:MAX, such as 0:8, not '4'"),
        ("kubernetes", ["--workers", "4:2"], "--workers 4:2: MAX must be 1 or more, and MIN not above it"),
        ("kubernetes", ["--workers", "0:0"], "--workers 0:0: MAX must be 1 or more"),
        ("kubernetes", ["--name", "My Cluster"], "--name must be up to 40 lower-case letters, digits and dashes"),
        ("kubernetes", ["--image", "a: b"], "--image must be the name of an image"),
        ("kubernetes", ["--data", "10.0.0.1:/share"], "--data must be the name of a claim"),
        ("kubernetes", ["--redis", "redis"], "--redis must be ADDRESS:PORT, such as redis:6379, not 'redis'"),
        ("kubernetes", ["--host", "10.0.0.5"], "--host is for local alone; leave it out for kubernetes"),
        ("kubernetes", ["--zone", "us-west-2a"], "--zone is for aws and gcp alone; leave it out for kubernetes"),
        ("aws", ["--redis", "redis:6379"], "--redis is for kubernetes alone; leave it out for aws"),
        ("aws", ["--data", "fs:/ && rm"], "--data must be an NFS export, such as fs-1.efs"),
        ("aws", ["--gpus", "3"], "--instance is needed for 3 GPUs on aws: only 0, 1, 4, 8 have a default machine"),
        ("aws", ["--instance", "g6 large"], "--instance must be a machine type"),
        ("aws", ["--zone", "here"], "--zone must be a zone of the cloud"),
        ("gcp", ["--project", "My Project"], "--project must be the id of a project"),
        (
            "local",
            ["--host", "10.0.0.5"],
            "--host is needed for the head and again for every worker, each address once",
        ),
        ("local", ["--host", "me@10.0.0.9"], "--host must be an address without login"),
        ("local", ["--workers", "0:3"], "--workers 0:3: there are 2 hosts besides the head; name more with --host"),
        ("local", ["--data", "share"], "--data must be the path of a folder that every machine has"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_and_nothing_is_written(tmp_path, capfd, target, options, says):
    said = tileloom(capfd, *command(target, tmp_path / "out", *options))
    assert (said.code, said.out, len(said.errors)) == (2, "", 1)
    assert said.errors[0].startswith(f"error: {says}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("target", "missing"), [("aws", "--data"), ("gcp", "--data"), ("gcp", "--project")])
def test_what_cannot_be_guessed_is_asked_for(tmp_path, capfd, target, missing):
    words = command(target, tmp_path / "out")
    at = words.index(missing)
    said = tileloom(capfd, *words[:at], *words[at + 2 :])
    assert (said.code, len(said.errors)) == (2, 1)
    assert said.errors[0].startswith(f"error: {missing} is needed for {target}")


def test_writing_the_files_loads_neither_torch_nor_ray(tmp_path):
    code = "import sys; from tileloom.jobs.cli import main; assert not main(sys.argv[1:]); print(*sys.modules)"
    words = map(str, command("kubernetes", tmp_path))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert not {"torch", "ray"} & set(done.stdout.split())


# --- the templates ---


@pytest.mark.parametrize("target", Target)
def test_every_place_is_filled_and_every_comment_is_short_enough(target):
    layout = Layout(
        target=target,
        image=IMAGE,
        name="scans",
        workers=(0, 4),
        gpus=1,
        data="there:/",
        hosts=("head", "one"),
        instance="g2-standard-8",
        zone="us-west-2a",
        project="project",
    )
    for name, text in cluster_files(layout).items():
        assert not re.search(r"\{\{|\}\}\}|[ \t]$|\t", text, flags=re.MULTILINE), name
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert max(map(len, text.splitlines())) <= 124, name
        if name != "constraints.txt":
            assert "tileloom cluster init" in text.partition("\n\n")[0]


def test_filling_keeps_the_margin_and_knows_every_name():
    assert fill("a: {{x}}\n  {{y}}\n", {"x": "1", "y": "b:\n\n  c\n"}) == "a: 1\n  b:\n\n    c\n"
    with pytest.raises(KeyError):
        fill("{{z}}", {"x": "1"})
