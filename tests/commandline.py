"""Running the command line inside the test's own process."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from tileloom.jobs.cli import main

PROGRESS = re.compile(r"(draw|train|survey|restore|publish|tiles|shards|coarser inputs|archive|plan|verify): \d+ ")
QUICK = ("--tile", "16", "--steps", "2", "--lanes", "1", "--model-option", "length=4", "--publish-chunk", "32")
QUICK += ("--publish-shard", "64")


@dataclass
class Said:
    """What a command came to: its exit code, stdout, and the lines of stderr that are no progress."""

    code: int
    out: str
    errors: list[str]

    @property
    def json(self):
        return json.loads(self.out)


def tileloom(capfd, *words):
    """Run a command line; whatever was captured before is dropped."""
    capfd.readouterr()
    code = main([str(word) for word in words])
    captured = capfd.readouterr()
    return Said(code, captured.out, [line for line in captured.err.splitlines() if not PROGRESS.match(line)])


def written(folder, name="job.yaml", **keys):
    """A job file."""
    path = Path(folder) / name
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def files_in(folder):
    """Every file and folder below one, with the files' bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }
