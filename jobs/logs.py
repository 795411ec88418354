"""What a run says as JSON, one object a line on stderr, where a program reads along."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

_WANTED = "tileloom.log_json"


def _remember(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    context.meta[_WANTED] = wanted


# First of all, so that what is wrong with the values of others is said in the same way.
log_json = click.option(
    "--log-json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="Write messages, progress and errors to stderr as JSON, one object a line.",
)


def wants_json(context: click.Context) -> bool:
    """Whether a command was given ``--log-json``; its context and that of its group are one in this."""
    return bool(context.meta.get(_WANTED))


def log(level: str, event: str, **fields: Any) -> None:  # noqa: ANN401  any JSON value
    """One line: when, how grave, what happened, and what there is to tell of it."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    click.echo(json.dumps({"time": at, "level": level, "event": event, **fields}), err=True)
