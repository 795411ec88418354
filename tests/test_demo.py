"""The demo at a small size, with an untrained network in terra's place: what it leaves, and what the README takes."""

import json
import re
from html.parser import HTMLParser
from shutil import copytree

import imagecodecs
import numpy as np
import pytest

from docs.from_demo import put
from examples import demo, demo_page
from examples.demo_pictures import bicubic, error_map, filled, halved, seam_map
from tests.house import ROOT
from tests.test_shipped import CONFIG, trained
from tileloom.tiling.box import Box
from tileloom.tiling.pyramid import Pyramid
from tileloom.tiling.source import open_source


class Links(HTMLParser):
    """What a page shows and leads to."""

    def __init__(self, page):
        super().__init__()
        self.sources, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        assert tag != "link"
        if tag in ("img", "script") and "src" in told:
            self.sources.append(told["src"])
        if tag == "a":
            self.links.append(told["href"])


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a small demo leaves."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shipped")
        patch.setattr("tileloom.models.weights.SHIPPED", folder)
        patch.setattr(demo, "WAYS", {way: {**options, "steps": 2} for way, options in demo.WAYS.items()})
        trained(folder, name="terra", config=CONFIG)
        out = tmp_path_factory.mktemp("left") / "demo"
        demo.main(["--out", str(out), "--size", "256"])
    return out


@pytest.mark.slow
def test_the_page_holds_all_that_it_shows(left):
    page = (left / "index.html").read_text()
    found = Links(page)
    assert len(found.sources) > 20
    assert all(source.startswith("data:image/") for source in found.sources)
    assert not re.search(r"https?:|url\(|@import", page)
    assert all((left / link).is_file() for link in found.links)


@pytest.mark.slow
def test_the_scenes_are_restored_whole_and_known_pixels_stay(left):
    rows = {(row["scene"], row["way"]): row for row in json.loads((left / "figures.json").read_text())["rows"]}
    assert {way for _, way in rows} == {*demo.WAYS, "interpolated"}
    for scene, side in (("sr", 256), ("clouds", 512)):
        folder = left / scene / "tileloom"
        assert Pyramid.open(folder / "restored.zarr", mode="r").box(0).shape == (side, side)
        assert (folder / "job.yaml").is_file()
    restored = open_source(str(left / "clouds" / "tileloom" / "restored.zarr"))
    given, mask = (open_source(str(left / "clouds" / "tileloom" / f"{name}.zarr")) for name in ("input", "mask"))
    whole = Box(0, 0, 512, 512)
    known = mask.read(whole)[0] == 0
    assert 0 < (~known).mean() < 0.2
    np.testing.assert_array_equal(restored.read(whole)[:, known], given.read(whole)[:, known])
    assert rows["clouds", "tileloom"]["rms off the measured"] == 0


@pytest.mark.slow
def test_the_readme_takes_over_the_picture_and_the_figures(left, tmp_path):
    copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    put(left, tmp_path)
    before, after = ((root / "README.md").read_text() for root in (ROOT, tmp_path))
    seams = {row["way"]: row.get("seam excess") for row in json.loads((left / "figures.json").read_text())["rows"][:3]}
    assert "| {:.2f} | {:.2f} | {:.2f} |".format(*seams.values()) in after
    marks = re.compile(r"(<!-- written by `make demo` -->).*(<!-- end -->)", flags=re.DOTALL)
    assert marks.sub("", after) == marks.sub("", before)
    picture = imagecodecs.jpeg8_decode((tmp_path / "docs" / "images" / "demo.jpg").read_bytes())
    assert picture.shape[1] > 6 * 96


@pytest.mark.slow
def test_the_page_escapes_what_it_is_told(left):
    told = json.loads((left / "figures.json").read_text())
    told["rows"][0]["title"] = told["rows"][0]["way"] = "<b>bold</b> & 'quoted'"
    page = demo_page.page(told, left)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; &#x27;quoted&#x27;" in page


def test_a_folder_of_other_things_is_not_emptied(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(SystemExit) as refused:
        demo.main(["--out", str(tmp_path), "--size", "256"])
    assert refused.value.code == 2
    assert "holds thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("size", ["1000", "224"])
def test_a_size_that_its_windows_do_not_fit_is_refused(size, tmp_path, capsys):
    (tmp_path / "figures.json").write_text("{}")
    with pytest.raises(SystemExit):
        demo.main(["--out", str(tmp_path), "--size", size])
    assert "a multiple of 32 from 256 up" in capsys.readouterr().err
    assert (tmp_path / "figures.json").exists()


def test_the_readme_shows_the_figures_of_a_demo():
    rows = re.search(r"<!-- written by `make demo` -->\n(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = rows[1].splitlines()
    assert len(lines) == 4, "run make demo, then python -m docs.from_demo demo"


# --- pictures ---


def test_interpolation_keeps_what_is_even_and_what_rises_evenly():
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (2, 9, 12))
    wide = bicubic(ramp, 4)
    assert wide.shape == (2, 36, 48)
    np.testing.assert_allclose(
        wide[:, :, 8:-8], np.broadcast_to((np.arange(48) - 1.5) / 4, wide.shape)[:, :, 8:-8], atol=1e-5
    )
    np.testing.assert_allclose(bicubic(np.full((1, 3, 5), 7), 3), 7, rtol=1e-6)


def test_a_hole_is_filled_from_around_it_and_nothing_else_changes():
    image = np.random.default_rng(0).integers(0, 256, (2, 33, 40)).astype(np.uint8)
    image[:, 5:25, 10:30] = 100
    hole = np.zeros((33, 40), bool)
    hole[10:20, 15:25] = True
    broken = np.where(hole, 255, image)
    found = filled(broken, hole)
    np.testing.assert_array_equal(found[:, ~hole], image[:, ~hole])
    np.testing.assert_allclose(found[:, 14:16, 19:21], 100, atol=5)


def test_a_map_is_dark_where_nothing_is_wrong():
    truth = np.full((4, 64, 64), 90, np.uint8)
    stepped = truth.copy()
    stepped[:, :, 32:] += 60
    inside = np.ones((64, 64), bool)
    clean = seam_map(truth, truth, [32], [32], inside, block=8)
    assert clean.max() < 40
    seam = seam_map(stepped, truth, [32], [32], inside, block=8)
    assert seam[8:20, 30:34].min(axis=(0, 1)).max() > 150
    np.testing.assert_array_equal(seam[:, 34:, 0] < 80, True)
    assert not error_map(truth, truth)[..., 0].any()
    assert error_map(stepped, truth)[0, 40].max() > 200


def test_a_large_picture_is_halved_until_it_fits():
    assert halved(np.zeros((130, 260, 3), np.uint8), 128).shape == (32, 65, 3)
