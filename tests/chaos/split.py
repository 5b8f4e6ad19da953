# ruff: noqa: S608 -- all of the SQL is the tests' own
"""One split in chaos: its verbs, its writers, and the proof that nothing was lost or doubled."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from cdc.connect import connect
from plans.crm_shop.workload.routing import Routing, write_routing
from tests.chaos.faults import Place, ask
from tests.chaos.restless import Restless
from tests.crash import switch
from tests.history import LedgerWriters, check_ledger, setup_ledger
from tests.processes import KILLED, Running, start
from toolkit.servers_watchdog import wait_until

RATE = 100.0
WRITERS = 3
WRITE_S_MAX = 20.0
FOLLOW_S_MAX = 60.0
TRIES_MAX = 4
ACCEPTED = frozenset({0, 4, 6, 7, 8, 9, KILLED})
"""How a verb may end while something befalls it: never by a bug, never for a wrong plan."""

UNRECOVERABLE = ("start again", "start the split again", "is a bug")
"""What it may not say: all of these faults pass."""

MORE_TABLES = """
CREATE TABLE sheet (token uuid, n int, body text);
CREATE TABLE parted (id int, region text, n int, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE parted_north PARTITION OF parted FOR VALUES IN ('north');
CREATE TABLE parted_south PARTITION OF parted FOR VALUES IN ('south');
CREATE TABLE wide (
    id int PRIMARY KEY, code int NOT NULL UNIQUE, next int REFERENCES wide DEFERRABLE, body text
) WITH (fillfactor = 90);
CREATE INDEX ON wide (next);
INSERT INTO sheet SELECT gen_random_uuid(), n, 'x' FROM generate_series(1, 300) AS n;
INSERT INTO parted SELECT n, CASE n % 2 WHEN 0 THEN 'north' ELSE 'south' END, n
    FROM generate_series(1, 400) AS n;
INSERT INTO wide SELECT n, -n, NULL, repeat(md5(n::text), 8) FROM generate_series(1, 15000) AS n;
UPDATE wide SET next = id - 1 WHERE id % 5 = 0;
ANALYZE;
"""
TABLES = ("ledger", "account", "sheet", "parted", "wide")
PLAN = """\
split: {split}
source: {{dsn: "${{DBSPLIT_SOURCE_DSN}}", schemas: [public]}}
services:
  a: {{dsn: "${{DBSPLIT_A_DSN}}"}}
tables: {{ledger: a, account: a, sheet: a, parted: a, wide: a}}
sequences: {{gap: 10}}
limits: {{lag_bytes_max: 67108864, write_pause_s_max: 10}}
switch: {{kind: command, command: {command}, timeout_s: 10}}
"""


class ChaosSplit:
    """A source and one service."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.log: list[str] = []
        self._directory = directory
        self._plan = directory / "plan.yaml"
        self._routing = directory / "routing.json"
        self._history = directory / "history"
        self._stream: Running | None = None
        self._number = 0
        command = [sys.executable, "-P", str(Path(switch.__file__))]
        command += [str(self._routing), str(directory / "switch.log")]
        name = f"chaos-{uuid4().hex[:8]}"
        self._plan.write_text(PLAN.format(split=name, command=json.dumps(command)))
        setup_ledger(place.source.dsn)
        with psycopg.connect(place.source.dsn, autocommit=True) as connection:
            connection.execute(MORE_TABLES)
        write_routing(self._routing, {"a": place.source.seen})
        self.writers = LedgerWriters(
            self._where, self._history, writers=WRITERS, rate=RATE, retry_s_max=WRITE_S_MAX
        )
        self.restless = Restless(self._where, f"{directory.name}")

    def __enter__(self) -> ChaosSplit:
        self.writers.start()
        self.restless.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.writers.stop()
        self.restless.stop()
        if self._stream is not None and self._stream.running:
            self._stream.kill()

    def _where(self) -> str:
        """Where the application writes: straight to the server that the switch has named."""
        seen = Routing(self._routing).place("a", "a")
        sides = (self.place.source, self.place.target)
        return next(side.dsn for side in sides if side.seen == seen)

    @property
    def moved(self) -> bool:
        """Whether the application writes to the target."""
        return self._where() == self.place.target.dsn

    # ------------------------------------------------------------------- verbs

    def start(self, verb: str, *args: str, at: str = "") -> Running:
        """Start a verb that dies at a crash point, if one is named."""
        self._number += 1
        more = {"DBSPLIT_CRASH_AT": at} if at else {}
        environment = os.environ | {
            "DBSPLIT_SOURCE_DSN": self.place.source.seen,
            "DBSPLIT_A_DSN": self.place.target.seen,
            **more,
        }
        words = (verb, str(self._plan), "--json", *args)
        log = self._directory / f"{self._number:03}-{verb}.log"
        return start(words, environment, log)

    def end(self, verb: Running) -> int:
        """Wait for a verb, and hold what it says against what it may say."""
        code = verb.wait()
        said = verb.said()
        self.log.append(f"{verb.words[0]}: {code}")
        assert "Traceback" not in said, f"{verb.words[0]} ended with {code}\n{said}"
        assert code in ACCEPTED, f"{verb.words[0]} ended with {code}\n{said}"
        last = said.strip().rpartition("\n")[2]
        if code not in (0, KILLED):
            for words in UNRECOVERABLE:
                assert words not in last, f"{verb.words[0]} gave up: {code}\n{said}"
        return code

    def run(self, verb: str, *args: str, at: str = "") -> int:
        """Run a verb to its end."""
        return self.end(self.start(verb, *args, at=at))

    def die(self, at: str, verb: str, *args: str) -> None:
        """Run a verb that has to reach a crash point."""
        for _ in range(TRIES_MAX):  # a table that is truncated meanwhile may end a copy
            if self.run(verb, *args, at=at) == KILLED:
                return
        raise AssertionError(f"{verb} did not reach {at}: {self.log}")

    def finish(self, verb: str, *args: str) -> None:
        """Run a verb until it succeeds; nothing is in its way any more."""
        for number in range(TRIES_MAX):
            if self._stream is not None:
                # What befell it may end it only now, after its last sign of life.
                self.await_live(anew=number > 0)
            if self.run(verb, *args) == 0:
                return
            time.sleep(0.3)
        raise AssertionError(f"{verb} does not succeed: {self.log}\n{self._last_log()}")

    def _last_log(self) -> str:
        return sorted(self._directory.glob("*.log"))[-1].read_text()[-3000:]

    # ------------------------------------------------------------------ stream

    def ensure_stream(self, at: str = "") -> None:
        """What a service manager does: start the stream unless it runs."""
        if self._stream is not None and not self._stream.running:
            self.end(self._stream)
            self._stream = None
        if self._stream is None:
            self._stream = self.start("stream", at=at)

    def kill_stream(self) -> None:
        """SIGKILL the stream, if it runs."""
        if self._stream is not None:
            self._stream.kill()
            self._stream = None

    def await_stream_killed(self, at: str) -> None:
        """Wait until the stream has died at its crash point."""
        assert self._stream is not None
        code, self._stream = self.end(self._stream), None
        assert code == KILLED, f"stream did not reach {at}: {self.log}"

    def await_live(self, *, anew: bool = False) -> None:
        """Wait until a stream is connected, starting it again if it ends.

        With `anew` what it said before this call does not count.
        """
        ((now,),) = ask(self.place.source.dsn, "SELECT clock_timestamp()::text")

        def live() -> bool:
            self.ensure_stream()
            assert self._stream is not None
            query = (
                "SELECT 1 FROM dbsplit.heartbeat WHERE role = 'stream'"
                f" AND pid = {self._stream.pid} AND (details ->> 'connected')::boolean"
                " AND beat_at > clock_timestamp() - interval '2 s'"  # it does not reconnect now
                f" AND (beat_at > '{now}' OR NOT {anew})"
            )
            return bool(ask(self.place.source.dsn, query))

        assert wait_until(live, timeout_s=FOLLOW_S_MAX), self._last_log()

    # ------------------------------------------------------------------- proof

    def prove(self) -> None:
        """Both sides are equal row for row, and all that was acknowledged is there once."""
        self.writers.pause()
        self.restless.pause()
        try:
            leader, follower = self.place.source.dsn, self.place.target.dsn
            if self.moved:
                leader, follower = follower, leader
            self._await_equal(leader, follower)
            for dsn in (leader, follower):
                report = check_ledger(dsn, self._history)
                assert report.whole, (report, self.log)
            tally = self.writers.tally()
            assert tally.crashed == tally.given_up == 0, tally
            assert not tally.errors["23505"], tally
        finally:
            self.writers.resume()
            self.restless.resume()

    def _await_equal(self, leader: str, follower: str) -> None:
        """Wait until the follower has passed what the leader has now; then look."""
        with psycopg.connect(leader, autocommit=True) as connection:
            marker = str(uuid4())
            connection.execute("SELECT pg_logical_emit_message(true, 'dbsplit', %s)", [marker])

        def passed() -> bool:
            self.ensure_stream()
            return bool(ask(follower, f"SELECT 1 FROM dbsplit.marker WHERE id = '{marker}'"))

        if not wait_until(passed, timeout_s=FOLLOW_S_MAX):
            raise AssertionError(f"the stream does not follow: {self.log}\n{self._last_log()}")
        for table in TABLES:
            wanted, found = _image(leader, table), _image(follower, table)
            assert wanted == found, (
                f"{table}: missing {list((wanted - found).elements())[:3]},"
                f" extra {list((found - wanted).elements())[:3]}; {self.log}"
            )


def _image(dsn: str, table: str) -> Counter[tuple[Any, ...]]:
    with connect(dsn) as connection:
        query = f"SELECT tableoid::regclass::text, md5(t::text) FROM {table} AS t"
        return Counter(connection.execute(query.encode()).fetchall())


@contextmanager
def chaos_split(place: Place, directory: Path) -> Iterator[ChaosSplit]:
    """A split whose writers write."""
    with ExitStack() as stack:
        split = stack.enter_context(ChaosSplit(place, directory))
        yield split
