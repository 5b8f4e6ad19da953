"""Prepare: control schemas, target schemas, publication and slot.

Each step leaves alone what is there already, so that after a crash the same
command goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from plans import names
from plans.catalog import Table, TableName
from plans.check import check_source
from plans.errors import NotReady, PlanInvalid
from plans.findings import Finding, Severity
from plans.load import Plan
from plans.routes import Route
from plans.schema.ddl import Statement, TargetSchema
from plans.schema.staging import staging_types
from toolkit import locks, migrations, state
from toolkit.control.schema import install_control
from toolkit.giving_up import require_not_given_up
from toolkit.opened import Split, open_split, require_same_plan, require_same_tables, shape_of
from toolkit.ready import check_servers, require
from toolkit.revisions import further_script, render, revision_ids
from toolkit.schema_numbers import read_numbers
from toolkit.target_server import ask_server, noted_line, schema_of

SLOT_WAIT_S = 60
LOCK_WAIT_S = 30
FAILOVER_SLOTS = 170_000

Say = Callable[[str, dict[str, Any]], None]


def prepare(path: Path, say: Say) -> Split:
    """Make everything ready for the copy; returns the split with its targets.

    Raises PlanInvalid for a plan with blockers or one that has changed since,
    NotReady for a server that is not as it must be.
    """
    split = open_split(path, with_targets=False, prepared=False)
    with connect(split.plan.source.dsn, name="dbsplit prepare") as source:
        require_same_plan(split.plan, source)
        require_same_tables(split.plan, split.catalog, source)
        require_not_given_up(split.name, source)
        require(check_servers(split.plan))  # a missing privilege would look like a wrong plan
        _require_no_blockers(split, check_source(split.plan, source))
    with locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP) as source:
        _install(split, source)
        say("control", {"schema": names.CONTROL_SCHEMA})
        for service in split.plan.services:
            left_out = build_schema(split, source, service)
            say("schema", {"service": service, "left_out": left_out})
        crash_point("prepare.schema")
        split = open_split(path, prepared=False)
        require_upsert_keys(split)
        create_staging_types(split, source)
        identify_rows(split, source)
        _publish(split, source)
        say("publication", {"name": names.publication(split.name)})
        crash_point("prepare.publication")
        _create_slot(split, source)
        say("slot", {"name": names.slot(split.name)})
        crash_point("prepare.slot")
        with source.transaction():
            source.execute(
                "UPDATE dbsplit.split SET prepared_at = coalesce(prepared_at, clock_timestamp())"
                " WHERE split = %s",
                [split.name],
            )
            planned = [
                s for s, p in state.phases(source, split.name).items() if p is state.Phase.PLANNED
            ]
            state.set_phase(source, split.name, planned, state.Phase.PREPARED)
    return split


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


def _remove_built(split: Split, service: str) -> None:
    """Undo what was built apart, if the revision that it belongs to was not reached."""
    dsn = split.dsn(service)
    digest, refreshes = _line(split, service)
    _, after = revision_ids(service, digest)
    if {after, *refreshes}.intersection(
        migrations.current(dsn, version_table_schema=names.CONTROL_SCHEMA)
    ):
        return
    with connect(dsn, name="dbsplit abort") as target, target.transaction():
        target.execute("SELECT set_config('lock_timeout', %s, true)", [str(LOCK_WAIT_S * 1000)])
        rows = target.execute('SELECT "drop" FROM dbsplit.built ORDER BY id DESC').fetchall()
        for (drop,) in rows:
            if drop:
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
            [json.dumps(undoing), json.dumps(sorted(made)), split.name],
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


def create_staging_types(split: Split, source: Connection) -> None:
    """Give the targets the source's types that raw rows are staged with."""
    for service in split.plan.services:
        tables = {r.source.name: r.source for r in split.routes_of([service])}
        with connect(split.dsn(service), name="dbsplit prepare") as target:
            for statement in staging_types(source, tables.values(), target).statements:
                target.execute(statement)


def require_upsert_keys(split: Split) -> None:
    """Check that the tables of derived routes have a unique index on the route's key."""
    problems = []
    for route in split.routes:
        if route.kind.owned or not route.key:
            continue
        table = split.target_table(route)
        with connect(split.dsn(route.service)) as target:
            if not _has_unique(target, table, route.key):
                problems.append(
                    f"{route.id}: {table.name} has no unique index on ({', '.join(route.key)})"
                )
    if problems:
        raise PlanInvalid(
            "; ".join(problems), hint="add a unique constraint on the key to the service's schema"
        )


def _has_unique(connection: Connection, table: Table, key: tuple[str, ...]) -> bool:
    rows = connection.execute(
        "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " AND a.attnum = ANY (i.indkey[:i.indnkeyatts-1])"
        " WHERE n.nspname = %s AND c.relname = %s AND i.indisunique AND i.indpred IS NULL"
        " AND i.indexprs IS NULL AND i.indimmediate GROUP BY i.indexrelid",
        [table.name.schema, table.name.name],
    ).fetchall()
    # A reference copy's key is made after the data.
    return not rows or sorted(key) in [row[0] for row in rows]


def _require_no_blockers(split: Split, findings: list[Finding]) -> None:
    blockers = [one for one in findings if one.severity is Severity.BLOCKER]
    if blockers:
        said = "\n".join(
            f"{one.place}: {one.object}: {one.message}. {one.remedy}".rstrip() for one in blockers
        )
        raise PlanInvalid(
            f"{len(blockers)} findings stand against the plan\n{said}",
            hint=f"see all of them with `dbsplit plan check {split.plan.path}`",
        )


def _install(split: Split, source: Connection) -> None:
    install_control(split.plan.source.dsn, "source")
    identity = source.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert identity is not None  # noqa: S101
    shapes = {str(r.source.name): shape_of(r.source) for r in split.routes}
    row = [
        split.name,
        split.plan.digest,
        str(split.plan.path),
        identity[0],
        names.publication(split.name),
        names.slot(split.name),
        json.dumps({"shapes": shapes, **noted_of(split, source)}),
    ]
    insert = (
        "INSERT INTO dbsplit.split (split, plan_digest, plan_name, system_identifier, publication,"
        " slot, settings) VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING"
    )
    source.execute(insert, row)
    for service in split.plan.services:
        source.execute(
            "INSERT INTO dbsplit.service (split, service, phase) VALUES (%s, %s, 'planned')"
            " ON CONFLICT DO NOTHING",
            [split.name, service],
        )
        install_control(split.dsn(service), "target")
        with connect(split.dsn(service), name="dbsplit prepare") as target:
            target.execute(insert, row)


def noted_of(split: Split, source: Connection) -> dict[str, Any]:
    """What a later refresh compares with: the plan's entries, and the tables' numbers."""
    followed = {str(route.source.name) for route in split.routes}
    numbers = read_numbers(source, split.plan.source.schemas)
    return {
        "numbers": {name: numbers[name].as_dict() for name in sorted(followed)},
        "entries": entries_of(split.plan),
    }


def entries_of(plan: Plan) -> dict[str, Any]:
    """The plan's entries, for JSON."""
    return {name: table.model_dump(mode="json") for name, table in plan.tables.items()}


def identify_rows(split: Split, source: Connection) -> None:
    """Let the log tell old rows in full where a key alone would not do.

    Without a replica identity an application's updates and deletes would fail as
    soon as the table is published, so this comes before the publication.
    """
    for relation in unidentified(split):

        def identify(relation: TableName = relation) -> None:
            source.execute(
                "INSERT INTO dbsplit.identity_before"
                " (split, table_schema, table_name, replica_identity, index_name)"
                " SELECT %s, n.nspname, c.relname, c.relreplident,"
                " (SELECT x.relname FROM pg_index AS i JOIN pg_class AS x"
                " ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident)"
                " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relname = %s ON CONFLICT DO NOTHING",
                [split.name, relation.schema, relation.name],
            )
            source.execute(identity_statement(relation))

        with_locks(source, identify, f"the replica identity of {relation} could not be set")


def unidentified(split: Split) -> list[TableName]:
    """The source's relations whose old rows the log does not tell in full, and has to."""
    tables = {r.source.name: r.source for r in split.routes if needs_full(r)}
    return [
        relation
        for table in tables.values()
        if table.replica_identity != "f"
        for relation in (table.name, *table.leaves)
    ]


def identity_statement(relation: TableName) -> sql.Composed:
    """Let the log tell a relation's old rows in full."""
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(relation.identifier)


def needs_full(route: Route) -> bool:
    """Whether the route's source must log old rows in full.

    A deferrable key is no replica identity, and NOTHING logs no old rows.
    """
    table = route.source
    unlogged = table.replica_identity == "n" or (
        table.replica_identity == "d" and table.key_deferrable
    )
    return route.needs_full_identity or unlogged


def _publish(split: Split, source: Connection) -> None:
    publication = names.publication(split.name)
    row = source.execute("SELECT FROM pg_publication WHERE pubname = %s", [publication]).fetchone()
    if row is not None:
        return
    with_locks(
        source,
        lambda: source.execute(publication_statement(split)),
        "the tables could not be published",
    )


def with_locks(source: Connection, change: Callable[[], object], failed: str) -> None:
    """Make a change that needs locks, in a transaction, without making writers wait long."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with source.transaction():
                source.execute("SET LOCAL lock_timeout = '500ms'")
                change()
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{failed} within {LOCK_WAIT_S} s",
                    hint="end long transactions that lock it (pg_locks), and repeat",
                ) from None
        else:
            return


def publication_statement(split: Split) -> sql.Composed:
    """The publication of all tables that a route reads."""
    tables = sorted({route.source.name for route in split.routes})
    return sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = false)"
    ).format(
        sql.Identifier(names.publication(split.name)),
        sql.SQL(", ").join(table.identifier for table in tables),
    )


def slot_statement(split: Split) -> sql.Composed:
    """The slot that the stream will read."""
    return new_slot(split, names.slot(split.name), split.catalog.server_version)


def new_slot(split: Split, slot: str, version: int) -> sql.Composed:
    """A slot on a server of this version; standbys get it where the server can give it."""
    wanted = split.plan.slots.failover and version >= FAILOVER_SLOTS
    more = sql.SQL(", failover => true" if wanted else "")
    return sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput'{})").format(
        sql.Literal(slot), more
    )


def _create_slot(split: Split, source: Connection) -> None:
    slot = names.slot(split.name)
    row = source.execute(
        "SELECT database FROM pg_replication_slots WHERE slot_name = %s", [slot]
    ).fetchone()
    if row is not None:
        _require_our_slot(split, source, slot, row[0])
        return
    try:
        with source.transaction():
            source.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(SLOT_WAIT_S * 1000))
            source.execute(slot_statement(split))
    except psycopg.errors.QueryCanceled:
        raise NotReady(
            f"slot {slot} could not be created within {SLOT_WAIT_S} s: it waits for every "
            "transaction in progress on the source's server",
            hint="end the oldest transactions (pg_stat_activity, xact_start) and repeat",
        ) from None
    state.note(source, split.name, "slot", {"slot": slot})


def _require_our_slot(split: Split, source: Connection, slot: str, database: str) -> None:
    row = source.execute("SELECT current_database()").fetchone()
    if row is None or row[0] != database:
        raise NotReady(
            f"slot {slot} exists, for database {database}: another split has the name {split.name}",
            hint="choose another name in the plan's `split:`",
        )
