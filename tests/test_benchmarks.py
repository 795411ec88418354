"""What benchmarks share, and that each of them prints what a machine reads."""

import importlib
import json
import math
import re
import subprocess
import sys

import pytest

from benchmarks._report import Benchmark
from tests.house import ROOT

LIMITS = {"fast": ("<=", 2.0), "much": (">=", 0.5)}
BENCHMARKS = sorted(file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py"))


def benchmark(figures):
    return Benchmark("named", lambda smoke: {**figures, "size": 1 if smoke else 100}, LIMITS)


def test_limits_are_kept_up_to_the_bound_itself():
    assert benchmark({}).missed({"fast": 2.0, "much": 0.5}) == []
    assert benchmark({}).missed({"fast": 2.001, "much": 0.499}) == ["fast", "much"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_a_figure_that_is_no_number_misses_its_limit(value):
    assert benchmark({}).missed({"fast": value, "much": value}) == ["fast", "much"]


def test_a_figure_that_was_not_measured_misses_its_limit(capsys):
    assert benchmark({"fast": 1.0}).main([]) == 1
    assert re.search(r"much +not measured +>= 0\.5  MISSED", capsys.readouterr().out)


@pytest.mark.parametrize(("fast", "code"), [(1.5, 0), (2.5, 1)])
def test_a_missed_limit_is_the_exit_code(fast, code, capsys):
    assert benchmark({"fast": fast, "much": 1}).main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["figures"]["fast"] == fast


def test_the_json_form(capsys):
    benchmark({"fast": 1.5, "much": 1}).main(["--json", "--smoke"])
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "name": "named",
        "command": "python -m benchmarks.named --json --smoke",
        "figures": {"fast": 1.5, "much": 1, "size": 1},
        "limits": {"fast": ["<=", 2.0], "much": [">=", 0.5]},
    }


def test_the_table_tells_every_figure_and_marks_what_misses(capsys):
    assert benchmark({"fast": 2.5, "much": 0.75}).main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["named", "figure", "limit"],
        ["fast", "2.5", "<=", "2.0", "MISSED"],
        ["much", "0.75", ">=", "0.5"],
        ["size", "100"],
    ]


def test_an_option_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        benchmark({}).main(["--smok", "--jsn"])
    assert refused.value.code == 2
    assert "python -m benchmarks.named" in capsys.readouterr().err


def test_make_finds_every_benchmark_and_none_of_their_shared_code():
    listed = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [names] = re.findall(r"for name in ([^;]+);", listed)
    assert sorted(names.split()) == BENCHMARKS
    assert {"frontier", "simulate", "datapath", "memory"} <= set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_goes_by_the_name_of_its_module(name):
    declared = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    assert declared.name == name
    assert all(math.isfinite(bound) for _, bound in declared.limits.values())


# `make test` runs every one of them, before the tests and without their company.
@pytest.mark.slow
def test_a_small_run_prints_one_object_and_exits_by_its_limits():
    command = [sys.executable, "-m", "benchmarks.frontier", "--json", "--smoke"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    told = json.loads(ran.stdout)
    assert set(told) == {"name", "command", "figures", "limits"}
    assert (told["name"], told["command"]) == ("frontier", " ".join(["python", *command[1:]]))
    assert set(told["limits"]) <= set(told["figures"])
    judged = Benchmark("frontier", lambda _: {}, {figure: tuple(limit) for figure, limit in told["limits"].items()})
    assert ran.returncode == bool(judged.missed(told["figures"]))
