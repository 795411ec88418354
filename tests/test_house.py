import ast
import re
from fnmatch import fnmatch

import pytest

from tests.house import BESIDE, ROOT, SOURCES, relative

LONGEST_FILE = 500
LONGEST_FUNCTION = 60
FOLDERS = {"tiling", "models", "cluster", "jobs", "tests", "docs", "examples", "benchmarks", "deploy"}
FILES = {
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "__init__.py",
    "py.typed",
}


def functions(file):
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("file", SOURCES + BESIDE, ids=relative)
def test_files_and_functions_stay_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in functions(file):
        assert function.end_lineno - function.lineno < LONGEST_FUNCTION, function.name


def test_the_root_holds_what_it_should_and_nothing_else():
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    here = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    made = {name for name in here if any(fnmatch(name, pattern) for pattern in ignored)}
    assert here - made <= FOLDERS | FILES
    assert here >= FILES


def test_nothing_is_left_for_later():
    for file in SOURCES:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"#.*\b(TODO|FIXME|XXX)\b|raise NotImplementedError", text), relative(file)


def test_no_test_is_switched_off():
    switches = {"skip", "skipif", "xfail", "importorskip"}
    for file in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not used & switches, relative(file)


def test_every_verb_is_explained_where_it_is_made():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(verbs) == ["bench", "check", "cluster-demo", "demo", "dev", "docs", "soak", "test"]
    heading = makefile.partition("\n\n")[0]
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for verb in verbs:
        assert f"{verb}:" in heading
        assert f"make {verb}" in contributing


def test_decisions_are_dated_and_short():
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions
    for note in decisions:
        lines = note.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), note.name
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", lines[2]), note.name
        assert len(lines) <= 40, note.name
