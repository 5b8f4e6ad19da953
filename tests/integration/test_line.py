"""The verbs in their order, from the shell, on a database and a plan that are not bundled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

ARRIVES_S_MAX = 20.0
SERVICES = ["crm", "shop", "billing"]
MOVE_KEYS = {"outcome", "services", "write_pause_ms", "certificate", "steps_ms", "gates"}


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        yield one


def arrives(shop: SmallShop, place: str, query: Any, expected: object) -> None:
    """What was written on the other side comes here, soon."""
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = [shop.value(place, query)]
        return found == [expected]

    assert wait_until(is_there, timeout_s=ARRIVES_S_MAX), f"{place} has {found}, not {expected!r}"


def every_row_is_equal(shop: SmallShop) -> None:
    result = shop.verbs.json("validate")
    assert result["consistent"] is True
    assert len(result["tables"]) == 13
    for one in result["tables"]:
        assert one.keys() >= {
            "table", "service", "rows", "missing", "extra", "different", "state",
        }  # fmt: skip
        assert one["rows"] > 0
        assert one["state"] == "equal", one


def shows_phase(shop: SmallShop, phase: str) -> dict[str, Any]:
    status = shop.verbs.json("status")
    assert status.keys() >= {"split", "phase", "services", "gates"}
    assert status["split"] == "small"
    assert status["phase"] == phase
    assert list(status["services"]) == SERVICES
    for one in status["services"].values():
        assert one["phase"] == phase
        assert one.keys() >= {"phase", "lag_bytes", "lag_s"}
    for gate in status["gates"]:
        assert gate.keys() >= {"gate", "ok", "observed", "limit"}
        assert gate["ok"], gate
    return status


WRITES = {
    "customers": ("shop", "UPDATE customers SET email = 'new@example.org' WHERE id = 7"),
    '"Products"': ("shop", 'UPDATE "Products" SET "Unit Price" = 7 WHERE "Id" = 7'),
    "orders": ("shop", "DELETE FROM orders WHERE id = 7"),
    '"Order Lines"': ("shop", 'UPDATE "Order Lines" SET quantity = 77 WHERE order_id = 9'),
    "notes": ("shop", "DELETE FROM notes WHERE id = 3"),
    "tickets": ("crm", "INSERT INTO tickets (customer_id, subject) VALUES (1, 'late')"),
    "events": ("shop", "INSERT INTO events (at, what) VALUES ('2024-05-05', 'late')"),
    "events_2024": ("shop", "UPDATE events_2024 SET what = 'leaf'"),
    '"events 2025"': ("shop", 'DELETE FROM "events 2025"'),
    "visits": ("shop", "DELETE FROM visits WHERE path = '/1'"),
    "billing.invoices": ("billing", "UPDATE billing.invoices SET paid = true WHERE id = 5"),
}


def test_the_line_ends_in_complete(shop: SmallShop) -> None:
    verbs = shop.verbs
    verbs.apart = True
    _begin_to_follow(shop)
    verbs.apart = False  # as it does in a process of its own, so in this one
    with verbs.stream(shop.source):
        every_row_is_equal(shop)
        shows_phase(shop, "following")
        _dry_runs_and_rehearsals_change_nothing(shop)
        _cut_over(shop)
        _writers_are_told_where_to_go(shop)
        _the_way_back_has_every_write(shop)
        _numbers_never_meet(shop)
        every_row_is_equal(shop)
    left = _one_part_is_changed_while_the_other_goes(shop)
    with verbs.stream(shop.source):
        _what_one_part_removed_is_gone(shop, left)
        every_row_is_equal(shop)
        _roll_back(shop)
        every_row_is_equal(shop)
        _cut_over(shop)
        shop.ask("shop", "UPDATE orders SET state = 'new' WHERE id = 11")
        arrives(shop, "source", "SELECT state FROM orders WHERE id = 11", "new")
        every_row_is_equal(shop)
        _complete(shop)


def _begin_to_follow(shop: SmallShop) -> None:
    verbs = shop.verbs
    assert verbs.json("plan", "check")["ok"] is True
    shows_phase(shop, "planned")
    assert verbs.json("doctor")["ok"] is True
    assert verbs.json("prepare")["outcome"] == "prepared"
    shows_phase(shop, "prepared")
    copied = verbs.json("copy")
    assert copied == {"outcome": "copied", "rows": 4650}
    assert verbs.json("copy")["rows"] == 0, "what is copied is not copied again"
    shop.ask("source", "UPDATE orders SET state = 'sent' WHERE id < 20")
    caught_up = verbs.json("stream", "--until-caught-up")
    assert caught_up["outcome"] == "caught_up"


def _dry_runs_and_rehearsals_change_nothing(shop: SmallShop) -> None:
    before = shop.everything()
    ready = shop.verbs.json("cutover", "--dry-run")
    assert ready["outcome"] == "ready"
    assert all(gate["ok"] for gate in ready["gates"])
    assert shop.everything() == before
    shop.ask("crm", "UPDATE tickets SET subject = 'by nobody' WHERE id = 2")
    shop.verbs("validate", "--table", "tickets", code=5)
    told = shop.verbs.json("cutover", "--dry-run", code=6)
    assert [g["observed"] for g in told["gates"] if not g["ok"]] == [1]
    shop.verbs("validate", "--table", "tickets", "--repair", "--yes")
    rehearsed = shop.verbs.json("cutover", "--rehearse", "--yes")
    assert rehearsed["outcome"] == "aborted"
    assert rehearsed["write_pause_ms"] > 0
    assert rehearsed["certificate"] is None
    shop.ask("source", "UPDATE tickets SET subject = 'after the rehearsal' WHERE id = 1")
    shop.refuses("crm", "UPDATE tickets SET subject = 'too early' WHERE id = 1")
    shows_phase(shop, "following")


def _cut_over(shop: SmallShop) -> None:
    moved = shop.verbs.json("cutover", "--yes")
    assert moved.keys() == MOVE_KEYS
    assert moved["outcome"] == "moved"
    assert moved["services"] == SERVICES
    assert 0 < moved["write_pause_ms"] < 5000
    proof = json.loads((shop.verbs.plan.parent / moved["certificate"]).read_text())
    for name in ("fence_point", "markers", "applied_positions"):
        assert sorted(proof[name]) == sorted(SERVICES), name
    assert sorted(proof["fingerprints"]) == sorted(("source", *SERVICES))
    assert {t["route"] for t in proof["tables"] if len(t["hash"] or "") >= 16}, proof["tables"]
    assert all(t["hash"] for t in proof["tables"] if t["rows"]), proof["tables"]
    assert proof["sequences"]["shop:public.orders_id_seq"] > 500
    shows_phase(shop, "moved")
    needs = {need["need"]: need for need in shop.verbs.json("doctor")["needs"]}
    assert needs["source: the journal is whole"]["ok"]
    again = shop.verbs.json("cutover", "--yes")
    assert again == moved | {"gates": []}, "repeating it tells the same"


def _writers_are_told_where_to_go(shop: SmallShop) -> None:
    both = {"customers", "notes"}
    for table, (service, statement) in WRITES.items():
        for write in (statement, f"TRUNCATE {table} CASCADE"):
            error = shop.refuses("source", write)
            message = error.diag.message_primary or ""
            assert "has moved to service" in message, message
            assert (service in message) or "TRUNCATE" in write, message
            assert ("crm and shop" in message) == (table in both) or "TRUNCATE" in write, message
            assert "write to the database of" in (error.diag.message_hint or "")
    # What a service is fed stays closed to it.
    assert "service shop" in str(shop.refuses("crm", 'DELETE FROM "Products"'))
    assert "service shop" in str(shop.refuses("billing", "DELETE FROM order_overview"))


def _the_way_back_has_every_write(shop: SmallShop) -> None:
    for service, statement in WRITES.values():
        shop.ask(service, statement)
    arrives(shop, "source", "SELECT email FROM customers WHERE id = 7", "new@example.org")
    arrives(shop, "source", 'SELECT "Unit Price"::int FROM "Products" WHERE "Id" = 7', 7)
    arrives(shop, "crm", 'SELECT "Unit Price"::int FROM "Products" WHERE "Id" = 7', 7)
    arrives(shop, "source", "SELECT count(*) FROM orders WHERE id = 7", 0)
    arrives(shop, "source", 'SELECT count(*) FROM "Order Lines" WHERE order_id = 7', 0)
    arrives(shop, "billing", "SELECT count(*) FROM order_overview WHERE order_id = 7", 0)
    wrong = 'SELECT count(*) FROM "Order Lines" WHERE total <> quantity * "Unit Price"'
    arrives(shop, "source", 'SELECT min(quantity) FROM "Order Lines" WHERE order_id = 9', 77)
    arrives(shop, "source", wrong, 0)
    arrives(shop, "source", "SELECT count(*) FROM notes WHERE id = 3", 0)
    arrives(shop, "source", "SELECT count(*) FROM tickets WHERE subject = 'late'", 1)
    arrives(shop, "source", "SELECT count(DISTINCT what) FROM events_2024", 1)
    arrives(shop, "source", "SELECT count(*) FROM visits WHERE path = '/1'", 0)
    arrives(shop, "source", "SELECT paid::int FROM billing.invoices WHERE id = 5", 1)


def _numbers_never_meet(shop: SmallShop) -> None:
    """Both parts of a split table issue numbers, in turns."""
    for number in range(1, 6):
        for service in ("crm", "shop"):
            channel = "web" if service == "shop" else "phone"
            shop.ask(service, "INSERT INTO customers DEFAULT VALUES")
            shop.ask(
                service,
                "INSERT INTO notes (customer_id, channel, body) VALUES (1, %s, 'number')",
                channel,
            )
        shop.ask("shop", "INSERT INTO orders (customer_id) VALUES (%s)", number)
        shop.ask("billing", "INSERT INTO billing.invoices (order_id, amount) VALUES (1, 1)")
    arrives(shop, "source", "SELECT count(*) FROM customers", 210)
    arrives(shop, "crm", "SELECT count(*) FROM customers", 210)
    arrives(shop, "shop", "SELECT count(*) FROM customers", 210)
    arrives(shop, "source", "SELECT count(*) FROM notes WHERE body = 'number'", 10)
    arrives(shop, "source", "SELECT count(*) FROM orders", 504)
    arrives(shop, "source", "SELECT count(*) FROM billing.invoices", 255)
    _a_split_row_keeps_its_parts_when_its_key_changes(shop)


def _a_split_row_keeps_its_parts_when_its_key_changes(shop: SmallShop) -> None:
    """The shop's row comes back with the shop's columns; the CRM's must stay with it."""
    shop.ask("shop", "INSERT INTO customers (id, email) VALUES (900001, 'key@example.org')")
    arrives(shop, "crm", "SELECT count(*) FROM customers WHERE id = 900001", 1)
    shop.ask("crm", "UPDATE customers SET full_name = 'Kay', phone = '1' WHERE id = 900001")
    arrives(shop, "source", "SELECT full_name FROM customers WHERE id = 900001", "Kay")
    shop.ask("shop", "UPDATE customers SET id = 900002 WHERE id = 900001")
    for place in ("source", "crm"):
        arrives(shop, place, "SELECT count(*) FROM customers WHERE id = 900001", 0)
        arrives(shop, place, "SELECT full_name || phone FROM customers WHERE id = 900002", "Kay1")
    shop.ask("shop", "DELETE FROM customers WHERE id = 900002")
    arrives(shop, "crm", "SELECT count(*) FROM customers WHERE id = 900002", 0)


def _one_part_is_changed_while_the_other_goes(shop: SmallShop) -> list[int]:
    """Nothing is streamed meanwhile: each side learns of it after it has done its own.

    Returns the new customers that are to be left.
    """
    ((added,),) = shop.ask("shop", "SELECT array_agg(id ORDER BY id) FROM customers WHERE id > 200")
    for service, removed, statement in (
        ("shop", added[:2], "UPDATE customers SET full_name = 'late' WHERE id = ANY (%s)"),
        ("crm", added[2:4], "UPDATE customers SET email = 'late' WHERE id = ANY (%s)"),
    ):
        other = "crm" if service == "shop" else "shop"
        shop.ask(service, "DELETE FROM customers WHERE id = ANY (%s)", removed)
        shop.ask(other, statement, removed)
    shop.ask("crm", "UPDATE customers SET phone = 'late' WHERE id = %s", added[4])
    shop.ask("shop", "UPDATE customers SET id = 900005 WHERE id = %s", added[4])
    return [*added[5:], 900005]


def _what_one_part_removed_is_gone(shop: SmallShop, left: list[int]) -> None:
    for place in ("source", "crm", "shop"):
        arrives(shop, place, "SELECT array_agg(id ORDER BY id) FROM customers WHERE id > 200", left)
    # Whether the other part's change met it under its old key is a matter of time.
    shop.ask("shop", "DELETE FROM customers WHERE id = 900005")
    arrives(shop, "crm", "SELECT count(*) FROM customers WHERE id = 900005", 0)


def _roll_back(shop: SmallShop) -> None:
    numbers = ("customers", "notes", "tickets", "orders", "billing.invoices")
    highest = {
        t: shop.value("source", f"SELECT max(id) FROM {t}")  # noqa: S608
        for t in numbers
    }
    assert shop.verbs.json("rollback", "--dry-run")["outcome"] == "ready"
    shop.refuses("source", "DELETE FROM orders")
    returned = shop.verbs.json("rollback", "--yes")
    assert returned.keys() == MOVE_KEYS
    assert returned["outcome"] == "returned"
    assert returned["services"] == SERVICES
    shows_phase(shop, "following")
    for service, statement in WRITES.values():
        assert "has not moved" in str(shop.refuses(service, statement))
    inserts = {
        "customers": "DEFAULT VALUES",
        "notes": "(customer_id, channel) VALUES (1, 'web')",
        "tickets": "(customer_id, subject) VALUES (1, 'after')",
        "orders": "(customer_id) VALUES (1)",
        "billing.invoices": "(order_id, amount) VALUES (1, 1)",
    }
    for table, values in inserts.items():
        number = shop.value("source", f"INSERT INTO {table} {values} RETURNING id")
        assert number > highest[table]
    shop.ask("source", "UPDATE events_2024 SET what = 'back home'")
    arrives(shop, "shop", "SELECT count(DISTINCT what) FROM events WHERE at < '2025-01-01'", 1)


def _complete(shop: SmallShop) -> None:
    before = shop.everything()
    planned = shop.verbs.json("complete", "--dry-run")
    assert planned["outcome"] == "dry-run"
    assert shop.everything() == before
    done = shop.verbs.json("complete", "--yes")
    assert done["outcome"] == "completed"
    assert [step["what"] for step in done["steps"]] == [s["what"] for s in planned["steps"]]
    after = shop.everything()
    for place, found in after.items():
        for kind in ("slots", "publications", "origins"):
            ours = [row for row in found[kind] if "small" in str(row)]
            assert not ours, f"{place} still has {ours}"
        if place != "source":
            assert not [row for row in found["triggers"] if "dbsplit" in str(row)]
            assert ("dbsplit",) not in [row[:1] for row in found["schemas"]]
    with pytest.raises(psycopg.errors.UndefinedTable):
        shop.ask("source", "SELECT FROM orders")
    # Nobody writes there any more, by the old name, the new one, a view or a leaf.
    for left in ("orders_retired", "open_orders", "events_2024", "notes_retired"):
        shop.refuses("source", f"DELETE FROM {left}")  # noqa: S608
    assert shop.value("source", "SELECT count(*) FROM scratch") == 1
    # The services write all that is theirs, and what they were fed is theirs too.
    shop.ask("shop", "UPDATE orders SET state = 'new'")
    shop.ask("crm", 'UPDATE "Products" SET "Unit Price" = 1')
    shop.ask("billing", "DELETE FROM order_overview")
    shows_completed = shop.verbs.json("status")
    assert shows_completed["phase"] == "completed"
    assert shop.verbs.json("complete", "--yes")["steps"] == []
    shop.verbs.refused("rollback", "--yes", code=6, says="completed")
    shop.verbs.refused("abort", "--yes", code=6, says="completed")
    dropped = shop.verbs.json("complete", "--yes", "--drop", code=4)
    assert "open_orders" in dropped["error"]
    shop.ask("source", "DROP VIEW open_orders")
    assert len(shop.verbs.json("complete", "--yes", "--drop")["steps"]) == 1
    _nothing_is_left_to_do(shop)


def _nothing_is_left_to_do(shop: SmallShop) -> None:
    assert shop.value("source", "SELECT to_regclass('orders_retired') IS NULL") is True
    assert shop.verbs.json("complete", "--yes", "--drop")["steps"] == []
    for verb in ("prepare", "run", "copy", "stream", "validate", "cutover"):
        shop.verbs.refused(verb, code=6, says="completed", hint="complete")
    shop.verbs.refused("abort", "--yes", code=6, says="completed", hint="has ended")
    shop.verbs.refused("plan", "refresh", code=6, says="completed", hint="has ended")
    assert shop.verbs.json("doctor")["ok"] is True


def test_a_line_that_is_run_in_one_goes_back_and_leaves_nothing(shop: SmallShop) -> None:
    before = shop.everything()
    ready = shop.verbs.json("run", "--until", "ready")
    assert ready["outcome"] == "ready"
    with shop.verbs.stream(shop.source):
        assert shop.verbs.json("cutover", "--yes")["outcome"] == "moved"
        shop.verbs.refused("abort", "--yes", code=6, says="moved", hint="dbsplit rollback")
        assert shop.verbs.json("rollback", "--yes")["outcome"] == "returned"
        shop.verbs.refused("abort", "--yes", code=4, says="stream", hint="stop it")
    assert shop.verbs.json("abort", "--yes")["outcome"] == "removed"
    assert shop.everything() == before
    shop.ask("source", "DELETE FROM events_2024")
    shows_phase(shop, "planned")


@pytest.mark.long
@pytest.mark.release
def test_one_service_moves_while_the_others_stay(shop: SmallShop) -> None:
    """The crm's parts leave the tables that it shares with the shop, and come back."""
    shop.follow()
    with shop.verbs.stream(shop.source):
        moved = shop.verbs.json("cutover", "--yes", "--service", "crm")
        assert moved["services"] == ["crm"]
        phases = shop.verbs.json("status")["services"]
        assert [phases[s]["phase"] for s in SERVICES] == ["moved", "following", "following"]
        _the_crm_is_shut_out_of_the_source(shop)
        _the_shop_goes_on_in_the_source(shop)
        _the_crm_writes_its_own(shop)
        _numbers_of_a_shared_table(shop, "source")
        every_row_is_equal(shop)
        assert shop.verbs.json("cutover", "--yes", "--service", "shop")["services"] == ["shop"]
        assert "crm and shop" in str(shop.refuses("source", "DELETE FROM notes"))
        shop.ask("source", "UPDATE billing.invoices SET amount = 2")
        _numbers_of_a_shared_table(shop, "shop")
        every_row_is_equal(shop)
        assert shop.verbs.json("rollback", "--yes", "--service", "crm")["services"] == ["crm"]
        _only_the_shop_is_away(shop)
        every_row_is_equal(shop)
        assert shop.verbs.json("rollback", "--yes")["services"] == ["shop"]
        shop.ask("source", "UPDATE customers SET email = 'x', full_name = 'y' WHERE id = 3")
        arrives(shop, "shop", "SELECT email FROM customers WHERE id = 3", "x")
        arrives(shop, "crm", "SELECT full_name FROM customers WHERE id = 3", "y")
        steps = shop.ask("source", "SELECT DISTINCT seqincrement FROM pg_sequence")
        assert steps == [(1,)], "alone again, the source issues every number"
        every_row_is_equal(shop)


def _the_crm_is_shut_out_of_the_source(shop: SmallShop) -> None:
    for refused in (
        "UPDATE customers SET full_name = 'there' WHERE id = 3",
        "UPDATE customers SET phone = NULL, email = 'both' WHERE id = 3",
        "TRUNCATE customers CASCADE",
        "INSERT INTO notes (customer_id, channel) VALUES (1, 'phone')",
        "UPDATE notes SET channel = 'mail' WHERE channel = 'web' AND customer_id = 5",
        "UPDATE notes SET channel = 'web' WHERE channel = 'mail' AND customer_id = 5",
        "UPDATE notes SET body = 'x' WHERE channel = 'phone'",
        "DELETE FROM notes WHERE channel = 'phone'",
        "TRUNCATE notes",
        "INSERT INTO tickets (customer_id, subject) VALUES (1, 'x')",
    ):
        error = shop.refuses("source", refused)
        assert "moved to service crm" in (error.diag.message_primary or ""), refused
        assert "database of service crm" in (error.diag.message_hint or "")


def _the_shop_goes_on_in_the_source(shop: SmallShop) -> None:
    for taken in (
        "UPDATE customers SET email = 'here', full_name = full_name WHERE id = 3",
        "INSERT INTO customers (email) VALUES ('new here')",
        "DELETE FROM notes WHERE customer_id = 200 AND channel = 'web'",
        "UPDATE notes SET body = 'web' WHERE channel = 'web'",
        "INSERT INTO notes (customer_id, channel, body) VALUES (1, 'web', 'here')",
        'UPDATE "Products" SET "Unit Price" = 3 WHERE "Id" = 3',
        "INSERT INTO orders (customer_id) VALUES (3)",
    ):
        shop.ask("source", taken)
    arrives(shop, "shop", "SELECT email FROM customers WHERE id = 3", "here")
    arrives(shop, "shop", "SELECT count(*) FROM customers WHERE email = 'new here'", 1)
    arrives(shop, "crm", "SELECT count(*) FROM customers", 201)
    arrives(shop, "shop", "SELECT count(*) FROM notes WHERE body = 'here'", 1)
    arrives(shop, "crm", 'SELECT "Unit Price"::int FROM "Products" WHERE "Id" = 3', 3)
    arrives(shop, "billing", "SELECT count(*) FROM order_overview", 501)


def _the_crm_writes_its_own(shop: SmallShop) -> None:
    shop.ask("crm", "UPDATE customers SET full_name = 'in the crm' WHERE id = 3")
    shop.ask("crm", "INSERT INTO customers (full_name) VALUES ('new in the crm')")
    shop.ask("crm", "UPDATE notes SET body = 'in the crm' WHERE id = 2")
    # The same row, changed on both sides at once, each its own columns.
    for n in range(20):
        shop.ask("crm", "UPDATE customers SET phone = %s WHERE id = 4", f"crm {n}")
        shop.ask("source", "UPDATE customers SET email = %s WHERE id = 4", f"shop {n}")
    arrives(shop, "source", "SELECT full_name FROM customers WHERE id = 3", "in the crm")
    arrives(shop, "source", "SELECT email FROM customers WHERE id = 3", "here")
    arrives(shop, "shop", "SELECT count(*) FROM customers", 202)
    arrives(shop, "source", "SELECT phone || email FROM customers WHERE id = 4", "crm 19shop 19")
    arrives(shop, "crm", "SELECT phone FROM customers WHERE id = 4", "crm 19")
    arrives(shop, "shop", "SELECT email FROM customers WHERE id = 4", "shop 19")


def _numbers_of_a_shared_table(shop: SmallShop, other: str) -> None:
    """Two sides insert into one table at the same time, each many rows."""
    before = shop.value("source", "SELECT count(*) FROM customers")
    for _ in range(10):
        shop.ask("crm", "INSERT INTO customers DEFAULT VALUES")
        shop.ask(other, "INSERT INTO customers DEFAULT VALUES")
        shop.ask("crm", "INSERT INTO notes (customer_id, channel) VALUES (1, 'fax')")
        shop.ask(other, "INSERT INTO notes (customer_id, channel) VALUES (1, 'web')")
    for place in ("source", "crm", "shop"):
        arrives(shop, place, "SELECT count(*) FROM customers", before + 20)
    arrives(
        shop,
        "source",
        "SELECT count(*) FROM notes WHERE channel = 'fax'",
        shop.value("crm", "SELECT count(*) FROM notes WHERE channel = 'fax'"),
    )


def _only_the_shop_is_away(shop: SmallShop) -> None:
    shop.ask("source", "UPDATE customers SET full_name = 'home' WHERE id = 3")
    shop.ask("source", "INSERT INTO notes (customer_id, channel) VALUES (1, 'phone')")
    for refused in (
        "UPDATE customers SET email = 'there' WHERE id = 3",
        "INSERT INTO notes (customer_id, channel) VALUES (1, 'web')",
        "DELETE FROM orders",
    ):
        assert "moved to service shop" in str(shop.refuses("source", refused))
    shop.refuses("crm", "UPDATE customers SET full_name = 'away' WHERE id = 3")
    shop.ask("shop", "UPDATE customers SET email = 'away' WHERE id = 3")
    arrives(shop, "source", "SELECT full_name || email FROM customers WHERE id = 3", "homeaway")
    arrives(shop, "crm", "SELECT full_name FROM customers WHERE id = 3", "home")
