"""What the driver itself asks of a store for each image: it stands still meanwhile, for all images alike."""

import threading
from collections import Counter

import pytest

from tests.archives import archive
from tests.objects import bucket as bucket
from tests.objects import server as server
from tileloom.cluster.worker import Worker
from tileloom.tiling import place, zarr_stores

IMAGES = 6
# 41 when this was written, those of the archive itself included: an image's job, survey, lock, four commits, its
# pyramid's ten, its report, and what is removed at its end.
MOST = 44


@pytest.fixture
def asked(monkeypatch):
    """The requests of the driver, of workers none: these are made at the same time as others'."""
    counts, working = Counter(), threading.Event()

    def watched(real):
        def call(*arguments, **options):
            working.set()
            try:
                return real(*arguments, **options)
            finally:
                working.clear()

        return call

    def counted(module, name):
        real = getattr(module, name)

        def call(*arguments, **options):
            # The locks' signs of life come from threads of their own.
            counts[name] += not working.is_set() and not threading.current_thread().name.startswith("lock of")
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("do", "advance"):
        monkeypatch.setattr(Worker, name, watched(getattr(Worker, name)))
    counted(place, "patiently")
    counted(zarr_stores, "patiently_async")
    return counts


def test_an_image_costs_the_driver_few_requests(tmp_path, bucket, asked):
    images = archive(tmp_path, rows=[f"c{number}" for number in range(IMAGES)])
    images.write_job(output=f"{bucket}/out", keep_scratch=False)
    assert images.run().whole
    assert min(asked.values()) > IMAGES
    assert asked.total() / IMAGES < MOST
