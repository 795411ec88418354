"""Submitted jobs without a cluster: ids, which number, what goes along, how things end, and what is refused."""

import json
import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from tests.commandline import tileloom, written
from tests.test_packaging import package_files
from tileloom.cluster import connect, submissions
from tileloom.jobs import commands_look, commands_submit
from tileloom.jobs.spec import load_job
from tileloom.tiling.errors import InputError, TileloomError

KEYS = {"input": "in.tif", "output": "out.zarr", "task": "sr:2"}
SECRET = "a-secret-that-stays-here"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Set so that it is set back: connecting leaves the address there for Ray.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def details(name, status, *, code=None, message="", began=None):
    number = int(name.rpartition("-")[2]) if began is None else began
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=name,
        entrypoint="",
        status=status,
        start_time=1000 * number,
        driver_exit_code=code,
        message=message,
        metadata={"output": "/data/out.zarr"},
    )


class FakeClient:
    """What Ray's client does, of a cluster that is a list; keeps what was submitted, and the files that went along."""

    def __init__(self, *jobs):
        self.jobs = list(jobs)
        self.submitted = []
        self.files = {}
        self.refuse = None
        self.active = None

    def get_address(self):
        return "http://head:8265"

    def _do_request(self, method, path):
        assert (method, path) == ("GET", "/api/cluster_status")
        report = {"autoscalerReport": {"activeNodes": dict.fromkeys(self.active, 1)}} if self.active else None
        return SimpleNamespace(json=lambda: {"data": {"clusterStatus": report}})

    def list_jobs(self):
        return self.jobs

    def submit_job(self, *, submission_id, runtime_env, **what):
        if self.refuse:
            self.refuse(submission_id)
        self.submitted.append({"submission_id": submission_id, "runtime_env": runtime_env, **what})
        for folder in (runtime_env["working_dir"], *runtime_env["py_modules"]):
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            self.files |= {path.relative_to(Path(folder).parent).as_posix(): path.read_bytes() for path in files}
        self.jobs.append(details(submission_id, JobStatus.PENDING))

    def stop_job(self, name):
        return True

    def get_job_logs(self, name):
        return f"log of {name}\n"

    async def tail_job_logs(self, name):
        yield f"log of {name}\n"


@pytest.fixture
def nodes(monkeypatch):
    """The nodes that the cluster has."""
    found = [SimpleNamespace(node_id="a1b", state="ALIVE", resources_total={"CPU": 4.0})]
    monkeypatch.setattr(submissions, "list_nodes", lambda *_, **__: found)
    return found


@pytest.fixture
def cluster(monkeypatch, nodes):
    """Make a cluster of these jobs the one that commands talk to."""

    def use(*jobs):
        client = FakeClient(*jobs)
        for module in (commands_submit, commands_look):
            monkeypatch.setattr(module, "cluster_at", lambda _: submissions.Submissions(client))
        return client

    return use


@pytest.fixture
def job(tmp_path):
    return written(tmp_path, **KEYS, cluster={"workers": 2})


def id_of(job, number):
    return f"tileloom-{load_job(job).digest}-{number}"


# --- ids ---


def test_a_job_is_known_by_its_bytes_and_where_they_go(tmp_path):
    def digest(**keys):
        return load_job(written(tmp_path, **{**KEYS, **keys})).digest

    assert digest() == digest(cluster={"workers": 9}, retries=7) == digest(task=["sr:2"])
    assert len({digest(), digest(seed=1), digest(output="other.zarr"), digest(input="other.tif")}) == 4


@pytest.mark.parametrize(
    ("there", "number", "new"),
    [
        ((), 1, True),
        (((1, JobStatus.PENDING),), 1, False),
        (((1, JobStatus.RUNNING),), 1, False),
        (((1, JobStatus.SUCCEEDED),), 2, True),
        (((1, JobStatus.FAILED), (2, JobStatus.STOPPED)), 3, True),
        (((9, JobStatus.FAILED), (10, JobStatus.FAILED)), 11, True),
        (((1, JobStatus.STOPPED), (2, JobStatus.RUNNING)), 2, False),
    ],
)
def test_the_next_number_is_submitted_once_the_last_one_has_ended(cluster, job, capfd, there, number, new):
    others = [details("tileloom-0123456789ab-7", JobStatus.RUNNING), details("raysubmit_1", JobStatus.RUNNING, began=1)]
    client = cluster(*others, *(details(id_of(job, n), status) for n, status in there))
    said = tileloom(capfd, "submit", job, "--json")
    assert (said.code, said.json["id"], said.json["new"]) == (0, id_of(job, number), new)
    assert [what["submission_id"] for what in client.submitted] == [id_of(job, number)] * new


def test_whoever_is_slower_attaches(cluster, job, capfd):
    client = cluster()

    def faster(name):
        client.jobs.append(details(name, JobStatus.PENDING))
        raise RuntimeError("Request failed with status code 500: already exists")

    client.refuse = faster
    said = tileloom(capfd, "submit", job)
    assert said.code == 0
    assert said.out.startswith(f"{id_of(job, 1)}: pending already\n")


def test_what_ray_refuses_is_one_sentence(cluster, job, capfd):
    def refuse(name):
        raise RuntimeError("Request failed with status code 500: Traceback\n  File x\nValueError: no room.\n.")

    cluster().refuse = refuse
    said = tileloom(capfd, "submit", job)
    assert said.code == 1
    assert said.errors == ["error: the cluster at http://head:8265 did not do as asked: ValueError: no room"]


# --- what goes along ---


def test_this_very_code_goes_along_and_nothing_else(cluster, job, capfd):
    client = cluster()
    tileloom(capfd, "submit", job)
    assert set(client.files) == package_files() | {"job/job.yaml"}
    here = Path(submissions.__file__)
    assert client.files["tileloom/cluster/submissions.py"] == here.read_bytes()


def test_how_a_run_is_to_be_seen_goes_along(cluster, job, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = cluster()
    assert tileloom(capfd, "submit", job, "--log-json", "--timeline", "a trace.json").code == 0
    entrypoint = f"python -m tileloom.jobs.cli run job.yaml --timeline '{tmp_path}/a trace.json' --log-json"
    assert client.submitted[0]["entrypoint"] == entrypoint


def test_the_job_goes_along_as_it_is_with_its_paths_and_joins_the_cluster(cluster, tmp_path, capfd):
    keys = {**KEYS, "nodata": float("nan"), "range": [0, 1e-7], "model": {"name": "gaussian", "length": 4}}
    file = written(tmp_path, **keys, cluster={"workers": 2, "address": "elsewhere:6379"})
    client = cluster()
    tileloom(capfd, "submit", file, "--cluster-gpus", "0.5", "--redo", "stale", "--trust-model")
    (what,) = client.submitted
    assert what["entrypoint"] == "python -m tileloom.jobs.cli run job.yaml --redo stale --trust-model"
    (tmp_path / "sent").mkdir()
    sent = tmp_path / "sent" / "job.yaml"
    sent.write_bytes(client.files["job/job.yaml"])
    there, here = load_job(sent), load_job(file)
    assert there.input == str(tmp_path / "in.tif")
    assert (there.digest, there.identity()) == (here.digest, here.identity())
    assert (there.cluster.address, there.cluster.workers, there.cluster.gpus) == ("auto", 2, 0.5)


def test_no_secret_goes_along(cluster, job, capfd, monkeypatch):
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS")
    for name in names:
        monkeypatch.setenv(name, SECRET)
    client = cluster()
    said = tileloom(capfd, "submit", job)
    assert set(client.submitted[0]["runtime_env"]["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    for text in (json.dumps(client.submitted), said.out, *said.errors):
        assert SECRET not in text
    assert not [name for name, content in client.files.items() if SECRET.encode() in content]


@pytest.mark.parametrize(
    ("state", "resources", "asked"),
    [("ALIVE", {"driver": 1.0}, {"driver": 0.1}), ("ALIVE", {"CPU": 2.0}, None), ("DEAD", {"driver": 1.0}, None)],
)
def test_a_driver_goes_where_the_cluster_wants_it(cluster, nodes, job, capfd, state, resources, asked):
    nodes.append(SimpleNamespace(node_id="c2d", state=state, resources_total=resources))
    client = cluster()
    tileloom(capfd, "submit", job)
    assert client.submitted[0]["entrypoint_resources"] == asked


# --- how it ends ---


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.STOPPED, None, 143),
    ],
)
def test_whoever_follows_ends_as_the_job_does(cluster, job, capfd, status, code, ends):
    cluster(details(id_of(job, 1), status, code=code))
    said = tileloom(capfd, "logs", job, "--follow")
    assert (said.code, said.errors) == (ends, [])
    first, last = said.out.splitlines()
    assert first == f"log of {id_of(job, 1)}"
    assert last.startswith(f"{id_of(job, 1)}: {status.value.lower()}")


def test_a_job_that_never_began_says_why(cluster, job, capfd):
    cluster(details(id_of(job, 1), JobStatus.FAILED, message="Job supervisor actor\ncould not be scheduled"))
    said = tileloom(capfd, "logs", job, "--follow")
    assert said.code == 1
    assert said.errors == [
        f"error: {id_of(job, 1)} failed before its job began: Job supervisor actor could not be scheduled"
    ]


def test_a_log_that_breaks_off_is_no_end(cluster, job, capfd):
    cluster(details(id_of(job, 1), JobStatus.RUNNING))
    said = tileloom(capfd, "logs", job, "--follow")
    assert said.code == 1
    assert "broke off, and it is still running" in said.errors[0]


def test_a_reader_that_has_enough_is_nothing_that_the_cluster_did(cluster, job):
    def enough(text):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        submissions.Submissions(cluster()).follow(id_of(job, 1), enough)


def test_whoever_stops_looking_on_is_told_that_the_job_goes_on(cluster, job, capfd, monkeypatch):
    client = cluster(details(id_of(job, 1), JobStatus.RUNNING))

    async def interrupted(name):
        yield "so far\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "tail_job_logs", interrupted)
    said = tileloom(capfd, "logs", job, "-f", "--address", "http://head:8265")
    assert said.code == 130
    assert said.errors == [
        f"stopped; the job goes on, follow it with: tileloom logs --follow {id_of(job, 1)} --address http://head:8265; "
        f"end it with: tileloom cancel {id_of(job, 1)} --address http://head:8265"
    ]


def test_a_pending_job_that_does_not_end_is_not_said_to_have_ended(cluster, job, capfd, monkeypatch):
    monkeypatch.setattr(submissions, "_LEAVE", 0)
    cluster(details(id_of(job, 1), JobStatus.PENDING))
    said = tileloom(capfd, "cancel", job)
    assert (said.code, said.out) == (1, "")
    assert f"{id_of(job, 1)} is to end, but is still pending: it does so once a node has room" in said.errors[0]


def test_cancelling_waits_for_the_end(cluster, job, capfd, monkeypatch):
    client = cluster(details(id_of(job, 1), JobStatus.RUNNING))
    looks = iter([JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.STOPPED])
    monkeypatch.setattr(submissions, "_LOOK", 0)
    monkeypatch.setattr(client, "list_jobs", lambda: [details(id_of(job, 1), next(looks))])
    assert tileloom(capfd, "cancel", job).out == f"{id_of(job, 1)}: stopped\n"
    assert next(looks, None) is None


def test_what_has_ended_is_not_cancelled(cluster, job, capfd):
    cluster(details(id_of(job, 1), JobStatus.SUCCEEDED, code=0))
    assert tileloom(capfd, "cancel", id_of(job, 1)).out == f"{id_of(job, 1)}: succeeded already\n"


# --- looking ---


def test_a_list_has_ours_the_newest_last(cluster, job, capfd):
    names = [id_of(job, 2), "tileloom-0123456789ab-1", "raysubmit_1"]
    cluster(
        *(details(name, JobStatus.FAILED, code=2, began=began) for name, began in zip(names, (9, 3, 5), strict=True))
    )
    assert [one["id"] for one in tileloom(capfd, "list", "--json").json["submissions"]] == [names[1], names[0]]
    lines = tileloom(capfd, "list").out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{names[1]}:", f"{names[0]}:"]
    assert all("failed with exit code 2" in line and line.endswith("/data/out.zarr") for line in lines)


def test_a_status_of_an_output_that_is_not_here_tells_of_the_submission(cluster, job, capfd):
    cluster(details(id_of(job, 1), JobStatus.RUNNING))
    said = tileloom(capfd, "status", job, "--address", "http://head:8265")
    assert said.code == 0
    assert said.out.splitlines()[1] == "the output is not to be seen from here, or not begun yet"
    told = tileloom(capfd, "status", id_of(job, 1), "--address", "http://head:8265", "--json").json
    assert (told["submission"]["state"], list(told)) == ("running", ["submission"])


# --- what is refused ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("logs", "JOB"), "was not submitted to the cluster at http://head:8265"),
        (("cancel", "tileloom-0123456789ab-1"), "the cluster at http://head:8265 knows no tileloom-0123456789ab-1"),
        (("status", "tileloom-0123456789ab-1"), "is a submission: say with --address on which cluster"),
        (("logs", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("submit", "nowhere.yaml"), "nowhere.yaml cannot be read"),
        (("submit", "ALONE"), "does not say how many workers it wants: add cluster.workers"),
        (("submit", "JOB", "--cluster-workers", "0"), "--cluster-workers must be a whole number from 1 up"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(cluster, job, tmp_path, capfd, words, says):
    names = {"JOB": job, "ALONE": written(tmp_path, "alone.yaml", **KEYS)}
    client = cluster()
    said = tileloom(capfd, *(names.get(word, word) for word in words))
    assert (said.code, len(said.errors)) == (2, 1)
    assert says in said.errors[0]
    assert client.submitted == []


def test_a_redo_does_not_reach_a_job_that_runs(cluster, job, capfd):
    client = cluster(details(id_of(job, 1), JobStatus.RUNNING))
    said = tileloom(capfd, "submit", job, "--redo", "failed")
    assert (said.code, client.submitted) == (2, [])
    assert f"{id_of(job, 1)} is running, and --redo would not change it" in said.errors[0]


@contextmanager
def answering(status, body=b"{}"):
    """A web server on loopback that says one thing; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b'{"ray_version": "2.9.3"}', r"has Ray 2\.9\.3, and this tileloom needs 2\.60: start the cluster with"),
        (200, b"<html>", "cannot be reached .*: check the address"),
        (200, b"{}", "cannot be reached .*: check the address"),
        (404, b"", "cannot be reached .*: check the address"),
        (401, b"Unauthorized: Missing authentication token", "wants a token, and none is at hand: put .* ~/.ray/auth_"),
    ],
)
def test_who_answers_must_be_such_a_cluster(status, body, says):
    with answering(status, body) as url, pytest.raises(InputError, match=says) as said:
        submissions.connect(url)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}"])
def test_who_says_nothing_is_not_waited_for(monkeypatch, form):
    monkeypatch.setattr(submissions, "ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = form.format(silent.getsockname()[1])
        with pytest.raises(InputError, match=r"cannot be reached \(timed out\)"):
            submissions.connect(address)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:1", "cannot be reached .*refused"),
        ("ray://127.0.0.1:10001", "submitted to the URL of a dashboard"),
    ],
)
def test_an_address_where_nobody_is_is_refused(address, says):
    with pytest.raises(InputError, match=says):
        submissions.connect(address)


def test_an_address_that_is_given_goes_before_that_of_the_environment():
    with answering(200, b'{"ray_version": "2.9.3"}') as url, pytest.raises(InputError, match=url):
        submissions.connect(url)
    assert os.environ["RAY_API_SERVER_ADDRESS"] == url


def test_an_error_of_ray_is_told_by_its_last_line():
    assert connect.last_line(RuntimeError("Traceback\n\x1b[31mValueError: no.\x1b[0m\n.\n")) == "ValueError: no"
    assert connect.last_line(TileloomError("")) == "TileloomError"
