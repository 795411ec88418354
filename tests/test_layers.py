import ast
import logging.config
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house import BESIDE, PROJECT, ROOT, SOURCES, relative

# What `tileloom plan` and the job file need before a worker exists.
TORCH_FREE = (
    "tileloom",
    "tileloom.models.contract",
    "tileloom.models.kinds",
    "tileloom.cluster.layout",
    "tileloom.jobs.spec",
    "tileloom.jobs.task",
)


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree):
    """(line, module) of every import but those within the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module


def inner_imports(tree):
    """The line of every import inside a function, by statement or by call."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Import | ast.ImportFrom) or called == "__import__":
                    yield node.lineno


def test_every_layer_contract_is_kept(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # It would switch off every logger of the tests that follow.
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    assert lint_imports(no_cache=True, no_logo=True) == 0, capsys.readouterr().out


def test_a_breach_of_the_layers_would_be_found(tmp_path, monkeypatch):
    """The contracts, run on a small package of the same shape in which tiling imports upwards."""
    for name in ("", "tiling", "models", "cluster", "jobs"):
        (tmp_path / "tileloom" / name).mkdir()
        (tmp_path / "tileloom" / name / "__init__.py").touch()
    for name in ("models/contract.py", "models/kinds.py", "cluster/layout.py", "jobs/spec.py"):
        (tmp_path / "tileloom" / name).touch()
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    command = [
        sys.executable,
        "-P",
        "-c",
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())",
    ]

    def lint():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert lint() == 0
    for module, line in {
        "tiling/box.py": "from ..jobs import spec",
        "models/net.py": "from .. import cluster",
        "jobs/run.py": "import torch",
        "models/far.py": "import ray",
        "cluster/show.py": "import rich",
        "models/contract.py": "import torch",
        "cluster/layout.py": "import ray",
    }.items():
        (tmp_path / "tileloom" / module).write_text(line)
        assert lint() == 1, module
        (tmp_path / "tileloom" / module).write_text("")


def test_what_plans_loads_neither_torch_nor_ray():
    code = f"import sys, {', '.join(TORCH_FREE)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tileloom.models.contract" in loaded
    assert not {"torch", "ray"} & set(loaded)


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_no_import_hides_in_a_function(file):
    assert not list(inner_imports(parsed(file)))


def test_a_hidden_import_would_be_found():
    for line in (
        "def f():\n    import json",
        "async def f():\n    from os import path",
        "f = lambda: __import__('os')",
    ):
        assert list(inner_imports(ast.parse(line)))


def test_every_import_is_a_declared_dependency():
    extras = PROJECT["project"]["optional-dependencies"]
    shipped = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    declared = shipped | {canonicalize_name(Requirement(line).name) for lines in extras.values() for line in lines}
    providers = packages_distributions() | {"tests": [], "benchmarks": [], "docs": [], "examples": []}
    for file in [*SOURCES, *BESIDE]:
        allowed = shipped if file in SOURCES else declared | {"tileloom"}
        for line, module in imports(parsed(file)):
            top = module.partition(".")[0]
            owners = {canonicalize_name(name) for name in providers.get(top, ["unknown"])}
            assert top in sys.stdlib_module_names or not owners or owners & allowed, (
                f"{relative(file)}:{line}: {module}"
            )
