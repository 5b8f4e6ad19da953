"""When the rows of a foreign key are checked by merging two indexes."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from plans.catalog import TableName
from plans.schema.ddl import Build
from tests.conftest import fresh_database
from toolkit.key_checks import in_order
from toolkit.servers import Server

LINES = TableName("public", "Lines")
BUILD = Build(what="constraint", table=LINES, root=LINES, checks="Of order")
TABLES = """
    CREATE TABLE orders (a int, b int, PRIMARY KEY (a, b));
    CREATE TABLE "Lines" (id int PRIMARY KEY, a int, b int)
"""
KEY = 'ALTER TABLE "Lines" ADD CONSTRAINT "Of order" FOREIGN KEY (a, b) REFERENCES orders NOT VALID'
ROWS = 200


def merges(
    target_server: Server, after: LiteralString, *, freeze: LiteralString = ", FREEZE true"
) -> bool:
    """Whether the planner is kept from hashing, and only for the transaction."""
    with (
        fresh_database(target_server) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute(TABLES)
        fill(connection, "COPY orders FROM STDIN (FORMAT text{})", freeze, columns=2)
        fill(connection, 'COPY "Lines" FROM STDIN (FORMAT text{})', freeze, columns=3)
        connection.execute(KEY)
        connection.execute(after)
        connection.execute("ANALYZE")
        with connection.transaction():
            connection.execute(in_order(BUILD))
            found = connection.execute("SHOW enable_hashjoin").fetchone() == ("off",)
            connection.execute('ALTER TABLE "Lines" VALIDATE CONSTRAINT "Of order"')
        assert connection.execute("SHOW enable_hashjoin").fetchone() == ("on",)
        return found


def fill(
    connection: psycopg.Connection, copy: LiteralString, freeze: LiteralString, *, columns: int
) -> None:
    statement = sql.SQL(copy).format(sql.SQL(freeze))
    table = statement.as_string().split()[1]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(table)))
        with cursor.copy(statement) as rows:
            for n in range(ROWS):
                rows.write_row([n] * columns)


def test_indexes_that_lie_in_order_beside_frozen_tables_are_merged(target_server: Server) -> None:
    assert merges(target_server, 'CREATE INDEX ON "Lines" (a, b, id)')


@pytest.mark.parametrize(
    "after",
    [
        "SELECT",
        'CREATE INDEX ON "Lines" (b, a)',
        'CREATE INDEX ON "Lines" (a)',
        'CREATE INDEX ON "Lines" (a, b) WHERE a > 5',
        'CREATE INDEX ON "Lines" ((a + 0), b)',
        'CREATE INDEX ON "Lines" (a, b); UPDATE orders SET b = b WHERE a = 3',
    ],
)
def test_the_planner_is_left_alone_otherwise(target_server: Server, after: LiteralString) -> None:
    assert not merges(target_server, after)


def test_what_was_written_in_chunks_is_not_frozen(target_server: Server) -> None:
    assert not merges(target_server, 'CREATE INDEX ON "Lines" (a, b)', freeze="")
