"""One split from the shell's point of view: its servers, its plan, its processes, its traffic.

Every verb runs as a process of its own and can be killed: at a named point, after some
time, or by the traffic switch in the middle of a move.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from plans.crm_shop.workload.routing import Routing, write_routing
from tests.conftest import fresh_database
from tests.crash import planted
from tests.crash.traffic import BOOKS, DESK, PLAN_TABLES, SERVICES, Traffic, set_up_source
from tests.processes import KILLED, Running, start
from toolkit.cli.main import main
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

STREAM_S_MAX = 60.0
WRITE_AGAIN_S_MAX = 20.0

PLAN = """\
split: {split}
source: {{dsn: "${{DBSPLIT_SOURCE_DSN}}", schemas: [public]}}
services:
  books: {{dsn: "${{DBSPLIT_BOOKS_DSN}}"}}
  desk: {{dsn: "${{DBSPLIT_DESK_DSN}}"}}
tables:{tables}
sequences: {{gap: 10}}
limits: {{lag_bytes_max: 67108864, write_pause_s_max: 10}}
switch: {{kind: command, command: {command}, timeout_s: 10}}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A verb that ended, one way or another."""

    verb: str
    code: int
    result: dict[str, Any]  # the last JSON line, {} without one
    said: str
    took_s: float

    def __str__(self) -> str:
        return f"{self.verb} ended with {self.code} after {self.took_s:.1f} s:\n{self.said[-3000:]}"


class Line:
    """A source, two targets, the plan between them, and everything that runs on it."""

    def __init__(self, source: str, targets: dict[str, str], directory: Path) -> None:
        self.split = f"line-{uuid4().hex[:8]}"
        self.source = source
        self.targets = targets
        self.plan = directory / "plan.yaml"
        self.kills = 0
        self._directory = directory
        self.routing = directory / "routing.json"
        self.history = directory / "history"
        self._steps = directory / "switch.log"
        self._stream: Running | None = None
        self._number = 0
        command = [sys.executable, "-P", str(Path(__file__).with_name("switch.py"))]
        command += [str(self.routing), str(self._steps)]
        self.plan.write_text(
            PLAN.format(split=self.split, tables=PLAN_TABLES.rstrip(), command=json.dumps(command))
        )
        write_routing(self.routing, dict.fromkeys(SERVICES, source))
        set_up_source(source)
        self.traffic = Traffic(self.routing, self.history)

    # ------------------------------------------------------------------- verbs

    @property
    def environment(self) -> dict[str, str]:
        """What a verb has to know beside the plan."""
        return os.environ | {
            "DBSPLIT_SOURCE_DSN": self.source,
            "DBSPLIT_BOOKS_DSN": self.targets[BOOKS],
            "DBSPLIT_DESK_DSN": self.targets[DESK],
        }

    def run(self, verb: str, *args: str, **more: str) -> Ended:
        """Run a verb to its end, whatever that is."""
        return self._wait(self._start(verb, *args, **more))

    def done(self, verb: str, *args: str) -> Ended:
        """Run a verb that has to succeed."""
        ended = self.run(verb, *args)
        assert ended.code == 0, ended
        return ended

    def killed_at(self, point: str, verb: str, *args: str, nth: int = 1, **more: str) -> Ended:
        """Run a verb that has to die at a crash point; nothing else sends it SIGKILL."""
        ended = self.run(verb, *args, DBSPLIT_CRASH_AT=f"{point}:{nth}", **more)
        assert ended.code == KILLED, f"{point} was not reached: {ended}"
        self.kills += 1
        return ended

    def killed_after(self, seconds: float, verb: str, *args: str) -> bool:
        """Kill a verb after some time; False if it had succeeded before."""
        running = self._start(verb, *args)
        if not running.ended(seconds):
            running.kill()
        ended = self._wait(running)
        assert ended.code in (0, KILLED), ended
        self.kills += ended.code == KILLED
        return ended.code == KILLED

    @contextmanager
    def running(self, verb: str, *args: str, **more: str) -> Iterator[Running]:
        """A verb that is left to itself for a while; it has to end with the block."""
        running = self._start(verb, *args, **more)
        try:
            yield running
        finally:
            running.kill()

    def follow(self) -> None:
        """From nothing to a live stream, under load, with nobody killed."""
        self.traffic.start()
        self.done("prepare")
        self.done("copy")
        self.start_stream()

    # ------------------------------------------------------------------ stream

    def start_stream(self, **more: str) -> None:
        """Start the stream process, and wait until it holds its role."""
        assert self._stream is None
        running = self._start("stream", **more)
        self._stream = running
        if "DBSPLIT_CRASH_AT" not in more:
            assert wait_until(self._follows, timeout_s=STREAM_S_MAX), running.said()

    def stream_alive(self) -> bool:
        """Whether the stream process runs."""
        return self._stream is not None and self._stream.running

    @property
    def stream_pid(self) -> int:
        """The stream's process."""
        assert self._stream is not None
        return self._stream.pid

    def kill_stream(self) -> None:
        """SIGKILL the stream, wherever it is."""
        assert self._stream is not None
        assert self.stream_alive(), "the stream has ended by itself"
        self._stream.kill()
        assert self.await_stream() == KILLED
        self.kills += 1

    def stream_killed_at(self, point: str, nth: int) -> None:
        """Run a stream that has to die at a crash point, at its `nth` pass."""
        self.start_stream(DBSPLIT_CRASH_AT=f"{point}:{nth}")
        assert self.await_stream() == KILLED, f"{point} was not reached"
        self.kills += 1

    def await_stream(self) -> int:
        """The exit code of the stream, once it has ended."""
        stream, self._stream = self._stream, None
        assert stream is not None
        return stream.wait()

    def ensure_stream(self) -> None:
        """What a service manager does: start the stream again if it has ended."""
        if self._stream is not None and not self.stream_alive():
            assert self.await_stream() in (4, 7, KILLED)
        if self._stream is None:
            self.start_stream()

    def await_beat(self) -> None:
        """Wait for a sign of life of the stream's that is not from before."""
        query = "SELECT max(beat_at) FROM dbsplit.heartbeat WHERE split = %s AND role = 'stream'"
        with psycopg.connect(self.source, autocommit=True) as connection:

            def beat() -> object:
                return connection.execute(query, [self.split]).fetchone()

            before = beat()
            assert wait_until(lambda: beat() != before, timeout_s=STREAM_S_MAX)

    def write_many(self, rows: int) -> None:
        """One transaction of the source that takes several batches."""
        with psycopg.connect(self.source) as connection:
            for table in (
                "ledger (writer, token, amount) SELECT 'many', gen_random_uuid(), n",
                "sheet (token, amount) SELECT gen_random_uuid(), n",
            ):
                connection.execute(
                    f"INSERT INTO {table} FROM generate_series(1, %s) AS n", (rows // 2,)
                )

    def _follows(self) -> bool:
        with psycopg.connect(self.source) as connection:
            row = connection.execute(
                "SELECT (details ->> 'connected')::boolean FROM dbsplit.heartbeat"
                " WHERE split = %s AND role = 'stream' AND pid = %s",
                (self.split, self.stream_pid),
            ).fetchone()
        assert self.stream_alive(), "the stream has ended by itself"
        return bool(row and row[0])

    # ------------------------------------------------------------------- proof

    def places(self) -> dict[str, str]:
        """Where each service's traffic goes."""
        routing = Routing(self.routing)
        return {service: routing.place(service, service) for service in SERVICES}

    def moved(self) -> set[str]:
        """The services whose traffic goes to their own databases."""
        return {service for service, dsn in self.places().items() if dsn != self.source}

    def switched(self) -> list[str]:
        """The steps that the traffic switch was told so far."""
        return self._steps.read_text().split() if self._steps.exists() else []

    def phases(self) -> dict[str, str]:
        """The services' phases."""
        with psycopg.connect(self.source) as connection:
            rows = connection.execute(
                "SELECT service, phase FROM dbsplit.service WHERE split = %s", (self.split,)
            )
            return dict(rows.fetchall())

    def step_of_numbers(self) -> int:
        """By how much the source's sequence of a table with two owners goes on."""
        with psycopg.connect(self.source) as connection:
            row = connection.execute(
                "SELECT seqincrement FROM pg_sequence"
                " WHERE seqrelid = pg_get_serial_sequence('message', 'id')::regclass"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def writes_flow(self) -> float:
        """Seconds until every group of writers was acknowledged something new."""
        began = time.monotonic()
        before = self.traffic.tallies()

        def all_acknowledged() -> bool:
            now = self.traffic.tallies()
            return all(now[name].acknowledged > before[name].acknowledged for name in now)

        assert wait_until(all_acknowledged, timeout_s=WRITE_AGAIN_S_MAX), self.traffic.tallies()
        return time.monotonic() - began

    def await_phases(self, phases: dict[str, str]) -> None:
        """Wait until the services are in these phases."""
        wait_until(lambda: self.phases() == phases, timeout_s=WRITE_AGAIN_S_MAX)
        assert self.phases() == phases

    def cut(self, verb: str) -> int:
        """Cut the connection by which a verb holds its role; returns how many there were."""
        with psycopg.connect(self.source, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE %s",
                (f"dbsplit {verb} of %",),
            )
            return len(rows.fetchall())

    def await_moved(self, services: set[str]) -> None:
        """Wait until the traffic of these services, and no other, was switched."""
        wait_until(lambda: self.moved() == services, timeout_s=WRITE_AGAIN_S_MAX)
        assert self.moved() == services

    def await_switched(self, steps: int) -> None:
        """Wait until the traffic switch was told so many steps."""
        wait_until(lambda: len(self.switched()) >= steps, timeout_s=WRITE_AGAIN_S_MAX)

    def try_to_write_to_source(self) -> str:
        """What the source says to an application that did not follow the switch."""
        try:
            with psycopg.connect(self.source) as connection:
                connection.execute("UPDATE account SET balance = balance")
        except psycopg.Error as error:
            return str(error)
        return ""

    def prove(self) -> None:
        """Both sides are equal, and everything that was acknowledged is there once."""
        self.writes_flow()
        self.traffic.pause()
        validated = self.done("validate")
        assert validated.result["consistent"] is True
        assert all(table["state"] == "equal" for table in validated.result["tables"])
        report = self.traffic.check(self.places())
        assert report.whole, report
        for name, tally in self.traffic.tallies().items():
            assert tally.crashed == tally.given_up == 0, (name, tally)
            assert not tally.errors["23505"], f"a number was issued twice: {name}, {tally}"
        self.traffic.resume()

    # --------------------------------------------------------------- processes

    def discard(self) -> None:
        """End everything that runs."""
        self.traffic.stop()
        if self._stream is not None:
            self._stream.kill()

    def _start(self, verb: str, *args: str, **more: str) -> Running:
        self._number += 1
        stem = self._directory / f"{self._number:03}-{verb.replace(' ', '-')}"
        out, err = stem.with_suffix(".out"), stem.with_suffix(".err")
        if verb in ("cutover", "rollback"):
            args = (*args, "--yes", "--certificates", str(self._directory))
        environment = {**self.environment, **more}
        words = (*verb.split(), str(self.plan), "--json", *args)
        program = planted.main if "DBSPLIT_TEST_PLANT" in more else main
        return start(words, environment, out, err, main=program)

    def _wait(self, running: Running) -> Ended:
        code = running.wait()
        took_s = time.monotonic() - running.started
        result: dict[str, Any] = {}
        if code != KILLED and (lines := running.out.read_text().splitlines()):
            result = json.loads(lines[-1])
        return Ended(running.words[0], code, result, running.said(), took_s)


@contextmanager
def new_line(source: Server, target: Server, directory: Path) -> Iterator[Line]:
    """A line of its own; its databases and what it left on the servers go with it."""
    with ExitStack() as stack:
        dsn = stack.enter_context(fresh_database(source))
        targets = {service: stack.enter_context(fresh_database(target)) for service in SERVICES}
        line = Line(dsn, targets, directory)
        stack.callback(_drop_origins, line, (source, target))
        stack.callback(line.discard)
        yield line


def _drop_origins(line: Line, servers: tuple[Server, ...]) -> None:
    """A server has room for few origins, and they are not part of a database."""
    for server in servers:
        server.start()
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'dbsplit%%'"
            )
            query = "SELECT roname FROM pg_replication_origin WHERE roname LIKE %s"
            names = admin.execute(query, (f"dbsplit_{line.split.replace('-', '_')}%",)).fetchall()
            for (name,) in names:
                wait_until(partial(_dropped, admin, name), timeout_s=10)


def _dropped(admin: psycopg.Connection[Any], name: str) -> bool:
    try:
        admin.execute("SELECT pg_replication_origin_drop(%s)", (name,))
    except psycopg.errors.ObjectInUse:
        return False
    return True
