"""Rows that differ are all told, and repaired while writers and the stream go on."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plans.names import back_repair_origin
from tests.planted_rows import DIFFERING, plant
from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server, running_server


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


@pytest.mark.long
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
    assert {one["cause"] for one in told} == {"not-arrived", "white-space", "unknown"}


def test_the_script_repairs_once_and_leaves_alone_what_has_changed_since(
    shop: SmallShop, tmp_path: Path
) -> None:
    script = tmp_path / "repair.sql"
    shop.follow()
    with shop.verbs.stream(shop.source):
        plant(shop)
        shop.verbs("validate", "--repair-sql", str(script), code=5)
        shop.ask("source", "UPDATE customers SET phone = 'newer' WHERE id = 151")
        shop.ask("source", "DELETE FROM tickets WHERE id = 90")  # which the target lacks
        shop.verbs("validate", "--table", "tickets", code=5)  # so that both have arrived
        for service in ("shop", "crm", "billing"):
            psql(shop.dsn(service), script)
        assert shop.value("crm", "SELECT phone FROM customers WHERE id = 151") == "newer"
        assert shop.value("crm", "SELECT count(*) FROM tickets WHERE id = 90") == 0
        assert shop.verbs.json("validate")["consistent"] is True
        said = psql(shop.dsn("crm"), script)
        assert "UPDATE 0" in said
        assert "UPDATE 1" not in said
        assert "INSERT 0 1" not in said
        assert shop.verbs.json("validate")["consistent"] is True


def psql(dsn: str, script: Path) -> str:
    program = shutil.which("psql")
    assert program, "no psql: apt-get install -y --no-install-recommends postgresql-client"
    done = subprocess.run(
        [program, "-X", "-f", str(script), dsn], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_masked_values_are_in_no_output(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    def masked(plan: str) -> str:
        return plan.replace("  customers:\n", "  customers:\n    mask: [phone, email]\n")

    out = tmp_path / "out"
    with small_shop(source_server, target_server, tmp_path, edit=masked) as shop:
        shop.ask("source", "UPDATE customers SET phone = 's3cret 1', email = 's3cret 2'")
        shop.follow()
        with shop.verbs.stream(shop.source):
            shop.ask("crm", "UPDATE customers SET phone = 's3cret 3' WHERE id = 5")
            shop.ask("crm", "INSERT INTO customers VALUES (9001, 'nobody', 's3cret 4')")
            shop.ask("shop", "UPDATE customers SET email = 's3cret 5' WHERE id = 5")
            said = shop.verbs(
                "validate", "--github", "--html", str(out / "r.html"), "--junit",
                str(out / "r.xml"), "--differences", str(out / "d.jsonl"), "--csv",
                str(out / "d.csv"), "--repair-sql", str(out / "r.sql"), code=5,
            )  # fmt: skip
            assert "hash:" in said.out
            assert "::error file=plan.yaml,line=" in said.out.replace(f"{tmp_path}/", "")
            files = {path.name: path.read_text() for path in out.iterdir()}
            assert set(files) == {"r.html", "r.xml", "d.jsonl", "d.csv", "r.sql"}
            kept = shop.value("source", "SELECT json_agg(d)::text FROM dbsplit.difference d")
            for name, text in {**files, "kept": kept, "out": said.out, "err": said.err}.items():
                assert "s3cret" not in text, name
            assert "--repair` repairs this row" in files["r.sql"]
            assert shop.verbs.json("validate", "--repair", "--yes")["consistent"] is True
        assert shop.value("crm", "SELECT phone FROM customers WHERE id = 5") == "s3cret 1"


@pytest.mark.long
def test_who_wrote_a_row_is_told_where_the_server_keeps_commit_times(
    source_server: Server, pg_version: str, tmp_path: Path
) -> None:
    settings = {"track_commit_timestamp": "on"}
    lines = tmp_path / "d.jsonl"
    with (
        running_server(version=pg_version, settings=settings) as target_server,
        small_shop(source_server, target_server, tmp_path) as shop,
    ):
        shop.follow()
        with shop.verbs.stream(shop.source):
            shop.ask("source", "UPDATE tickets SET subject = 'by the stream' WHERE id = 9")
            shop.ask("crm", "UPDATE tickets SET subject = 'by hand' WHERE id = 8")
            shop.verbs("validate", "--table", "tickets", code=5)
            with psycopg.connect(shop.source) as connection:  # what the stream takes for echo
                origin = back_repair_origin("small", "crm")
                connection.execute("SELECT pg_replication_origin_create(%s)", [origin])
                connection.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
                connection.execute("UPDATE tickets SET subject = 'lost' WHERE id IN (9, 10)")
                connection.execute("DELETE FROM tickets WHERE id = 11")
            shop.verbs("validate", "--table", "tickets", "--differences", str(lines), code=5)
    told = {
        one["key"]["id"]: (one["written_by"], one["cause"])
        for one in map(json.loads, lines.read_text().splitlines())
    }
    assert told == {
        "8": ("other", "written-there"),
        "9": ("applier", "outdated"),
        "10": ("before", "outdated"),
        "11": ("before", "not-removed"),
    }
