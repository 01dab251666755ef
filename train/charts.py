"""Charts as inline SVG: they take their colours from the page, so dark and light both work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[int]
    y: Sequence[float]


def line_chart(curves: Sequence[Curve], x_label: str, y_range: tuple[float, float] | None) -> str:
    """Return curves over a common axis, with a legend below; `y_range` None fits the data."""
    points = [(x, y) for c in curves for x, y in zip(c.x, c.y, strict=True) if math.isfinite(y)]
    if not points:
        return '<p class="none">nothing to draw</p>'
    low, high = y_range or _fit([y for _, y in points])
    first, last = float(min(x for x, _ in points)), float(max(x for x, _ in points))
    frame = _Frame(first, max(last, first + 1), low, high)
    parts = [*frame.axes(x_label)]
    for index, curve in enumerate(curves):
        pairs = zip(curve.x, curve.y, strict=True)
        places = [(frame.x(float(x)), frame.y(y)) for x, y in pairs if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        colour = f"c{index % _COLOURS}"
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if len(places) <= 20:
            parts += [
                f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
                for x, y in places
            ]
    legend = "".join(
        f'<span><i class="key c{i % _COLOURS}"></i>{escape(c.name)}</span>'
        for i, c in enumerate(curves)
    )
    return _svg(parts) + f'<div class="legend">{legend}</div>'


def histogram(counts: Sequence[int], x_label: str) -> str:
    """Return bars over [0, 1], as shares of all."""
    total = sum(counts)
    if not total:
        return '<p class="none">nothing to draw</p>'
    shares = [count / total for count in counts]
    frame = _Frame(0.0, 1.0, 0.0, max(shares) * 1.05)
    parts = [*frame.axes(x_label)]
    width = (frame.x(1.0) - frame.x(0.0)) / len(counts)
    for index, share in enumerate(shares):
        top = frame.y(share)
        parts.append(
            f'<rect class="bar" x="{frame.x(0.0) + index * width + 0.5:.1f}" y="{top:.1f}" '
            f'width="{width - 1:.1f}" height="{max(0.0, frame.y(0.0) - top):.1f}"/>'
        )
    return _svg(parts)


def dot_chart(names: Sequence[str], means: Sequence[float], deviations: Sequence[float]) -> str:
    """Return one row a name: its mean as a dot, one deviation to either side as a bar."""
    row = 22
    low = min(m - d for m, d in zip(means, deviations, strict=True))
    high = max(m + d for m, d in zip(means, deviations, strict=True))
    margin = 0.05 * max(high - low, 1e-6)
    height = row * len(names) + 12 + _BOTTOM
    frame = _Frame(low - margin, high + margin, 0.0, 1.0, left=170, width=720, height=height)
    parts = [*frame.axes("mean score, and one standard deviation over seeds", y_ticks=False)]
    for index, (name, mean, deviation) in enumerate(zip(names, means, deviations, strict=True)):
        y = 12 + row * (index + 0.5)
        left, right = frame.x(mean - deviation), frame.x(mean + deviation)
        parts += [
            f'<text class="tick" x="160" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>',
            f'<line class="line c0" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<circle class="dot c0" cx="{frame.x(mean):.1f}" cy="{y:.1f}" r="4"/>',
        ]
    return _svg(parts, 720, height)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values to places."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: int = _LEFT
    width: int = _WIDTH
    height: int = _HEIGHT

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return self.left + share * (self.width - self.left - _RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)
        return self.height - _BOTTOM - share * (self.height - _BOTTOM - _TOP)

    def axes(self, x_label: str, y_ticks: bool = True) -> list[str]:
        floor, right = self.height - _BOTTOM, self.width - _RIGHT
        parts = []
        for value in _ticks(self.y_low, self.y_high) if y_ticks else []:
            y = self.y(value)
            parts += [
                f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
                f'<text class="tick" x="{self.left - 6}" y="{y + 4:.1f}" '
                f'text-anchor="end">{value:g}</text>',
            ]
        for value in _ticks(self.x_low, self.x_high):
            x = self.x(value)
            if not y_ticks:
                parts.append(
                    f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>'
                )
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{floor + 15}" '
                f'text-anchor="middle">{value:g}</text>'
            )
        middle = (self.left + right) / 2
        parts += [
            f'<line class="axis" x1="{self.left}" x2="{right}" y1="{floor}" y2="{floor}"/>',
            f'<text class="tick" x="{middle:.0f}" y="{self.height - 4}" '
            f'text-anchor="middle">{escape(x_label)}</text>',
        ]
        return parts


def _fit(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high == low:
        return low - 0.5, low + 0.5
    margin = 0.05 * (high - low)
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers within the range."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    start = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(start, math.floor(high / step + 1e-9) + 1)]


def _svg(parts: Sequence[str], width: int = _WIDTH, height: int = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
