# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Large transactions and wide tables, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.following import Following, following
from toolkit.servers import Server

ROWS = 200_000
GROWTH_MB_MAX = 250
COLUMNS = 500
STREAM_S_MAX = 180

SCHEMA = f"""
CREATE SCHEMA odd;
CREATE TABLE many (id int PRIMARY KEY, place int UNIQUE, v text NOT NULL);
INSERT INTO many SELECT n, n, 'before' FROM generate_series(1, 1000) n;
CREATE TABLE keyless (v text);
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v text);
INSERT INTO deferred SELECT n, n FROM generate_series(1, 25000) n;
CREATE TABLE wide (id int PRIMARY KEY, {", ".join(f"c{n} text" for n in range(COLUMNS - 1))});
"""
TRANSACTION = f"""
BEGIN;
UPDATE many SET place = -1 WHERE id = 1;
UPDATE many SET place = 1 WHERE id = 2;
INSERT INTO many SELECT n, n, repeat('x', 100) FROM generate_series(1001, {ROWS}) n;
UPDATE many SET v = 'changed' WHERE id % 10 = 0;
UPDATE many SET id = -id WHERE id % 100 = 1;
DELETE FROM many WHERE id % 50 = 3;
INSERT INTO keyless SELECT 'k' || n % 1000 FROM generate_series(1, 25000) n;
DELETE FROM keyless WHERE v IN ('k1', 'k2');
UPDATE deferred SET id = id + 1;
UPDATE many SET place = 2 WHERE place = -1;
COMMIT
"""
WIDE = (
    f"INSERT INTO wide SELECT n, {', '.join(f'n + {m}' for m in range(COLUMNS - 1))}"
    " FROM generate_series(1, 200) n",
    "UPDATE wide SET c7 = NULL, c498 = 'last' WHERE id <= 100",
    "UPDATE wide SET id = id + 1000 WHERE id > 150",
    "DELETE FROM wide WHERE id = 1",
)

# A process of its own, so that its memory is the stream's and not the tests'.
STREAM = """
import json, re, sys, threading
from pathlib import Path
import cdc.apply, cdc.write
from toolkit.opened import open_split
from toolkit.streaming import stream

def used_mb():  # at most, until now; getrusage() would tell the parent's too
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

write, sizes = cdc.write.BatchWriter.write, []
def measured(self, batches, *arguments, **more):
    sizes.append(sum(len(batch.changes) + len(batch.messages) for batch in batches))
    return write(self, batches, *arguments, **more)
cdc.write.BatchWriter.write = measured

split = open_split(Path(sys.argv[1]))
before = used_mb()
stream(split, stop=threading.Event(), until_caught_up=True, report=lambda progress: None)
print(json.dumps({"before": before, "after": used_mb(), "sizes": sizes}))
"""


@pytest.fixture(scope="module")
def followed(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Following, dict[str, Any]]]:
    with following(
        source_server,
        target_server,
        tmp_path_factory.mktemp("volume"),
        tables="many: a\nkeyless: a\ndeferred: a\nwide: a\n",
    ) as databases:
        databases.execute(SCHEMA)
        databases.prepare()
        databases.copy()
        databases.execute(*WIDE, TRANSACTION)
        done = subprocess.run(
            [sys.executable, "-c", STREAM, str(databases.path)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=STREAM_S_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield databases, json.loads(done.stdout)


def test_a_transaction_of_200_000_rows_is_carried_over_in_bounded_memory(
    followed: tuple[Following, dict[str, Any]],
) -> None:
    databases, said = followed
    assert said["after"] - said["before"] < GROWTH_MB_MAX, said
    # In parts; only rows under a deferrable key wait for the transaction's end.
    assert len(said["sizes"]) > ROWS // 60_000
    assert max(said["sizes"]) <= 100_000
    for route in databases.open().routes:
        if route.source.name.name != "wide":
            assert databases.differences(databases.open(), route) == ([], []), route.id


def test_a_table_with_500_columns(followed: tuple[Following, dict[str, Any]]) -> None:
    databases, _ = followed
    split = databases.open()
    (route,) = [route for route in split.routes if route.source.name.name == "wide"]
    assert len(route.columns) == COLUMNS
    assert databases.differences(split, route) == ([], [])
