"""Numbers that are never issued twice: sequences on the side that takes over.

Sequences are not part of the change stream, and rows that were deleted have used
numbers too, so the largest key alone tells nothing.  A new leader goes on after
the larger of both, and a gap.  Where several services issue numbers for parts of
one table, each gets every n-th of them, so that they never meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from plans.catalog import Column, Table, TableName
from plans.errors import GateClosed


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one sequence is to go on with."""

    sequence: TableName
    start: int
    increment: int


@dataclass(frozen=True, slots=True)
class Use:
    """A column whose default draws from a sequence, as it is or within an expression."""

    table: TableName
    column: str
    is_number: bool  # else the column does not tell which number it was

    @classmethod
    def of(cls, table: Table, column: Column) -> Use:
        """The use that a column makes of its sequence."""
        return cls(table.name, column.name, column.type in ("smallint", "integer", "bigint"))


@dataclass(frozen=True, slots=True)
class State:
    """A sequence as it is."""

    last: int
    increment: int
    minimum: int
    maximum: int


def read_state(connection: Connection, sequence: TableName) -> State:
    """A sequence's position; one that was never used stands before its start."""
    row = connection.execute(
        sql.SQL(
            "SELECT CASE WHEN s.is_called THEN s.last_value"
            " ELSE s.last_value - p.increment_by END, p.increment_by, p.min_value, p.max_value"
            " FROM {} AS s, pg_sequences AS p WHERE p.schemaname = {} AND p.sequencename = {}"
        ).format(sequence.identifier, sequence.schema, sequence.name)
    ).fetchone()
    if row is None:
        raise GateClosed(f"sequence {sequence} does not exist", hint="was it dropped since?")
    return State(*row)


def highest(connection: Connection, uses: Iterable[Use], state: State) -> int:
    """The number furthest along that stands in any of the columns, or that was issued."""
    best = state.last
    for use in uses:
        if not use.is_number:
            continue
        table, column = use.table, use.column
        function = "max" if state.increment > 0 else "min"
        row = connection.execute(
            sql.SQL("SELECT {}({})::bigint FROM {}").format(
                sql.SQL(function), sql.Identifier(column), table.identifier
            )
        ).fetchone()
        if row and row[0] is not None:
            best = max(best, row[0]) if state.increment > 0 else min(best, row[0])
    return best


def next_numbers(
    sequence: TableName,
    state: State,
    highest_used: int,
    *,
    gap: int,
    place: int = 0,
    places: int = 1,
    base_increment: int | None = None,
) -> Numbers:
    """Where a sequence goes on: behind `highest_used` and the gap.

    With several `places`, the numbers are those that leave the remainder `place`
    when counted in steps of the sequence's own increment.

    Raises GateClosed if its range does not reach so far.
    """
    step = base_increment or state.increment
    stride = step * places
    start = highest_used + (1 + gap) * step
    if places > 1:
        # The first number at or behind `start`, in the direction of counting,
        # that belongs to this place.
        start += (place * step - start) % stride
    if not state.minimum <= start <= state.maximum:
        raise GateClosed(
            f"sequence {sequence} is used up: it would have to go on at {start}, and its range "
            f"ends at {state.maximum if step > 0 else state.minimum}",
            hint="widen the column and the sequence, or set sequences.gap lower",
        )
    return Numbers(sequence, start, stride)


def apply(connection: Connection, numbers: Sequence[Numbers]) -> None:
    """Set the sequences; repeating it changes nothing."""
    for one in numbers:
        connection.execute(
            sql.SQL("ALTER SEQUENCE {} INCREMENT BY {} RESTART WITH {}").format(
                one.sequence.identifier, sql.Literal(one.increment), sql.Literal(one.start)
            )
        )


def used_by(tables: Iterable[Table]) -> dict[TableName, list[Use]]:
    """The sequences of some tables, each with the columns that draw from it."""
    uses: dict[TableName, list[Use]] = {}
    for table in tables:
        for column in table.columns:
            if column.sequence is not None:
                use = Use.of(table, column)
                uses.setdefault(column.sequence, []).append(use)
    return uses
