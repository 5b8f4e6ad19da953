"""Carrying a refresh out, step by step, as it was decided and noted.

The order matters: what a target has to have before rows of the new shape come, then the
rows that are copied anew, then the keys that the stream finds rows by; and when the stream
has passed the change, what holds only from then on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from psycopg import sql

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from cdc.follow import Follower
from cdc.lsn import LSN
from plans import names
from plans.catalog import TableName
from plans.errors import GivenUp, NotReady
from toolkit import back, fencing, state
from toolkit import refresh_revisions as revisions
from toolkit.fence import Fence
from toolkit.identities import identify_rows, new_partitions_identified
from toolkit.links import forward_feed
from toolkit.opened import Split, open_split
from toolkit.prepare import create_staging_types
from toolkit.refresh_copy import are_of_several_moments, copied_until, copy_anew
from toolkit.refresh_work import ServiceWork, Work
from toolkit.say import Say
from toolkit.short_locks import with_locks
from toolkit.sides import source_fences, target_fences
from toolkit.source_log import LOCK_WAIT_S
from toolkit.stored import stored

FENCE_S_MAX = 60.0


def carry_out(path: Path, work: Work, say: Say) -> None:
    """Do all that is not done; each step finds out.

    Raises UnknownShape if the log has rows of a table in a shape that was never seen,
    NotReady if a lock cannot be had, or the split is given up.
    """
    split = open_split(path, with_targets=False, refreshing=True)
    with (
        new_partitions_identified(split),
        connect(split.plan.source.dsn, name="dbsplit refresh") as source,
    ):
        _fence_source(split, source)
        back.end_unused(split, source)
        # Before they are published, which refuses deletes of rows that cannot be told.
        identify_rows(split, source, wait_for_new=False)
        _publish(split, source, work)
        crash_point("refresh.published")
        for service, one in work.services.items():
            (revisions.before_copy if work.uncopied else revisions.first)(split, service, work, one)
            say("schema", {"service": service, "statements": len(one.revision.first)})
            crash_point("refresh.target")
        _note(split, source, work)
        crash_point("refresh.decided")
        split = open_split(path, refreshing=True)
        create_staging_types(split, source)
        if not work.uncopied:
            _bring_up(path, split, source, work, say)
        for service, one in work.services.items():
            _note_made(split, service, one)
        _fence_fed(split, source)
        _end(split, source, work)
    say("refreshed", {"changes": list(work.said)})


def _bring_up(path: Path, split: Split, source: Connection, work: Work, say: Say) -> None:
    """What a copy that has ended has to be followed by: rows, and what holds for them."""
    if work.copied:
        copy_anew(path, split, source, work, say)
    else:
        revisions.keys(split, work)
    split = open_split(path, refreshing=True)
    if work.copied or any(one.revision.rest for one in work.services.values()):
        _catch_up(split, work, say)
        crash_point("refresh.caught_up")
    revisions.indexes(split, work)
    for service, one in work.services.items():
        revisions.rest(split, service, work, one)


def _publish(split: Split, source: Connection, work: Work) -> None:
    publication = sql.Identifier(names.publication(split.name))
    rows = source.execute(
        "SELECT n.nspname, c.relname FROM pg_publication_rel AS r"
        " JOIN pg_publication AS p ON p.oid = r.prpubid AND p.pubname = %s"
        " JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace",
        [names.publication(split.name)],
    ).fetchall()
    published = set(rows)
    add = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}")
    drop = sql.SQL("ALTER PUBLICATION {} DROP TABLE {}")
    todo = [(add, TableName(*n)) for n in work.publish if tuple(n) not in published]
    todo += [(drop, TableName(*n)) for n in work.unpublish if tuple(n) in published]
    for statement, table in todo:
        with_locks(
            source,
            partial(source.execute, statement.format(publication, table.identifier)),
            "the publication could not be altered",
            of=[table],
            beside_rows=True,
            limit_s=LOCK_WAIT_S,
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


def _catch_up(split: Split, work: Work, say: Say) -> None:
    """Let the stream pass the change, and every row that was copied."""
    goal = max(LSN.parse(work.until), copied_until(split, work))
    # Chunks that were copied before and after a crash; beside the stream, `join` has seen to it.
    several = are_of_several_moments(split, work)
    with connect(split.plan.source.dsn, name="dbsplit refresh") as source:
        # An idle source would not tell for a while that there is nothing more.
        source.execute("SELECT pg_logical_emit_message(true, 'dbsplit refresh', '')")
    follower = Follower(forward_feed(split, of_several_moments=several))
    follower.start()
    try:
        follower.reach(goal)
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
