"""What a statement touches; values only.

"Reads" and "writes" are meant as privileges are: what SELECT would be needed for is
read, what INSERT, UPDATE, DELETE or TRUNCATE would be needed for is written.  Locks
(``SELECT … FOR UPDATE``, ``LOCK TABLE``) count as reads.  A change of a table's
definition counts as a write; its statement has the verb "ddl".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from plans.catalog import TableName

Verb = Literal[
    "select", "insert", "update", "delete", "merge", "truncate", "copy", "call", "do", "ddl",
    "other",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Touch:
    """A table that a statement reads or writes."""

    table: TableName  # of a partition: the root
    columns: frozenset[str]  # those that are named; empty: all, none or not known
    writes: bool
    via: tuple[str, ...] = ()  # views, functions, triggers, keys through which it is reached


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text, and all that it is known to touch.

    With `unproven` empty the touches are all; otherwise it may touch more, and each
    of the reasons says why that cannot be known.
    """

    text: str
    line: int  # of the text that it was found in, from 1
    verb: Verb
    touches: tuple[Touch, ...] = ()
    unproven: tuple[str, ...] = ()

    @property
    def reads(self) -> frozenset[TableName]:
        """The tables that are read."""
        return frozenset(touch.table for touch in self.touches if not touch.writes)

    @property
    def writes(self) -> frozenset[TableName]:
        """The tables that are written."""
        return frozenset(touch.table for touch in self.touches if touch.writes)

    @property
    def tables(self) -> frozenset[TableName]:
        """The tables that are read or written."""
        return frozenset(touch.table for touch in self.touches)

    @property
    def joins(self) -> frozenset[tuple[TableName, TableName]]:
        """Every two tables that meet in the statement, the lesser name first."""
        return pairs(self.tables)


Confirm = Callable[[Statement, Sequence[str] | None], Statement]
"""Something that may know more of a statement, run under a search_path (None: the catalog's)."""


def as_read(statement: Statement, _search_path: Sequence[str] | None) -> Statement:
    """No more is known of a statement than what was read."""
    return statement


def pairs(tables: Iterable[TableName]) -> frozenset[tuple[TableName, TableName]]:
    """Every two of the tables, the lesser name first."""
    return frozenset(combinations(sorted(frozenset(tables)), 2))
