"""The job of docs/storage.md is one, and its commands do what the page says."""

import re
import shlex

from tests.commandline import tileloom
from tests.house import ROOT
from tests.images import noise, write_zarr
from tests.objects import server as server
from tests.objects import upload
from tileloom.tiling.place import place

PAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_command_works_in_the_order_of_the_page(server, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for bucket in re.findall(r"s3://(\w+)/scene\.zarr", blocks("yaml")[0]):
        server.bucket(bucket)
    upload(write_zarr(tmp_path / "scene.zarr", noise()), "s3://archive/scene.zarr")
    (tmp_path / "job.yaml").write_text(blocks("yaml")[0] + "steps: 2\nlanes: 1\n")
    commands = [shlex.split(line)[1:] for line in blocks("sh")[0].splitlines()]
    assert [words[0] for words in commands] == ["run", "status", "verify", "resume"]
    for words in commands:
        said = tileloom(capfd, *words)
        assert said.code == 0, said
    assert place("s3://results/scene.zarr/zarr.json").exists()
