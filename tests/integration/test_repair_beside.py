"""Rows that differ are repaired beside a stream that lives: what meets, and who leads.

The tests share one split; whoever makes rows differ repairs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from plans.names import back_repair_origin
from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from validators.repair_write import RowWriter


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path_factory.mktemp("shop")) as one:
        one.ask("source", "ALTER TABLE tickets ADD UNIQUE (subject)")
        one.follow()
        with one.verbs.stream(one.source):
            yield one


def test_a_row_deleted_while_it_is_repaired_does_not_come_back(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch that deletes it cannot see it yet; so it has to wait until it can."""
    shop.ask("crm", "DELETE FROM tickets WHERE id = 90")
    write = RowWriter.write

    def write_slowly(self: RowWriter, *args: Any) -> None:
        write(self, *args)
        shop.ask("source", "DELETE FROM tickets WHERE id = 90")
        time.sleep(1.5)  # for the stream to be there

    monkeypatch.setattr(RowWriter, "write", write_slowly)
    result = shop.verbs.json("validate", "--table", "tickets", "--repair", "--yes")
    assert result["repair"]["inserted"] == 1
    assert result["consistent"] is True
    assert shop.value("crm", "SELECT count(*) FROM tickets WHERE id = 90") == 0


def test_a_row_that_the_stream_changes_meanwhile_is_left_to_it(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.ask("crm", "UPDATE tickets SET subject = 'wrong ' || id WHERE id IN (80, 81)")
    look = RowWriter.leader
    changed: list[Any] = []

    def look_later(self: RowWriter, *args: Any, **named: Any) -> Any:
        if not changed:
            changed.append(shop.ask("source", "UPDATE tickets SET subject = 'new' WHERE id=80"))
        return look(self, *args, **named)

    monkeypatch.setattr(RowWriter, "leader", look_later)
    result = shop.verbs.json("validate", "--table", "tickets", "--repair", "--yes")
    assert (result["repair"]["updated"], result["repair"]["left"]) == (1, 0)
    assert result["consistent"] is True
    assert shop.value("crm", "SELECT subject FROM tickets WHERE id = 80") == "new"


def test_unique_values_that_changed_hands_are_repaired(shop: SmallShop) -> None:
    shop.ask("crm", "UPDATE tickets SET subject = 'x' WHERE id = 1")
    shop.ask("crm", "UPDATE tickets SET subject = 'ticket 1' WHERE id = 2")
    shop.ask("crm", "UPDATE tickets SET subject = 'ticket 2' WHERE id = 1")
    result = shop.verbs.json("validate", "--table", "tickets", "--repair", "--yes")
    assert result["repair"]["updated"] == 2
    assert result["consistent"] is True


def test_rows_without_a_key_are_found_again_whatever_statistics_tell(shop: SmallShop) -> None:
    shop.ask("shop", "INSERT INTO visits (path) VALUES ('/nobody')")
    for place in ("source", "shop"):
        shop.ask(place, "ANALYZE visits")
    result = shop.verbs.json("validate", "--table", "visits", "--repair", "--yes")
    assert (result["repair"]["deleted"], result["repair"]["left"]) == (1, 0)
    assert result["consistent"] is True


@pytest.mark.long
def test_after_a_move_the_source_is_repaired_only_if_that_is_said(shop: SmallShop) -> None:
    shop.verbs("cutover", "--yes")
    with psycopg.connect(shop.source) as connection:  # as nobody's own change
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET dbsplit.applier = 'small'")
        origin = back_repair_origin("small", "shop")
        connection.execute("SELECT pg_replication_origin_create(%s)", [origin])
        connection.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
        for statement in (
            "UPDATE customers SET phone = 'wrong', email = 'wrong' WHERE id = 5",
            "DELETE FROM customers WHERE id = 6",
            'DELETE FROM "Products" WHERE "Id" = 42',
            "INSERT INTO visits (path) VALUES ('/nobody')",
            "UPDATE events SET what = 'wrong' WHERE id = 7",
            "DELETE FROM billing.invoices WHERE id = 9",
        ):
            connection.execute(statement.encode())
    shop.verbs.refused("validate", "--repair", "--yes", code=6, says="moved", hint="--direction")
    shop.verbs.refused(
        "validate", "--repair-sql", "r.sql", code=6, says="moved", hint="--direction"
    )
    result = shop.verbs.json("validate", "--repair", "--direction", "source", "--yes")
    assert result["consistent"] is True, result
    assert result["repair"]["left"] == 0
    assert {table["leads"] for table in result["tables"]} == {"target"}
    again = shop.verbs.json("validate")
    assert again["consistent"] is True, again
    shop.verbs("rollback", "--yes")
    refused = shop.verbs("validate", "--repair", "--direction", "source", "--yes", code=6)
    assert "the source leads" in refused.err
