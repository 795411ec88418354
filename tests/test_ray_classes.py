"""Workers of two numeric classes on Ray: images are shared out, and survive that one of the classes dies out."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks._image import make_image
from tests.stubwork import Faults, StubFactory
from tests.test_ray import BANDS, GRIDS, SHAPE, all_present, cluster  # noqa: F401
from tileloom.cluster.agenda import Berth, ClassGone, Tiles
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.cluster.worker import Brief
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.ledger import Ledger

pytestmark = pytest.mark.slow
IMAGES = 4


def woven(folder, *, odd, strike=None, **spec):
    """Weave images, each below a folder of the class that it ends with: (class, chunks) of each, and what was said.

    ``odd`` is how often a worker that starts is of the odd class: never, once or always.
    """
    (folder / "faults").mkdir(parents=True)
    if odd != "never":
        Faults(folder / "faults").plan("odd-class", once=odd == "once")
    images = [make_image(folder / str(at), GRIDS[0], bands=BANDS, chunk=32) for at in range(IMAGES)]
    ends, said = {}, []

    def course(at, image):
        while True:
            kind = (yield Berth()).numeric_class["kind"]
            root = folder / str(at) / kind
            plan = replace(image, root=str(root))
            try:
                yield Tiles(Brief(plan, b"job"), Ledger(root / "ledger"), np.zeros(plan.plan.count, np.uint8))
            except ClassGone:
                continue
            ends[at] = kind
            return

    factory = StubFactory(SHAPE, folder / "faults", pause=0.02)
    asked = CrewSpec(workers=2, cpus=0.5, patience=60, capacity=60, classes="any", **spec)
    with RayExecutor(factory, asked, say=said.append) as executor:
        all_present(executor, 2)
        courses = (course(at, image) for at, image in enumerate(images))
        executor.run(courses, Frontier(), on_reports=strike or (lambda _: None))
    chunks = {at: files(folder / str(at) / kind) for at, kind in ends.items()}
    return ends, chunks, said


def files(root):
    found = [file for file in Path(root).glob("canvas-*/c/**/*") if file.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in found}


def test_images_are_shared_out_among_classes_and_one_of_them_dies_out(tmp_path):
    """The first worker is odd, all others are even, also the one that takes the place of the first."""
    even, odd = (woven(tmp_path / how, odd=how)[1] for how in ("never", "always"))
    assert even[0] != odd[0]
    ends, chunks, said = woven(tmp_path / "both", odd="once")
    assert set(ends.values()) == {"even", "odd"}
    assert chunks == {at: {"even": even, "odd": odd}[kind][at] for at, kind in ends.items()}
    assert said == []

    def strike(reports):
        seen.extend(reports)
        if len(seen) > 6 and not struck:
            struck.append(int((tmp_path / "dies" / "faults" / "pids").read_text().split()[0]))
            os.kill(struck[0], signal.SIGKILL)

    seen, struck = [], []
    ends, chunks, said = woven(tmp_path / "dies", odd="once", strike=strike, class_wait=0.5)
    assert struck
    assert set(ends.values()) == {"even"}
    assert chunks == even
    assert list((tmp_path / "dies").glob("*/odd/canvas-0"))
    assert any("no worker of the numeric class with kind: odd for 0.5 s" in line for line in said)
