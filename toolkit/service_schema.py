"""A service's schema in its database: made in two parts, noted how it is undone, and undone."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg

from cdc.connect import Connection, connect
from plans import names
from plans.schema.ddl import Statement, TargetSchema
from toolkit import migrations
from toolkit.opened import Split
from toolkit.revisions import further_script, render, revision_ids
from toolkit.stored import stored
from toolkit.target_server import ask_server, noted_line, schema_of

LOCK_WAIT_S = 30


def build_schema(split: Split, source: Connection, service: str) -> list[dict[str, str]]:
    """Create a service's schema up to the data; returns what was left out."""
    plan = split.plan.services[service]
    schema = schema_of(split, source, service, ask_server(split.dsn(service)))
    _keep_undoing(split, service, schema)
    _upgrade(split, service, schema)
    if plan.revisions is not None:
        migrations.upgrade(plan.dsn, plan.revisions, version_table_schema="public")
    return [{"object": one.object, "reason": one.reason} for one in schema.left_out]


def _upgrade(split: Split, service: str, schema: TargetSchema) -> None:
    """Run the revision before the data."""
    with tempfile.TemporaryDirectory(prefix="dbsplit-") as directory:
        before, *_ = render_line(split, service, schema, Path(directory))
        migrations.upgrade(
            split.dsn(service),
            Path(directory),
            before,
            version_table_schema=names.CONTROL_SCHEMA,
        )


def remove_schema(split: Split, service: str) -> None:
    """Undo what `build_schema` has made, the hand-written revisions included.

    By what was noted when it was made: the source may have changed since.
    """
    plan = split.plan.services[service]
    if plan.revisions is not None:
        migrations.downgrade(plan.dsn, plan.revisions, version_table_schema="public")
        with connect(plan.dsn, name="dbsplit abort") as target:
            target.execute("DROP TABLE IF EXISTS public.alembic_version")
    schema = _undoing(split, service)
    if schema is None:
        return
    _remove_built(split, service)
    with tempfile.TemporaryDirectory(prefix="dbsplit-") as directory:
        render_line(split, service, schema, Path(directory))
        migrations.downgrade(plan.dsn, Path(directory), version_table_schema=names.CONTROL_SCHEMA)


def has_after_data(split: Split, service: str) -> bool:
    """Whether a service's database is at the revision after the data, or a later one."""
    digest, refreshes = _line(split, service)
    _, after = revision_ids(service, digest)
    now = migrations.current(split.dsn(service), version_table_schema=names.CONTROL_SCHEMA)
    return not {after, *refreshes}.isdisjoint(now)


def _remove_built(split: Split, service: str) -> None:
    """Undo what was built apart, if the revision that it belongs to was not reached."""
    if has_after_data(split, service):
        return
    with connect(split.dsn(service), name="dbsplit abort") as target, target.transaction():
        target.execute("SELECT set_config('lock_timeout', %s, true)", [str(LOCK_WAIT_S * 1000)])
        rows = target.execute('SELECT "drop" FROM dbsplit.built ORDER BY id DESC').fetchall()
        for (drop,) in rows:
            if not drop:
                continue
            # A refresh may have dropped the table, with what was built on it.
            with suppress(psycopg.errors.UndefinedTable), target.transaction():
                target.execute(drop)
        target.execute("DELETE FROM dbsplit.built")


def render_line(
    split: Split, service: str, schema: TargetSchema, directory: Path
) -> tuple[str, ...]:
    """Write all revisions that the target has, and return their ids: two, and each refresh's."""
    digest, refreshes = _line(split, service)
    line = [*render(service, schema, digest, directory)]
    for revision in refreshes:
        further_script(service, revision, line[-1], (), directory)
        line.append(revision)
    return tuple(line)


def _line(split: Split, service: str) -> tuple[str, list[str]]:
    """The plan's digest that the schema was first made for, and what refreshed it since."""
    with connect(split.dsn(service), name="dbsplit prepare") as target:
        return noted_line(target, split.name) or (split.plan.digest, [])


def _keep_undoing(split: Split, service: str, schema: TargetSchema) -> None:
    """Note in the target how what is about to be made there is undone."""
    undoing = {
        "before": [statement.drop for statement in schema.before_data],
        "after": [statement.drop for statement in schema.after_data],
    }
    made = {digest_of(s.create): 1 for s in (*schema.before_data, *schema.after_data)}
    with connect(split.dsn(service), name="dbsplit prepare") as target:
        target.execute(
            "UPDATE dbsplit.split SET settings = settings"
            " || jsonb_build_object('undoing', %s::jsonb, 'made', %s::jsonb)"
            " WHERE split = %s AND NOT settings ? 'undoing'",
            [stored(target, undoing), stored(target, sorted(made)), split.name],
        )


def digest_of(statement: str) -> str:
    """By which a statement that was run is noted."""
    return hashlib.sha256(statement.encode()).hexdigest()[:16]


def _undoing(split: Split, service: str) -> TargetSchema | None:
    with connect(split.dsn(service), name="dbsplit abort") as target:
        row = target.execute(
            "SELECT settings -> 'undoing' FROM dbsplit.split WHERE split = %s", [split.name]
        ).fetchone()
    if row is None or row[0] is None:
        return None  # nothing was made yet
    before, after = (
        tuple(Statement(create="", drop=drop) for drop in row[0][when])
        for when in ("before", "after")
    )
    return TargetSchema(before, after)
