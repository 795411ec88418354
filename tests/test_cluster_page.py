"""The commands of docs/cluster.md exist, and those that write files do so as they stand there."""

import re
import shlex

import pytest
from ray.scripts.scripts import cli as ray_command

from tests.commandline import tileloom
from tests.house import ROOT
from tileloom.jobs import cli
from tileloom.jobs.spec import load_job

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def commands(program):
    """Every command line of a program, those within other commands too, without the program's name."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    inner = [word for line in lines for word in shlex.split(line) if word.startswith(f"{program} ")]
    told = [line.partition(" -- ")[2] or line for line in lines]
    return [shlex.split(line)[1:] for line in [*told, *inner] if line.startswith(f"{program} ")]


INITS = [words for words in commands("tileloom") if words[:2] == ["cluster", "init"]]


@pytest.mark.parametrize("words", INITS, ids=" ".join)
def test_every_cluster_of_the_page_is_written(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert tileloom(capfd, *words).code == 0
    named = {path for path in re.findall(r"\bcluster/([\w.]+)", PAGE)}
    assert {path.name for path in (tmp_path / "cluster").iterdir()} & named


def test_the_page_has_every_kind_of_cluster():
    assert [words[2] for words in INITS] == ["local", "aws", "gcp", "kubernetes"]


def test_every_other_command_of_tileloom_exists():
    used = {words[0] for words in commands("tileloom")}
    assert used == {"cluster", "run", "status", "submit", "list", "logs", "cancel", "simulate"}
    assert used <= set(cli.COMMANDS)


@pytest.mark.parametrize("words", [words for words in commands("tileloom") if words not in INITS], ids=" ".join)
def test_every_other_command_of_tileloom_parses(words):
    with cli.load_command(words[0]).make_context(words[0], words[1:]) as context:
        assert context.params


@pytest.mark.parametrize("words", commands("ray"), ids=" ".join)
def test_rays_commands_parse(words):
    with ray_command.commands[words[0]].make_context(words[0], words[1:]) as context:
        assert context.params


def test_the_table_has_every_option():
    listed = set(re.findall(r"^\| `(--\w+)` \|", PAGE, flags=re.MULTILINE))
    command = cli.load_command("cluster").commands["init"]
    assert listed == {option for param in command.params for option in param.opts if option[:2] == "--"} - {"--out"}


def test_the_job_of_the_page_is_one(tmp_path):
    job, *clusters = blocks("yaml")
    (tmp_path / "job.yaml").write_text(job)
    assert load_job(tmp_path / "job.yaml").output == str(tmp_path / "scene.zarr")
    for cluster in clusters:
        (tmp_path / "job.yaml").write_text(f"{job}\n{cluster}")
        kept = load_job(tmp_path / "job.yaml").cluster
        assert kept.drain_url or kept.prices or kept.classes == "any"
