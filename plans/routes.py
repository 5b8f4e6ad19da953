"""Routes: which rows of the source become which rows of which target, and back.

A plan is compiled into routes once; copy, stream and comparison all work from
them and from nothing else.  A column's expression is SQL over the columns of
one source row.  The same text is evaluated by the copy on the source, by the
stream on the staged raw row in the target, and by the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from plans.catalog import Table, TableName


class Kind(Enum):
    """Why a row is in the target."""

    WHOLE = "whole"  # the service owns the table
    COLUMNS = "columns"  # the service owns some columns; every part has the key
    ROWS = "rows"  # the service owns the rows of a predicate
    REFERENCE = "reference"  # a read-only copy of another service's table
    DERIVED = "derived"  # computed from another service's rows

    @property
    def owned(self) -> bool:
        """Whether a cutover gives the rows to the service, and a rollback back."""
        return self in (Kind.WHOLE, Kind.COLUMNS, Kind.ROWS)


@dataclass(frozen=True, slots=True)
class RouteColumn:
    """One column of the target and where its value comes from."""

    name: str  # in the target
    expression: str  # SQL over the source row's columns, which stand unqualified
    reads: frozenset[str]  # the source columns that the expression reads
    type: str  # the target column's, as format_type() writes it
    plain: str | None  # the source column, if the expression is nothing else
    binary: bool  # the value's binary form can be copied from server to server


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Rows of one source table on their way into one table of a service."""

    id: str  # unique in the plan and stable, such as "crm:public.leads"
    service: str
    owner: str  # the service that may write these rows after the cutover
    kind: Kind
    source: Table
    target: TableName
    columns: tuple[RouteColumn, ...]  # all that are written; no generated ones
    generated: tuple[str, ...] = ()  # source columns that the target generates as well
    key: tuple[str, ...]  # target columns that tell rows apart; () is a multiset
    where: str | None = None  # SQL over the source row; None is all rows
    where_reads: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()
    """Target columns whose values must not be shown, nor what is computed from such."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Key columns whose expression reads no column, with that expression.

    Several derived routes may fill one table; these columns tell whose row it is.
    """

    def column(self, name: str) -> RouteColumn:
        """The target column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def needs_full_identity(self) -> bool:
        """Whether old rows must be logged in full for deletes to find their target.

        So it is without a key, and where the target's key is not made of the
        source's key, all of it and nothing else: then several source rows may have
        had one target key, and only the old row tells whether it was this one's.
        """
        if not self.key or not self.source.key:
            return True
        reads = frozenset[str]().union(*(self.column(name).reads for name in self.key))
        return reads != set(self.source.key)

    @property
    def needs_old_rows(self) -> bool:
        """Whether the source's log has to tell old rows in full, since no key of it would do."""
        return self.needs_full_identity or not self.source.logs_key
