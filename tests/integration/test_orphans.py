"""Orphans of cut foreign keys: a planted one is found, and none is invented."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import tuple_row

from cdc.connect import connect
from plans.catalog import TableName
from tests.conftest import fresh_database
from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from validators import orphans
from validators.orphans import NOT_CAUGHT_UP, End, OrphanCheck, find_orphans
from validators.recheck import Limits

KEYS = """\
foreign_keys:
  tickets_product_fkey: {replace_with: reference}
  public.notes.notes_customer_id_fkey: {replace_with: none}
  invoices_order_id_fkey: {replace_with: orphan_check, reason: "orders are the shop's"}
"""


def with_keys(plan: str) -> str:
    return plan.partition("foreign_keys:\n")[0] + KEYS


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path, edit=with_keys) as shop:
        yield shop


@pytest.mark.long
def test_orphans_are_told_whichever_side_leads(shop: SmallShop) -> None:
    shop.ask(
        "source",
        "SET session_replication_role = replica;"
        "INSERT INTO billing.invoices (order_id, amount) VALUES (9001, 1), (9001, 2), (9002, 3)",
    )
    warned = {f["code"]: f for f in shop.verbs.json("plan", "check")["findings"]}
    assert warned["orphans"]["object"] == "billing.invoices.invoices_order_id_fkey"
    assert "3 rows refer to no row of public.orders" in warned["orphans"]["message"]
    assert "order_id = 9001" in warned["orphans"]["message"]
    assert warned["orphans"]["severity"] == "warning"
    assert "0 orphans today" in warned["orphans-none"]["message"]
    assert "tickets_product_fkey" in warned["orphans-none"]["message"]

    shop.follow()
    _has_what_the_plan_says(shop)
    with shop.verbs.stream(shop.source):
        before = shop.verbs.json("validate")
        assert before["consistent"]  # the source has them, too
        (one,) = before["orphans"]
        assert (one["orphans"], one["keys"], one["state"]) == (3, 252, "checked")
        assert one["sample"] == [["9001"], ["9002"]]
        shop.verbs("cutover", "--yes")
        shop.ask("billing", "UPDATE billing.invoices SET order_id = 9003 WHERE order_id = 9002")
        shop.ask("billing", "DELETE FROM billing.invoices WHERE order_id = 9001")
        shop.ask("shop", "INSERT INTO orders (id, customer_id) VALUES (9003, 1)")
        shop.ask("shop", 'DELETE FROM "Order Lines" WHERE order_id = 7')
        shop.ask("shop", "DELETE FROM orders WHERE id = 7")
        said = shop.verbs("validate")
        assert "invoices_order_id_fkey → public.orders: 1 orphans, such as 7" in said.out
        only = shop.verbs.json("validate", "--table", "tickets")
        assert only["orphans"] == []


def _has_what_the_plan_says(shop: SmallShop) -> None:
    """An index for the key that is checked, and the key that refers to the copy."""
    (index,) = shop.ask(
        "billing", "SELECT indexdef FROM pg_indexes WHERE indexname ~ 'orphan_check'"
    )
    assert index == (
        "CREATE INDEX invoices_order_id_orphan_check ON billing.invoices USING btree (order_id)",
    )
    key = shop.value(
        "crm",
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conname = 'tickets_product_fkey' AND convalidated",
    )
    assert key == 'FOREIGN KEY (product) REFERENCES "Products"("Id")'
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        shop.ask("crm", "UPDATE tickets SET product = 999")


# From here on without a split: two databases, and what happens between the steps of a check.

TABLES = """
CREATE TABLE parent (a int, b text, PRIMARY KEY (a, b));
CREATE TABLE child (id int PRIMARY KEY, a int, b text);
CREATE INDEX ON child (a, b);
INSERT INTO parent SELECT n, 'b' || n FROM generate_series(1, 300) n;
INSERT INTO child SELECT n, 1 + n % 300, 'b' || 1 + n % 300 FROM generate_series(1, 900) n;
INSERT INTO child VALUES (1001, NULL, 'b1'), (1002, 5000, NULL);
"""


@contextmanager
def two_services(
    server: Server, *, before: Callable[[psycopg.Connection, psycopg.Connection], object]
) -> Iterator[OrphanCheck]:
    """A check between two databases; `before` happens whenever a side is to catch up."""
    with ExitStack() as stack:
        dsns = [stack.enter_context(fresh_database(server)) for _ in range(2)]
        here, there = (stack.enter_context(connect(dsn)) for dsn in dsns)
        writers = [stack.enter_context(connect(dsn)) for dsn in dsns]
        for writer in writers:
            writer.execute(TABLES)

        def end(service: str, connection: psycopg.Connection, table: str) -> End:
            return End(
                service=service,
                connection=connection,
                table=TableName("public", table),
                columns=("a", "b"),
                types=("integer", "text"),
                catch_up=lambda _: before(writers[0], writers[1]) is not False,
            )

        yield OrphanCheck(
            foreign_key="public.child.to_parent",
            references=TableName("public", "parent"),
            referring=end("shop", here, "child"),
            owners=(end("crm", there, "parent"),),
        )


def test_keys_of_several_columns_in_several_batches(
    target_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "KEYS_PER_BATCH", 64)
    with two_services(target_server, before=lambda *_: True) as check:
        check.referring.connection.execute(
            "INSERT INTO child VALUES (2001, 1, 'b2'), (2002, 299, 'B299'), (2003, 400, '')"
        )
        (result,) = find_orphans([check])
    assert (result.state, result.orphans, result.keys) == ("checked", 3, 303)
    assert result.sample == (("1", "b2"), ("299", "B299"), ("400", ""))


def test_what_is_on_its_way_is_no_orphan(target_server: Server) -> None:
    """The owner has the row once it has caught up; the other's row goes once it has."""
    steps = iter(range(10))

    def arrive(here: psycopg.Connection, there: psycopg.Connection) -> None:
        if next(steps) == 0:
            there.execute("INSERT INTO parent VALUES (400, 'late')")
        else:
            here.execute("DELETE FROM child WHERE id = 2002")

    with two_services(target_server, before=arrive) as check:
        check.referring.connection.execute(
            "INSERT INTO child VALUES (2001, 400, 'late'), (2002, 401, 'leaves')"
        )
        (result,) = find_orphans([check])
    assert (result.state, result.orphans, result.sample) == ("checked", 0, ())


def test_a_key_that_is_taken_anew_between_two_looks_is_settled_by_another_round(
    target_server: Server,
) -> None:
    """Row and reference go and come back while the owner is asked: never was one an orphan."""
    steps = iter(range(20))

    def swap(here: psycopg.Connection, there: psycopg.Connection) -> None:
        match next(steps):
            case 0:  # the owner, of the first round
                here.execute("DELETE FROM child WHERE id = 2001")
            case 1:  # the referring side, after the owner was asked
                there.execute("INSERT INTO parent VALUES (400, 'again')")
                here.execute("INSERT INTO child VALUES (2001, 400, 'again')")
            case _:
                pass

    with two_services(target_server, before=swap) as check:
        check.referring.connection.execute("INSERT INTO child VALUES (2001, 400, 'again')")
        (result,) = find_orphans([check])
    assert (result.state, result.orphans) == ("checked", 0)
    assert next(steps) > 2


def test_a_side_that_does_not_catch_up_is_no_verdict(target_server: Server) -> None:
    with two_services(target_server, before=lambda *_: False) as check:
        (quiet,) = find_orphans([check])
        assert (quiet.state, quiet.orphans) == ("checked", 0)  # nothing had to be waited for
        check.referring.connection.execute("INSERT INTO child VALUES (2001, 400, 'b')")
        (result,) = find_orphans([check], limits=Limits(rounds=2))
    assert (result.state, result.reason, result.orphans) == ("unverified", NOT_CAUGHT_UP, 0)


def test_nothing_is_invented_while_both_sides_are_written_to(target_server: Server) -> None:
    """A row's owner comes first and goes last, always: whatever is seen, none is an orphan."""
    stop = threading.Event()
    with two_services(target_server, before=lambda *_: True) as check:
        dsns = (check.referring.connection.info.dsn, check.owners[0].connection.info.dsn)

        def write() -> None:
            with (
                psycopg.connect(dsns[0], autocommit=True, row_factory=tuple_row) as here,
                psycopg.connect(dsns[1], autocommit=True) as there,
            ):
                number = 1000
                while not stop.is_set():
                    number += 1
                    there.execute("INSERT INTO parent VALUES (%s, 'x')", [number % 7 + 1000])
                    here.execute("INSERT INTO child VALUES (3000, %s, 'x')", [number % 7 + 1000])
                    here.execute("DELETE FROM child WHERE id = 3000")
                    there.execute("DELETE FROM parent WHERE b = 'x'")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            results = [find_orphans([check])[0] for _ in range(60)]
        finally:
            stop.set()
            writer.join()
    assert {one.orphans for one in results} == {0}
    assert {one.state for one in results} == {"checked"}
