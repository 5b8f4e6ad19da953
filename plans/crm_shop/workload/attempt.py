"""One attempt of one operation: a transaction that takes down what it does.

What an operation changed is taken from what the database returned, not from what the
operation meant to do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import sql

from plans.crm_shop.workload.history import CountEffect, RowEffect
from plans.crm_shop.workload.subject import CountSubject, RowSubject

Row: TypeAlias = tuple[Any, ...]


HOT_SHARE = 0.05  # of writes that meet on one row, where lost updates would show


class RollBack(Exception):
    """An operation wants its transaction rolled back."""


class NothingToDo(Exception):
    """An operation found no row to work on."""


class Attempt:
    """What an operation has in hand: SQL, chance, fresh tokens, and the writer's memory."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        chance: random.Random,
        token: Callable[[], str],
        memory: dict[str, list[str]],
    ) -> None:
        self.chance = chance
        self.token = token
        self.rows: list[RowEffect] = []
        self.counts: list[CountEffect] = []
        self._connection = connection
        self._memory = memory
        self._to_remember: list[tuple[str, str]] = []

    def query(self, query: LiteralString, *values: object) -> list[Row]:
        """Execute, with no effect to be taken down; return the rows, if any."""
        return self._execute(sql.SQL(query), values)

    def one(self, query: LiteralString, *values: object) -> Row:
        """The first row; raise NothingToDo if there is none."""
        rows = self.query(query, *values)
        if not rows:
            raise NothingToDo
        return rows[0]

    def pick(self, table: LiteralString, key: LiteralString = "id") -> int:
        """The integer key of some row, seen in this database; one row is picked most."""
        where = 0.0 if self.chance.random() < HOT_SHARE else self.chance.random()
        query = sql.SQL(
            "SELECT {key} FROM {table} WHERE {key} >= ("
            "SELECT min({key}) + floor(%s * (max({key}) - min({key}) + 1))::bigint FROM {table}"
            ") ORDER BY {key} LIMIT 1"
        ).format(key=sql.SQL(key), table=sql.SQL(table))
        rows = self._execute(query, (where,))
        if not rows:
            raise NothingToDo
        return int(rows[0][0])

    def add(self, subject: RowSubject, query: LiteralString, *values: object) -> list[Row]:
        """Insert rows by a query that ends with ``RETURNING {}``; return what follows it."""
        return self._rows(subject, query, values, change=1)

    def remove(self, subject: RowSubject, query: LiteralString, *values: object) -> list[Row]:
        """Delete rows by a query that ends with ``RETURNING {}``; return what follows it."""
        return self._rows(subject, query, values, change=-1)

    def add_many(
        self, subject: RowSubject, key: str, query: LiteralString, *values: object
    ) -> None:
        """Insert rows that all have the same key, without having them returned."""
        added = self._connection.execute(sql.SQL(query), values).rowcount
        self.rows.append(RowEffect(subject.name, key, added))

    def rename(
        self, subject: RowSubject, old: str, query: LiteralString, *values: object
    ) -> list[Row]:
        """Change the key of the row that has the key `old`, as `add` does."""
        rows = self._rows(subject, query, values, change=1)
        if not rows:
            raise NothingToDo
        self.rows.append(RowEffect(subject.name, old, -1))
        return rows

    def count(self, subject: CountSubject, query: LiteralString, *values: object) -> list[Row]:
        """Increase counters by a query that ends with ``RETURNING {}``; raise if it met no row."""
        rows = self._execute(sql.SQL(query).format(subject.returning), values)
        if not rows:
            raise NothingToDo
        for key, reached, content, *_ in rows:
            self.counts.append(CountEffect(subject.name, key, reached, content))
        return [row[3:] for row in rows]

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Work that is rolled back to a savepoint."""
        self._connection.execute("SAVEPOINT undone")
        rows, counts = len(self.rows), len(self.counts)
        yield
        self._connection.execute("ROLLBACK TO SAVEPOINT undone")
        self.rows[rows:] = [replace(effect, change=0) for effect in self.rows[rows:]]
        del self.counts[counts:]

    def remember(self, what: str, key: str) -> None:
        """Have `recall` return this key once the transaction is acknowledged."""
        self._to_remember.append((what, key))

    def recall(self, what: str) -> str:
        """A key that this writer remembered.

        It is forgotten at once, whatever comes of this transaction: a row that a
        transaction of unknown outcome has touched is left alone.
        """
        known = self._memory.get(what)
        if not known:
            raise NothingToDo
        return known.pop(self.chance.randrange(len(known)))

    def acknowledged(self) -> None:
        """Keep what was to be remembered."""
        for what, key in self._to_remember:
            self._memory.setdefault(what, []).append(key)

    def _rows(
        self, subject: RowSubject, query: LiteralString, values: Sequence[object], *, change: int
    ) -> list[Row]:
        rows = self._execute(sql.SQL(query).format(subject.returning), values)
        for (key, content), times in Counter((row[0], row[1]) for row in rows).items():
            self.rows.append(RowEffect(subject.name, key, change * times, content))
        return [row[2:] for row in rows]

    def _execute(self, query: sql.SQL | sql.Composed, values: Sequence[object]) -> list[Row]:
        cursor = self._connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []
