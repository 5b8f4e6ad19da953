"""Abort leaves no trace, whatever was begun and wherever it stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.following import following
from tests.processes import KILLED
from tests.small_shop import REVISION, SmallShop, small_shop
from toolkit.abort import abort
from toolkit.servers import Server

Catalogs = dict[str, dict[str, list[tuple[Any, ...]]]]


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    """One database for all tests: each leaves it as it was, or fails."""
    with small_shop(source_server, target_server, tmp_path_factory.mktemp("abort")) as one:
        # A prepare that is to be undone exactly meets what others have set.
        one.ask("source", "ALTER TABLE tickets REPLICA IDENTITY NOTHING")
        one.ask("source", "ALTER TABLE events_2024 REPLICA IDENTITY FULL")
        yield one


@pytest.fixture
def before(shop: SmallShop) -> Catalogs:
    return shop.everything()


def dies_at(shop: SmallShop, point: str, *verb: str) -> None:
    """Run a verb in a process that is killed at a point."""
    shop.verbs.apart = True
    try:
        shop.verbs(*verb, code=KILLED, DBSPLIT_CRASH_AT=point)
    finally:
        shop.verbs.apart = False


def abort_leaves_nothing(shop: SmallShop, before: Catalogs) -> None:
    begun = shop.everything()
    assert begun != before
    planned = shop.verbs.json("abort", "--dry-run")
    assert planned["outcome"] == "dry-run"
    assert shop.everything() == begun, "a dry run changes nothing"
    done = shop.verbs.json("abort", "--yes")
    assert done["outcome"] == "removed"
    assert _whats(done) == _whats(planned)
    after = shop.everything()
    for place, found in after.items():
        for kind, rows in found.items():
            assert rows == before[place][kind], f"{kind} of {place}"
    assert shop.verbs.json("abort", "--yes")["steps"] == [], "twice does no harm"
    assert shop.everything() == before


def _whats(result: dict[str, Any]) -> list[str]:
    # Fences of an attempt whose process died fall before the steps begin.
    return [step["what"] for step in result["steps"] if "fences" not in step["what"]]


@pytest.mark.long
def test_of_a_prepare_that_died(shop: SmallShop, before: Catalogs) -> None:
    dies_at(shop, "prepare.publication", "prepare")
    abort_leaves_nothing(shop, before)


def test_of_a_prepare_that_met_a_bad_revision(shop: SmallShop, before: Catalogs) -> None:
    revision = shop.verbs.plan.parent / "revisions" / "versions" / "0001_overview.py"
    revision.write_text(REVISION.replace("CREATE VIEW", "CREATE VIEWS"))
    refused = shop.verbs.refused("prepare", code=4, says="CREATE VIEWS", hint="then try again")
    assert "revision" in refused.err
    revision.write_text(REVISION)
    abort_leaves_nothing(shop, before)


def test_of_a_copy_that_died(shop: SmallShop, before: Catalogs) -> None:
    shop.verbs("prepare")
    dies_at(shop, "copy.data:4", "copy")
    abort_leaves_nothing(shop, before)


@pytest.mark.long
@pytest.mark.release
def test_while_following_and_after_attempts_that_were_given_up(
    shop: SmallShop, before: Catalogs
) -> None:
    shop.follow()
    with shop.verbs.stream(shop.source) as stream:
        assert shop.verbs.json("cutover", "--rehearse", "--yes")["outcome"] == "aborted"
        with psycopg.connect(shop.source) as writer:
            writer.execute("UPDATE orders SET state = 'sent' WHERE id = 1")
            given_up = shop.verbs.json("cutover", "--yes", code=8)
            assert given_up["outcome"] == "aborted"
            assert given_up["write_pause_ms"] > 1000
            assert given_up["certificate"] is None
            assert given_up["exit_code"] == 8
            assert "orders" in given_up["error"]
            assert "source takes writes again" in given_up["error"]
            writer.commit()
        shop.ask("source", "UPDATE orders SET state = 'sent' WHERE id = 2")
        stream.send_signal(signal.SIGTERM)
        stream.wait(60)
    # With only one service gone, the source's own sequences count in other steps.
    with shop.verbs.stream(shop.source, code=None) as stream:
        dies_at(shop, "cutover.sequences", "cutover", "--yes", "--service", "crm")
        stream.kill()
    assert ("public.customers_id_seq", 3) in [
        ("public." + name, increment)
        for name, increment, *_ in shop.everything()["source"]["sequences"]
    ]
    abort_leaves_nothing(shop, before)
    shop.ask("source", "UPDATE customers SET full_name = 'free again' WHERE id = 1")
    shop.ask("source", "INSERT INTO notes (customer_id, channel) VALUES (1, 'phone')")


def test_what_somebody_else_has_dropped_by_its_turn_is_passed_over(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(source_server, target_server, tmp_path, tables="t: a\n") as databases:
        databases.execute("CREATE SCHEMA odd; CREATE TABLE t (id int PRIMARY KEY)")
        databases.prepare()
        databases.copy()
        databases.stream()
        said = []

        def dropped_by_hand(_kind: str, step: dict[str, str]) -> None:
            said.append(step["what"])
            if len(said) > 1:
                return
            databases.execute("DROP PUBLICATION dbsplit_traps")
            databases.execute_on("a", "SELECT pg_replication_origin_drop('dbsplit_traps_a')")

        abort(databases.open(), dry_run=False, say=dropped_by_hand)
        assert "drop origin dbsplit_traps_a" in said
        assert "drop schema dbsplit" in said[-1]
        query = "SELECT FROM pg_replication_slots WHERE slot_name = 'dbsplit_traps'"
        assert databases.rows("source", query) == []
