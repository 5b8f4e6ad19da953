"""Rules are asked while applications commit several rows at once, and the stream applies them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import psycopg
import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server

pytestmark = pytest.mark.skipif(
    find_spec("great_expectations") is None, reason="needs pip install 'dbsplit[quality]'"
)

LOOKS = 12
BROKEN_S_MAX = 60.0
RULE = """\
  whole-order-{number}:
    table: orders
    meaning: a fresh order has three lines, which are 30 pieces in all
    unexpected: |
      SELECT o.id, count(l."Line") AS lines, sum(l.quantity) AS pieces
      FROM orders AS o LEFT JOIN "Order Lines" AS l ON l.order_id = o.id
      WHERE o.id >= 100000 GROUP BY o.id
      HAVING count(l."Line") <> 3 OR sum(l.quantity) IS DISTINCT FROM 30
"""
WRITES = (
    "INSERT INTO orders (id, customer_id) VALUES (%(id)s, 1)",
    'INSERT INTO "Order Lines" (order_id, "Line", product, quantity, "Unit Price")'
    " SELECT %(id)s, n, n, 10, 1 FROM generate_series(1, 3) AS n",
    # From one line to another, and the oldest order goes.
    'UPDATE "Order Lines" SET quantity = quantity - 1 WHERE order_id = %(id)s - 3 AND "Line" = 1',
    'UPDATE "Order Lines" SET quantity = quantity + 1 WHERE order_id = %(id)s - 3 AND "Line" = 2',
    'DELETE FROM "Order Lines" WHERE order_id = %(id)s - 20',
    "DELETE FROM orders WHERE id = %(id)s - 20",
)


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path_factory.mktemp("live")) as one:
        one.follow()
        rules = "".join(RULE.format(number=number) for number in range(LOOKS))
        suites = one.verbs.plan.parent / "rules"
        suites.mkdir()
        (suites / "shop.yaml").write_text(f"service: shop\nrules:\n{rules}")
        with one.verbs.stream(one.source):
            yield one


@contextmanager
def written(shop: SmallShop, first: int, *, at_once: bool) -> Iterator[None]:
    """Orders come, change and go, each in one transaction, or each statement in its own."""
    stop, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            with psycopg.connect(shop.source, autocommit=not at_once) as conn:
                number = first
                while not stop.is_set():
                    for statement in WRITES:
                        conn.execute(statement.encode(), {"id": number})
                        time.sleep(0.002 if at_once else 0.05)
                    if at_once:
                        conn.commit()
                    number += 1
        except BaseException as error:  # noqa: BLE001 -- handed to the test's thread
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures


def told(shop: SmallShop) -> list[dict[str, Any]]:
    wanted = ("--rules", "--service", "shop", "--table", "orders", "--json")
    rules = shop.verbs.tried("validate", *wanted).result["rules"]
    ours = [rule for rule in rules if rule["rule"].startswith("whole-order-")]
    assert len(ours) == 2 * LOOKS
    return ours


def test_no_rule_is_broken_by_what_is_committed_at_once(shop: SmallShop) -> None:
    with written(shop, 100_000, at_once=True):
        assert {rule["outcome"] for rule in told(shop)} == {"passed"}


@pytest.mark.release
def test_what_is_committed_bit_by_bit_breaks_it(shop: SmallShop) -> None:
    """Or the test above would show nothing."""
    with written(shop, 200_000, at_once=False):
        deadline = time.monotonic() + BROKEN_S_MAX
        sides: set[str] = set()
        while "source" not in sides and time.monotonic() < deadline:
            sides |= {rule["side"] for rule in told(shop) if rule["outcome"] == "failed"}
    assert "source" in sides
