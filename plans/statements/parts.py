"""What can lie between a statement and a table: views, functions, triggers, rules, policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from plans.catalog import TableName

WriteEvent = Literal["insert", "update", "delete", "truncate"]
Event = WriteEvent | Literal["read", "alter"]


@dataclass(frozen=True, slots=True)
class View:
    """A view or materialized view."""

    name: TableName
    columns: tuple[str, ...]
    definition: str = ""  # the SELECT, its names qualified
    is_materialized: bool = False
    tree: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)  # if parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """A function, procedure or aggregate."""

    schema: str
    name: str
    language: str
    arguments: str = ""  # pg_get_function_identity_arguments()
    definition: str = ""  # the CREATE statement; "" if the language isn't read
    kind: Literal["f", "p", "a", "w"] = "f"
    args_min: int = 0
    args_max: int | None = None  # None: variadic
    search_path: tuple[str, ...] | None = None  # its own setting
    of_extension: bool = False
    transitions: frozenset[str] = frozenset()  # tables that its triggers put before it
    steps: tuple[tuple[str, str], ...] = ()  # of an aggregate: schema and name of its functions

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}()"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger, and the function that it runs."""

    name: str
    relation: TableName
    events: frozenset[WriteEvent]
    routine: Routine
    columns: frozenset[str] = frozenset()  # of UPDATE OF; empty is any
    before_row: bool = False
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"trigger {self.name} on {self.relation}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite rule other than a view's own."""

    name: str
    relation: TableName
    event: WriteEvent
    is_instead: bool
    definition: str

    def __str__(self) -> str:
        return f"rule {self.name} on {self.relation}"


@dataclass(frozen=True, slots=True)
class Attached:
    """Functions that run with every row that is written: of a CHECK, an index, a computed column.

    The server's own record of what an expression depends on tells them, so that those behind
    operators are among them.
    """

    name: str
    relation: TableName
    routines: tuple[Routine, ...]

    def __str__(self) -> str:
        return f"{self.name} on {self.relation}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A row security policy."""

    name: str
    relation: TableName
    events: frozenset[Event]
    expressions: tuple[str, ...]

    def __str__(self) -> str:
        return f"policy {self.name} on {self.relation}"
