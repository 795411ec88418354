"""Training from a bucket into a bucket: the same as on disk, and whole whatever the store does."""

from dataclasses import replace

import pytest

from tests.commandline import tileloom, written
from tests.objects import bucket as bucket
from tests.objects import server as server
from tests.objects import stored, upload
from tests.trainings import COURSE, archive, trained
from tileloom.models.training.loop import LOG, MODEL
from tileloom.tiling.errors import StoreError
from tileloom.tiling.patience import impatient
from tileloom.tiling.place import Prefix


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def whole(image, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    trained(image, output)
    return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}


def test_a_bucket_gets_the_bytes_that_a_disk_gets(image, whole, bucket):
    assert trained(upload(image, f"{bucket}/in/scene.zarr"), f"{bucket}/prior") == 0
    assert stored(f"{bucket}/prior") == whole


def test_a_store_that_goes_away_loses_nothing_that_was_kept(image, whole, bucket, server, monkeypatch):
    """It goes in the middle of the second checkpoint."""
    write, seen = Prefix.write, []

    def losing(self, data, **how):
        if self.name == "mean.safetensors":
            seen.append(self)
            if len(seen) == 2:
                server.stop()
        write(self, data, **how)

    with monkeypatch.context() as patched, impatient():
        patched.setattr(Prefix, "write", losing)
        with pytest.raises(StoreError, match=r"mean\.safetensors"):
            trained(image, f"{bucket}/prior")
    server.start()
    assert trained(image, f"{bucket}/prior") == 2
    found = stored(f"{bucket}/prior")
    assert found[MODEL] == whole[MODEL]
    assert found[LOG] == whole[LOG]


def test_a_job_may_have_everything_in_a_bucket(image, bucket, tmp_path, capfd):
    address = upload(image, f"{bucket}/in/scene.zarr")
    keys = {
        "crop": 16,
        "batch": 2,
        "held_out": 0.3,
        "network": {"width": 32, "levels": [1], "stem": 2, "attention": []},
    }
    path = written(tmp_path, data=address, output=f"{bucket}/prior", steps=2, **keys)
    said = tileloom(capfd, "train", path)
    assert (said.code, said.errors) == (0, [])
    assert MODEL in stored(f"{bucket}/prior")
    assert not [name for name in stored(f"{bucket}/prior") if name.startswith("lock")]


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_trained(image, server, tmp_path, capfd):
    keys = {"crop": 16, "network": {"width": 32, "levels": [1], "stem": 2, "attention": []}}
    said = tileloom(capfd, "train", written(tmp_path, data=image, output="s3://nowhere/prior", steps=2, **keys))
    assert (said.code, len(said.errors)) == (2, 1)
    assert "s3://nowhere" in said.errors[0]


def test_a_shorter_course_is_a_beginning_of_a_longer_one(image, bucket):
    trained(image, f"{bucket}/prior", replace(COURSE, steps=2))
    assert trained(image, f"{bucket}/prior") == 2
