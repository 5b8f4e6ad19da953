"""``dbsplit compare``: two databases without a plan."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.integration.test_compare import Bench
from tests.processes import start

ORDERS = (
    "CREATE TABLE public.orders (id int PRIMARY KEY, state text, updated_at timestamptz)",
    "INSERT INTO public.orders SELECT i, 'new' FROM generate_series(1, 200) AS i",
    "CREATE TABLE public.events (id int, note text)",
    "INSERT INTO public.events SELECT i % 9, 'e' FROM generate_series(1, 100) AS i",
    "CREATE SCHEMA crm",
    "CREATE TABLE crm.leads (id int PRIMARY KEY)",
)


@pytest.fixture
def both(source_db: str, target_db: str) -> Bench:
    bench = Bench(source_db, target_db)
    bench.both(*ORDERS)
    # The very same moments on both sides.
    moment = f"timestamptz '{datetime.now(UTC)}'"
    bench.both(f"UPDATE public.orders SET updated_at = {moment} - id * interval '1 hour'")  # noqa: S608
    return bench


def compare(bench: Bench, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result and talk."""
    with TemporaryDirectory() as place:
        ran = start(
            ("compare", bench.source_dsn, bench.target_dsn, "--settle", "0", *words, "--json"),
            os.environ, Path(place, "out"), Path(place, "err"),
        )  # fmt: skip
        code = ran.wait()
        out, err = ran.all_said()
    assert "Traceback" not in err, err
    return code, json.loads(out.splitlines()[-1]), err


def test_equal_differing_and_unreadable_are_three_results(both: Bench) -> None:
    code, result, _ = compare(both)
    assert (code, result["consistent"], result["rows"]) == (0, True, 300)
    assert {t["table"] for t in result["tables"]} == {"public.events", "public.orders"}
    both.target("UPDATE public.orders SET state = 'paid' WHERE id = 3")
    code, result, _ = compare(both, "--tables", "orders,events")
    assert (code, result["consistent"]) == (5, False)
    assert [t["different"] for t in result["tables"]] == [1, 0]
    code, result, talk = compare(both, "--tables", "orders,order_lines,leads", "--key", "nr")
    assert (code, result["exit_code"]) == (4, 4)
    assert "no table order_lines" in result["error"]
    assert "no table leads" in result["error"]
    assert "no column nr" in result["error"]
    assert "Hint" in talk


def test_rows_are_told_whatever_their_columns_collations_are(both: Bench) -> None:
    both.both(
        'CREATE TABLE public.leads (mail text COLLATE "POSIX" PRIMARY KEY, name text COLLATE "C")',
        "INSERT INTO public.leads SELECT 'm' || i, 'é' FROM generate_series(1, 50) AS i",
    )
    both.target("UPDATE public.leads SET name = 'E' WHERE mail IN ('m7', 'm8')")
    code, result, talk = compare(both, "--tables", "leads")
    assert (code, result["tables"][0]["state"]) == (5, "different"), talk


def test_a_name_with_its_schema_needs_no_schema_said(both: Bench) -> None:
    both.both(
        "INSERT INTO crm.leads VALUES (1), (2)",
        'CREATE TABLE crm."Odd.Name" (id int PRIMARY KEY)',
    )
    both.target('INSERT INTO crm."Odd.Name" VALUES (1)')
    named = 'orders,crm.leads,"crm"."Odd.Name"'
    code, result, talk = compare(both, "--tables", named)
    assert (code, result["rows"]) == (5, 202), talk
    assert [(t["table"], t["extra"]) for t in result["tables"]] == [
        ("public.orders", 0), ("crm.leads", 0), ("crm.Odd.Name", 1)
    ]  # fmt: skip
    code, result, _ = compare(both, "--tables", "leads,crm.leads")
    assert (code, result["error"]) == (4, "the left database has no table leads")


def test_no_rows_prove_nothing(both: Bench) -> None:
    code, result, _ = compare(both, "--tables", "crm.leads")
    assert (code, result["consistent"], result["rows"]) == (4, False, 0)
    code, result, _ = compare(both, "--schema", "crm")
    assert (code, result["consistent"], result["rows"]) == (4, False, 0)


def test_columns_of_one_side_only_have_to_be_left_out_aloud(both: Bench) -> None:
    both.target("ALTER TABLE public.orders ADD loaded_at timestamptz DEFAULT now()")
    both.source("ALTER TABLE public.events ADD kind text")
    code, result, _ = compare(both)
    assert code == 4
    assert "loaded_at of public.orders is missing on the left" in result["error"]
    assert "kind of public.events is missing on the right" in result["error"]
    code, result, _ = compare(both, "--exclude", "loaded_at, kind")
    assert (code, result["consistent"]) == (0, True)
    code, result, _ = compare(both, "--exclude", "id,loaded_at", "--tables", "orders")
    assert (code, "is of its key" in result["error"]) == (4, True)
    code, result, _ = compare(both, "--exclude", "laoded_at")
    assert (code, "no table has a column laoded_at" in result["error"]) == (4, True)


def test_where_no_column_is_left_rows_are_counted(both: Bench) -> None:
    both.both("CREATE TABLE public.bare ()", "INSERT INTO public.bare DEFAULT VALUES")
    assert compare(both, "--tables", "bare")[0] == 0
    both.source("INSERT INTO public.bare DEFAULT VALUES")
    code, result, _ = compare(both, "--tables", "bare")
    assert (code, result["tables"][0]["missing"], "error" in result) == (5, 1, False)


def test_a_part_is_no_whole(both: Bench) -> None:
    both.target("UPDATE public.orders SET state = 'paid' WHERE id > 100")
    code, result, _ = compare(both, "--tables", "orders", "--below", "100")
    assert (code, result["rows"], result["scope"]) == (0, 99, "keys below 100")
    code, result, _ = compare(both, "--tables", "orders", "--within", "updated_at:1d")
    assert code == 0
    assert 10 < result["rows"] < 50
    code, result, _ = compare(both, "--tables", "orders", "--where", "id % 2 = 1", "--sample", "50")
    assert code == 5
    assert "a sample of 50 % of the keys, rows where id % 2 = 1" in result["scope"]
    code, result, _ = compare(both, "--tables", "orders", "--where", "id < 100 -- the old ones")
    assert (code, result["rows"]) == (0, 99)


@pytest.mark.parametrize(
    "within",
    ["updated_at", "updated_at:2y", ":2d", "updated_at:-1d", "updated_at:9999999d",
     "updated_at:99999999999999w"],
)  # fmt: skip
def test_an_age_that_is_none_is_a_usage_error(both: Bench, within: str) -> None:
    assert compare(both, "--within", within)[0] == 2


def test_a_part_that_a_table_cannot_have_is_a_usage_error(both: Bench) -> None:
    code, result, _ = compare(both, "--within", "no_such:2d")
    assert (code, "has no column 'no_such'" in result["error"]) == (2, True)
    assert compare(both, "--tables", "orders", "--within", "state:2d")[0] == 2
    for option in ("--from", "--below"):
        code, result, _ = compare(both, "--tables", "orders", option, "x")
        assert (code, f"{option} 'x' is no " in result["error"]) == (2, True)


@pytest.fixture
def reader(both: Bench) -> Iterator[Bench]:
    """Roles that may read, and nothing else; not even in a control schema."""
    dsns = []
    for dsn in (both.source_dsn, both.target_dsn):
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("DROP ROLE IF EXISTS only_reader")
            admin.execute("CREATE ROLE only_reader LOGIN")
            admin.execute("ALTER ROLE only_reader SET default_transaction_read_only = on")
            admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_reader")
        dsns.append(make_conninfo(dsn, user="only_reader"))
    yield Bench(*dsns)
    for dsn in (both.source_dsn, both.target_dsn):
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("DROP OWNED BY only_reader")
            admin.execute("DROP ROLE only_reader")


def test_it_needs_no_more_than_select(both: Bench, reader: Bench) -> None:
    assert compare(reader)[0] == 0
    both.target("DELETE FROM public.orders WHERE id = 3")
    code, result, _ = compare(reader)
    assert (code, [t["missing"] for t in result["tables"]]) == (5, [0, 1])
    both.target("REVOKE SELECT ON public.events FROM only_reader")
    code, result, _ = compare(reader, "--tables", "events")
    assert (code, result["consistent"], result["tables"][0]["state"]) == (4, False, "unverified")
    assert "permission denied" in result["tables"][0]["reason"]


def test_a_server_that_does_not_answer_is_no_difference(both: Bench) -> None:
    gone = Bench(both.source_dsn, "postgresql://nobody@127.0.0.1:1/none")
    code, result, _ = compare(gone)
    assert (code, "cannot connect" in result["error"]) == (4, True)


def test_a_table_that_is_not_read_within_its_snapshots_limit_is_unverified(both: Bench) -> None:
    slowly = ("--tables", "events", "--where", "pg_sleep(0.05) IS NOT NULL")
    code, result, _ = compare(both, *slowly, "--snapshot-limit", "1")
    (events,) = result["tables"]
    assert (code, result["consistent"], events["state"]) == (4, False, "unverified")
    assert "within 1 s" in events["reason"]
