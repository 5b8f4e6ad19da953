"""What one statement, view or function uses itself, before that is followed further."""

from __future__ import annotations

from dataclasses import dataclass, field

from plans.catalog import TableName
from plans.statements.parts import Event, Routine


@dataclass(frozen=True, slots=True)
class Use:
    """A table or view that is read or written."""

    relation: TableName
    event: Event
    columns: frozenset[str] | None  # None: any, or not known


@dataclass(frozen=True, slots=True)
class Uses:
    """What is used, and what about it cannot be known."""

    relations: tuple[Use, ...] = ()
    routines: tuple[Routine, ...] = ()
    unproven: tuple[str, ...] = ()


@dataclass(slots=True)
class Ledger:
    """Uses as they are found; several of one relation become one."""

    _relations: dict[tuple[TableName, Event], set[str] | None] = field(default_factory=dict)
    _routines: dict[Routine, None] = field(default_factory=dict)
    _unproven: dict[str, None] = field(default_factory=dict)

    def read(self, relation: TableName, column: str | None = None) -> None:
        """A relation is read, perhaps a column of it."""
        self.use(relation, "read", {column} if column else set())

    def use(self, relation: TableName, event: Event, columns: set[str] | None) -> None:
        """A relation is used; `columns` None is any of its columns."""
        key = (relation, event)
        known = self._relations.setdefault(key, set())
        if known is not None:
            self._relations[key] = None if columns is None else known | columns

    def call(self, routine: Routine) -> None:
        """A function is called."""
        self._routines[routine] = None

    def doubt(self, reason: str) -> None:
        """Something about the statement cannot be known."""
        self._unproven[reason] = None

    def add(self, uses: Uses) -> None:
        """All of what was found elsewhere."""
        for use in uses.relations:
            self.use(use.relation, use.event, None if use.columns is None else set(use.columns))
        for routine in uses.routines:
            self.call(routine)
        for reason in uses.unproven:
            self.doubt(reason)

    def uses(self) -> Uses:
        """What was found."""
        return Uses(
            tuple(
                Use(relation, event, None if columns is None else frozenset(columns))
                for (relation, event), columns in self._relations.items()
            ),
            tuple(self._routines),
            tuple(self._unproven),
        )
