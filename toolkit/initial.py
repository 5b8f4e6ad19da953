"""The initial copy of a split, and what comes after the data.

If nothing was copied before, all rows are of one moment, and a table's keys are built
as soon as it has its rows.  After a crash they are of several moments.  Then the
stream brings them together first: with no more than the keys that it finds rows by,
it applies what the slot has kept, up to the latest horizon; only then do other
unique values, and references between tables, hold.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial

import psycopg

from cdc.connect import Connection, connect
from cdc.copy_chunks import CHUNK_BYTES
from cdc.copy_pace import CatchUpProgress, Report, Tally, ThrottleProgress
from cdc.copy_record import latest_horizon, routes_of_several_moments
from cdc.copy_session import Worker, equipped
from cdc.copy_sql import CopyTask, without_doubles
from cdc.copying import Copying
from cdc.crash import crash_point
from cdc.crew import Crew, Job
from cdc.lsn import LSN
from cdc.slot import read_slot, require_whole
from cdc.throttle import Throttle
from plans import names
from plans.catalog import TableName
from plans.errors import GateClosed, NotReady
from plans.evolution import Kind
from plans.routes import Route
from toolkit import locks, state
from toolkit.after_data import AfterData
from toolkit.giving_up import give_up, is_over_budget, require_not_given_up
from toolkit.identities import new_partitions_identified
from toolkit.opened import Split, open_split
from toolkit.prepared import Drifted, require_prepared, require_same_tables, without_ignored
from toolkit.refresh_seen import met, read_noted, see
from toolkit.state import Phase
from toolkit.target_server import ask_server, schema_of
from toolkit.throttling import throttled

SNAPSHOTS_MAX = 5
"""How often tables that were rewritten before they could be copied are tried again at once."""


def copy(
    split: Split,
    report: Report,
    *,
    jobs: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> int:
    """Copy what is not copied, then build indexes, keys and triggers; returns the rows copied.

    A service that follows already is left alone.  Raises StreamBroken if the slot is gone or
    lost, at the beginning or at the end.
    """
    with (
        locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP) as source,
        new_partitions_identified(split),
    ):
        require_prepared(split.plan, split.catalog, source)
        require_not_given_up(split.name, source)
        now = state.phases(source, split.name)
        services = [
            s
            for s in split.plan.services
            if now.get(s) in (Phase.PLANNED, Phase.PREPARED, Phase.COPYING)
        ]
        if not services:
            return 0
        _require_unchanged(split, source)
        slot = names.slot(split.name)
        require_whole(source, slot)  # or what takes hours would be for nothing
        state.set_phase(source, split.name, services, Phase.COPYING)
        tally = Tally(report, workers=jobs)
        with throttled(
            split,
            "copy",
            tell=lambda now: report(ThrottleProgress(now.share == 0.0, now.reasons, now.warnings)),
            paused=tally.rested,
            details=lambda: asdict(tally.pace()),
        ) as throttle:
            initial = _Initial(split, source, services, tally, throttle, jobs)
            try:
                under_snapshots(lambda: initial.run(initial.copying(chunk_bytes), report))
            except GateClosed:
                retained = read_slot(source, slot).retained_bytes
                if is_over_budget(split, source, retained):
                    raise give_up(split, source, retained) from None
                raise
            except (NotReady, psycopg.Error):
                _require_unchanged(split, source)
                raise
        require_whole(source, slot)
        for service in services:
            _make_durable(split, service)
        state.set_phase(source, split.name, services, Phase.FOLLOWING)
        crash_point("copy.done")
        return _rows(split, services)


def _require_unchanged(split: Split, source: Connection) -> None:
    """Raise Drifted if the targets lack what the source's rows need.

    New partitions and values do not change how rows are told: a stream need not stop there.
    """
    plan = split.plan
    noted = read_noted(plan, source)
    seen = see(plan, source, noted)
    require_same_tables(plan, without_ignored(seen.catalog, plan, source), source)
    if lacking := [str(change) for change in met(noted, seen) if change.kind in _NEEDED]:
        raise Drifted.of(plan, lacking)


_NEEDED = {Kind.NEW_PARTITION, Kind.ENUM_LABEL, Kind.ENUM_RENAMED, Kind.ATTRIBUTES}


def under_snapshots(copy_rest: Callable[[], Collection[TableName]]) -> None:
    """Copy under one snapshot after the other, until no table was rewritten meanwhile.

    `copy_rest` copies what is left under a snapshot of its own, and returns such tables.
    """
    changed: Collection[TableName] = ()
    for _ in range(SNAPSHOTS_MAX):
        if not (changed := copy_rest()):
            return
    raise NotReady(
        f"{', '.join(map(str, sorted(changed)))} was truncated, rewritten or dropped each "
        f"time before it could be copied, {SNAPSHOTS_MAX} times",
        hint="stop whoever does that for a while, then run the same command again: "
        "what is copied stays",
    )


class _Initial:
    """One run of the verb."""

    def __init__(
        self,
        split: Split,
        source: Connection,
        services: Sequence[str],
        tally: Tally,
        throttle: Throttle,
        workers: int,
    ) -> None:
        self._split = split
        self._throttle = throttle
        self._services = services
        self._workers = workers
        self._after = {
            service: AfterData(
                split,
                service,
                schema_of(split, source, service, ask_server(split.dsn(service))),
                tally,
                workers=workers,
            )
            for service in services
        }
        self._tally = tally

    def copying(self, chunk_bytes: int) -> Copying:
        """What is left to copy, under a snapshot of its own."""
        return Copying(
            self._split.plan.source.dsn,
            self._split.name,
            copy_tasks(self._split, self._services),
            workers=self._workers,
            chunk_bytes=chunk_bytes,
            pause=self._throttle.pause,
        )

    def run(self, copying: Copying, report: Report) -> Collection[TableName]:
        """Copy and build; returns the tables that are left, as they need a later snapshot."""
        with copying:
            jobs = copying.jobs(self._tally)
            self._tally.begin()
            if copying.of_one_moment:
                self._do([*jobs, *self._building(copying.jobs_into)], copying)
                return copying.changed
            self._do(jobs, copying)
            if copying.changed:
                return copying.changed
        crash_point("copy.copied")
        self._do(self._telling_apart())
        crash_point("copy.keys")
        self._catch_up(report)
        crash_point("copy.caught_up")
        self._do(self._building(lambda *_: ()))
        return ()

    def _do(self, jobs: Iterable[Job[Worker]], copying: Copying | None = None) -> None:
        equip = copying.equip if copying is not None else partial(equipped, self._split.name)
        crew = Crew(replace(job, run=self._checked(job.run)) for job in jobs)
        crew.work(self._workers, equip)

    def _checked(self, run: Callable[[Worker], None]) -> Callable[[Worker], None]:
        """The same, unless the copy has to be given up."""

        def checked(worker: Worker) -> None:
            self._throttle.check()
            run(worker)

        return checked

    def _building(
        self, ready: Callable[[str, TableName], Collection[str]]
    ) -> Iterable[Job[Worker]]:
        for service, after in self._after.items():
            yield from after.jobs(partial(ready, self._split.dsn(service)))

    def _telling_apart(self) -> list[Job[Worker]]:
        """The jobs that make the keys that the stream finds rows by."""
        jobs: list[Job[Worker]] = []
        for service, after in self._after.items():
            keys = after.keys()
            doubles = self._doubles(service, after)
            jobs += doubles
            jobs += (replace(key, needs={*key.needs, *(d.name for d in doubles)}) for key in keys)
        return jobs

    def _doubles(self, service: str, after: AfterData) -> list[Job[Worker]]:
        """The jobs that leave one row of each key in tables with chunks of several moments."""
        dsn = self._split.dsn(service)
        with connect(dsn, name="dbsplit copy") as target:
            several = routes_of_several_moments(target)
        return [
            Job(
                name=f"{service}: doubles of {route.id}",
                run=partial(_remove_doubles, dsn, route),
                weight=route.source.size_bytes,
            )
            for route in self._split.routes_of([service])
            if route.id in several and after.lacks_key(route)
        ]

    def _catch_up(self, report: Report) -> None:
        """Apply what the slot has kept, until no row is older than the latest horizon."""
        goal = self._goal()
        if goal is None:
            return
        # Here and not above: what the stream needs takes as long to import as all the rest.
        from cdc.follow import Follower
        from toolkit.links import forward_feed

        began = time.monotonic()
        split = open_split(self._split.plan.path)  # with the keys that are there now
        with locks.sole_runner(split.plan.source.dsn, split.name, locks.STREAM) as source:
            # An idle source would not tell for a while that there is nothing more.
            source.execute("SELECT pg_logical_emit_message(true, 'dbsplit copy', '')")
            follower = Follower(forward_feed(split, of_several_moments=True))
            follower.start()
            try:
                follower.reach(goal, lambda left: report(CatchUpProgress(left)))
            finally:
                follower.stop()
                follower.join(timeout=30)
        self._tally.rested(time.monotonic() - began)

    def _goal(self) -> LSN | None:
        """The latest horizon; None if all services are there."""
        latest, behind = LSN(0), False
        for service in self._services:
            with connect(self._split.dsn(service), name="dbsplit copy") as target:
                latest = max(latest, latest_horizon(target))
        for service in self._services:
            with connect(self._split.dsn(service), name="dbsplit copy") as target:
                row = target.execute(
                    "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s",
                    [names.stream(self._split.name, service)],
                ).fetchone()
                behind |= row is None or LSN.parse(row[0]) < latest
        return latest if behind else None


def copy_tasks(split: Split, services: Iterable[str]) -> list[CopyTask]:
    """The routes into these services, as the copy takes them."""
    targets = Counter((route.service, route.target) for route in split.routes)
    return [
        CopyTask(
            route,
            split.dsn(route.service),
            alone=targets[route.service, route.target] == 1,
        )
        for route in split.routes_of(services)
    ]


def _remove_doubles(dsn: str, route: Route, worker: Worker) -> None:
    worker.target(dsn).execute(without_doubles(route))


def _make_durable(split: Split, service: str) -> None:
    """Commit something for good, and with it everything before it."""
    with connect(split.dsn(service), name="dbsplit copy") as target:
        target.execute("SET synchronous_commit = on")
        target.execute("UPDATE dbsplit.split SET split = split")


def _rows(split: Split, services: Sequence[str]) -> int:
    total = 0
    for service in services:
        with connect(split.dsn(service), name="dbsplit copy") as target:
            row = target.execute("SELECT coalesce(sum(rows), 0)::bigint FROM dbsplit.copied")
            total += int((row.fetchone() or (0,))[0])
    return total
