"""Differences of every kind, planted into the small shop's targets behind the stream's back."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from tests.small_shop import SmallShop

PLANTED: dict[str, tuple[LiteralString, ...]] = {
    "crm": (
        "UPDATE customers SET phone = 'wrong' WHERE id IN (150, 151)",
        "DELETE FROM customers WHERE id = 152",
        "INSERT INTO customers (id, full_name, phone) VALUES (9001, 'nobody', NULL)",
        'UPDATE "Products" SET "Name" = "Name" || \' \' WHERE "Id" = 40',  # a reference copy
        'DELETE FROM "Products" WHERE "Id" = 41',
        "UPDATE notes SET body = NULL WHERE id = (SELECT max(id) FROM notes)",
        "INSERT INTO tickets (id, customer_id, subject) OVERRIDING SYSTEM VALUE"
        " VALUES (9001, 1, 'extra')",
        "DELETE FROM tickets WHERE id = 90",
    ),
    "shop": (
        "UPDATE customers SET email = 'x', last_login_at = NULL WHERE id = 150",
        'DELETE FROM "Products" WHERE "Id" = 42',  # GENERATED ALWAYS AS IDENTITY
        'UPDATE "Products" SET "Unit Price" = "Unit Price" + 0.01 WHERE "Id" = 43',
        "DELETE FROM orders WHERE id BETWEEN 400 AND 402",  # which lines refer to
        'DELETE FROM "Order Lines" WHERE order_id = 400',
        'UPDATE "Order Lines" SET quantity = quantity + 1 WHERE order_id = 401',
        'INSERT INTO "Order Lines" (order_id, "Line", product, quantity, "Unit Price")'
        " VALUES (401, 99, 1, 1, 1)",
        "DELETE FROM notes WHERE id = (SELECT min(id) FROM notes)",
        "UPDATE events SET what = 'moved' WHERE id = 5",
        "DELETE FROM events WHERE id = 300",
        "INSERT INTO visits (at, path) VALUES ('2024-01-01', '/1'), ('2024-01-01', '/new')",
        "DELETE FROM visits WHERE ctid IN (SELECT ctid FROM visits WHERE path = '/2' LIMIT 3)",
    ),
    "billing": (
        "UPDATE order_overview SET state = 'SENT', customer = NULL WHERE order_id = 300",
        "DELETE FROM order_overview WHERE order_id = 301",
        "INSERT INTO order_overview VALUES (9001, 'OPEN', 1)",
        "DELETE FROM billing.invoices WHERE id IN (200, 201)",
        "UPDATE billing.invoices SET amount = amount + 0.01 WHERE id = 202",
    ),
}
"""By service; the comparison has to find exactly `DIFFERING` rows."""

DIFFERING = {"missing": 18, "extra": 6, "different": 12}


def plant(shop: SmallShop) -> None:
    """Write to the targets as somebody who ought not to."""
    for service, statements in PLANTED.items():
        with psycopg.connect(shop.dsn(service)) as connection:
            # Without triggers: a cascade would plant more than is meant.
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)
