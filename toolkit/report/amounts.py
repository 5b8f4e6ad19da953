"""Numbers, sizes and times as a reader wants them."""

from __future__ import annotations

from datetime import UTC, datetime

_BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")  # powers of 1024, as pg_size_pretty
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60


def count(number: float | None) -> str:
    """12345 → "12,345"; what was not looked at is a dash."""
    return "—" if number is None else f"{number:,.0f}"


def many(number: int, one: str, more: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else more}"


def size(number: float) -> str:
    """Bytes, in the unit that leaves one to three digits before the point."""
    unit = 0
    while number >= 1024 and unit < len(_BYTE_UNITS) - 1:
        number /= 1024
        unit += 1
    text = f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:.0f}"
    return f"{text} {_BYTE_UNITS[unit]}"


def milliseconds(ms: float) -> str:
    """A pause: never rounded to zero when there was one."""
    if 0 < ms < 1:
        return "<1 ms"
    return f"{ms:,.0f} ms"


def span(seconds: float) -> str:
    """A duration in its two largest units: "850 ms", "12.5 s", "3 min 20 s", "2 d 4 h"."""
    if 0 < seconds < 1:
        return milliseconds(seconds * 1000)
    if seconds < _MINUTE_S:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit_s, unit, part_s, part in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def moment(unix_s: float) -> str:
    """A date and time of day, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def time_of_day(unix_s: float) -> str:
    """The time of day alone, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%H:%M:%S")
