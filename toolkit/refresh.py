"""`plan refresh`: the source's schema has changed, and the split goes on without a new copy.

Catalog, plan and what was noted are compared; the plan's next revision is written; then
each target gets an Alembic revision of its own.  Tables of which it is known what the
change did to their rows keep them.  The others, and new ones, are copied, under a horizon
of their own.  What needs the rows of after the change, such as a new foreign key, waits
until the stream has passed it.

What is to be done is noted on the source before the first step, and each step finds out
whether it was done, so that after a crash the same command goes on.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import sql

from cdc.connect import Connection, connect
from cdc.copy_pace import Tally
from cdc.copy_record import latest_horizon, routes_of_several_moments
from cdc.copy_session import equipped
from cdc.copy_sql import without_doubles
from cdc.copying import Copying
from cdc.crash import crash_point
from cdc.crew import Crew
from cdc.follow import Follower
from cdc.lsn import LSN
from cdc.watch import UnknownShape
from plans import names
from plans.catalog import TableName
from plans.errors import GateClosed, NotReady, PlanInvalid
from plans.load import Plan, load_plan
from plans.revision import revise
from plans.schema.ddl import TargetSchema
from toolkit import locks, migrations, state
from toolkit.initial import copy_tasks
from toolkit.links import forward_feed
from toolkit.opened import Split, open_split
from toolkit.prepare import create_staging_types, identify_rows, render_line, with_locks
from toolkit.refresh_edits import Answers, edits_of, entry_key, to_ignore
from toolkit.refresh_seen import Seen, read_noted, see
from toolkit.refresh_work import ServiceWork, Work, decide
from toolkit.revisions import further_script
from toolkit.state import Phase

JOBS = 2
SNAPSHOTS_MAX = 5
POLL_S = 0.1
CATCH_UP_S_MAX = 24 * 3600.0

Say = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did, or would do."""

    changes: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()  # of the plan file
    statements: Mapping[str, list[str]] = field(default_factory=dict)  # by service
    copied: tuple[str, ...] = ()  # routes that were copied anew
    unassigned: tuple[str, ...] = ()  # new tables that the plan ignores

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changes": list(self.changes),
            "edits": list(self.edits),
            "statements": dict(self.statements),
            "copied": list(self.copied),
            "unassigned": list(self.unassigned),
        }


def refresh(path: Path, answers: Answers, say: Say, *, dry_run: bool = False) -> Refreshed:
    """Bring plan, targets and control rows to where the source is.

    Raises PlanInvalid or GateClosed for what cannot be refreshed, and names it; nothing
    is changed then.  NotReady if a stream runs, or a target refuses a statement.
    """
    plan = load_plan(path, os.environ)
    dsn = plan.source.dsn
    with (
        locks.sole_runner(dsn, plan.split, locks.SETUP),
        locks.sole_runner(dsn, plan.split, locks.STREAM) as source,
    ):
        noted = read_noted(plan, source)
        if noted.work is not None:
            work = Work.of(noted.work)
            if not dry_run:
                _finish(path, source, work, say)
            return _told(work)
        _require_following(plan, source)
        return _begin(path, plan, source, answers, say, dry_run=dry_run)


def _begin(
    path: Path, plan: Plan, source: Connection, answers: Answers, say: Say, *, dry_run: bool
) -> Refreshed:
    noted = read_noted(plan, source)
    seen = see(plan, source, noted)
    edits, anew = edits_of(plan, noted, seen, answers), _anew(plan, seen, answers)
    if edits:
        text = revise(path.read_text(encoding="utf-8"), edits)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        try:
            revised = load_plan(Path(file.name), os.environ)
            work, unassigned = _decide(revised, source, anew)
            if not dry_run:
                Path(file.name).chmod(path.stat().st_mode)
                Path(file.name).replace(path)
                crash_point("refresh.plan")
        finally:
            Path(file.name).unlink(missing_ok=True)
    else:
        work, unassigned = _decide(plan, source, anew)
    told = _told(work, edits=tuple(str(edit) for edit in edits), unassigned=unassigned)
    same = work.digest == noted.digest and work.past == noted.past
    if dry_run or (same and not work.said and not work.copied):
        return told
    _note_work(plan.split, source, work)
    crash_point("refresh.noted")
    return replace(told, copied=_finish(path, source, work, say))


def _note_work(split: str, source: Connection, work: Work) -> None:
    source.execute(
        "UPDATE dbsplit.split SET settings = settings"
        " || jsonb_build_object('refreshing', %s::jsonb) WHERE split = %s",
        [json.dumps(work.as_dict()), split],
    )


def _finish(path: Path, source: Connection, work: Work, say: Say) -> tuple[str, ...]:
    """Carry it out; returns the routes that were copied.

    A table whose rows of then cannot be read is copied anew, too.
    """
    anew = frozenset[TableName]()
    while True:
        try:
            _carry_out(path, work, say)
        except UnknownShape as unknown:
            if unknown.table in anew:
                raise
            anew |= {unknown.table}
            plan = load_plan(path, os.environ)
            before = work
            work, _ = _decide(plan, source, anew)
            work = _with_rest(work, before)
            _note_work(plan.split, source, work)
        else:
            return work.copied


def _with_rest(work: Work, before: Work) -> Work:
    """What was left over of a work that another takes the place of."""
    services = {}
    for service, one in work.services.items():
        old = before.services[service]
        left = [s for s in old.revision.rest if s.endswith("SET NOT NULL")]
        rest = (*one.revision.rest, *(s for s in left if s not in one.revision.rest))
        routes = tuple(sorted({*one.routes, *old.routes}))
        services[service] = replace(one, revision=replace(one.revision, rest=rest), routes=routes)
    return replace(work, services=services, said=(*before.said, *work.said))


def _decide(
    plan: Plan, source: Connection, anew: frozenset[TableName]
) -> tuple[Work, tuple[str, ...]]:
    noted = read_noted(plan, source)
    seen = see(plan, source, noted)
    ignored = to_ignore(plan, noted, seen)
    work = decide(plan, source, noted, seen, ignored, also_anew=anew)
    return work, tuple(str(name) for name in seen.unassigned)


def _anew(plan: Plan, seen: Seen, answers: Answers) -> frozenset[TableName]:
    """The tables that the caller wants to be copied anew."""
    found = set()
    for name in sorted(answers.anew):
        table = seen.catalog.find(name)
        if table is None or entry_key(plan, table.name) is None:
            raise PlanInvalid(
                f"there is no table {name!r} in the plan", hint="see `dbsplit plan check`"
            )
        found.add(table.name)
    return frozenset(found)


def _told(work: Work, edits: tuple[str, ...] = (), unassigned: tuple[str, ...] = ()) -> Refreshed:
    return Refreshed(
        changes=work.said,
        edits=edits,
        statements={
            service: [*one.revision.first, *one.revision.keys, *one.revision.rest]
            for service, one in work.services.items()
        },
        copied=work.copied,
        unassigned=unassigned,
    )


def _require_following(plan: Plan, source: Connection) -> None:
    for service, phase in sorted(state.phases(source, plan.split).items()):
        if phase is not Phase.FOLLOWING:
            raise GateClosed(
                f"service {service} is {phase.value}: a split is refreshed while all of its "
                "services follow",
                hint=f"roll back with `dbsplit rollback {plan.path}` first, or undo the change"
                if phase is Phase.MOVED
                else f"bring it there first: `dbsplit copy {plan.path}`",
            )


# ------------------------------------------------------------------ carrying out


def _carry_out(path: Path, work: Work, say: Say) -> None:
    split = open_split(path, with_targets=False, refreshing=True)
    with connect(split.plan.source.dsn, name="dbsplit refresh") as source:
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
            _copy(split, work, say)
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
    }
    source.execute(
        "UPDATE dbsplit.split SET plan_digest = %s, settings = settings || %s::jsonb"
        " WHERE split = %s",
        [work.digest, json.dumps(noted), split.name],
    )


def _copy(split: Split, work: Work, say: Say) -> None:
    tally = Tally(lambda _progress: None, workers=JOBS)
    wanted = set(work.copied)
    tasks = [task for task in copy_tasks(split, split.plan.services) if task.route.id in wanted]
    changed: frozenset[TableName] = frozenset()
    for _ in range(SNAPSHOTS_MAX):
        with Copying(split.plan.source.dsn, split.name, tasks, workers=JOBS) as copying:
            Crew(copying.jobs(tally)).work(JOBS, copying.equip)
        changed = copying.changed
        if not changed:
            break
    else:
        raise NotReady(
            f"{', '.join(map(str, sorted(changed)))} was rewritten or truncated each time "
            "before it could be copied",
            hint="stop whoever does that for a while, then run the same command again",
        )
    for service in work.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            several = routes_of_several_moments(target)
        for route in split.routes_of([service]):
            if route.id in several & wanted and route.key:
                with equipped(split.name) as worker:
                    worker.target(split.dsn(service)).execute(without_doubles(route))
    say("copied", {"routes": list(work.copied)})


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
            [json.dumps(one.undoing), json.dumps(one.made), split.name],
        )


def _end(split: Split, source: Connection, work: Work) -> None:
    with source.transaction():
        source.execute(
            "DELETE FROM dbsplit.validated WHERE split = %s AND route = ANY (%s)",
            [split.name, list(work.copied)],
        )
        source.execute(
            "UPDATE dbsplit.split SET settings = settings - 'refreshing' WHERE split = %s",
            [split.name],
        )
        state.note(source, split.name, "refreshed", {"changes": work.said, "copied": work.copied})
