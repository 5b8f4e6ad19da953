"""The source's schema changes, again, while a refresh is pending and a service has moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    """crm has moved, the others follow; the stream stands."""
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        with one.verbs.stream(one.source):
            one.verbs("cutover", "--yes", "--service", "crm")
        yield one


@pytest.mark.parametrize("point", ["refresh.decided", "refresh.copied"])
def test_ddl_while_a_refresh_is_pending_and_a_service_leads(
    shop: SmallShop, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows is carried, and of what the service leads both sides have to agree."""

    def interrupt(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    verbs = shop.verbs
    shop.ask("source", "ALTER TABLE orders ADD extra int NOT NULL DEFAULT 3")
    shop.ask("source", 'ALTER TABLE "Products" ALTER "Unit Price" TYPE numeric(12, 4)')
    with monkeypatch.context() as patch:
        for module in ("refresh_run", "refresh_copy"):
            patch.setattr(f"toolkit.{module}.crash_point", interrupt)
        verbs("plan", "refresh", code=130)
    shop.ask("crm", "UPDATE tickets SET subject = 'before' WHERE id = 1")
    shop.ask("source", "UPDATE orders SET extra = 4 WHERE id = 1")
    shop.ask("source", "ALTER TABLE orders ADD more text DEFAULT 'more'")
    shop.ask("source", "ALTER TABLE tickets ADD memo text")
    shop.ask("source", "INSERT INTO visits (path) VALUES ('/new')")
    refused = verbs.refused("plan", "refresh", code=6, says="do not agree", hint="crm")
    assert 'ADD COLUMN "memo" text' in refused.err
    verbs("stream", "--until-caught-up", code=7)
    shop.ask("crm", "ALTER TABLE tickets ADD memo text; UPDATE tickets SET memo = 'x' WHERE id = 2")
    verbs("plan", "refresh")
    shop.ask("source", "UPDATE orders SET more = 'less' WHERE id = 2")
    with verbs.stream(shop.source):
        repaired = ("--table", "tickets", "--repair", "--direction", "source", "--yes")
        verbs("validate", *repaired)
        assert verbs.json("validate")["consistent"]
        verbs("rollback", "--yes", "--service", "crm")
        assert verbs.json("validate")["consistent"]
    assert shop.ask("source", "SELECT subject, memo FROM tickets WHERE id <= 2 ORDER BY id") == [
        ("before", None),
        ("ticket 2", "x"),
    ]
    assert shop.ask("shop", "SELECT extra, more FROM orders WHERE id <= 2 ORDER BY id") == [
        (4, "more"),
        (3, "less"),
    ]


def test_tables_made_anew_after_an_attempt_have_a_way_back(shop: SmallShop) -> None:
    """A rehearsal or a rollback leaves a publication behind that knows none of them."""
    verbs = shop.verbs
    with verbs.stream(shop.source):
        verbs("rollback", "--yes")
        verbs("cutover", "--rehearse", "--yes")
    shop.ask("source", "CREATE TABLE coupons (id int PRIMARY KEY)")
    shop.ask("source", 'ALTER TABLE "Products" ALTER "Unit Price" TYPE numeric(12, 4)')
    shop.ask("source", "INSERT INTO coupons VALUES (1)")
    verbs("plan", "refresh", "--owner", "coupons=shop")
    with verbs.stream(shop.source):
        verbs("cutover", "--yes")
        shop.ask("shop", "INSERT INTO coupons VALUES (2)")
        shop.ask("shop", 'UPDATE "Products" SET "Unit Price" = 1.2345')
        verbs("rollback", "--yes")
        assert verbs.json("validate")["consistent"]
    assert shop.ask("source", "SELECT id FROM coupons ORDER BY id") == [(1,), (2,)]
    assert shop.ask("source", 'SELECT DISTINCT "Unit Price"::text FROM "Products"') == [("1.2345",)]
