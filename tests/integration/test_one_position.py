"""`validate --snapshot`: both sides as they were at one position, while applications write."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plans import names
from tests.planted_rows import DIFFERING, plant
from tests.small_shop import SmallShop, small_shop
from toolkit import locks
from toolkit.servers import Server
from validators.glance import small_groups
from validators.session import LOCK_S_MAX


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        yield one


@contextmanager
def written(dsn: str, *statements: str) -> Iterator[None]:
    """Somebody runs these statements, in any order and without a rest."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        choice = random.Random(11)  # noqa: S311
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not stop.is_set():
                    connection.execute(choice.choice(statements).encode())
                    time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failures


BUSY = (
    "UPDATE tickets SET subject = subject || '.' WHERE id <= 20",
    "UPDATE customers SET phone = phone || '1', email = email || '1' WHERE id <= 20",
    "UPDATE orders SET state = 'sent' WHERE id % 50 = 7",
    "UPDATE orders SET state = 'new' WHERE id % 50 = 7",
    "INSERT INTO notes (customer_id, channel, body) VALUES (1, 'web', 'x'), (2, 'phone', 'y')",
    # None that is planted, as the newest of crm is.
    "DELETE FROM notes WHERE id = (SELECT min(id) FROM notes WHERE body = 'x')",
    "INSERT INTO visits (path) VALUES ('/a'), ('/b')",
    "DELETE FROM visits WHERE path = '/a'",
)


@pytest.mark.long
def test_what_is_planted_is_found_and_nothing_else_under_writes(shop: SmallShop) -> None:
    with shop.verbs.stream(shop.source), written(shop.source, *BUSY):
        equal = shop.verbs.json("validate", "--snapshot")
        assert equal["consistent"]
        assert {table["healed"] for table in equal["tables"]} == {0}
        assert len({table["position"] for table in equal["tables"]}) == 1
        plant(shop)
        found = shop.verbs.json("validate", "--snapshot", code=5)
        told = {how: sum(table[how] for table in found["tables"]) for how in DIFFERING}
        assert told == DIFFERING
        assert {table["unverified"] for table in found["tables"]} == {0}
        mended = shop.verbs.json("validate", "--snapshot", "--repair", "--yes")
        assert mended["consistent"]
        assert mended["repair"]["left"] == 0
    proofs = shop.ask("source", "SELECT DISTINCT proof FROM dbsplit.validated")
    assert proofs == [("position",)]
    assert shop.ask("source", "SELECT FROM dbsplit.stop") == []


@pytest.mark.long
def test_a_service_that_has_moved_leads_at_a_position_of_its_own(shop: SmallShop) -> None:
    with shop.verbs.stream(shop.source):
        shop.verbs("cutover", "--yes", "--service", "crm", "--service", "shop")
        busy = [sql for sql in BUSY if "tickets" in sql]
        with written(shop.targets["crm"], *busy):
            equal = shop.verbs.json("validate", "--snapshot")
        assert equal["consistent"]
        at = {(t["service"], t["leads"]): t["position"] for t in equal["tables"]}
        assert len(set(at.values())) == len({where for _, where in at} | {"shop"})
        origin = names.back_repair_origin("small", "crm")  # what it writes does not come back
        with psycopg.connect(shop.source) as source:
            source.execute("SELECT pg_replication_origin_create(%s)", [origin])
            source.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
            source.execute("SELECT set_config('dbsplit.applier', 'small', true)")
            source.execute("UPDATE tickets SET subject = 'planted' WHERE id = 77")
        found = shop.verbs.json("validate", "--snapshot", code=5)
        differing = [(t["table"], t["different"]) for t in found["tables"] if t["different"]]
        assert differing == [("public.tickets", 1)]


def test_a_table_that_was_emptied_after_the_snapshot_is_unverified(shop: SmallShop) -> None:
    """A TRUNCATE is seen by older snapshots, too: nothing of the table can be told."""

    def truncate_first(ends: Any, pairs: Any) -> Any:
        shop.ask("source", "TRUNCATE visits")
        return small_groups(ends, pairs)

    with shop.verbs.stream(shop.source), pytest.MonkeyPatch.context() as patch:
        patch.setattr("validators.compare.small_groups", truncate_first)
        told = shop.verbs.json("validate", "--snapshot", "--service", "shop", code=5)
    states = {table["table"]: table["state"] for table in told["tables"]}
    assert states.pop("public.visits") == "unverified"
    assert set(states.values()) == {"equal"}


def test_snapshots_are_given_up_when_their_time_is_over(shop: SmallShop) -> None:
    with psycopg.connect(shop.targets["crm"]) as somebody:

        def lock_first(ends: Any, pairs: Any) -> Any:
            somebody.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            return small_groups(ends, pairs)

        with shop.verbs.stream(shop.source), pytest.MonkeyPatch.context() as patch:
            patch.setattr("validators.compare.small_groups", lock_first)
            began = time.monotonic()
            wanted = ("--snapshot", "--snapshot-limit", "1", "--service", "crm")
            told = shop.verbs.json("validate", *wanted, code=5)
            assert time.monotonic() - began < LOCK_S_MAX
            somebody.rollback()
    reasons = {table["table"]: table.get("reason", "") for table in told["tables"]}
    assert "given up" in reasons["public.tickets"]


def test_it_waits_while_an_operator_pauses_it_but_no_longer_than_snapshots_are_held(
    shop: SmallShop,
) -> None:
    with shop.verbs.stream(shop.source):
        shop.verbs("throttle", "--pause")
        wanted = ("--snapshot", "--snapshot-limit", "1", "--service", "crm")
        told = shop.verbs.json("validate", *wanted, code=5)
        assert {table["state"] for table in told["tables"]} == {"unverified"}
        assert all("given up" in table["reason"] for table in told["tables"])
        shop.verbs("throttle", "--resume")
        assert shop.verbs.json("validate", "--snapshot")["consistent"]


def test_without_a_stream_it_is_refused(shop: SmallShop) -> None:
    shop.verbs.refused(
        "validate", "--snapshot", code=4, says="no stream process", hint="dbsplit stream"
    )


def test_two_validations_do_not_run_at_once(shop: SmallShop) -> None:
    with locks.sole_runner(shop.source, "small", locks.VALIDATE):
        shop.verbs.refused("validate", code=4, says="running already", hint="dbsplit status")
