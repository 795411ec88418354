"""One training on several workers: Ray Train starts them, joins them into a group, and starts all anew after a loss.

What is trained, and where it goes on from, is the work's own affair: workers that begin anew find its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from ..tiling.errors import TileloomError
from .connect import connect, last_line
from .executor import CrewSpec

_LOOK = 1.0
"""Seconds between two looks at what workers told."""

Report = Callable[[int, Mapping[str, float], Sequence[str]], None]
Work = Callable[[Report], None]
"""What each worker does, once it is one of a group; it tells of its steps."""


class Mailbox:
    """Where workers leave what they tell, and why the whole must end."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._told: list[tuple[int, Mapping[str, float], Sequence[str]]] = []
        self._end: TileloomError | None = None

    def tell(self, step: int, scalars: Mapping[str, float], files: Sequence[str]) -> None:
        """A step was done."""
        self._told.append((step, scalars, files))

    def take(self) -> list[tuple[int, Mapping[str, float], Sequence[str]]]:
        """What was told since."""
        told, self._told = self._told, []
        return told

    def end(self, error: TileloomError) -> None:
        """No other try would come to anything else."""
        self._end = self._end or error

    def ended(self) -> TileloomError | None:
        """Why it must end; None where it need not."""
        return self._end


def train_on(work: Work, spec: CrewSpec, report: Report) -> None:
    """Let all workers do the work together, until each is through; ``report`` is told what the first of them tells."""
    connected = connect(spec)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        try:
            mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
            running = pool.submit(_trainer(work, spec, mailbox, folder).fit)
            _pass_on(running, mailbox, report)
            error: TileloomError | None = ray.get(mailbox.ended.remote())
            if error is not None:
                raise error
            _through(running)
        finally:
            # Workers end with their driver. The pool, which is left after this, would wait until they are through.
            if connected:
                ray.shutdown()


def _trainer(work: Work, spec: CrewSpec, mailbox: Any, folder: str) -> TorchTrainer:  # noqa: ANN401  an actor
    each = {"CPU": spec.cpus} | ({"GPU": spec.gpus} if spec.gpus else {})
    return TorchTrainer(
        _work,
        train_loop_config={"work": work, "mailbox": mailbox},
        scaling_config=ScalingConfig(num_workers=spec.workers, use_gpu=spec.gpus > 0, resources_per_worker=each),
        run_config=RunConfig(
            name="tileloom", storage_path=folder, failure_config=FailureConfig(max_failures=spec.restarts)
        ),
        torch_config=TorchConfig(backend="nccl" if spec.gpus else "gloo"),
    )


def _work(told: dict[str, Any]) -> None:
    """On a worker, in the group: the work, unless it is known to come to nothing."""
    work, mailbox = told["work"], told["mailbox"]
    if ray.get(mailbox.ended.remote()) is not None:
        return
    first = ray.train.get_context().get_world_rank() == 0

    def report(step: int, scalars: Mapping[str, float], files: Sequence[str]) -> None:
        if first:
            mailbox.tell.remote(step, scalars, files)

    try:
        work(report)
    except TileloomError as error:
        ray.get(mailbox.end.remote(error))
        raise


def _pass_on(running: Future[Any], mailbox: Any, report: Report) -> None:  # noqa: ANN401  an actor
    """Tell what workers tell, until they are through."""
    while not wait([running], timeout=_LOOK).done:
        for told in ray.get(mailbox.take.remote()):
            report(*told)
    for told in ray.get(mailbox.take.remote()):
        report(*told)


def _through(running: Future[Any]) -> None:
    """Raise what ended a training early that had no reason of its own."""
    try:
        running.result()
    except TrainingFailedError as error:
        why = last_line(error)
        raise TileloomError(f"workers were lost more often than cluster.restarts allows ({why})") from error
