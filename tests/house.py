"""Where the project's own files are, for the tests that read them."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {name: ROOT.joinpath(*name.split(".")[1:]) for name in PROJECT["tool"]["setuptools"]["packages"]}
SOURCES = sorted(file for folder in FOLDERS.values() for file in folder.glob("*.py"))
BESIDE = sorted(file for name in ("tests", "benchmarks", "examples", "docs") for file in (ROOT / name).rglob("*.py"))


def relative(file):
    """A file as the reader of a failed test knows it."""
    return file.relative_to(ROOT).as_posix()
