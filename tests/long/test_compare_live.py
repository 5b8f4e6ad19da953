# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The bundled applications at full speed, and rows that are spoiled on the targets meanwhile.

Half a minute, or as many seconds as DBSPLIT_TEST_LIVE_S says.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from cdc.connect import connect
from tests.following import Live
from toolkit import initial
from toolkit.demo import stage
from toolkit.demo.applications import applications_at_work
from toolkit.opened import Split, open_split
from toolkit.prepare import prepare
from toolkit.validation import Compared, validate_all
from validators.results import TableResult

LIVE_S = float(os.environ.get("DBSPLIT_TEST_LIVE_S") or 30)
SCALE = 0.02
WRITERS, RATE = 8, 300.0
ROUNDS_MIN = 2
REST_S = 1.0
SEED = 5

# A service, a table, its key, a column that takes any text, and whether rows may be deleted:
# the stream stops at an update of a row that is gone, which is another test's subject.
SPOILED = (
    ("crm", "tickets", "id", "subject", False),
    ("crm", "leads", "id", "company", False),
    ("crm", "customers", "id", "full_name", False),
    ("shop", "materials", "code", "title", False),
    ("crm", "campaigns", "id", "name", True),
)


@dataclass
class Spoiler:
    """Spoils rows of the targets, and knows which."""

    split: Split
    rng: random.Random
    planted: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def spoil(self) -> None:
        """One row of one table, changed or deleted."""
        service, table, key, column, may_go = self.rng.choice(SPOILED)
        with psycopg.connect(self.split.dsn(service), autocommit=True) as target:
            target.execute("SELECT set_config('dbsplit.applier', %s, false)", [self.split.name])
            chosen = target.execute(
                f"SELECT {key} FROM public.{table} ORDER BY random() LIMIT 1".encode()
            ).fetchone()
            if chosen is None:
                return
            delete = f"DELETE FROM public.{table} WHERE {key} = %s"
            update = f"UPDATE public.{table} SET {column} = {column} || ' ' WHERE {key} = %s"
            target.execute("SET session_replication_role = replica")  # keys would cascade
            target.execute(
                self.rng.choice([update, delete] if may_go else [update]).encode(), chosen
            )
        self.planted.setdefault((service, table), set()).add(str(chosen[0]))

    def missed_or_invented(self, results: list[TableResult]) -> tuple[set[str], set[str]]:
        """Of what was planted, what was not found; and what was found and never planted."""
        missed, invented = set(), set()
        for one in results:
            found = {str(d.key[0]) for d in one.differences}
            planted = self.planted.get((one.service, one.table.name), set())
            invented |= {f"{one.route} {key}" for key in found - planted}
            missed |= {f"{one.route} {key}" for key in planted - found}
        return missed, invented


@contextmanager
def at_work(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Split]:
    """The bundled case, following, while its applications write."""
    with stage.running_stage(None, lambda _: None) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        stage.load(running, SCALE)
        plan = directory / "plan.yaml"
        stage.write_plan(plan, ["true"])
        shared = dict.fromkeys(("crm", "shop"), running.dsn(stage.SOURCE))
        with applications_at_work(directory, shared, writers=WRITERS, rate=RATE):
            prepare(plan, lambda _step, _details: None)
            initial.copy(open_split(plan), lambda _progress: None, jobs=2)
            split = open_split(plan)
            live = Live(split)
            try:
                yield split
            finally:
                live.end()


def compared(split: Split) -> Compared:
    with connect(split.plan.source.dsn) as source:
        return validate_all(split, split.routes, source, lambda _step, _details: None)


def test_all_that_is_spoiled_is_found_and_nothing_is_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(SEED)  # noqa: S311
    with at_work(tmp_path, monkeypatch) as split:
        spoiler = Spoiler(split, rng)
        rounds = 0
        deadline = time.monotonic() + LIVE_S
        while rounds < ROUNDS_MIN or time.monotonic() < deadline:
            results = list(compared(split).results)
            rounds += 1
            missed, invented = spoiler.missed_or_invented(results)
            assert not invented
            # The applications may have written the row again, and mended it.
            assert len(missed) <= mended(split, missed)
            assert [r.route for r in results if r.state == "unverified"] == []
            for _ in range(rng.randint(1, 5)):
                time.sleep(rng.uniform(0, REST_S))
                spoiler.spoil()
        assert spoiler.planted


def mended(split: Split, missed: set[str]) -> int:
    """How many of these rows are equal on both sides, by looking."""
    count = 0
    for one in missed:
        route_id, _, key = one.rpartition(" ")
        route = next(r for r in split.routes if r.id == route_id)
        texts = []
        for dsn, table in (
            (split.plan.source.dsn, route.source.name),
            (split.dsn(route.service), route.target),
        ):
            columns = ", ".join(f'"{column.name}"' for column in route.columns)
            query = f"SELECT ROW({columns})::text FROM {table} WHERE {route.key[0]}::text = %s"
            with psycopg.connect(dsn) as conn:
                texts.append(conn.execute(query.encode(), [key]).fetchall())
        count += texts[0] == texts[1]
    return count
