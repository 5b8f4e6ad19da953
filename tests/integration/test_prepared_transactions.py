"""Two-phase transactions that wait to be decided while a split moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

import toolkit.observe
import toolkit.source_log
from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

ARRIVES_S_MAX = 20.0


@pytest.fixture(scope="module")
def two_phase_server(pg_version: str) -> Iterator[Server]:
    settings = {"max_prepared_transactions": "10"}
    with running_server(version=pg_version, settings=settings) as server:
        yield server


@pytest.fixture
def shop(two_phase_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(two_phase_server, target_server, tmp_path) as one:
        try:
            yield one
        finally:
            for (gid,) in one.ask("source", "SELECT gid FROM pg_prepared_xacts"):
                end(one, gid, "ROLLBACK")


def prepare(shop: SmallShop, gid: str, statement: str) -> None:
    with psycopg.connect(shop.source) as connection:
        connection.execute(statement.encode())
        connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))


def end(shop: SmallShop, gid: str, how: LiteralString = "COMMIT") -> None:
    with psycopg.connect(shop.source, autocommit=True) as connection:
        connection.execute(sql.SQL(how) + sql.SQL(" PREPARED {}").format(gid))


def test_a_slot_that_waits_for_one_names_it(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit.source_log, "SLOT_WAIT_S", 1)
    prepare(shop, "it's old", "UPDATE orders SET state = 'sent' WHERE id = 7")
    refused = shop.verbs("prepare", code=4)
    assert "prepared transaction 'it''s old'" in refused.err
    assert "COMMIT PREPARED or ROLLBACK PREPARED" in refused.err
    end(shop, "it's old")
    shop.verbs("prepare")


@pytest.mark.long
@pytest.mark.release
def test_a_move_names_what_it_waits_for_and_loses_nothing(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs = shop.verbs
    shop.follow()
    with verbs.stream(shop.source):
        prepare(shop, "waits", "UPDATE orders SET state = 'sent' WHERE id = 7")
        time.sleep(toolkit.observe.PREPARED_S_MAX)
        assert "prepared_transactions is 'waits'" in verbs("cutover", "--yes", code=6).err
        # One that is prepared only once the gates are passed.
        monkeypatch.setattr(toolkit.observe, "PREPARED_S_MAX", 600.0)
        given_up = verbs("cutover", "--yes", code=8)
        assert "could not be had in time" in given_up.err
        assert "prepared transaction 'waits' of postgres" in given_up.err
        shop.ask("source", "DELETE FROM visits")  # it is writable again
        assert (
            shop.value("shop", "SELECT count(*) FROM orders WHERE state = 'sent' AND id = 7") == 0
        )
        # And one that is decided within the pause.
        decided = threading.Timer(0.1, lambda: _when_fenced(shop))
        decided.start()
        assert verbs.json("cutover", "--yes")["outcome"] == "moved"
        decided.join()
        assert shop.value("shop", "SELECT state FROM orders WHERE id = 7") == "sent"
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            prepare(shop, "late", "UPDATE orders SET state = 'new' WHERE id = 7")


def _when_fenced(shop: SmallShop) -> None:
    """Decide the transaction once a fence waits for it."""
    waits: LiteralString = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass"
    )
    assert wait_until(lambda: bool(shop.value("source", waits)), timeout_s=ARRIVES_S_MAX)
    end(shop, "waits")
