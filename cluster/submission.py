"""What is known of a job that was submitted to a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass

ID = re.compile(r"tileloom-([0-9a-f]+)-(\d+)")
"""A submission's id: the digest of its job, and how often that was submitted to this cluster."""


@dataclass(frozen=True)
class Submission:
    """A job on a cluster; ``state`` is pending, running, succeeded, failed or stopped, times are seconds since 1970."""

    id: str
    state: str
    output: str
    began: float | None
    ended: float | None
    exit_code: int | None
    message: str

    @property
    def digest(self) -> str:
        """What its job is known by."""
        return self.id.split("-")[1]

    @property
    def number(self) -> int:
        """Which submission of its job it is, from 1."""
        return int(self.id.split("-")[2])

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("succeeded", "failed", "stopped")
