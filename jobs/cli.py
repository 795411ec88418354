"""The command line: a table of commands, each loaded when it is used, and one sentence for every error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click

from .. import __version__
from ..tiling.errors import TileloomError
from .logs import log, wants_json

# Name: where it is made, and what it does.
COMMANDS = {
    "restore": ("commands_run:restore", "Restore one image on this machine."),
    "generate": ("commands_run:generate", "Draw an image from nothing."),
    "synthesize": ("commands_run:synthesize", "Draw the image that a map of labels says."),
    "plan": ("commands_look:plan", "Say what a job will do and cost, without doing it."),
    "run": ("commands_run:run", "Run the job of a file, or go on with it."),
    "status": ("commands_look:status", "Say how far a result has come."),
    "resume": ("commands_run:resume", "Go on with a job that was stopped or changed."),
    "retry": ("commands_run:retry", "Run degraded tiles again, and mend what is damaged."),
    "submit": ("commands_submit:submit", "Run the job of a file on a cluster, or go on with it."),
    "list": ("commands_submit:list_all", "List what was submitted to a cluster."),
    "logs": ("commands_submit:logs", "Print or follow what a submitted job writes."),
    "cancel": ("commands_submit:cancel", "End a submitted job; what it has finished is kept."),
    "verify": ("commands_look:verify", "Read back all that was written and name what is damaged."),
    "models": ("commands_models:models", "List models, look into one, check it, convert weights."),
    "train": ("commands_train:train", "Train a model on your own images, or go on with it."),
    "terra": ("commands_terra:terra", "Draw an aerial scene that never was, to try things on."),
    "simulate": ("commands_look:simulate", "Say how long a job would take on a cluster."),
    "cluster": ("commands_cluster:cluster", "Write the files that start a cluster."),
}
INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as cleanly as Ctrl-C does."""


class _Commands(click.Group):
    """Lists commands by their table, so that ``--help`` loads none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named, now loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else command, rest


def load_command(name: str) -> click.Command:
    """A command of the table, its module loaded."""
    module, _, function = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(import_module(f".{module}", __package__), function)
    return command


@click.group(
    cls=_Commands,
    commands={name: click.Command(name, short_help=text) for name, (_, text) in COMMANDS.items()},
    invoke_without_command=True,
    epilog="\b\nExample:\n  tileloom restore scene.tif scene.zarr --task sr:4",
)
@click.option("--debug", is_flag=True, help="Show where in the code an error arose.")
@click.version_option(__version__, message="%(version)s", help="Show the version and exit.")
@click.help_option(help="Show this message and exit.")
@click.pass_context
def tileloom(ctx: click.Context, debug: bool) -> None:
    """Restore images far larger than memory, tile by tile, exactly.

    `tileloom COMMAND --help` explains a command.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 1 when something failed, 2 when it was asked wrongly."""
    # Torch reads both when it loads: spinning or several threads would fight over the cores that lanes fill.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    words = list(sys.argv[1:] if args is None else args)
    context: click.Context | None = None
    try:
        with _termination(), tileloom.make_context("tileloom", words) as context:
            tileloom.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter would complain when it flushes at its end.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    except KeyboardInterrupt as stop:
        _say("warning", "stopped", stop, context)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except Exception as error:
        if context and context.params["debug"]:
            traceback.print_exc()
        _say("error", _sentence(error), error, context)
        return _exit_code(error)
    return 0


def _sentence(error: Exception) -> str:
    """One line for any error."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "tileloom"
        return f"{_line(error.format_message()).rstrip('.')} (see `{command} --help`)"
    if isinstance(error, click.ClickException):
        return _line(error.format_message())
    if isinstance(error, TileloomError):
        return _line(str(error))
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {_line(str(error))}; `tileloom --debug COMMAND` shows where"


def _exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, TileloomError | click.ClickException) else 1


def _line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def _say(level: str, text: str, error: BaseException, context: click.Context | None) -> None:
    """One line to stderr: what happened, and what a command noted on how to go on."""
    told = "; ".join([text, *getattr(error, "__notes__", ())])
    if context and wants_json(context):
        log(level, "end", message=told)
    else:
        click.echo(f"error: {told}" if level == "error" else told, err=True)


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside the block; only the main thread can be told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
