"""What is known of the use of tables: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from plans.catalog import TableName
from plans.statements.model import Statement


@dataclass(frozen=True, slots=True, order=True)
class Actor:
    """Who executes a statement: a role, or a service whose code it stands in.

    Both may be unknown ("").
    """

    role: str = ""
    service: str = ""

    def __str__(self) -> str:
        return self.role or (f"code of {self.service}" if self.service else "somebody")


NOBODY = Actor()


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """SQL that was executed, or that stands in code and may be."""

    text: str
    place: str  # "pg_stat_statements", "shop/orders.py:12"
    actor: Actor = NOBODY
    calls: float = 1.0  # within the source's time
    at: datetime | None = None  # of one execution
    transaction: str | None = None  # the same for all statements of one transaction
    parameters: tuple[str | None, ...] | None = None  # as text; None if they aren't known
    search_path: tuple[str, ...] | None = None  # its session's, if that was set before


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One origin of statements: statistics, logs, code."""

    name: str  # "pg_stat_statements", "logs", "code"
    since: datetime | None = None
    until: datetime | None = None
    statements: int = 0  # different ones that use the tables
    calls: float = 0.0  # of these
    notes: tuple[str, ...] = ()  # what could not be read, and why

    @property
    def days(self) -> float | None:
        """How long it was looked at, in days; None where nothing was executed."""
        if self.since is None or self.until is None:
            return None
        return max(0.0, (self.until - self.since).total_seconds()) / 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A statement with what it touches, who executed it and how often."""

    statement: Statement
    actor: Actor
    origin: str
    place: str  # of the first
    calls: float | None = None  # None of code, which isn't known to run


@dataclass(frozen=True, slots=True)
class Values:
    """The values with which rows were inserted, in one column by one actor."""

    known: frozenset[str] = frozenset()
    others: bool = False  # some are computed, or given as parameters that aren't known


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """All that statements tell."""

    origins: tuple[Origin, ...] = ()
    used: tuple[Used, ...] = ()
    # Every two tables written in one transaction, with how often; the lesser name first.
    together: Mapping[tuple[TableName, TableName], int] = field(default_factory=dict)
    inserted: Mapping[tuple[TableName, str, Actor], Values] = field(default_factory=dict)
    unread: tuple[str, ...] = ()  # statements that could not be told, with the reason


@dataclass(frozen=True, slots=True)
class Volume:
    """What the server counted for a table, whoever it was."""

    rows_written: int = 0
    rows_read: int = 0


@dataclass(frozen=True, slots=True)
class ColumnValues:
    """What ANALYZE knows of a column."""

    distinct: int  # how many values there are; 0 if there are many
    common: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileges:
    """Who may write."""

    owners: Mapping[TableName, str] = field(default_factory=dict)
    writers: Mapping[TableName, frozenset[str]] = field(default_factory=dict)
    # Roles that may write some columns only.
    column_writers: Mapping[TableName, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()  # all that there are
    administrators: frozenset[str] = frozenset()  # superusers, who may write everything


@dataclass(frozen=True, slots=True)
class Touched:
    """Columns that one trigger watches and sets: they change together."""

    table: TableName
    columns: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the server itself knows of the use of its tables."""

    executed: tuple[Executed, ...] = ()
    origin: Origin | None = None  # None without pg_stat_statements
    volumes: Mapping[TableName, Volume] = field(default_factory=dict)
    counted_days: float = 0.0  # for which the volumes were counted
    privileges: Privileges = Privileges()
    columns: Mapping[tuple[TableName, str], ColumnValues] = field(default_factory=dict)
    touched: tuple[Touched, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by role, "" for all
    notes: tuple[str, ...] = ()
