"""Measures copy and stream against pg_dump and native logical replication.

    python benchmarks/run.py --json result.json

Theory of operation.  A round has a source of its own, filled by pgbench, and a server
for each contestant.  Each copies the source in turn.  Then pgbench makes a backlog
while nobody follows, and those who can follow drain it, one after the other: the very
same log.  Every second round goes in the opposite order.  After each contest the
tables are compared with the source's; a contestant whose rows differ has no time.

What dbsplit does is measured as a user would see it, as a process from its start to
its end.  Only the ratios of one run mean something, and those of a busy machine little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from toolkit.servers import SETTINGS, Server, start_server

TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
DATABASE = "bank"
DBSPLIT = Path(sys.executable).parent / "dbsplit"
JOBS = 2  # what a subscription has by default, too: max_sync_workers_per_subscription
CLIENTS = 4
TRANSACTIONS_PER_CLIENT = 5000
CHANGES_PER_TRANSACTION = 4  # pgbench's script "tpcb-like": three updates and an insert
STEP_S_MAX = 900.0
POLL_S = 0.02

OURS = "dbsplit"
IDLE = "dbsplit, nothing left to do"  # what its process costs: imports, checks, the way out
DUMP = "pg_dump, pg_restore"
NATIVE = "native subscription"
NATIVE_ASYNC = "native subscription, synchronous_commit off"  # the default of subscriptions
COMMITS = {NATIVE: "on", NATIVE_ASYNC: "off"}

PLAN = """\
split: bench
source: {dsn: "${DBSPLIT_SOURCE_DSN}"}
services:
  bank: {dsn: "${DBSPLIT_BANK_DSN}"}
tables:
"""


@dataclass(frozen=True, slots=True)
class Time:
    """What one contestant took, once."""

    contest: str  # copy or stream
    contestant: str
    round: int
    seconds: float
    load: float  # the machine's, over the minute before


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much longer a peer took than dbsplit did in the same round; above 1, we are faster."""

    contest: str
    peer: str
    rounds: tuple[float, ...]
    median: float


@dataclass(frozen=True, slots=True)
class Round:
    """The servers of one round."""

    number: int
    directory: Path
    source: Server
    targets: Mapping[str, Server]

    def source_dsn(self) -> str:
        """The shared database's."""
        return self.source.dsn(DATABASE)

    def target_dsn(self, contestant: str) -> str:
        """The database's that this contestant fills."""
        return self.targets[contestant].dsn(DATABASE)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs."""
        _run([str(self.source.binaries.program(program)), *arguments], self.directory)

    def dbsplit(self, *words: str) -> None:
        """Run a verb, as a process."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DBSPLIT_")}
        environment["DBSPLIT_SOURCE_DSN"] = self.source_dsn()
        environment["DBSPLIT_BANK_DSN"] = self.target_dsn(OURS)
        _run([str(DBSPLIT), words[0], "plan.yaml", *words[1:]], self.directory, environment)


class Failed(Exception):
    """A contestant did not do what was measured."""


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--scale", type=int, default=5, help="of pgbench -i: 100,000 rows each")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    given = options.parse_args()
    times: list[Time] = []
    for number in range(1, given.rounds + 1):
        with started(number, given.scale) as now:
            for contest in (copy, stream):
                for taken in contest(now):
                    times.append(taken)
                    _say(f"round {number}: {taken.contest}, {taken.contestant}: ", taken.seconds)
    ratios = compare(times)
    print(table(times, ratios))
    if given.json:
        result = {
            "machine": machine(),
            "scale": given.scale,
            "changes": CHANGES,
            "times": [asdict(one) for one in times],
            "ratios": [asdict(one) for one in ratios],
        }
        given.json.write_text(json.dumps(result, indent=2) + "\n")


CHANGES = CLIENTS * TRANSACTIONS_PER_CLIENT * CHANGES_PER_TRANSACTION


@contextmanager
def started(number: int, scale: int) -> Iterator[Round]:
    """Have a filled source and an empty database for each contestant."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="dbsplit-bench")))

        def start() -> Server:
            server = start_server(durable=True)
            cleanup.callback(server.discard)
            _execute(server.dsn(), sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            return server

        targets = {one: start() for one in (OURS, DUMP, *COMMITS)}
        now = Round(number, directory, start(), {**targets, IDLE: targets[OURS]})
        plan = PLAN + "".join(f"  {name}: bank\n" for name in TABLES)
        (directory / "plan.yaml").write_text(plan)
        now.run("pgbench", "-i", "-q", "-s", str(scale), now.source_dsn())
        yield now


def copy(now: Round) -> Iterator[Time]:
    """All rows and indexes, to an empty database."""
    ways: list[tuple[str, Way]] = [
        (OURS, _copy_ours),
        (DUMP, _copy_dumped),
        (NATIVE, partial(_copy_native, NATIVE)),
    ]
    for contestant, way in _in_turn(now, ways):
        yield _take("copy", contestant, now, way(now))
    yield _take("copy", IDLE, now, lambda: now.dbsplit("copy"))


def stream(now: Round) -> Iterator[Time]:
    """Drain what was committed while nobody followed."""
    _copy_native(NATIVE_ASYNC, now)()
    for contestant in COMMITS:
        _execute(now.target_dsn(contestant), "ALTER SUBSCRIPTION native DISABLE")
    _wait(now.source_dsn(), "SELECT NOT bool_or(active) FROM pg_replication_slots")
    now.run(
        *("pgbench", "-n", "-c", str(CLIENTS), "-t", str(TRANSACTIONS_PER_CLIENT)),
        now.source_dsn(),
    )
    ways: list[tuple[str, Way]] = [
        (OURS, _drain_ours),
        *((one, partial(_drain_native, one)) for one in COMMITS),
    ]
    for contestant, way in _in_turn(now, ways):
        yield _take("stream", contestant, now, way(now))
    yield _take("stream", IDLE, now, _drain_ours(now))


Work = Callable[[], None]
Way = Callable[[Round], Work]


def _copy_ours(now: Round) -> Work:
    now.dbsplit("prepare")
    return lambda: now.dbsplit("copy", "--jobs", str(JOBS))


def _copy_dumped(now: Round) -> Work:
    jobs, directory = f"-j{JOBS}", str(now.directory / "dump")

    def work() -> None:
        now.run(
            *("pg_dump", "-Fd", jobs, "-f", directory, "--no-publications"),
            *("-t", "public.pgbench_*", "-d", now.source_dsn()),
        )
        now.run("pg_restore", jobs, "--exit-on-error", "-d", now.target_dsn(DUMP), directory)

    return work


def _copy_native(contestant: str, now: Round) -> Work:
    schema, target = str(now.directory / "schema.sql"), now.target_dsn(contestant)
    now.run(
        *("pg_dump", "-s", "-f", schema, "--no-publications"),
        *("-t", "public.pgbench_*", "-d", now.source_dsn()),
    )
    now.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", schema, "-o", os.devnull, "-d", target)
    published = sql.SQL(", ").join(map(sql.Identifier, TABLES))
    publication = sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(
        sql.Identifier(_name(contestant)), published
    )
    _execute(now.source_dsn(), publication)

    def work() -> None:
        _execute(
            target,
            sql.SQL(
                "CREATE SUBSCRIPTION native CONNECTION {} PUBLICATION {}"
                " WITH (slot_name = {}, binary = true, synchronous_commit = {})"
            ).format(
                now.source_dsn(),
                sql.Identifier(_name(contestant)),
                _name(contestant),
                COMMITS[contestant],
            ),
        )
        _wait(
            target,
            sql.SQL(
                "SELECT count(*) FILTER (WHERE srsubstate = 'r') = {} FROM pg_subscription_rel"
            ).format(len(TABLES)),
        )

    return work


def _drain_ours(now: Round) -> Work:
    return lambda: now.dbsplit("stream", "--until-caught-up")


def _drain_native(contestant: str, now: Round) -> Work:
    def work() -> None:
        with psycopg.connect(now.source_dsn()) as source:
            # As dbsplit does: up to where the source's log ended at the start.
            (goal,) = source.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        _execute(now.target_dsn(contestant), "ALTER SUBSCRIPTION native ENABLE")
        # A subscription confirms what it has applied and flushed.
        _wait(
            now.source_dsn(),
            sql.SQL(
                "SELECT confirmed_flush_lsn >= {}::pg_lsn FROM pg_replication_slots"
                " WHERE slot_name = {}"
            ).format(goal, _name(contestant)),
        )

    return work


def _name(contestant: str) -> str:
    """Of a subscription's publication and slot."""
    return f"native_{COMMITS[contestant]}"


def _in_turn(now: Round, ways: Sequence[tuple[str, Way]]) -> Sequence[tuple[str, Way]]:
    return ways if now.number % 2 else ways[::-1]


def _take(contest: str, contestant: str, now: Round, work: Work) -> Time:
    """Measure, from a checkpoint on, so that nobody pays for what was written before."""
    for dsn in (now.source_dsn(), now.target_dsn(contestant)):
        _execute(dsn, "CHECKPOINT")
    load = os.getloadavg()[0]
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    if fingerprint(now.source_dsn()) != fingerprint(now.target_dsn(contestant)):
        raise Failed(f"{contest}: the rows of {contestant} differ from the source's")
    return Time(contest, contestant, now.number, round(seconds, 3), round(load, 2))


def fingerprint(dsn: str) -> list[tuple[Any, ...]]:
    """Rows of each table, and a sum over their hashes."""
    query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t")
    with psycopg.connect(dsn) as connection:
        return [row for t in TABLES for row in connection.execute(query.format(sql.Identifier(t)))]


def compare(times: Sequence[Time]) -> list[Ratio]:
    """Each peer against dbsplit, round by round."""
    seconds = {(t.contest, t.contestant, t.round): t.seconds for t in times}
    rounds = sorted({t.round for t in times})
    ratios = []
    for contest, peer in (
        ("copy", DUMP),
        ("copy", NATIVE),
        ("stream", NATIVE),
        ("stream", NATIVE_ASYNC),
    ):
        each = [seconds[contest, peer, n] / seconds[contest, OURS, n] for n in rounds]
        ratios.append(
            Ratio(
                contest, peer, tuple(round(r, 2) for r in each), round(statistics.median(each), 2)
            )
        )
    return ratios


def table(times: Sequence[Time], ratios: Sequence[Ratio]) -> str:
    """The result in Markdown, as it stands in docs/benchmarks.md."""
    lines = ["| contest | contestant | s | changes/s | peer / dbsplit |", "| --- " * 5 + "|"]
    ratio_of = {(one.contest, one.peer): one for one in ratios}
    for contest, contestant in dict.fromkeys((t.contest, t.contestant) for t in times):
        taken = [t.seconds for t in times if (t.contest, t.contestant) == (contest, contestant)]
        rates = (
            [f"{CHANGES / s:,.0f}" for s in taken]
            if contest == "stream" and contestant != IDLE
            else []
        )
        against = ratio_of.get((contest, contestant))
        ratio = (
            f"{' · '.join(map(str, against.rounds))}, median {against.median}" if against else ""
        )
        each = " · ".join(f"{s:.2f}" for s in taken)
        lines.append(f"| {contest} | {contestant} | {each} | {' · '.join(rates)} | {ratio} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "settings": dict(SETTINGS),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _run(command: list[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_S_MAX,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def _execute(dsn: str, statement: sql.SQL | sql.Composed | str) -> None:
    query = sql.SQL(statement) if isinstance(statement, str) else statement
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(query)


def _wait(dsn: str, question: sql.SQL | sql.Composed | str) -> None:
    """Return as soon as the answer is true."""
    query = sql.SQL(question) if isinstance(question, str) else question
    deadline = time.monotonic() + STEP_S_MAX
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(query).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise Failed(f"not true within {STEP_S_MAX:.0f} s: {query.as_string(connection)}")
            time.sleep(POLL_S)


def _say(what: str, seconds: float) -> None:
    print(f"{what}{seconds:.2f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
