"""Rows: how they are kept between the log and the follower.

A row is the bytes of its values, each behind its length: what COPY's binary format
has between a row's head and its end.  So a row is written to the follower as it is,
and nobody here looks into a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Value = bytes
"""Four bytes of length and so many bytes, or NULL, or UNCHANGED."""

Row = bytes
"""The values of a row, joined."""

Key = bytes
"""The values of a row's key, joined."""

Unchanged = tuple[int, ...]
"""Which values of a row are UNCHANGED, by their places."""

NULL: Final = b"\xff\xff\xff\xff"
"""No value; as a length it is -1."""

UNCHANGED: Final = b"\xff\xff\xff\xfe"
"""A large value that the update did not touch and the log therefore lacks; as a length, -2."""

LENGTH: Final = 4


def value(data: bytes) -> Value:
    """A value that is not NULL, from the bytes of its form."""
    return len(data).to_bytes(LENGTH, "big") + data


def values(row: Row) -> list[Value]:
    """The values of a row."""
    found = []
    at, end = 0, len(row)
    while at < end:
        begin, at = at, at + LENGTH
        length = int.from_bytes(row[begin:at], "big", signed=True)
        if length > 0:
            at += length
        found.append(row[begin:at])
    return found


def has_unchanged(row: Row) -> bool:
    """Whether a value is UNCHANGED."""
    return bool(unchanged_of(row))


def unchanged_of(row: Row) -> Unchanged:
    """Which values are UNCHANGED."""
    if UNCHANGED not in row:
        return ()
    return tuple(place for place, one in enumerate(values(row)) if one == UNCHANGED)


def blank(row: Row, unchanged: Unchanged) -> Row:
    """`row`, whose UNCHANGED values are known, with NULL in their place."""
    if row.count(UNCHANGED) == len(unchanged):  # no other bytes look like it
        return row.replace(UNCHANGED, NULL)
    return b"".join(NULL if one == UNCHANGED else one for one in values(row))


def key_of(row: Row, key: Sequence[int]) -> Key:
    """The values at these columns, joined."""
    found = values(row)
    return b"".join(found[place] for place in key)


def fill(row: Row, base: Row | None) -> Row:
    """`row` with its UNCHANGED values taken from `base` where that has them.

    An old row may hold only the key and NULL elsewhere.  A NULL is never taken:
    what is stored out of line, and thus may be unchanged, is not NULL.
    """
    if base is None:
        return row
    return b"".join(
        old if new == UNCHANGED and old != NULL else new
        for new, old in zip(values(row), values(base), strict=True)
    )


def take(row: Row, read: Row) -> Row:
    """`row` with its UNCHANGED values, and these alone, as they were read.

    The rest of what was read may be of a later time than the row, when other
    rows, too, were not yet or no more what they are at this point of the stream.
    """
    return b"".join(
        now if one == UNCHANGED else one for one, now in zip(values(row), values(read), strict=True)
    )
