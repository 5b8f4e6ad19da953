"""A comparison is killed between two of its units."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.crash.points import BY_BLOCKS, BY_KEYS
from tests.integration.test_compare import Bench
from toolkit.control.schema import install_control

SCRIPT = Path(__file__).parent / "compared_once.py"


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    made = Bench(source_db, target_db)
    made.both(
        "CREATE TABLE public.t (id bigint PRIMARY KEY, v int)",
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    install_control(source_db, "source")
    made.source(
        "INSERT INTO dbsplit.split (split, plan_digest) VALUES ('split', '')",
        "INSERT INTO dbsplit.service (split, service, phase) VALUES ('split', 'crm', 'following')",
    )
    return made


def compared(bench: Bench, since: str, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    if crash_at:
        environment["DBSPLIT_CRASH_AT"] = crash_at
    return subprocess.run(
        [sys.executable, SCRIPT, bench.source_dsn, bench.target_dsn, since],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def proven(bench: Bench) -> int:
    with psycopg.connect(bench.source_dsn) as conn:
        (row,) = conn.execute("SELECT count(*) FROM dbsplit.compared_unit").fetchall()
    return int(row[0])


@pytest.mark.parametrize("point", BY_KEYS)
def test_a_killed_comparison_goes_on(bench: Bench, point: str) -> None:
    whole = json.loads(compared(bench, "0/1").stdout)
    killed = compared(bench, "0/2", f"{point}:7")
    assert killed.returncode == -signal.SIGKILL
    assert proven(bench) == 7
    # In a part that is proven: it is not read again, for what changes is dirty.
    bench.target("UPDATE public.t SET v = 0 WHERE id IN (1, 19999)")
    done = json.loads(compared(bench, "0/3").stdout)
    assert (done["state"], done["different"], done["rows"]) == ("different", 1, 20_000)
    assert (done["fingerprint"], done["since"]) == (whole["fingerprint"], "0/2")
    again = json.loads(compared(bench, "0/4").stdout)
    assert (again["different"], again["since"]) == (2, "0/4")
    assert proven(bench) == 0


def test_what_was_proven_before_the_right_to_write_moved_is_proven_anew(bench: Bench) -> None:
    compared(bench, "0/2", "validate.unit:7")
    bench.source("UPDATE dbsplit.service SET epoch = epoch + 1")
    bench.target("UPDATE public.t SET v = 0 WHERE id IN (1, 19999)")
    done = json.loads(compared(bench, "0/3").stdout)
    assert (done["different"], done["since"]) == (2, "0/3")


@contextmanager
def moving(bench: Bench) -> Iterator[None]:
    """Rows of both sides come to lie elsewhere all the time, and keep their values."""
    stop, failures = threading.Event(), list[BaseException]()

    def move(dsn: str) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                number = 0
                while not stop.is_set():
                    conn.execute(
                        "UPDATE public.t SET v = v WHERE n %% 50 = %s AND n %% 500 <> 1",
                        [number % 50],
                    )
                    number += 1
        except BaseException as error:  # noqa: BLE001 -- handed to the test's thread
            failures.append(error)

    threads = [
        threading.Thread(target=move, args=[d]) for d in (bench.source_dsn, bench.target_dsn)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.parametrize("point", BY_BLOCKS)
def test_a_killed_comparison_of_random_keys_finds_all_while_rows_move(
    bench: Bench, point: str
) -> None:
    bench.both(
        "DROP TABLE public.t",
        "CREATE TABLE public.t (id uuid PRIMARY KEY, n int, v text)",
        "INSERT INTO public.t SELECT md5(i::text)::uuid, i, 'v'"
        " FROM generate_series(1, 20000) AS i",
        "ANALYZE public.t",
    )
    # Rows that stay where they are until the comparison is killed: 1, 501, 1001, ...
    bench.target("DELETE FROM public.t WHERE n IN (501, 10001, 19501)")
    bench.source("DELETE FROM public.t WHERE n IN (1, 15001)")
    bench.target("UPDATE public.t SET v = 'w' WHERE n IN (1501, 18001)")
    with moving(bench):
        killed = compared(bench, "0/2", f"{point}:7")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        bench.both("UPDATE public.t SET v = v WHERE n % 500 = 1")
        assert proven(bench) == 0
        done = json.loads(compared(bench, "0/3").stdout)
    assert (done["missing"], done["extra"], done["different"]) == (3, 2, 2)
    assert (done["state"], done["rows"], done["since"]) == ("different", 19_998, "0/3")
    assert proven(bench) == 0
