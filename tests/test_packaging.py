import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tileloom
from tests.house import FOLDERS, PROJECT, ROOT, SOURCES, relative

# A build of torch for GPUs draws these in; they follow from its own version.
GPU_RUNTIME = ("nvidia-", "cuda-", "triton")


def package_files():
    """What the wheel must hold: the modules of every package, and the data that pyproject names."""
    found = set(SOURCES)
    for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        found |= {file for pattern in patterns for file in FOLDERS[name].glob(pattern)}
    return {f"tileloom/{relative(file)}" for file in found}


def test_the_packages_are_the_folders_that_hold_an_init():
    inits = [ROOT / "__init__.py", *ROOT.glob("[!.]*/**/__init__.py")]
    parts = (init.parent.relative_to(ROOT).parts for init in inits)
    found = {".".join(("tileloom", *names)) for names in parts if names[:1] not in (("build",), ("demo",))}
    assert found == set(FOLDERS)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The wheel, built as a user would from a copy of the tree, and what the build said."""
    folder = tmp_path_factory.mktemp("wheel")
    hidden_and_built = ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "shared")
    copytree(ROOT, folder / "source", ignore=hidden_and_built)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    ran = subprocess.run([*command, "-w", folder, folder / "source"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, ran.stdout + ran.stderr


def test_the_wheel_holds_every_module_and_no_test(build):
    names = zipfile.ZipFile(build[0]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "tileloom/py.typed" in names


def test_the_build_warns_of_nothing(build):
    assert "BuildBackendWarning" not in build[1]
    assert "Deprecat" not in build[1]


def test_the_wheel_imports_where_the_repository_is_not(build, tmp_path):
    zipfile.ZipFile(build[0]).extractall(tmp_path)
    # Isolated and without site-packages, so that neither the tree nor its installation can answer.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tileloom; "
    code += "print(tileloom.__version__, tileloom.__file__)"
    ran = subprocess.run([sys.executable, "-ISc", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [tileloom.__version__, str(tmp_path / "tileloom" / "__init__.py")]


def test_the_dev_extra_has_every_other_one():
    extras = PROJECT["project"]["optional-dependencies"]
    assert {line for lines in extras.values() for line in lines} == set(extras["dev"])


def test_the_constraints_pin_everything_that_is_drawn_in():
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    direct = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(line) for line in direct]
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen or key[0].startswith(GPU_RUNTIME):
            continue
        seen.add(key)
        for line in distribution(key[0]).requires or []:
            drawn = Requirement(line)
            if drawn.marker is None or any(drawn.marker.evaluate({"extra": extra}) for extra in ("", *key[1])):
                todo.append(drawn)
    assert {canonicalize_name(pin.name) for pin in pins} == {name for name, _ in seen}
