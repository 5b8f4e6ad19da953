"""Fills the bundled database: the same scale and seed give the same rows everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from plans.crm_shop.order_lives import order
from plans.crm_shop.rows_crm import CRM_TABLES
from plans.crm_shop.rows_orders import ORDER_TABLES, Row, World
from plans.crm_shop.rows_shop import SHOP_TABLES

ORDERS_AT_SCALE_1: Final = 100_000
ORDERS_MIN: Final = 100  # fewer would not hold every kind of trouble
_BATCH_ORDERS: Final = 5_000  # bounds the memory that a large scale needs

Database = str | psycopg.Connection[Any]
"""A conninfo string, or a connection, which is left as it was found."""

_OWNED_SEQUENCES: Final = """
    SELECT pg_get_serial_sequence(quote_ident(t.relname), a.attname) AS sequence,
           t.relname, a.attname
    FROM pg_class AS t JOIN pg_attribute AS a ON a.attrelid = t.oid
    WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')
      AND NOT t.relispartition AND a.attnum > 0 AND NOT a.attisdropped
      AND pg_get_serial_sequence(quote_ident(t.relname), a.attname) IS NOT NULL
"""


def create(database: Database) -> None:
    """Make the roles, where they are missing, and the empty schema.

    Needs the right to create roles, and an empty schema `public`.
    """
    here = files("plans.crm_shop")
    with _connection(database) as connection:
        for script in ("roles.sql", "schema.sql"):
            connection.execute(here.joinpath(script).read_bytes())
        # settings of the script are not to outlive it
        connection.execute("RESET client_min_messages")


def load(database: Database, *, scale: float, seed: int = 1) -> dict[str, int]:
    """Fill the empty tables that `create` made, and say how many rows each has got.

    At scale 1 there are 100,000 orders; all else grows with them.  Whatever the
    machine and the PostgreSQL version, the same `scale` and `seed` give the same
    rows.  Needs the right to set `session_replication_role`: the triggers would
    write histories of their own, dated today.
    """
    world = _world(scale, seed)
    rows: dict[str, int] = {}
    with _connection(database) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for table, columns, make in (*CRM_TABLES, *SHOP_TABLES):
            rows[table] = _copy(connection, table, columns, make(world))
        for first in range(1, world.orders + 1, _BATCH_ORDERS):
            numbers = range(first, min(first + _BATCH_ORDERS, world.orders + 1))
            batch = [
                order(number, orders=world.orders, products=world.products, seed=seed)
                for number in numbers
            ]
            for table, columns, make_of in ORDER_TABLES:
                copied = _copy(connection, table, columns, make_of(world, batch))
                rows[table] = rows.get(table, 0) + copied
        connection.execute("SET LOCAL session_replication_role = origin")
        _set_sequences(connection, world)
        connection.execute("REFRESH MATERIALIZED VIEW manager_revenue")
        for table in rows:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
    return rows


def _world(scale: float, seed: int) -> World:
    orders = max(ORDERS_MIN, round(ORDERS_AT_SCALE_1 * scale))
    return World(
        seed=seed,
        orders=orders,
        customers=orders * 2 // 5,
        products=200 + orders // 100,
        managers=30,
        models=max(4, orders * 4 // 1000),
    )


def _copy(
    connection: psycopg.Connection[Any], table: str, columns: str, rows: Iterable[Row]
) -> int:
    names = sql.SQL(columns)  # a constant of ours, already quoted
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    count = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


def _set_sequences(connection: psycopg.Connection[Any], world: World) -> None:
    connection.execute("SELECT setval('order_number_seq', %s)", [world.orders])
    for sequence, table, column in connection.execute(_OWNED_SEQUENCES).fetchall():
        connection.execute(
            sql.SQL("SELECT setval(%s, max({})) FROM {}").format(
                sql.Identifier(column), sql.Identifier(table)
            ),
            [sequence],
        )


@contextmanager
def _connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    if isinstance(database, str):
        with psycopg.connect(database) as connection:
            yield connection
    else:
        with database.transaction():
            yield database
