"""Where in a database the effects of transactions can be seen, and the SQL that looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql


@dataclass(frozen=True, slots=True)
class RowSubject:
    """Rows that are told apart by a key which one transaction gives them.

    `key` and `content` are SQL expressions of type text over the columns of `table`;
    the content is what must not change after the row was inserted.
    """

    name: str
    service: str
    table: LiteralString
    key: LiteralString
    content: LiteralString = "NULL::text"

    @property
    def returning(self) -> sql.SQL:
        """What an INSERT, UPDATE or DELETE returns for the history."""
        return sql.SQL(f"{self.key}, {self.content}")

    def observe(
        self, connection: psycopg.Connection[Any], keys: Collection[str]
    ) -> dict[str, tuple[int, str | None]]:
        """How many rows of each of these keys there are, and the content of one of them."""
        query = sql.SQL(
            "SELECT held.k, count(*), min(held.c)"
            " FROM (SELECT {key} AS k, {content} AS c FROM {table}) AS held"
            " JOIN unnest(%s::text[]) AS wanted (k) ON wanted.k = held.k GROUP BY held.k"
        ).format(key=sql.SQL(self.key), content=sql.SQL(self.content), table=sql.SQL(self.table))
        rows = connection.execute(query, (list(keys),))
        return {key: (number, content) for key, number, content in rows}


@dataclass(frozen=True, slots=True)
class CountSubject:
    """Rows with a counter that every write increases by one; they are never deleted.

    `content` covers the columns that are only written together with the counter.
    """

    name: str
    service: str
    table: LiteralString
    key: LiteralString
    count: LiteralString
    content: LiteralString = "NULL::text"

    @property
    def returning(self) -> sql.SQL:
        """What an INSERT or UPDATE returns for the history."""
        return sql.SQL(f"{self.key}, {self.count}, {self.content}")

    def observe(
        self, connection: psycopg.Connection[Any], keys: Collection[str]
    ) -> dict[str, tuple[int, str | None]]:
        """The counter and the content of each of these rows that is there."""
        query = sql.SQL(
            "SELECT held.k, held.n, held.c"
            " FROM (SELECT {key} AS k, {count} AS n, {content} AS c FROM {table}) AS held"
            " JOIN unnest(%s::text[]) AS wanted (k) ON wanted.k = held.k"
        ).format(
            key=sql.SQL(self.key),
            count=sql.SQL(self.count),
            content=sql.SQL(self.content),
            table=sql.SQL(self.table),
        )
        rows = connection.execute(query, (list(keys),))
        return {key: (number, content) for key, number, content in rows}


Subject = RowSubject | CountSubject
Subjects = Mapping[str, Subject]


def by_name(*subjects: Subject) -> Subjects:
    """The subjects, found by the name that the history gives them."""
    return {subject.name: subject for subject in subjects}
