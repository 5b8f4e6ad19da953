"""The likely cause of a difference, from who wrote the row and what differs; no I/O.

That somebody else wrote a row is a fact if the server keeps commit times; the rest
is what a person would guess who looks at the values.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping
from itertools import product
from types import MappingProxyType
from typing import Final

from validators.results import Cause, ColumnDifference, Difference, Written

CAUSES: Final[Mapping[Cause, str]] = MappingProxyType(
    {
        "written-there": "somebody other than the stream wrote this row on the side that follows",
        "not-arrived": "the row has not arrived, or somebody deleted it on the side that follows",
        "not-removed": "the row was deleted where it leads, and that has not arrived",
        "outdated": "the stream wrote the row last, and a later change of it has not arrived",
        "encoding": "the text is the same, decoded or composed in another way",
        "white-space": "only white space differs",
        "precision": "digits were cut off or rounded",
        "expression": "only what the plan's expressions compute differs, not what they read",
        "unknown": "not told: turn track_commit_timestamp on to see who wrote a row",
    }
)

_CODECS = ("utf-8", "latin-1", "cp1252")


def cause_of(difference: Difference, written: Written, computed: Collection[str]) -> Cause:
    """Why a row probably differs; `computed` are the columns that are an expression's value."""
    if difference.how == "missing":
        return "not-arrived"
    if written.by == "other":
        return "written-there"
    if difference.how == "extra":
        return "unknown" if written.by == "unknown" else "not-removed"
    if not difference.columns:
        return "unknown"
    for cause, explains in _EXPLAINS.items():
        if all(explains(column) for column in difference.columns):
            return cause
    if all(column.column in computed for column in difference.columns):
        return "expression"
    return "unknown" if written.by == "unknown" else "outdated"


def _is_encoding(column: ColumnDifference) -> bool:
    ours, theirs = column.leader, column.follower
    if ours is None or theirs is None:
        return False
    if unicodedata.normalize("NFC", ours) == unicodedata.normalize("NFC", theirs):
        return True
    return any(
        _misread(one, written, read) == other
        for one, other in ((ours, theirs), (theirs, ours))
        for written, read in product(_CODECS, _CODECS)
        if written != read
    )


def _misread(text: str, written: str, read: str) -> str | None:
    try:
        return text.encode(written).decode(read)
    except UnicodeError:
        return None


def _is_white_space(column: ColumnDifference) -> bool:
    if column.leader is None or column.follower is None:
        return False
    return column.leader.split() == column.follower.split()


def _is_precision(column: ColumnDifference) -> bool:
    """A number or a time that lacks its last digits, or has them rounded."""
    if column.leader is None or column.follower is None:
        return False
    short, long = sorted((column.leader, column.follower), key=len)
    if not any(character.isdigit() for character in long):
        return False
    kept = short.rstrip("0123456789")  # up to the point, or to the part that is no digit
    digits = len(short) - len(kept)
    fraction = long[len(kept) :]
    if len(short) < len(long) and long.startswith(short):
        rest = long[len(short) :]
        return rest.lstrip(".").rstrip("+:0123456789") == "" and ("." in short or "." in rest)
    is_rounded = kept.endswith(".") and long.startswith(kept) and fraction.isdigit()
    return is_rounded and digits < len(fraction)


_EXPLAINS: Final[Mapping[Cause, Callable[[ColumnDifference], bool]]] = MappingProxyType(
    {"white-space": _is_white_space, "precision": _is_precision, "encoding": _is_encoding}
)
