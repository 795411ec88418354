"""The commands of docs/watching.md work as they stand there, and its tables have every key, event and metric."""

import json
import re
import shlex
from dataclasses import fields

import pytest

from tests.commandline import main
from tests.house import ROOT
from tests.images import noise, write_zarr
from tileloom.cluster.metrics import Metrics
from tileloom.jobs.workforce import WorkerRecord

PAGE = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")


def table(heading):
    """The names of the first column of a section's table."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.fixture
def told(tmp_path, monkeypatch, capfd):
    """What the commands of the page say to stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    write_zarr(tmp_path / "scene.zarr", noise())
    (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    found = []
    for line in block.splitlines():
        assert main([*shlex.split(line)[1:], *(["--steps", "2", "--lanes", "1"] if "restore" in line else [])]) == 0
        found.append(capfd.readouterr())
    return found


def test_the_commands_of_the_page_do_what_it_says(told, tmp_path):
    restored, status = told
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {json.loads(line)["event"] for line in restored.err.splitlines()} == {"phase", "progress"}
    assert status.out.endswith("nobody runs it\nnext: nothing is left to do\n")


def test_the_tables_are_complete():
    assert table("The report") == [field.name for field in fields(WorkerRecord)]
    assert table("Messages as JSON") == ["phase", "progress", "message", "end"]
    metrics = Metrics()
    counters, gauges = ([one.info["name"] for one in kind.values()] for kind in (metrics._counters, metrics._gauges))
    assert table("Prometheus") == [f"ray_{name}_total" for name in counters] + [f"ray_{name}" for name in gauges]
