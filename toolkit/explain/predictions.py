"""What a step will probably take: rows, bytes and seconds.

These are estimates, and are shown as such.  Rows and widths are the source's planner's, of
the very queries that the copy runs; sizes are shares of the sizes of the source's tables.
Times are ranges between what was measured slow and fast on one machine (docs/benchmarks.md,
"Rates that `plan explain` reckons with"), so a better machine is faster than both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plans.routes import Kind, Route
from toolkit.explain.outlook import Measured, Outlook, Planned

TUPLE_BYTES = 28  # a row's header and line pointer; the manual, section 65.6


@dataclass(frozen=True, slots=True)
class Range:
    """From what is hoped for to what is feared."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Both, one after the other."""
        return Range(self.low + other.low, self.high + other.high)

    def __mul__(self, times: float) -> Range:
        """So many times that."""
        return Range(self.low * times, self.high * times)


# Measured: docs/benchmarks.md.
PROCESS_S = Range(1.0, 3.0)  # start and end of one verb, with nothing to do
PREPARE_TABLE_S = Range(0.01, 0.08)  # each table of each target
COPY_ROUTE_S = Range(0.01, 0.08)  # each route, with nothing in it
COPY_ROWS_PER_S = Range(150_000, 360_000)
COPY_BYTES_PER_S = Range(19e6, 46e6)
STREAM_CHANGES_PER_S = Range(15_000, 98_000)  # long rows, and short ones
COMPARE_ROUTE_S = Range(0.02, 0.15)
COMPARE_ROWS_PER_S = Range(200_000, 700_000)


@dataclass(frozen=True, slots=True)
class Size:
    """What a route, or several, will probably bring to the targets."""

    rows: int = 0
    data_bytes: int = 0  # tables with what is stored out of line
    index_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        """What the targets' disks hold afterwards."""
        return self.data_bytes + self.index_bytes

    def __add__(self, other: Size) -> Size:
        """Both together."""
        return Size(
            self.rows + other.rows,
            self.data_bytes + other.data_bytes,
            self.index_bytes + other.index_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What a step will probably take; None is "not known"."""

    rows: int | None = None
    size_bytes: int | None = None  # read or written
    disk_bytes: int | None = None  # on all targets together, afterwards
    seconds: Range | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


NOT_KNOWN = Predicted()


def size_of(route: Route, rows: Planned, whole: Planned, measured: Measured) -> Size:
    """The probable size of one route's rows.

    A part's share of its table is that of its rows times that of its columns' average
    widths.  Computed rows have no such share: they are reckoned from their own width,
    and without their indexes, which are the service's own.
    """
    count = round(rows.rows / measured.overrated) if measured.heap_bytes else 0
    if route.kind is Kind.DERIVED:
        return Size(count, count * (TUPLE_BYTES + rows.width_bytes))
    of_rows = min(rows.rows / max(whole.rows, 1), 1.0) if count else 0.0
    widths = (TUPLE_BYTES + rows.width_bytes) / (TUPLE_BYTES + max(whole.width_bytes, 1))
    held = {column.plain for column in route.columns} | set(route.generated)
    indexes = sum(one.size_bytes for one in measured.indexes if one.columns <= held)
    return Size(
        count,
        round(route.source.size_bytes * of_rows * min(widths, 1.0)),
        round(indexes * of_rows),
    )


def sizes(outlook: Outlook) -> Mapping[str, Size]:
    """The probable size of every route."""
    return {
        route.id: size_of(
            route,
            outlook.planned[route.id],
            outlook.whole[route.source.name],
            outlook.measured[route.source.name],
        )
        for route in outlook.split.routes
    }


def total(some: Iterable[Size]) -> Size:
    """All of them together."""
    return sum(some, Size())


def copy_seconds(some: Iterable[Size]) -> Range:
    """How long the copy of so much takes, its indexes included."""
    routes = list(some)
    all_ = total(routes)
    work = _slower(
        _at(all_.rows, COPY_ROWS_PER_S),
        _at(all_.data_bytes, COPY_BYTES_PER_S),
    )
    return PROCESS_S + COPY_ROUTE_S * len(routes) + work


def compare_seconds(some: Iterable[Size]) -> Range:
    """How long comparing so much takes."""
    routes = list(some)
    return COMPARE_ROUTE_S * len(routes) + _at(total(routes).rows, COMPARE_ROWS_PER_S)


def catch_up_seconds(copying: Range, changes_per_s: float | None) -> Range | None:
    """How long the stream drains what was written during the copy, if that is known."""
    if changes_per_s is None:
        return None
    fast = copying.low * changes_per_s / STREAM_CHANGES_PER_S.high
    slow = copying.high * changes_per_s / STREAM_CHANGES_PER_S.low
    return PROCESS_S + Range(fast, slow)


def _at(amount: float, per_s: Range) -> Range:
    return Range(amount / per_s.high, amount / per_s.low)


def _slower(one: Range, other: Range) -> Range:
    return Range(max(one.low, other.low), max(one.high, other.high))


def about(seconds: Range) -> str:
    """A range for a reader: "about 3 to 6 min"; never more exact than it is."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds.high >= 1.5 * unit_s or unit == "s":
            low, high = _rounded(seconds.low / unit_s), _rounded(seconds.high / unit_s)
            if high in ("0", "1") and unit == "s":
                return "about a second"
            return f"about {high} {unit}" if low == high else f"about {low} to {high} {unit}"
    raise AssertionError(seconds)


def _rounded(number: float) -> str:
    """Two digits at most, as more would be a lie."""
    if number < 100:
        return f"{number:.0f}"
    digits = len(str(int(number))) - 2
    return f"{round(number / 10**digits) * 10**digits:,}"
