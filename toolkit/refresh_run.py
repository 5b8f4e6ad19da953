"""Carrying a refresh out, step by step, as it was decided and noted.

The order matters: what a target has to have before rows of the new shape come, then the
rows that are copied anew, then the keys that the stream finds rows by; and when the stream
has passed the change, what holds only from then on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from psycopg import sql

from cdc.connect import Connection, connect
from cdc.copy_pace import Tally
from cdc.copy_record import latest_horizon, routes_of_several_moments
from cdc.copy_session import equipped
from cdc.copy_sql import CopyTask, without_doubles
from cdc.copying import Copying
from cdc.crash import crash_point
from cdc.crew import Crew
from cdc.follow import Follower
from cdc.lsn import LSN
from cdc.slot import read_slot
from cdc.throttle import Throttle
from plans import names
from plans.catalog import TableName
from plans.errors import GateClosed, GivenUp, NotReady
from plans.schema.ddl import TargetSchema
from toolkit import fencing, migrations, state
from toolkit.fence import Fence
from toolkit.giving_up import give_up, is_over_budget
from toolkit.initial import copy_tasks
from toolkit.links import forward_feed
from toolkit.opened import Split, open_split
from toolkit.prepare import create_staging_types
from toolkit.refresh_work import ServiceWork, Work
from toolkit.revisions import further_script
from toolkit.say import Say
from toolkit.service_schema import render_line
from toolkit.sides import source_fences, target_fences
from toolkit.source_log import identify_rows, with_locks
from toolkit.stored import stored
from toolkit.throttling import throttled

JOBS = 2
SNAPSHOTS_MAX = 5
POLL_S = 0.1
FENCE_S_MAX = 60.0
CATCH_UP_S_MAX = 24 * 3600.0


def carry_out(path: Path, work: Work, say: Say) -> None:
    """Do all that is not done; each step finds out.

    Raises UnknownShape if the log has rows of a table in a shape that was never seen,
    NotReady if a lock cannot be had, or the split is given up.
    """
    split = open_split(path, with_targets=False, refreshing=True)
    with connect(split.plan.source.dsn, name="dbsplit refresh") as source:
        _fence_source(split, source)
        _publish(split, source, work)
        crash_point("refresh.published")
        for service, one in work.services.items():
            _first(split, service, work, one)
            say("schema", {"service": service, "statements": len(one.revision.first)})
            crash_point("refresh.target")
        _note(split, source, work)
        crash_point("refresh.decided")
        split = open_split(path, refreshing=True)
        identify_rows(split, source)
        create_staging_types(split, source)
        if work.copied:
            _copy(split, source, work, say)
            crash_point("refresh.copied")
        for service, one in work.services.items():
            _upgrade(split, service, work, "keys", one.revision.keys)
        split = open_split(path, refreshing=True)
        if work.copied or any(one.revision.rest for one in work.services.values()):
            _catch_up(split, work, say)
            crash_point("refresh.caught_up")
        for service, one in work.services.items():
            _upgrade(split, service, work, "rest", one.revision.rest)
            _note_made(split, service, one)
        _fence_fed(split, source)
        _end(split, source, work)
    say("refreshed", {"changes": list(work.said)})


def _publish(split: Split, source: Connection, work: Work) -> None:
    publication = sql.Identifier(names.publication(split.name))
    rows = source.execute(
        "SELECT n.nspname, c.relname FROM pg_publication_rel AS r"
        " JOIN pg_publication AS p ON p.oid = r.prpubid AND p.pubname = %s"
        " JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace",
        [names.publication(split.name)],
    ).fetchall()
    published = set(rows)
    statements = [
        sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(publication, sql.Identifier(*name))
        for name in work.publish
        if tuple(name) not in published
    ]
    statements += [
        sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(publication, sql.Identifier(*name))
        for name in work.unpublish
        if tuple(name) in published
    ]
    for statement in statements:
        with_locks(
            source, partial(source.execute, statement), "the publication could not be altered"
        )


def _first(split: Split, service: str, work: Work, one: ServiceWork) -> None:
    """The schema up to the data, and no word of routes that are copied anew."""
    forgotten = [*one.routes, *one.forgotten]
    forgetting = [
        sql.SQL("DELETE FROM dbsplit.{} WHERE route = ANY ({})")
        .format(sql.Identifier(table), sql.Literal(forgotten))
        .as_string(None)
        for table in ("copied", "copied_chunk", "dirty", "tracked")
    ]
    statements = (*one.revision.first, *(forgetting if forgotten else ()))
    _upgrade(split, service, work, "first", statements)


def _upgrade(
    split: Split, service: str, work: Work, part: str, statements: tuple[str, ...] | list[str]
) -> None:
    """Run a revision, if there is something to run and it was not."""
    if not statements:
        return
    revision = f"{work.id}_{part}"
    noting = (
        sql.SQL(
            "UPDATE dbsplit.split SET settings = settings || jsonb_build_object('refreshes',"
            " coalesce(settings -> 'refreshes', '[]') || to_jsonb({}::text)) WHERE split = {}"
        )
        .format(sql.Literal(revision), sql.Literal(split.name))
        .as_string(None)
    )
    with tempfile.TemporaryDirectory(prefix="dbsplit-") as name:
        directory = Path(name)
        line = render_line(split, service, TargetSchema((), ()), directory)
        if revision in line:
            return
        further_script(service, revision, line[-1], (*statements, noting), directory)
        migrations.upgrade(
            split.dsn(service), directory, revision, version_table_schema=names.CONTROL_SCHEMA
        )


def _note(split: Split, source: Connection, work: Work) -> None:
    """From here on the split is that of the new plan."""
    noted = {
        "shapes": work.shapes,
        "numbers": work.numbers,
        "entries": work.entries,
        "past": work.past,
        "passed": work.passed,
        "leaders": work.leaders,
    }
    source.execute(
        "UPDATE dbsplit.split SET plan_digest = %s, settings = settings || %s::jsonb"
        " WHERE split = %s",
        [work.digest, stored(source, noted), split.name],
    )


def _copy(split: Split, source: Connection, work: Work, say: Say) -> None:
    tally = Tally(lambda _progress: None, workers=JOBS)
    wanted = set(work.copied)
    tasks = [task for task in copy_tasks(split, split.plan.services) if task.route.id in wanted]
    with throttled(
        split,
        "copy",
        tell=lambda now: say("throttle", {"reasons": now.reasons, "warnings": now.warnings}),
        paused=tally.rested,
        details=lambda: asdict(tally.pace()),
    ) as throttle:
        try:
            _copy_all(split, tasks, tally, throttle)
        except GateClosed:
            retained = read_slot(source, names.slot(split.name)).retained_bytes
            if is_over_budget(split, source, retained):
                raise give_up(split, source, retained) from None
            raise
    for service in work.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            several = routes_of_several_moments(target)
        for route in split.routes_of([service]):
            if route.id in several & wanted and route.key:
                with equipped(split.name) as worker:
                    worker.target(split.dsn(service)).execute(without_doubles(route))
    say("copied", {"routes": list(work.copied)})


def _copy_all(split: Split, tasks: Sequence[CopyTask], tally: Tally, throttle: Throttle) -> None:
    changed: frozenset[TableName] = frozenset()
    for _ in range(SNAPSHOTS_MAX):
        with Copying(
            split.plan.source.dsn, split.name, tasks, workers=JOBS, pause=throttle.pause
        ) as copying:
            jobs = copying.jobs(tally)
            tally.begin()
            Crew(jobs).work(JOBS, copying.equip)
        changed = copying.changed
        if not changed:
            return
    raise NotReady(
        f"{', '.join(map(str, sorted(changed)))} was rewritten or truncated each time "
        "before it could be copied",
        hint="stop whoever does that for a while, then run the same command again",
    )


def _catch_up(split: Split, work: Work, say: Say) -> None:
    """Let the stream pass the change, and every row that was copied."""
    goal = LSN.parse(work.until)
    for service in work.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            goal = max(goal, latest_horizon(target))
    with connect(split.plan.source.dsn, name="dbsplit refresh") as source:
        # An idle source would not tell for a while that there is nothing more.
        source.execute("SELECT pg_logical_emit_message(true, 'dbsplit refresh', '')")
    follower = Follower(forward_feed(split))
    follower.start()
    deadline = time.monotonic() + CATCH_UP_S_MAX
    try:
        while follower.position < goal and time.monotonic() < deadline:
            if follower.failure is not None:
                raise follower.failure
            time.sleep(POLL_S)
    finally:
        follower.stop()
        follower.join(timeout=30)
    say("caught up", {"position": str(follower.position)})


def _note_made(split: Split, service: str, one: ServiceWork) -> None:
    """How all of the schema is undone, as it is from now on."""
    with connect(split.dsn(service), name="dbsplit refresh") as target:
        target.execute(
            "UPDATE dbsplit.split SET settings = settings"
            " || jsonb_build_object('undoing', %s::jsonb, 'made', %s::jsonb) WHERE split = %s",
            [stored(target, one.undoing), stored(target, one.made), split.name],
        )


def _fence_source(split: Split, source: Connection) -> None:
    """See that nobody writes in the source what moved services lead: a table may be new there."""
    now = state.phases(source, split.name)
    moved = tuple(sorted(state.moved(source, split.name)))
    if moved:
        _raise_missing(split, source, source_fences(split, moved, now))


def _fence_fed(split: Split, source: Connection) -> None:
    """The same for what moved services are fed, and do not lead."""
    for service in sorted(state.moved(source, split.name)):
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            _raise_missing(split, target, target_fences(split, service, owned=False))


def _raise_missing(split: Split, connection: Connection, fences: Sequence[Fence]) -> None:
    missing = set(fencing.unfenced(connection, fences))
    fencing.set_up(connection)
    try:
        fencing.raise_fences(
            connection,
            [one for one in fences if missing.intersection(one.relations)],
            lock_timeout_ms=split.plan.limits.lock_timeout_ms,
            deadline=time.monotonic() + FENCE_S_MAX,
        )
    except GivenUp as error:
        raise NotReady(
            str(error), hint="end the transaction that holds it, then run the same command again"
        ) from None


def _end(split: Split, source: Connection, work: Work) -> None:
    with source.transaction():
        source.execute(
            "DELETE FROM dbsplit.validated WHERE split = %s AND route = ANY (%s)",
            [split.name, [*work.copied, *work.repaired]],
        )
        source.execute(
            "UPDATE dbsplit.split SET settings = settings - 'refreshing' WHERE split = %s",
            [split.name],
        )
        state.note(source, split.name, "refreshed", {"changes": work.said, "copied": work.copied})
