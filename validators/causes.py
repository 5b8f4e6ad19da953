"""The likely cause of a difference, from who wrote the row and what differs; no I/O.

That somebody else wrote a row is a fact if the server keeps commit times; the rest
is what a person would guess who looks at the values.
"""

from __future__ import annotations

import re
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

_NUMBER = re.compile(r"(?P<whole>-?\d[\d :-]*)(?:\.(?P<fraction>\d+))?(?P<zone>\+00)?")
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
    ours, theirs = _NUMBER.fullmatch(column.leader or ""), _NUMBER.fullmatch(column.follower or "")
    if ours is None or theirs is None:
        return False
    alike = (ours["whole"], ours["zone"]) == (theirs["whole"], theirs["zone"])
    short, long = sorted((ours["fraction"] or "", theirs["fraction"] or ""), key=len)
    last = len(short) - 1  # the only digit that rounding changes, but for a carry
    return alike and len(short) < len(long) and long.startswith(short[: max(last, 0)])


_EXPLAINS: Final[Mapping[Cause, Callable[[ColumnDifference], bool]]] = MappingProxyType(
    {"white-space": _is_white_space, "precision": _is_precision, "encoding": _is_encoding}
)
