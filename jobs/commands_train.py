"""The command that trains a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib import import_module
from shlex import quote
from typing import TYPE_CHECKING

import click

from ..tiling.errors import InputError, LedgerTaken
from .commands_look import example
from .commands_run import as_json
from .logs import log_json
from .pace import duration
from .progress import watching
from .train_spec import load_training

if TYPE_CHECKING:
    from .train import Trained

# Loads torch: only once a job has been read, so that help and refusals come at once.
TRAINER = ".train"


_LEAST = """

\b
What train.yaml needs at least:
data: scans      # images, a folder, a pattern or a list
output: prior

\b
What it mostly has besides:
crop: 64         # what is learned from at once, and the tile that is restored
flips: true      # where left is as good as right
turns: true      # where no side is up
network: {width: 128, levels: [1, 1], stem: 4, detail: 32}
steps: 20000
"""


@click.command(epilog=example("tileloom train train.yaml --dry-run", "tileloom train train.yaml") + _LEAST)
@click.argument("job")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and what it takes, and do nothing.")
@log_json
@as_json
def train(*, job: str, dry_run: bool, as_json: bool) -> None:
    """Train a model on your own images, as the file JOB says; or go on with it where it was stopped.

    Its output is a folder with model.safetensors, which `--model` takes, a log, sheets of pictures and checkpoints.
    Stop it whenever you like: at most the steps since the last checkpoint are done again, with the same losses. To
    train for longer, give the same file more steps. docs/training.md has all keys.
    """
    spec = load_training(job)
    trainer = import_module(TRAINER, __package__)
    with _resumable(job):
        training = trainer.Training.prepared(spec)
        if dry_run or not as_json:
            click.echo("\n".join(training.lines()))
        if dry_run:
            return
        with watching() as watcher, redirect_stdout(sys.stderr):
            trained = training.run(watcher)
    click.echo(json.dumps(asdict(trained), indent=1) if as_json else "\n".join(_lines(trained)))


def _lines(trained: Trained) -> Iterator[str]:
    if trained.loss is None:
        yield f"trained for {trained.steps} steps already: give more to go on"
    else:
        checked = "" if trained.held_out is None else f", held out {trained.held_out:.4g}"
        yield (
            f"trained from step {trained.began} to {trained.steps} in {duration(trained.seconds)}: "
            f"loss {trained.loss:.4g}{checked}"
        )
    yield f"model: {trained.model}"


@contextmanager
def _resumable(job: str) -> Iterator[None]:
    """Whatever ends a training early says how to go on."""
    again = f"go on with: tileloom train {quote(job)}"
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"all checkpoints are kept, {again}")
        raise
    except (InputError, LedgerTaken):
        raise
    except Exception as error:
        error.add_note(again)
        raise
