"""Rows that differ are all told, and repaired while writers and the stream go on."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.planted_rows import DIFFERING, plant
from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        yield one


def found(result: dict[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for table in result["tables"]:
        counts.update({how: table[how] for how in ("missing", "extra", "different")})
    return counts


@contextmanager
def writing(dsn: str) -> Iterator[Counter[str]]:
    """Applications that go on writing the source, the planted rows among them."""
    done: Counter[str] = Counter()
    stop = threading.Event()
    statements = (
        ("customer", "UPDATE customers SET phone = %s, email = %s WHERE id = %s"),
        ("order", "UPDATE orders SET state = 'sent', customer_id = length(%s || %s) WHERE id = %s"),
        ("note", "UPDATE notes SET body = %s || %s WHERE id = %s"),
        ("visit", "INSERT INTO visits (path) VALUES (%s || %s || %s)"),
        ("gone", "DELETE FROM tickets WHERE subject = %s || %s AND id = %s"),
    )

    def write() -> None:
        choice = random.Random(11)  # noqa: S311
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                name, statement = choice.choice(statements)
                number = choice.randint(1, 200)
                connection.execute(statement.encode(), [str(number), "x", number])
                done[name] += 1
                time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(timeout=20)
    assert done.total() > 10


def test_every_kind_of_difference_is_repaired_under_writers(shop: SmallShop) -> None:
    shop.follow()
    with shop.verbs.stream(shop.source), writing(shop.source):
        plant(shop)
        result = shop.verbs.json("validate", "--repair", "--yes")
        assert result["consistent"] is True, result
        assert result["repair"]["left"] == 0
        again = shop.verbs.json("validate", "--repair", "--yes")
        assert again["consistent"] is True
        assert "repair" not in again
    assert result["repair"]["inserted"] >= 14
    assert shop.value("source", "SELECT count(*) FROM dbsplit.difference") == 0


def test_differences_are_counted_told_and_left_alone_without_yes(
    shop: SmallShop, tmp_path: Path
) -> None:
    shop.follow()
    shop.verbs("stream", "--until-caught-up")
    plant(shop)
    lines, table = tmp_path / "d.jsonl", tmp_path / "d.csv"
    said = shop.verbs(
        "validate", "--repair", "--differences", str(lines), "--csv", str(table), code=5
    )
    assert "say --yes" in said.err
    result = shop.verbs.json("validate", code=5)
    assert found(result) == DIFFERING
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    by_how: Counter[str] = Counter()
    for one in told:
        by_how[one["how"]] += one["rows"]
    assert by_how == DIFFERING
    (phone,) = [
        c for d in told if d["table"] == "public.customers" and d["key"] == {"id": "151"}
        for c in d["columns"]
    ]  # fmt: skip
    assert phone == {"column": "phone", "source": "151", "target": "wrong"}
    assert shop.value("source", "SELECT sum(rows) FROM dbsplit.difference") == sum(
        DIFFERING.values()
    )
    assert table.read_text().count("\n") > len(told)
    assert lines.stat().st_mode & 0o077 == 0
    assert {one["cause"] for one in told} >= {"not-arrived", "white-space", "expression"}
