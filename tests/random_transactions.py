# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Random transactions on random tables.

Each statement runs under a savepoint: what the tables do not want is rolled back there, and
so is one more aborted subtransaction for whoever decodes the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from hypothesis import strategies as st

from tests.random_schemas import COUNTED, ROWS_MAX, VALUES, Column, Schema, Table, values

STATEMENTS_MAX = 8
MANY = 300
LOCK_MS_MAX = 200


Kind = Callable[[Table, Schema], st.SearchStrategy[list[str]]]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements in turn; some are savepoints."""

    statements: tuple[str, ...]
    commits: bool = True


def rows(table: Table) -> st.SearchStrategy[str]:
    """An INSERT of some rows."""
    one = st.tuples(*(values(column) for column in table.written)).map(", ".join)
    names = ", ".join(f'"{column.name}"' for column in table.written)
    return st.lists(one, min_size=1, max_size=ROWS_MAX).map(
        lambda found: (
            f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE VALUES "
            + ", ".join(f"({values})" for values in found)
        )
    )


@st.composite
def transactions(draw: st.DrawFn, schema: Schema) -> Transaction:
    found: list[str] = []
    for _ in range(draw(st.integers(1, STATEMENTS_MAX))):
        found += draw(_statements(schema))
    if draw(st.integers(0, 3)) == 0:
        first = draw(st.integers(0, len(found)))
        end = "ROLLBACK TO SAVEPOINT mine" if draw(st.booleans()) else "RELEASE SAVEPOINT mine"
        found = [*found[:first], "SAVEPOINT mine", *found[first:], end]
        found += draw(_statements(schema))
    return Transaction(tuple(found), commits=draw(st.integers(0, 9)) > 0)


@st.composite
def _statements(draw: st.DrawFn, schema: Schema) -> list[str]:
    table = draw(st.sampled_from(schema.tables))
    kind: Kind = draw(st.sampled_from(_KINDS))
    return draw(kind(table, schema))


@st.composite
def _insert(draw: st.DrawFn, table: Table, _schema: Schema) -> list[str]:
    return [draw(rows(table))]


@st.composite
def _update(draw: st.DrawFn, table: Table, _schema: Schema) -> list[str]:
    column = draw(st.sampled_from(_settable(table)))
    some = draw(_some(table))
    return [f'UPDATE {table.name} SET "{column.name}" = {draw(values(column))} WHERE {some}']


@st.composite
def _count_up(draw: st.DrawFn, table: Table, schema: Schema) -> list[str]:
    """A column of all rows at once; a key, too, where one row takes the key of the next."""
    counted = [one for one in table.written if one.type in COUNTED and not one.always]
    if not counted:
        return draw(_update(table, schema))
    column, by = draw(st.sampled_from(counted)), draw(st.sampled_from((1, -1, 10)))
    return [f'UPDATE {table.name} SET "{column.name}" = "{column.name}" + {by}']


@st.composite
def _swap(draw: st.DrawFn, table: Table, schema: Schema) -> list[str]:
    """Two rows exchange a value that is unique, by way of a third one or at once."""
    unique = [one for one in table.written if one.unique or (one.name,) == table.key]
    unique = [one for one in unique if not one.always]
    if not unique:
        return draw(_update(table, schema))
    column = draw(st.sampled_from(unique))
    name, aside = f'"{column.name}"', draw(st.sampled_from(VALUES[column.type]))
    one, two = draw(
        st.lists(st.sampled_from(VALUES[column.type]), min_size=2, max_size=2, unique=True)
    )
    if draw(st.booleans()):
        swapped = f"CASE WHEN {name} = {one} THEN {two} ELSE {one} END"
        swapped = f"({swapped})::{column.type}"
        return [f"UPDATE {table.name} SET {name} = {swapped} WHERE {name} IN ({one}, {two})"]
    return [
        f"UPDATE {table.name} SET {name} = {aside} WHERE {name} = {one}",
        f"UPDATE {table.name} SET {name} = {one} WHERE {name} = {two}",
        f"UPDATE {table.name} SET {name} = {two} WHERE {name} = {aside}",
    ]


@st.composite
def _delete(draw: st.DrawFn, table: Table, _schema: Schema) -> list[str]:
    return [f"DELETE FROM {table.name} WHERE {draw(_some(table))}"]


@st.composite
def _again(draw: st.DrawFn, table: Table, _schema: Schema) -> list[str]:
    """Rows go, and the same keys come with other values."""
    return [f"DELETE FROM {table.name} WHERE {draw(_some(table))}", draw(rows(table))]


@st.composite
def _truncate(draw: st.DrawFn, table: Table, schema: Schema) -> list[str]:
    whole = draw(st.lists(st.sampled_from(schema.tables), max_size=2))
    names = {table.name, *(one.name for one in whole)}
    is_part = draw(st.booleans())
    if table.leaves and is_part:
        names = {table.leaves[0]}
    how = draw(st.sampled_from(("", "CASCADE", "RESTART IDENTITY CASCADE")))
    return [f"TRUNCATE {', '.join(sorted(names))} {how}"]


@st.composite
def _many(draw: st.DrawFn, table: Table, _schema: Schema) -> list[str]:
    """Many rows by one statement, whose keys nothing else has."""
    given = {one.name: draw(values(one)) for one in table.written if one.type not in COUNTED}
    given = {name: value for name, value in given.items() if value != "DEFAULT"}
    for one in table.written:
        if one.type == "text":
            given[one.name] = "'many ' || n"
        elif one.type in ("int", "bigint", "numeric"):
            given[one.name] = "1000 + n"
    names = ", ".join(f'"{name}"' for name in given)
    return [
        f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE"
        f" SELECT {', '.join(given.values())} FROM generate_series(1, {MANY}) AS n"
        " ON CONFLICT DO NOTHING"
        if given
        else f"INSERT INTO {table.name} DEFAULT VALUES"
    ]


_KINDS = (_insert, _insert, _update, _update, _count_up, _swap, _delete, _again, _truncate, _many)


@st.composite
def _some(draw: st.DrawFn, table: Table) -> str:
    """Some rows, the same whenever the table holds the same."""
    first, count = draw(st.integers(0, 9)), draw(st.integers(1, 4))
    return (
        "(tableoid, ctid) IN (SELECT tableoid, ctid FROM"
        f' {table.name} AS t ORDER BY t::text COLLATE "C" OFFSET {first} LIMIT {count})'
    )


def _settable(table: Table) -> Sequence[Column]:
    return [one for one in table.written if not one.always] or table.written


class Session:
    """One application; several may be in the middle of transactions at once."""

    def __init__(self, dsn: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)
        self._connection.execute(f"SET lock_timeout = {LOCK_MS_MAX}")

    def close(self) -> None:
        self._connection.close()

    def run(self, statement: str) -> None:
        """Run a statement, or have the server undo it."""
        if "SAVEPOINT" in statement:
            self._connection.execute(statement.encode())
            return
        self._connection.execute("SAVEPOINT one")
        try:
            self._connection.execute(statement.encode())
        except psycopg.Error:
            if self._connection.closed:
                raise
            self._connection.execute("ROLLBACK TO SAVEPOINT one")
        else:
            self._connection.execute("RELEASE SAVEPOINT one")

    def begin(self) -> None:
        self._connection.execute("BEGIN")

    def end(self, *, commits: bool) -> None:
        """Commit; what was deferred may still refuse it, which is an abort."""
        try:
            self._connection.execute("COMMIT" if commits else "ROLLBACK")
        except (psycopg.IntegrityError, psycopg.errors.LockNotAvailable):
            assert self._connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def run_all(dsn: str, transactions: Sequence[Transaction]) -> None:
    """Run transactions two at a time, a statement of one and a statement of the other."""
    sessions = Session(dsn), Session(dsn)
    try:
        for first in range(0, len(transactions), 2):
            _interleaved(sessions, transactions[first : first + 2])
    finally:
        for session in sessions:
            session.close()


def _interleaved(sessions: Sequence[Session], together: Sequence[Transaction]) -> None:
    pairs = list(zip(sessions, together, strict=False))
    for session, _ in pairs:
        session.begin()
    for place in range(max(len(one.statements) for one in together)):
        for session, one in pairs:
            if place < len(one.statements):
                session.run(one.statements[place])
    for session, one in reversed(pairs):  # who began first commits last
        session.end(commits=one.commits)
