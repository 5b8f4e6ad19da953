"""What a service's schema gets after the data, built by many hands.

Indexes, keys and checks are built as soon as their table has its rows, beside the
copies of other tables; foreign keys as soon as both of their tables are whole; then
everything else, in its order, as the revision after the data has it.  Each of the first
is noted in the target's `dbsplit.built` in the transaction that builds it, so that a
crash costs no more than what was in hand.

Foreign keys are added without a look at the rows and then validated, which locks the
referenced table against nobody.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.copy_pace import Tally
from cdc.copy_session import Worker
from cdc.crash import crash_point
from cdc.crew import Job
from plans import names
from plans.catalog import TableName
from plans.errors import NotReady
from plans.routes import Route
from plans.schema.ddl import Build, Statement, TargetSchema
from toolkit import migrations
from toolkit.key_checks import in_order
from toolkit.opened import Split
from toolkit.revisions import revision_ids
from toolkit.target_server import noted_line

MEMORY_BYTES = 1 << 30
"""What all builds together may take of a target's memory; the manual, maintenance_work_mem."""

LOCK_WAIT_S = 60
"""Before the cutover a target is ours alone, but for autovacuum, which gives way."""

TRIES_MAX = 5
RETRY_S = 0.5

INDEX_WORK = 1.4
"""The work of building a byte of an index, in bytes of a table that are copied meanwhile."""

VALIDATE_WORK = 0.15
ANALYZE_WORK = 16 << 20
ANALYZE_SHARE = 5
"""Of a table that has no more rows than ANALYZE looks at: the work is by its size then."""

ANALYZE_WORK_MIN = 256 << 10
REST_WORK = 2 << 20
"""As measured by `python -m benchmarks.copying --eta`."""

_ALONE = sql.SQL("SET LOCAL max_parallel_maintenance_workers = 0; ")
"""A server's parallel workers shorten one build and take more of its CPU than they save: only
what the others would wait for is worth that."""

RANK = 1
"""In the crew: the source's snapshot is held until all copies, whose rank is 0, are done."""

Ready = Callable[[TableName], Collection[str]]
"""The names of the jobs after which a table has its rows."""


def analyze_work(size_bytes: int) -> float:
    """The work of ANALYZE on a table of this size: it looks at 30,000 rows at most."""
    return min(float(ANALYZE_WORK), ANALYZE_WORK_MIN + ANALYZE_SHARE * size_bytes)


@dataclass(frozen=True, slots=True)
class _Step:
    """One command in a transaction of its own."""

    build: Build
    command: str
    drop: str
    checks: bool = False  # the rows of a foreign key

    @property
    def digest(self) -> str:
        """By which it is noted."""
        return hashlib.sha256(self.command.encode()).hexdigest()


@dataclass(slots=True)
class _Family:
    """What is built on a table and its partitions: what gathers waits, and is waited for."""

    names: list[str] = field(default_factory=list)
    barrier: tuple[str, ...] = ()

    def needs_of(self, name: str, *, gathers: bool) -> tuple[str, ...]:
        """What has to be done before the next of the family."""
        needs = tuple(self.names) if gathers else self.barrier
        self.names.append(name)
        if gathers:
            self.barrier = (name,)
        return needs


class AfterData:
    """What is to be built for one service."""

    def __init__(
        self, split: Split, service: str, schema: TargetSchema, tally: Tally, *, workers: int
    ) -> None:
        self._split = split
        self._service = service
        self._schema = schema
        self._tally = tally
        self._memory_kb = MEMORY_BYTES // workers // 1024
        self._apart = [one for one in schema.after_data if one.build is not None]
        with connect(split.dsn(service), name="dbsplit copy") as target:
            rows = target.execute("SELECT digest FROM dbsplit.built").fetchall()
        self._done = {digest for (digest,) in rows}

    def keys(self) -> list[Job[Worker]]:
        """The jobs that build what the stream finds rows by; the rows are all there."""
        return self._builds(self._keys(), lambda _: (), defaultdict(set))

    def lacks_key(self, route: Route) -> bool:
        """Whether what the stream finds the route's rows by is yet to be built."""
        steps = (step for s in self._keys() for step in _steps(s))
        return any(step.build.root == route.target for step in self._left(steps))

    def _keys(self) -> list[Statement]:
        wanted = {
            (route.target, frozenset(route.key))
            for route in self._split.routes_of([self._service])
            if route.key
        }
        return [s for s in self._apart if s.build and (s.build.root, s.build.unique) in wanted]

    def jobs(self, ready: Ready) -> list[Job[Worker]]:
        """All jobs, but for what is done already."""
        built: dict[TableName, set[str]] = defaultdict(set)

        def whole(*tables: TableName) -> set[str]:
            """The jobs after which tables have their rows and what is built on them."""
            return {name for one in tables for name in (*ready(one), *built[one])}

        builds = [s for s in self._apart if s.build and not s.build.references]
        jobs = self._builds(builds, ready, built)
        checked: dict[TableName, set[str]] = defaultdict(set)
        jobs += self._foreign_keys(whole, checked)
        # Statistics last: with them the planner finds other ways to check a key, which take longer.
        jobs += [
            self._statistics(table, size, {*whole(table), *checked[table]})
            for table, size in self._tables().items()
        ]
        rest = f"{self._service}: the rest"
        self._tally.expect(rest, REST_WORK)
        last: Job[Worker] = Job(
            name=rest,
            run=lambda worker: self._complete(worker, rest),
            rank=RANK,
            needs={job.name for job in jobs},
        )
        return [*jobs, last]

    # ---------------------------------------------------------------- the jobs

    def _builds(
        self, statements: Iterable[Statement], ready: Ready, built: dict[TableName, set[str]]
    ) -> list[Job[Worker]]:
        """The jobs that build on tables, which are noted by the table at the root."""
        families: dict[TableName, _Family] = defaultdict(_Family)
        jobs = []
        for statement in statements:
            for step in self._left(_steps(statement)):
                build, place = step.build, self._place(step.build.table)
                alone = build.alone or build.gathers
                needs = families[build.root].needs_of(self._name(step), gathers=build.gathers)
                built[build.root].add(self._name(step))
                jobs.append(
                    self._job(
                        step,
                        {*needs, *ready(build.root)},
                        work=INDEX_WORK * build.size_bytes,
                        shares="" if alone else place,
                        claims=[place] if alone else (),
                    )
                )
        return jobs

    def _foreign_keys(
        self, whole: Callable[..., set[str]], checked: dict[TableName, set[str]]
    ) -> list[Job[Worker]]:
        """First all are added, which locks two tables for a moment; then their rows are checked.

        Each is added as soon as both tables are whole, and checked beside other tables'.
        The checks are noted by their tables.
        """
        adding, checking = [], []
        for statement in self._apart:
            if statement.build is None or statement.build.references is None:
                continue
            tables = (statement.build.root, statement.build.references)
            first, *more = _steps(statement)
            needs = whole(*tables)
            places = [self._place(table) for table in tables]
            work = VALIDATE_WORK * first.build.size_bytes
            if more:
                adding += [self._job(s, needs, claims=places) for s in self._left([first])]
                needs = {*needs, self._name(first)}
                # Only one of the tables is locked against others that we have in mind.
                first, places = more[-1], places[:1]
            checking += [self._job(s, needs, work=work, claims=places) for s in self._left([first])]
            for table in tables:
                checked[table].add(self._name(first))
        return [*adding, *checking]

    def _statistics(self, table: TableName, size_bytes: int, needs: Collection[str]) -> Job[Worker]:
        name = f"{self._service}: statistics of {table}"
        work = analyze_work(size_bytes)
        self._tally.expect(name, work)
        return Job(
            name=name,
            run=lambda worker: self._analyze(worker, name, table),
            rank=RANK,
            needs=needs,
            weight=work,
            claims=[self._place(table)],
        )

    def _job(
        self,
        step: _Step,
        needs: Collection[str],
        *,
        work: float = 0.0,
        shares: str = "",
        claims: Collection[str] = (),
    ) -> Job[Worker]:
        name = self._name(step)
        self._tally.expect(name, work)
        return Job(
            name=name,
            run=lambda worker: self._run(worker, step),
            rank=RANK,
            weight=work,
            needs=needs,
            shares=shares,
            claims=claims,
        )

    def _left(self, steps: Iterable[_Step]) -> Iterator[_Step]:
        return (step for step in steps if step.digest not in self._done)

    def _tables(self) -> dict[TableName, int]:
        """The service's tables, and how large they are in the source."""
        routes = sorted(self._split.routes_of([self._service]), key=lambda one: one.target)
        return {route.target: route.source.size_bytes for route in routes}

    def _name(self, step: _Step) -> str:
        return f"{self._service}: {step.digest}"

    def _place(self, what: object) -> str:
        return f"{self._service}: {what}"

    # ------------------------------------------------------------- what they do

    def _run(self, worker: Worker, step: _Step) -> None:
        worker.release_source()
        target = worker.target(self._split.dsn(self._service))
        began = time.monotonic()
        tries = 1
        while not self._try(target, step, last=tries == TRIES_MAX):
            tries += 1
            time.sleep(RETRY_S)
        self._done.add(step.digest)
        self._tally.built(
            self._name(step), self._service, step.build.what, time.monotonic() - began
        )
        crash_point("copy.built")

    def _try(self, target: Connection, step: _Step, *, last: bool) -> bool:
        """Build it and note that; False if somebody else's lock is in the way."""
        note = sql.SQL('INSERT INTO dbsplit.built (digest, "drop") VALUES ({}, {})').format(
            sql.Literal(step.digest), sql.Literal(step.drop)
        )
        begin = sql.SQL(
            "BEGIN; SELECT set_config('lock_timeout', {}, true),"
            " set_config('maintenance_work_mem', greatest(setting::bigint, {}) || 'kB', true)"
            " FROM pg_settings WHERE name = 'maintenance_work_mem'; "
        ).format(sql.Literal(f"{LOCK_WAIT_S}s"), sql.Literal(self._memory_kb))
        settings: list[sql.Composable] = [begin]
        if self._tally.fills_all(self._name(step)):
            settings.append(_ALONE)
        if step.checks:
            settings += [in_order(step.build), sql.SQL("; ")]
        command = sql.SQL("{}; ").format(sql.SQL(step.command))
        whole = (*settings, command, note, sql.SQL("; COMMIT"))
        try:
            target.execute(b"".join(part.as_string(None).encode() for part in whole))
        except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
            target.execute("ROLLBACK")
            if last:
                raise
            return False
        except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege):
            raise
        except psycopg.Error as error:
            said = str(error).partition("\n")[0]
            raise NotReady(
                f"{step.build.what} of service {self._service} could not be built: {said}",
                hint="remove the cause, then run `dbsplit copy` again; what was built stays",
            ) from error
        return True

    def _analyze(self, worker: Worker, name: str, table: TableName) -> None:
        worker.release_source()
        began = time.monotonic()
        target = worker.target(self._split.dsn(self._service))
        target.execute(sql.SQL("ANALYZE {}").format(table.identifier))
        self._tally.built(name, self._service, f"statistics of {table}", time.monotonic() - began)

    def _complete(self, worker: Worker, name: str) -> None:
        """Everything else, and the statistics that this has asked for."""
        worker.release_source()
        began = time.monotonic()
        crash_point("copy.rest")
        dsn = self._split.dsn(self._service)
        target = worker.target(dsn)
        digest, refreshes = noted_line(target, self._split.name) or (self._split.plan.digest, [])
        # From then on the database is at the revision after the data, as if that had made all.
        migrations.step(
            dsn,
            [one.create for one in self._schema.after_data if one.build is None],
            [*revision_ids(self._service, digest), *refreshes],
            version_table_schema=names.CONTROL_SCHEMA,
        )
        _complete_refreshed(target, self._split.name)
        for (table,) in target.execute(_WITH_STATISTICS).fetchall():
            target.execute(sql.SQL("ANALYZE {}").format(sql.SQL(table)))
        self._tally.built(name, self._service, "views, triggers, rights", time.monotonic() - began)
        crash_point("copy.after_data")


_WITH_STATISTICS = "SELECT DISTINCT stxrelid::regclass::text FROM pg_statistic_ext"


def _complete_refreshed(target: Connection, split: str) -> None:
    """What a refresh has taken from tables of a database that had everything."""
    with target.transaction():
        row = target.execute(
            "SELECT settings -> 'unfinished' FROM dbsplit.split WHERE split = %s FOR UPDATE",
            [split],
        ).fetchone()
        for statement in (row and row[0]) or ():
            target.execute(statement.encode())
        target.execute(
            "UPDATE dbsplit.split SET settings = settings - 'unfinished' WHERE split = %s", [split]
        )


def built_on(schema: TargetSchema, tables: Collection[TableName]) -> tuple[str, ...]:
    """By which is noted what is built on these tables, or refers to them."""
    return tuple(
        step.digest
        for statement in schema.after_data
        if statement.build is not None
        if statement.build.root in tables or statement.build.references in tables
        for step in _steps(statement)
    )


def _steps(statement: Statement) -> Iterator[_Step]:
    """A statement's commands; undoing drops what the first has made."""
    assert statement.build is not None  # noqa: S101
    commands = statement.build.steps or (statement.create,)
    for number, command in enumerate(commands):
        checks = bool(number and statement.build.checks)
        yield _Step(statement.build, command, "" if number else statement.drop, checks)
