"""From values to places in a picture, and the ticks between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_TIME_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600 * hours for hours in (1, 2, 3, 6, 12)),
    *(86_400 * days for days in (1, 2, 5, 10, 20, 50, 100)),
)
_LOG_FLOOR_BYTES = 1024
_GAP_INTERVALS = 6  # samples further apart than this many usual intervals are not joined


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight scale from values [low, high] to places [start, stop]; clamps."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Where a value lies; what is outside lies on the edge."""
        if self.high <= self.low:
            return self.start
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def time_ticks(length_s: float, *, at_most: int) -> list[float]:
    """Round offsets from 0 within a length of time."""
    step = next((s for s in _TIME_STEPS_S if length_s / s <= at_most), length_s / at_most)
    return [i * step for i in range(int(length_s / step + 1e-9) + 1)]


def round_ticks(high: float, *, at_most: int) -> list[float]:
    """0 and round multiples (1, 2, 5 · 10ⁿ); the last one is at or above `high`."""
    if high <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(high / at_most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if high / (m * power) <= at_most)
    return [i * step for i in range(math.ceil(high / step - 1e-9) + 1)]


def byte_ticks(high: float) -> list[float]:
    """1 kB, 8 kB, 64 kB, … until one is at or above `high`; two of them at least."""
    ticks = [float(_LOG_FLOOR_BYTES)]
    while ticks[-1] < high or len(ticks) == 1:
        ticks.append(ticks[-1] * 8)
    return ticks


def log_bytes(number: float) -> float:
    """Bytes on a logarithmic scale that has a zero; below 1 kB it is nearly straight."""
    return math.log2(1 + max(number, 0) / _LOG_FLOOR_BYTES)


def thinned(points: Sequence[tuple[float, float]], *, buckets: int) -> list[tuple[float, float]]:
    """At most two points per bucket of x, its lowest and its highest: no peak is lost."""
    points = sorted(points)
    if len(points) <= 2 * buckets:
        return points
    first, last = points[0][0], points[-1][0]
    width = (last - first) / buckets or 1.0
    grouped: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        grouped.setdefault(int((point[0] - first) / width), []).append(point)
    kept: list[tuple[float, float]] = []
    for group in grouped.values():
        low, high = min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])
        kept.extend(sorted({low, high}))
    return kept


def unbroken(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Runs of samples; where nothing was measured, nothing is drawn."""
    if len(points) < 2:
        return [list(points)] if points else []
    longest = _GAP_INTERVALS * median(b[0] - a[0] for a, b in pairwise(points))
    runs = [[points[0]]]
    for before, point in pairwise(points):
        if point[0] - before[0] > longest:
            runs.append([])
        runs[-1].append(point)
    return runs
