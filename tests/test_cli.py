import os
import shlex
import signal
import subprocess
import sys

import click
import pytest

from tests.commandline import tileloom, written
from tests.house import ROOT
from tests.images import noise, write_zarr
from tileloom.jobs import cli
from tileloom.jobs.options import job_options
from tileloom.jobs.spec import JobSpec
from tileloom.tiling.errors import InputError, LedgerTaken, TileFailed, TileloomError

FROZEN = ROOT / "tests" / "data" / "cli.txt"


def commands():
    """(all its words, the command) of every command, those of a group one by one."""
    for name in cli.COMMANDS:
        command = cli.load_command(name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", command.commands[below]) for below in command.commands)
        else:
            yield name, command


COMMANDS = dict(commands())


def interface():
    """Every command with all it takes, a line each."""
    for name, command in COMMANDS.items():
        for param in command.params:
            word = "/".join([*param.opts, *param.secondary_opts])
            takes = "" if getattr(param, "is_flag", False) else f" {param.make_metavar(click.Context(command))}"
            yield f"{name} {word}{takes}{' repeatable' if getattr(param, 'multiple', False) else ''}"


def python(code, *, words=()):
    """Run code in a process of its own; returns what it said."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def raising(monkeypatch):
    """A command that raises what it is given, after a note if there is one."""

    def use(error):
        def fail():
            raise error

        monkeypatch.setattr(cli, "load_command", lambda name: click.Command(name, callback=fail))

    return use


# --- what there is ---


def test_no_option_comes_or_goes_unnoticed():
    """Where this fails on purpose, bring tests/data/cli.txt up to date with what it shows."""
    assert "\n".join(interface()) == FROZEN.read_text(encoding="utf-8").strip()


def test_every_key_of_a_job_is_an_option():
    @job_options
    def command(**options):
        pass

    flags = {flag for option in command.__click_params__ for flag in option.opts}
    expected = {"--model-option", "--style"}
    for key, field in JobSpec.model_fields.items():
        below = getattr(field.annotation, "model_fields", None)
        expected |= {f"--{key}"} if below is None else {f"--{key}-{name}" for name in below}
    assert flags == {flag.replace("_", "-") for flag in expected} - {"--input", "--output"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name):
    command = COMMANDS[name]
    assert command.name == name.split()[-1]
    assert command.help
    for param in command.params:
        assert param.name in ("input", "output", "size", "labels", "job", "target") or param.help, param.name
    for argument in (param for param in command.params if isinstance(param, click.Argument)):
        assert argument.name.upper() in command.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name):
    examples = [line.strip() for line in COMMANDS[name].epilog.splitlines() if line.startswith("  ")]
    assert examples
    for line in examples:
        assert line.startswith(f"tileloom {name}")
        words = shlex.split(line)[1 + len(name.split()) :]
        with COMMANDS[name].make_context(name, words) as context:
            assert set(context.params) == {param.name for param in COMMANDS[name].params if param.expose_value}


def test_the_overview_lists_every_command_in_the_tables_order(capfd):
    for words in ([], ["--help"]):
        said = tileloom(capfd, *words)
        assert said.code == 0
        listed = said.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        assert [line.split()[0] for line in listed] == list(cli.COMMANDS)
        assert all(text in line for line, (_, text) in zip(listed, cli.COMMANDS.values(), strict=True))


def test_the_version_is_the_packages(capfd):
    assert tileloom(capfd, "--version").out == f"{cli.__version__}\n"


# --- what is loaded ---

HELP = "import sys; from tileloom.jobs.cli import main; assert main({words}) == 0; print(*sys.modules)"


def test_help_loads_no_command():
    loaded = set(python(HELP.format(words=["--help"])).split())
    assert "click" in loaded
    assert not {"torch", "ray", "zarr", "numpy", "pydantic", "tileloom.jobs.spec"} & loaded


def test_no_commands_help_loads_the_network():
    code = f"from tileloom.jobs.cli import main; assert not any(main([n, '--help']) for n in {list(cli.COMMANDS)})"
    loaded = set(python(f"{code}; import sys; print(*sys.modules)").split())
    assert "tileloom.jobs.commands_run" in loaded
    assert not {"torch", "ray"} & loaded


def test_plan_and_dry_run_load_neither_torch_nor_ray(tmp_path):
    image = write_zarr(tmp_path / "in.zarr", noise())
    job = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2")
    code = HELP.replace("{words}", "sys.argv[1:]")
    for words in (["plan", job], ["restore", image, tmp_path / "out.zarr", "--task", "sr:2", "--dry-run"]):
        out = python(code, words=words)
        assert "network calls: " in out
        assert not {"torch", "ray"} & set(out.split())


def test_threads_are_settled_before_torch_can_load(monkeypatch, capfd):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    tileloom(capfd)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "tileloom.jobs.cli", "restor"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command 'restor'")


# --- how it ends ---


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("scene.tif: does not exist"), 2, "error: scene.tif: does not exist"),
        (TileFailed("level 0 row 1 column 2 failed"), 1, "error: level 0 row 1 column 2 failed"),
        (LedgerTaken("another run took over"), 1, "error: another run took over"),
        (TileloomError("one\n  two"), 1, "error: one two"),
        (OSError(28, "No space left on device", "/tmp/x"), 1, "error: /tmp/x: No space left on device"),
        (click.UsageError("No such thing."), 2, "error: No such thing (see `tileloom run --help`)"),
        (KeyboardInterrupt(), 130, "stopped"),
        (cli.Terminated(), 143, "stopped"),
    ],
)
def test_every_end_is_one_sentence(raising, capfd, error, code, says):
    raising(error)
    said = tileloom(capfd, "run")
    assert (said.code, said.errors, said.out) == (code, [says], "")


def test_notes_on_how_to_go_on_end_the_sentence(raising, capfd):
    for error, begins in ((TileFailed("it failed"), "error: it failed"), (KeyboardInterrupt(), "stopped")):
        error.add_note("go on with `tileloom resume out.zarr`")
        raising(error)
        assert tileloom(capfd, "run").errors == [f"{begins}; go on with `tileloom resume out.zarr`"]


def test_what_was_not_foreseen_is_one_sentence_and_debug_shows_where(raising, capfd):
    raising(ZeroDivisionError("by zero"))
    said = tileloom(capfd, "run")
    assert said.code == 1
    assert said.errors == ["error: unexpected ZeroDivisionError: by zero; `tileloom --debug COMMAND` shows where"]
    said = tileloom(capfd, "--debug", "run")
    assert said.errors[0].startswith("Traceback")
    assert said.errors[-1].startswith("error: unexpected ZeroDivisionError")


def test_debug_shows_where_a_foreseen_error_arose_too(raising, capfd):
    raising(InputError("no such file"))
    errors = tileloom(capfd, "--debug", "run").errors
    assert errors[0].startswith("Traceback")
    assert errors[-1] == "error: no such file"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["restor"], "No such command 'restor'"),
        (["restore"], "Missing argument 'INPUT' (see `tileloom restore --help`)"),
        (["status"], "Missing argument 'TARGET'"),
        (["restore", "a", "b", "--colour", "1"], "No such option '--colour'"),
        (["resume", "a", "--redo", "all"], "'all' is not"),
        (["simulate", "a", "--workers", "0", "--slots", "1", "--call-seconds", "1"], "--workers"),
        (["simulate", "a", "--workers", "1"], "Missing option"),
        (["--colour"], "No such option '--colour'"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused_in_one_sentence(capfd, words, says):
    said = tileloom(capfd, *words)
    assert said.code == 2
    assert len(said.errors) == 1
    assert says in said.errors[0]


def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch, capfd):
    before = signal.getsignal(signal.SIGTERM)

    def killed():
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "load_command", lambda name: click.Command(name, callback=killed))
    said = tileloom(capfd, "run")
    assert (said.code, said.errors) == (143, ["stopped"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_enough_is_no_error():
    code = (
        "import sys; from tileloom.jobs.cli import main; sys.stdin.read(1); "
        "code = main(['restore', '--help']); print('late'); sys.exit(code)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    child.stdin.write(b"go")
    child.stdin.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert errors == b""
