"""What the parts of a timeline share: its width, its time axis, its way to set a word."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.report.axis import Axis
from toolkit.report.markup import Markup, element

FONT = 12
LETTER = 0.56  # width of an average letter, in font sizes; generous, so labels do not touch
_MARK_MIN = 2.0  # a pause of 300 ms in a day must still be seen


@dataclass(frozen=True, slots=True)
class Frame:
    """Where things go at one width."""

    width: int
    gutter: int  # for names and ticks; 0: they stand inside, above their lanes
    time: Axis

    def extent(self, begin: float, end: float) -> tuple[float, float]:
        """Left edge and width of a stretch of time, wide enough to be seen."""
        x, stop = self.time.at(begin), self.time.at(end)
        width = max(stop - x, _MARK_MIN)
        return min(x, self.time.stop - width), width


def words_width(words: str) -> float:
    """About how much room some words take."""
    return len(words) * LETTER * FONT


def words_at(
    words: str, x: float, y: float, kind: str, anchor: str, whole: str | None = None
) -> Markup:
    """Words in a picture; `whole` is what they were before they were cut."""
    title = element("title", whole) if whole and whole != words else None
    return element("text", title, words, x=x, y=y, class_=kind, text_anchor=anchor)
