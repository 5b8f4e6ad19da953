"""The write pauses in a timeline: a mark through all lanes, and a label that nothing covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.report.amounts import milliseconds
from toolkit.report.frame import Frame, words_at, words_width
from toolkit.report.markup import Markup, element, join
from toolkit.report.model import Pause

_ROW, _ROWS_MAX = 18, 4
_SPACE = 5


@dataclass(frozen=True, slots=True)
class _Mark:
    pause: Pause
    x: float
    width: float
    row: int  # of its label; _ROWS_MAX: it has none, its figures are in the next picture
    is_left: bool  # its label stands to the left of it


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks that know where their labels go."""

    placed: Sequence[_Mark]

    @property
    def height(self) -> float:
        """How much room the labels take above the lanes."""
        return _ROW * max((min(mark.row + 1, _ROWS_MAX) for mark in self.placed), default=0)

    def drawn(self, *, bottom: float) -> Markup:
        """All marks, then all labels, so that no mark runs through a label."""
        return join(
            [_line(mark, bottom, self.height) for mark in self.placed]
            + [_label(mark) for mark in self.placed if mark.row < _ROWS_MAX]
        )


def place_marks(frame: Frame, pauses: Sequence[Pause]) -> Marks:
    """Each label in the first row where it is clear of the labels before it."""
    free_from: list[float] = []
    placed = []
    for pause in sorted(pauses, key=lambda p: p.begin):
        x, width = frame.extent(pause.begin, pause.begin + pause.total_ms / 1000)
        room = words_width(words(pause)) + 2 * _SPACE
        is_left = x + width + room > frame.width
        left = max(x - room, 0) if is_left else x
        row = next((i for i, free in enumerate(free_from) if free <= left), len(free_from))
        if row < _ROWS_MAX:
            free_from[row : row + 1] = [left + room + (0 if is_left else width)]
        placed.append(_Mark(pause, x, width, row, is_left))
    return Marks(placed)


def words(pause: Pause) -> str:
    """A pause in a few words."""
    return f"{pause.what} · {milliseconds(pause.total_ms)}"


def _line(mark: _Mark, bottom: float, labels: float) -> Markup:
    top = min(mark.row * _ROW + 4, labels)
    said = element("title", words(mark.pause))
    return element(
        "rect", said, x=mark.x, y=top, width=mark.width, height=bottom - top, class_="pause"
    )


def _label(mark: _Mark) -> Markup:
    y = mark.row * _ROW + 14
    if mark.is_left:
        return words_at(words(mark.pause), mark.x - _SPACE, y, "pause-name", "end")
    return words_at(words(mark.pause), mark.x + mark.width + _SPACE, y, "pause-name", "start")
