"""What a training shows: sheets of pictures, and the curve of its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_GAP, _LEAST = 2, 96
_WIDE, _HIGH, _LEFT, _FOOT = 720, 360, 64, 36
_COLOURS = ("#2166ac", "#b2182b")


def sheet(pictures_RNCHW: Tensor) -> NDArray[np.uint8]:
    """Rows of pictures in model range as one, axes (row, column, red-green-blue); small ones are enlarged."""
    shown = pictures_RNCHW.float().cpu().numpy()
    shown = shown[:, :, :3] if shown.shape[2] >= 3 else shown[:, :, :1].repeat(3, axis=2)
    pixels = np.clip(np.rint((shown + 1) * 127.5), 0, 255).astype(np.uint8)
    times = max(1, _LEAST // pixels.shape[-1])
    pixels = pixels.repeat(times, axis=3).repeat(times, axis=4)
    framed = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (_GAP, 0), (_GAP, 0)), constant_values=255)
    rows, count, _, height, width = framed.shape
    return np.ascontiguousarray(framed.transpose(0, 3, 1, 4, 2).reshape(rows * height, count * width, 3))


def curve(lines: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """The loss over the steps as an SVG picture, both on logarithmic scales; a colour for each of some scalars."""
    drawn = {name: [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0] for name in names}
    points = [point for found in drawn.values() for point in found]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDE}" height="{_HIGH}" font-family="sans-serif">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    if points:
        scale = _Scale.around(points)
        parts += scale.lines()
        for found, colour in zip(drawn.values(), _COLOURS, strict=False):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(scale.at, found))
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for number, (name, colour) in enumerate(zip(drawn, _COLOURS, strict=False)):
            parts.append(f'<text x="{_LEFT + 12 + 120 * number}" y="16" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """From steps and losses to places in the picture."""

    def __init__(self, steps: tuple[float, float], losses: tuple[float, float]) -> None:
        self._x, self._y = steps, losses

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> _Scale:
        """A scale on which all points lie."""
        steps, losses = zip(*points, strict=True)
        low, high = math.log10(min(losses)), math.log10(max(losses))
        room = max(0.05, 0.05 * (high - low))
        return cls((math.log10(min(steps)), max(math.log10(max(steps)), 1)), (low - room, high + room))

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """(right, down) of a (step, loss)."""
        (left, right), (low, high) = self._x, self._y
        x = (math.log10(point[0]) - left) / max(right - left, 1e-9)
        y = (math.log10(point[1]) - low) / (high - low)
        return _LEFT + x * (_WIDE - _LEFT - 12), (1 - y) * (_HIGH - _FOOT)

    def lines(self) -> Iterator[str]:
        """Thin lines at round steps and losses, with their numbers."""
        for step in (scaled for power in range(9) for scaled in (10**power, 3 * 10**power)):
            x, _ = self.at((step, 1))
            if _LEFT <= x <= _WIDE:
                yield f'<path d="M{x:.1f} 0V{_HIGH - _FOOT}" stroke="#ddd"/>'
                yield f'<text x="{x - 8:.1f}" y="{_HIGH - 14}" font-size="11">{step}</text>'
        for loss in (scaled / 10**power for power in range(-3, 7) for scaled in (1, 2, 5)):
            _, y = self.at((1, loss))
            if 0 <= y <= _HIGH - _FOOT:
                yield f'<path d="M{_LEFT} {y:.1f}H{_WIDE}" stroke="#ddd"/>'
                yield f'<text x="4" y="{y + 4:.1f}" font-size="11">{loss:g}</text>'
