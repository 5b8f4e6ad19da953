"""A refresh's DDL in the targets: each part is an Alembic revision, which is run once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from cdc.connect import connect
from plans import names
from plans.holders import locked
from plans.schema.ddl import TargetSchema
from toolkit import migrations
from toolkit.migrations import LOCK_TIMEOUT_MS
from toolkit.opened import Split
from toolkit.refresh_work import ServiceWork, Work
from toolkit.revisions import further_script
from toolkit.service_schema import render_line
from toolkit.stored import stored


def first(split: Split, service: str, work: Work, one: ServiceWork) -> None:
    """The schema up to the data, and no word of routes that are copied anew."""
    _upgrade(split, service, work, "first", (*one.revision.first, *_forgetting(one)))


def before_copy(split: Split, service: str, work: Work, one: ServiceWork) -> None:
    """The same in a database whose copy has not ended, which makes what comes after the data.

    There is no revision for it, as that would come after all that the copy has yet to make.
    What a database that had everything has lost, is noted for the copy's end.
    """
    with connect(split.dsn(service), name="dbsplit refresh") as target:
        try:
            with target.transaction():
                target.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT_MS))
                noted = target.execute(
                    "UPDATE dbsplit.split SET settings = settings || jsonb_build_object("
                    "'early', %s::text, 'unfinished',"
                    " coalesce(settings -> 'unfinished', '[]') || %s::jsonb) WHERE split = %s"
                    " AND settings ->> 'early' IS DISTINCT FROM %s",
                    [work.id, stored(target, list(one.revision.rest)), split.name, work.id],
                )
                if not noted.rowcount:
                    return
                for statement in (*one.revision.first, *_forgetting(one)):
                    target.execute(statement.encode())
                target.execute(
                    "DELETE FROM dbsplit.built WHERE digest = ANY (%s)", [list(one.unbuilt)]
                )
        except psycopg.errors.LockNotAvailable as error:
            raise locked(target, error) from None


def _forgetting(one: ServiceWork) -> list[str]:
    """What leaves no word of routes that are copied anew, or are no more."""
    forgotten = [*one.routes, *one.forgotten]
    return [
        sql.SQL("DELETE FROM dbsplit.{} WHERE route = ANY ({})")
        .format(sql.Identifier(table), sql.Literal(forgotten))
        .as_string(None)
        for table in ("copied", "copied_chunk", "dirty", "tracked")
        if forgotten
    ]


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


def keys(split: Split, work: Work) -> None:
    """What the stream finds rows by."""
    for service, one in work.services.items():
        _upgrade(split, service, work, "keys", one.revision.keys)


def indexes(split: Split, work: Work) -> bool:
    """What else there is of tables that were copied anew; whether there is something."""
    for service, one in work.services.items():
        _upgrade(split, service, work, "indexes", one.revision.indexes)
    return any(one.revision.indexes for one in work.services.values())


def rest(split: Split, service: str, work: Work, one: ServiceWork) -> None:
    """What holds only from the change on."""
    _upgrade(split, service, work, "rest", one.revision.rest)
