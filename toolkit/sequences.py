"""Numbers that are never issued twice: sequences on the side that takes over.

Sequences are not part of the change stream, and rows that were deleted have used
numbers too, so the largest key alone tells nothing.  A new leader goes on after
the larger of both, and a gap.  Where several services issue numbers for parts of
one table, each gets every n-th of them, so that they never meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
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


def read_states(connection: Connection, wanted: Iterable[TableName]) -> dict[TableName, State]:
    """Sequences' positions, in one round trip; one never used stands before its start.

    Raises GateClosed for a sequence that does not exist.
    """
    names = sorted(set(wanted))
    if not names:
        return {}
    query = sql.SQL(
        "SELECT v.number, CASE WHEN v.is_called THEN v.last_value"
        " ELSE v.last_value - s.seqincrement END, s.seqincrement, s.seqmin, s.seqmax"
        " FROM ({}) AS v JOIN pg_sequence AS s ON s.seqrelid = v.sequence"
    ).format(
        sql.SQL(" UNION ALL ").join(
            sql.SQL(
                "SELECT {}::int AS number, tableoid AS sequence, last_value, is_called FROM {}"
            ).format(number, name.identifier)
            for number, name in enumerate(names)
        )
    )
    try:
        rows = connection.execute(query).fetchall()
    except psycopg.errors.UndefinedTable as error:
        raise GateClosed(
            f"a sequence is gone: {str(error).partition(chr(10))[0]}", hint="was it dropped since?"
        ) from None
    return {names[number]: State(*state) for number, *state in rows}


def highest(
    connection: Connection,
    uses: Mapping[TableName, Sequence[Use]],
    states: Mapping[TableName, State],
) -> dict[TableName, int]:
    """For each sequence, the number furthest along that was issued or stands in a column."""
    best = {name: states[name].last for name in uses}
    columns = [(name, use) for name, some in uses.items() for use in some if use.is_number]
    if not columns:
        return best
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {number}, {function}({column})::bigint FROM {table}").format(
            number=number,
            function=sql.SQL("max" if states[name].increment > 0 else "min"),
            column=sql.Identifier(use.column),
            table=use.table.identifier,
        )
        for number, (name, use) in enumerate(columns)
    )
    for number, value in connection.execute(query).fetchall():
        name = columns[number][0]
        if value is not None:
            best[name] = _further(best[name], value, states[name])
    return best


def _further(one: int, other: int, state: State) -> int:
    return max(one, other) if state.increment > 0 else min(one, other)


def next_numbers(  # noqa: PLR0913  (keywords, each with a default that does nothing)
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


def apply(
    connection: Connection, numbers: Sequence[Numbers], states: Mapping[TableName, State]
) -> None:
    """Set the sequences; repeating it changes nothing.

    ALTER SEQUENCE writes a file anew for each, so it is used only where it must be.
    """
    if not numbers:
        return
    statements = [
        _altered(one) for one in numbers if states[one.sequence].increment != one.increment
    ]
    connection.execute(sql.SQL("; ").join([*statements, _setting(numbers)]), prepare=False)


def hold(connection: Connection, new: Numbers, *, wait_ms: int) -> int:
    """Give a sequence its new increment, keep all others from drawing, and tell its last number.

    Until the transaction ends: ALTER SEQUENCE takes a lock that nextval() wants, too.
    Raises psycopg.errors.LockNotAvailable after `wait_ms`.
    """
    limit = sql.SQL("SET LOCAL lock_timeout = {}").format(wait_ms)
    connection.execute(sql.SQL("; ").join([limit, _altered(new)]), prepare=False)
    return read_states(connection, [new.sequence])[new.sequence].last


def set_next(connection: Connection, numbers: Sequence[Numbers]) -> None:
    """Set the next number of sequences whose increments are right already."""
    connection.execute(_setting(numbers), prepare=False)


def _altered(new: Numbers) -> sql.Composed:
    return sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(
        new.sequence.identifier, sql.Literal(new.increment)
    )


def _setting(numbers: Sequence[Numbers]) -> sql.Composed:
    return sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("setval({}::regclass, {}, false)").format(
                one.sequence.identifier.as_string(None), sql.Literal(one.start)
            )
            for one in numbers
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
