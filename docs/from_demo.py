"""Puts what `make demo` left into the README, its picture and its figures: ``python -m docs.from_demo demo``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

from docs.sections import put_section

ROOT = Path(__file__).parents[1]
WAYS = ("naive tiles", "published MSR", "tileloom")
FIGURES = {
    ("sr", "seam excess"): "seams, resolution x4",
    ("clouds", "seam excess"): "seams in the filled holes",
}


def main(words: Sequence[str]) -> None:
    """Copy the picture, and write the table between its marks."""
    [demo] = words
    put(Path(demo), ROOT)


def put(demo: Path, root: Path) -> None:
    """The same for any copy of the project."""
    rows = json.loads((demo / "figures.json").read_text(encoding="utf-8"))["rows"]
    put_section(root / "README.md", "make demo", "\n".join(table_of(rows)))
    copyfile(demo / "comparison.jpg", root / "docs" / "images" / "demo.jpg")


def table_of(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of the README's table."""
    found = {(row["scene"], row["way"]): row for row in rows}
    yield f"| | {' | '.join(WAYS)} |"
    yield "|---" * (len(WAYS) + 1) + "|"
    for (scene, figure), title in FIGURES.items():
        yield f"| {title} | {' | '.join(f'{found[scene, way][figure]:.2f}' for way in WAYS)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
