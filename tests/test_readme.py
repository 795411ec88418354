"""Every command of the README works, as it stands there, in the order it stands there."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.foreign import exported
from tests.house import ROOT
from tests.images import smooth, write_png, write_tiff
from tests.nets import SEMANTIC, weights

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("tileloom ")]


def hole(height: int, width: int) -> np.ndarray:
    mask = np.zeros((1, height, width), np.uint8)
    mask[:, 10:30, 20:40] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = smooth(3, 64, 72)
    write_tiff(tmp_path / "scene.tif", image)
    write_tiff(tmp_path / "clouds.tif", hole(64, 72))
    write_tiff(tmp_path / "labels.tif", image[:1, :32, :36] // 52)
    write_tiff(tmp_path / "region.tif", hole(32, 36))
    weights(tmp_path, replace(SEMANTIC, edges=False), name="town.safetensors")
    write_png(tmp_path / "photo.png", image[:1, :32, :36])
    write_png(tmp_path / "scratches.png", hole(64, 72))
    exported(tmp_path, name="denoiser.pt2")
    (tmp_path / "scans").mkdir()
    for at, name in enumerate(("one", "two")):
        write_png(tmp_path / "scans" / f"{name}.png", smooth(1, 20 + at, 24))
    for job in blocks("yaml"):
        (tmp_path / re.match(r"# (\w+\.yaml):", job)[1]).write_text(job)
    return tmp_path


@pytest.mark.slow
def test_every_command_works_in_the_order_of_the_readme(folder: Path) -> None:
    assert len(commands()) >= 9
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands():
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=os.environ | {"PATH": programs}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    (python,) = blocks("python")
    shown = subprocess.run(
        [sys.executable, "-c", python + "\nprint(image.shape)"], cwd=folder, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == "(3, 256, 288)"
    assert (folder / "weave.png").stat().st_size > 0


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_make_verbs_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert re.search(rf"^{verb}:", makefile, flags=re.MULTILINE), verb
