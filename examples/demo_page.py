"""The page of the demo: one file that holds its own pictures, so that it can be sent to anybody and opened anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import imagecodecs

PANELS = {
    "given": "what was given",
    "smooth": "interpolated",
    "naive-tiles": "naive tiles",
    "published-msr": "published MSR",
    "tileloom": "tileloom",
    "truth": "the truth",
}
STORIES = {
    "sr": "Of every 4 x 4 pixels the mean was measured, and no more. The restored scene has those means, also where "
    "tiles meet.",
    "clouds": "Clouds hide parts of the scene, and a scanner has skipped stripes. Only tiles that touch what is "
    "missing are run; all other pixels come back bit for bit.",
}
_QUALITY = 92
_TEMPLATE = Path(__file__).with_name("demo.html")


def page(told: dict[str, Any], out: Path) -> str:
    """The page of what was restored into a folder; everything it shows of elsewhere is escaped."""
    rows: Sequence[dict[str, Any]] = told["rows"]
    names = list(dict.fromkeys(row["scene"] for row in rows))
    parts = [part for name in names for part in _scene(name, [row for row in rows if row["scene"] == name], out)]
    calls, pixels = (sum(row.get(name, 0) for row in rows) for name in ("network calls", "million pixels seen"))
    total = f"All of it: {calls:,} network calls on {pixels:,.1f} million pixels, in {told['seconds']:,.0f} seconds."
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(body="\n".join(parts), total=escape(total))


def _scene(name: str, rows: Sequence[dict[str, Any]], out: Path) -> Iterator[str]:
    folder = out / name
    yield f"<section><h2>{escape(rows[0]['title'])}</h2><p class=story>{escape(STORIES.get(name, ''))}</p>"
    yield from _slider(folder, "whole-given", "whole", "given", "restored")
    yield "<h3>A window of it, pixel by pixel</h3><div class=panels>"
    for file, label in PANELS.items():
        yield _figure(folder, file, label)
    yield "</div>"
    yield "<h3>Any two of them</h3><div class=pick>"
    yield from (_choice(name, side, chosen) for side, chosen in (("left", "published-msr"), ("right", "tileloom")))
    yield "</div>"
    yield from _slider(folder, "published-msr", "tileloom", "left", "right", pick=name)
    yield "<h3>Seams: how much steeper it is across borders of tiles than beside them</h3><div class='panels three'>"
    yield from (_figure(folder, f"{row['files']}-seams", row["way"]) for row in rows if "seam excess" in row)
    yield "</div><h3>Errors: how far from the truth</h3><div class='panels four'>"
    yield from (_figure(folder, f"{row['files']}-error", row["way"]) for row in rows)
    yield "</div>"
    yield from _table(rows)
    yield "<h3>The weave over time</h3><p>A band is a tile in flight, a block a tile; a wavefront has one colour, "
    yield "coarse tiles are pale.</p>"
    weave = _data(folder / "tileloom-weave.png", lossless=True)
    yield f"<img class=weave alt='tiles over time' src='{weave}'></section>"


def _figure(folder: Path, file: str, label: str) -> str:
    path, where = folder / f"{file}.png", escape(f"{folder.name}/{file}.png")
    return (
        f"<figure><a href='{where}'><img data-panel='{escape(file)}' alt='{escape(label)}' src='{_data(path)}'></a>"
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def _slider(folder: Path, left: str, right: str, before: str, after: str, *, pick: str = "") -> Iterator[str]:
    """Two pictures over each other, of which a handle shows more or less."""
    sources = ("", "") if pick else tuple(f" src='{_data(folder / f'{one}.png')}'" for one in (left, right))
    yield f"<div class='slider{' small' if pick else ''}' data-pick='{escape(pick)}'>"
    yield f"<img alt='{escape(before)}' class=left{sources[0]}><img alt='{escape(after)}' class=right{sources[1]}>"
    yield f"<i></i><b class=l>{escape(before)}</b><b class=r>{escape(after)}</b>"
    yield "<input type=range min=0 max=100 step=0.1 value=50 aria-label='how much of either picture is shown'></div>"


def _choice(scene: str, side: str, chosen: str) -> str:
    options = "".join(
        f"<option value='{escape(file)}'{' selected' if file == chosen else ''}>{escape(label)}</option>"
        for file, label in PANELS.items()
    )
    return f"<label>{side} <select data-scene='{escape(scene)}' data-side='{side}'>{options}</select></label>"


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = [name for name in rows[0] if name not in ("scene", "title", "files")]
    yield "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in columns) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(_plain(row.get(name, '')))}</td>" for name in columns) + "</tr>"
    yield "</table>"


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _data(path: Path, *, lossless: bool = False) -> str:
    """A picture as part of the page."""
    png = path.read_bytes()
    if lossless:
        return f"data:image/png;base64,{b64encode(png).decode()}"
    jpeg = imagecodecs.jpeg8_encode(imagecodecs.png_decode(png), level=_QUALITY, subsampling="444")
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
