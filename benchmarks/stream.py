# ruff: noqa: S608 -- all of the SQL is ours
"""Measures the stream against native logical replication.

    python benchmarks/stream.py --json result.json
    python benchmarks/stream.py --only update,wide --scale 0.3

Theory of operation.  One source; each contestant has a target server and a slot of its
own, and has copied the same rows.  For each mix a backlog is written while nobody
follows, and then each contestant drains it: the very same log.  Time and CPU count
from the moment that a slot is read until the last row, which was written last, is
seen in the target.  A contestant whose rows then differ from the source's has no time.

Then the load is steady, and the same program that commits looks for each commit in
the target.  Contestants take turns, in the opposite order every second round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.contest import (
    STEP_S_MAX,
    Failed,
    fingerprint,
    machine,
    run,
    server_cpu_s,
)
from benchmarks.process import Process, Spent, execute_all, when
from benchmarks.stream_mixes import FINISH, FINISH_SCHEMA, MIXES, START, STEADY, Mix
from toolkit.servers import Server, start_server

DATABASE = "bank"
PYTHON = (sys.executable, "-c")
DBSPLIT = "from toolkit.cli.main import main; main()"
STREAMED = f"import cdc.follow; cdc.follow.PULL_BYTES_MIN = 1 << 60; {DBSPLIT}"
PLAN = """\
split: {split}
source: {{dsn: "${{DBSPLIT_SOURCE_DSN}}"}}
services:
{services}
tables:
{tables}
"""
SETTLE_S = 1.0
RATE = 5_000
BEATS_PER_S = 100  # transactions of the steady load
CHANGES_OF_A_BEAT = RATE // BEATS_PER_S
LOOK_S = 0.002
STEADY_S = 15.0
WARM_S = 2.0
COST_MIN_US = 0.01
"""Nothing costs less; of little, taking off what the start costs may leave nothing."""
LATE_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who follows, and how."""

    name: str
    commits: str  # synchronous_commit of what applies
    code: str = ""  # what our process runs; a subscription has none


OURS = Contestant("dbsplit", "on", DBSPLIT)
OURS_STREAMED = Contestant("dbsplit, streamed only", "on", STREAMED)
NATIVE = Contestant("subscription", "on")
NATIVE_OFF = Contestant("subscription", "off")
CONTESTANTS = (OURS, OURS_STREAMED, NATIVE, NATIVE_OFF)


@dataclass(frozen=True, slots=True)
class Drained:
    """What one contestant took for one backlog."""

    mix: str
    contestant: str
    commits: str
    round: int
    changes: int
    seconds: float
    cost: Spent
    peak_mb: float  # of our process

    @property
    def rate(self) -> float:
        """Changes a second."""
        return self.changes / self.seconds


@dataclass(frozen=True, slots=True)
class Lag:
    """How long commits took to be seen in the target under steady load."""

    contestant: str
    commits: str
    round: int
    changes_per_s: int  # that were written
    median_ms: float
    p99_ms: float
    cost: Spent
    peak_mb: float


class Arena:
    """A source, and a target for each contestant."""

    def __init__(
        self, directory: Path, tables: Sequence[str], services: int, *, durable: bool
    ) -> None:
        self.directory = directory
        self.tables = tables
        self._durable = durable
        self.source = start_server(durable=durable)
        self.targets: dict[Contestant, Server] = {}
        self.services = [f"s{n}" for n in range(services)]

    def close(self) -> None:
        """End the servers."""
        for server in (self.source, *self.targets.values()):
            server.discard()

    @property
    def source_dsn(self) -> str:
        """Of the database that is written to."""
        return self.source.dsn(DATABASE)

    def dsns(self, who: Contestant) -> list[str]:
        """Of the databases that follow."""
        return [self.targets[who].dsn(service) for service in self.services]

    def enter(self, who: Contestant) -> None:
        """Give a contestant a server, and have it copy everything, or so far."""
        server = self.targets[who] = start_server(durable=self._durable)
        execute_all(server.dsn(), *(f"CREATE DATABASE {service}" for service in self.services))
        if who.code:
            self._plan(who)
            for verb in ("prepare", "copy"):
                with self._run(who, verb) as process:
                    process.wait(STEP_S_MAX)
        else:
            for number, dsn in enumerate(self.dsns(who)):
                self._subscribe(who, number, dsn)

    def follow(self, who: Contestant) -> AbstractContextManager[Process | None]:
        """Follow while the block runs."""
        return self._run(who, "stream") if who.code else self._enabled(who)

    def cost(self, who: Contestant, process: Process | None) -> Spent:
        """What was spent until now."""
        return Spent(
            server_cpu_s(self.source),
            server_cpu_s(self.targets[who]),
            process.cpu_s if process else 0.0,
        )

    def require_equal(self, who: Contestant) -> None:
        """Raise Failed if a row differs."""
        expected = fingerprint(self.source_dsn, self.tables)
        for dsn in self.dsns(who):
            if (found := fingerprint(dsn, self.tables)) != expected:
                raise Failed(f"{who.name}: {found} instead of {expected}")

    def _plan(self, who: Contestant) -> None:
        split = _name(who)
        first, *others = self.services
        also = f"{{owner: {first}, reference_in: [{', '.join(others)}]}}" if others else first
        text = PLAN.format(
            split=split,
            services="\n".join(
                f'  {one}: {{dsn: "${{DBSPLIT_{one.upper()}_DSN}}"}}' for one in self.services
            ),
            tables="\n".join(f"  {table}: {also}" for table in self.tables),
        )
        (self.directory / f"{split}.yaml").write_text(text)

    def _run(self, who: Contestant, verb: str) -> Process:
        environment = {"DBSPLIT_SOURCE_DSN": self.source_dsn}
        for service, dsn in zip(self.services, self.dsns(who), strict=True):
            environment[f"DBSPLIT_{service.upper()}_DSN"] = dsn
        plan = self.directory / f"{_name(who)}.yaml"
        log = self.directory / f"{_name(who)}.log"
        return Process([*PYTHON, who.code, verb, str(plan)], log, environment)

    def _program(self, name: str, *words: str | Path) -> None:
        run([str(self.source.binaries.program(name)), *map(str, words)], self.directory)

    def _subscribe(self, who: Contestant, number: int, dsn: str) -> None:
        name = f"{_name(who)}_{number}"
        tables = ", ".join(self.tables)
        schema = self.directory / "schema.sql"
        only = [part for table in self.tables for part in ("-t", table)]
        self._program("pg_dump", "-s", "--no-publications", *only, "-f", schema, self.source_dsn)
        self._program("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", schema, "-o", "/dev/null", dsn)
        execute_all(self.source_dsn, f"CREATE PUBLICATION {name} FOR TABLE {tables}")
        execute_all(
            dsn,
            f"CREATE SUBSCRIPTION {name} CONNECTION '{self.source_dsn}' PUBLICATION {name}"
            f" WITH (binary = true, streaming = parallel, synchronous_commit = {who.commits})",
        )
        when(
            dsn,
            "SELECT bool_and(srsubstate = 'r') AND count(*) ="
            f" {len(self.tables)} FROM pg_subscription_rel",
        )
        execute_all(dsn, f"ALTER SUBSCRIPTION {name} DISABLE")

    @contextmanager
    def _enabled(self, who: Contestant) -> Iterator[None]:
        def switch(state: str) -> None:
            for number, dsn in enumerate(self.dsns(who)):
                execute_all(dsn, f"ALTER SUBSCRIPTION {_name(who)}_{number} {state}")

        switch("ENABLE")
        try:
            yield
        finally:
            switch("DISABLE")
            when(self.source_dsn, NOBODY_READS)


NOBODY_READS = "SELECT coalesce(NOT bool_or(active), true) FROM pg_replication_slots"
SOMEBODY_READS = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots"


def drain(arena: Arena, who: Contestant, mix: Mix, number: int, changes: int) -> Drained:
    """Have a backlog drained."""
    for server in (arena.source, arena.targets[who]):
        execute_all(server.dsn(), "CHECKPOINT")
    when(arena.source_dsn, NOBODY_READS)
    last = f"SELECT count(*) = 1 FROM {FINISH} WHERE id = '{mix.name} {number}'"
    before = arena.cost(who, None)  # of the servers; our process counts from when it reads
    with arena.follow(who) as process:
        alive = process.require_alive if process else None
        began = when(arena.source_dsn, SOMEBODY_READS, poll_s=0.005, meanwhile=alive)
        started = process.cpu_s if process else 0.0
        ended = max(when(dsn, last, meanwhile=alive) for dsn in arena.dsns(who))
        cost = arena.cost(who, process).since(replace(before, client=started))
        peak = process.peak_mb if process else 0.0
    arena.require_equal(who)
    return Drained(
        mix.name, who.name, who.commits, number, changes, round(ended - began, 3), cost, peak
    )


def lag(arena: Arena, who: Contestant, number: int, seconds: float) -> Lag:
    """Follow a steady load."""
    beats = int(BEATS_PER_S * seconds)
    (dsn, *_) = arena.dsns(who)
    seen: dict[int, float] = {}
    done = threading.Event()
    watcher = threading.Thread(target=_look, args=(dsn, beats, seen, done))
    mark = -int(time.time())
    execute_all(arena.source_dsn, "DELETE FROM beat", f"INSERT INTO beat VALUES ({mark}, now())")
    with arena.follow(who) as process:
        when(arena.source_dsn, SOMEBODY_READS)
        # Before it come the beats of whoever was measured before.
        when(dsn, f"SELECT count(*) = 1 FROM beat WHERE id = {mark}")
        time.sleep(SETTLE_S)
        watcher.start()
        before = arena.cost(who, process)
        committed, took = _beat(arena.source_dsn, beats)
        watcher.join(LATE_S_MAX)
        done.set()
        watcher.join()
        cost = arena.cost(who, process).since(before)
        peak = process.peak_mb if process else 0.0
    if len(seen) < beats:
        raise Failed(f"{who.name}: {beats - len(seen)} commits not seen within {LATE_S_MAX:.0f} s")
    arena.require_equal(who)
    warm = int(BEATS_PER_S * WARM_S)
    lags = sorted((seen[b] - at) * 1000 for b, at in committed.items() if b > warm)
    return Lag(
        who.name,
        who.commits,
        number,
        round(beats * CHANGES_OF_A_BEAT / took),
        round(statistics.median(lags), 1),
        round(lags[int(len(lags) * 0.99)], 1),
        cost,
        peak,
    )


def _beat(dsn: str, beats: int) -> tuple[dict[int, float], float]:
    """Commit so many beats in their time; returns when each was, and how long all took."""
    committed = {}
    with psycopg.connect(dsn, autocommit=True) as source:
        began = time.monotonic()
        for beat in range(1, beats + 1):
            time.sleep(max(0.0, began + beat / BEATS_PER_S - time.monotonic()))
            source.execute(
                "WITH b AS (INSERT INTO beat VALUES (%s, clock_timestamp()))"
                " UPDATE account SET balance = balance + 1 WHERE id IN"
                " (SELECT 1 + (%s::bigint * 7919 + n * 1009) %% 100000"
                " FROM generate_series(2, %s) n)",
                [beat, beat, CHANGES_OF_A_BEAT],
            )
            committed[beat] = time.monotonic()
        return committed, time.monotonic() - began


def _look(dsn: str, beats: int, seen: dict[int, float], done: threading.Event) -> None:
    """Note when each beat is seen in the target."""
    known = 0
    with psycopg.connect(dsn, autocommit=True) as target:
        while not done.is_set() and known < beats:
            row = target.execute("SELECT max(id) FROM beat").fetchone()
            now = time.monotonic()
            top = row[0] if row and row[0] else 0
            seen.update(dict.fromkeys(range(known + 1, top + 1), now))
            known = max(known, top)
            time.sleep(LOOK_S)


def contest(  # noqa: PLR0913
    mixes: Sequence[Mix],
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    scale: float,
    services: int = 1,
    steady_s: float = 0.0,
    durable: bool = True,
) -> Iterator[Drained | Lag]:
    """Everything, in turn."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="dbsplit-bench")))
        tables = [FINISH, *(table for mix in (*mixes, STEADY) for table in mix.tables)]
        arena = Arena(directory, tables, services, durable=durable)
        cleanup.callback(arena.close)
        execute_all(arena.source.dsn(), f"CREATE DATABASE {DATABASE}")
        execute_all(arena.source_dsn, FINISH_SCHEMA, *(mix.schema for mix in (*mixes, STEADY)))
        for who in contestants:
            arena.enter(who)
        turns = [contestants if number % 2 == 0 else contestants[::-1] for number in range(rounds)]
        for number, turn in enumerate(turns, 1):
            for mix in mixes:
                write(arena, mix, number, scale)
                for who in turn:
                    yield drain(arena, who, mix, number, mix.total(scale))
        # Last: the others find its beats in their logs.
        for number, turn in enumerate(turns if steady_s else (), 1):
            for who in turn:
                yield lag(arena, who, number, steady_s)


def write(arena: Arena, mix: Mix, number: int, scale: float) -> None:
    """Write a backlog."""
    execute_all(
        arena.source_dsn,
        "SET synchronous_commit = off",
        mix.statement(number, scale),
        f"INSERT INTO {FINISH} VALUES ('{mix.name} {number}')",
    )


def table(results: Sequence[Drained | Lag]) -> str:
    """The results in Markdown, as they stand in docs/benchmarks.md."""
    return "\n\n".join((_drained([r for r in results if isinstance(r, Drained)]), _lags(results)))


def _drained(results: Sequence[Drained]) -> str:
    lines = [
        "| mix | contestant | commits | changes/s | dbsplit / it | CPU µs a change:"
        " source + target + client | it / dbsplit | peak MB |",
        "| --- " * 8 + "|",
    ]
    for mix in dict.fromkeys(r.mix for r in results if r.mix != START.name):
        ours = [r for r in results if r.mix == mix and r.contestant == OURS.name]
        for who in CONTESTANTS:
            them = [
                r
                for r in results
                if (r.mix, r.contestant, r.commits) == (mix, who.name, who.commits)
            ]
            if them:
                lines.append(_line(ours, them, results))
    return "\n".join(lines)


def _line(ours: Sequence[Drained], them: Sequence[Drained], results: Sequence[Drained]) -> str:
    pairs = list(zip(ours, them, strict=True))
    faster = statistics.median([o.rate / t.rate for o, t in pairs])
    costs = [cost_of_each(t, results) for t in them]
    dearer = statistics.median(
        [
            cost.all / max(cost_of_each(o, results).all, COST_MIN_US)
            for (o, _), cost in zip(pairs, costs, strict=True)
        ]
    )
    parts = [
        statistics.median([getattr(cost, part) for cost in costs])
        for part in ("source", "target", "client")
    ]
    rate = statistics.median([t.rate for t in them])
    (first, *_) = them
    return (
        f"| {first.mix} | {first.contestant} | {first.commits} | {rate:,.0f} | {faster:.2f} |"
        f" {' + '.join(f'{part:.1f}' for part in parts)} = {sum(parts):.1f} |"
        f" {dearer:.2f} | {max(t.peak_mb for t in them) or ''} |"
    )


def cost_of_each(one: Drained, results: Sequence[Drained]) -> Spent:
    """The CPU of each change in microseconds, without what the start costs."""
    start = [
        r.cost
        for r in results
        if (r.mix, r.contestant, r.commits) == (START.name, one.contestant, one.commits)
    ]
    parts = {
        part: max(
            0.0, getattr(one.cost, part) - statistics.median([getattr(s, part) for s in start])
        )
        / one.changes
        * 1e6
        for part in ("source", "target", "client")
    }
    return Spent(**parts)


def _lags(results: Sequence[Drained | Lag]) -> str:
    lines = [
        "| contestant | commits | changes/s | median ms | p99 ms | CPU s: source + target + client"
        " | peak MB |",
        "| --- " * 7 + "|",
    ]
    for r in results:
        if isinstance(r, Lag):
            lines.append(
                f"| {r.contestant} | {r.commits} | {r.changes_per_s:,} | {r.median_ms} | {r.p99_ms}"
                f" | {r.cost.source} + {r.cost.target} + {r.cost.client} | {r.peak_mb or ''} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _name(who: Contestant) -> str:
    return f"c{CONTESTANTS.index(who)}"


def main() -> None:
    """Measure, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--scale", type=float, default=1.0, help="of each backlog")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--only", default="", help="mixes, with commas; 'none' for no backlog")
    options.add_argument("--steady-s", type=float, default=STEADY_S, help="seconds of steady load")
    options.add_argument("--services", type=int, default=1, help="targets, all with all tables")
    options.add_argument("--contestants", default="0,1,2,3", help="places in the list")
    options.add_argument(
        "--no-fsync", action="store_true", help="no server waits for the disk, which others use"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    given = options.parse_args()
    wanted = set(filter(None, given.only.split(",")))
    results: list[Drained | Lag] = []
    for one in contest(
        [START, *(mix for mix in MIXES if not wanted or mix.name in wanted)],
        [CONTESTANTS[int(n)] for n in given.contestants.split(",")],
        rounds=given.rounds,
        scale=given.scale,
        services=given.services,
        steady_s=given.steady_s,
        durable=not given.no_fsync,
    ):
        results.append(one)
        print(one, file=sys.stderr)
    print(table(results))
    if given.json:
        result: dict[str, Any] = {
            "machine": machine(),
            "scale": given.scale,
            "services": given.services,
            "fsync": not given.no_fsync,
            "results": [{"kind": type(one).__name__.lower(), **asdict(one)} for one in results],
        }
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
