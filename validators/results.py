"""What a comparison found out.

"equal", "different" and "unverified" are three results.  An error, or a row that
could not be settled, never counts as equal; no tables compared is no pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from plans.catalog import TableName
from validators.sides import Key

State = Literal["equal", "different", "unverified"]
Step = Literal["fingerprint", "open", "recheck", "done"]
How = Literal["missing", "extra", "different"]
Writer = Literal["applier", "before", "other", "unknown"]
"""`before`: the copy, or the applications that wrote this side before it followed."""
Cause = Literal[
    "written-there",
    "not-arrived",
    "not-removed",
    "outdated",
    "encoding",
    "white-space",
    "precision",
    "expression",
    "unknown",
]

TEXT_MAX = 200  # characters shown of a value; what is compared is the hash of all of it


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """One column's text on both sides; None is NULL or no row."""

    column: str
    leader: str | None
    follower: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """Who wrote a row of the follower last, and when."""

    by: Writer = "unknown"
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose rows differ; for a table without a key, () and one row's text."""

    key: Key
    how: How
    columns: tuple[ColumnDifference, ...] = ()  # those that differ, when they were read
    rows: int = 1  # more than one where a key has several rows, or a row several copies
    copies: tuple[int, int] = (0, 0)  # of a row without a key, on the leader and the follower
    row_hash: str | None = None  # by which a row without a key is found
    version: int | None = None  # the xmin of the follower's row
    written: Written = Written()  # the follower's row
    cause: Cause = "unknown"

    def told(self, leads: str, follows: str) -> str:
        """The columns in words, with these for the sides; a row that is not there has no values."""
        if self.how == "missing" and all(c.follower is None for c in self.columns):
            told = [f"{c.column}: {_told(c.leader)}" for c in self.columns]
        elif self.how == "extra" and all(c.leader is None for c in self.columns):
            told = [f"{c.column}: {_told(c.follower)}" for c in self.columns]
        else:
            told = [
                f"{c.column}: {_told(c.leader)} {leads}, {_told(c.follower)} {follows}"
                for c in self.columns
            ]
        return ": " * bool(self.columns) + "; ".join(told)

    def shortened(self) -> Difference:
        """The same to be shown: texts are cut to a readable length."""
        return replace(
            self,
            columns=tuple(_shortened(c) for c in self.columns),
        )


def _told(value: str | None) -> str:
    return "NULL" if value is None else repr(value)


@dataclass(frozen=True, slots=True)
class ChunkHash:
    """The leader's rows with keys from `lower` on, and below `upper`; None is no bound."""

    lower: int | None  # of the key's first column
    upper: int | None
    fingerprint: str

    def as_dict(self) -> dict[str, object]:
        """As a certificate has it."""
        return {"from": self.lower, "below": self.upper, "hash": self.fingerprint}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult:
    """The comparison of one route's rows.  Counts are exact."""

    table: TableName
    service: str
    route: str
    state: State
    rows: int = 0  # of the leader
    missing: int = 0  # on the follower
    extra: int = 0  # on the follower
    different: int = 0
    unverified: int = 0  # keys that could not be settled
    healed: int = 0  # keys that differed until the follower had caught up
    differences: tuple[Difference, ...] = ()  # at most Limits.differences_held
    examples: tuple[Difference, ...] = ()  # the first of them, with columns, shortened
    reason: str = ""  # why it is unverified
    fingerprint: str = ""  # of the leader's rows
    chunks: tuple[ChunkHash, ...] = ()
    """The same in parts, which are all keys there can be; () if they have no order."""
    elapsed_s: float = 0
    scope: str = ""  # which rows were compared, in words; "" is all of them
    position: str = ""
    """The leader's position that both sides were read at; "" if they were read as they went on."""
    collision_bound: float = 0
    """The probability, at most, that a difference hid behind equal hashes."""

    def summary(self) -> dict[str, object]:
        """The result object of this table that scripts read."""
        return {
            "table": str(self.table),
            "service": self.service,
            "rows": self.rows,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "unverified": self.unverified,
            "state": self.state,
            "collision_bound": self.collision_bound,
            **({"scope": self.scope} if self.scope else {}),
            **({"position": self.position} if self.position else {}),
            **({"reason": self.reason} if self.reason else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysResult:
    """The comparison of chosen keys."""

    route: str
    state: State
    compared: int = 0
    differing: tuple[Key, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a comparison has got to."""

    route: str
    step: Step
    rows: int = 0  # of the leader, that this step has read
    found: int = 0  # keys that differed at first sight
    settled: int = 0  # of them


def consistent(results: Iterable[TableResult]) -> bool:
    """Whether everything was proven equal, and there was something to prove."""
    states = [result.state for result in results]
    return bool(states) and all(state == "equal" for state in states)


def _shortened(column: ColumnDifference) -> ColumnDifference:
    """Long texts, so that what differs is seen."""
    leader, follower = column.leader, column.follower
    alike = 0 if leader is None or follower is None else _alike(leader, follower)
    first = 0 if alike < TEXT_MAX else alike - TEXT_MAX // 2
    return ColumnDifference(column.column, _cut(leader, first), _cut(follower, first))


def _alike(one: str, other: str) -> int:
    """How many characters they have in common at their beginning; quick for megabytes, too."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(text: str | None, first: int) -> str | None:
    if text is None or (not first and len(text) <= TEXT_MAX):
        return text
    last = first + TEXT_MAX - 2
    return f"{'…' if first else ''}{text[first:last]}{'…' if len(text) > last else ''}"
