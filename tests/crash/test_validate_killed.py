"""A comparison is killed between two of its units."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.crash.points import VALIDATE
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


@pytest.mark.parametrize("point", VALIDATE)
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
