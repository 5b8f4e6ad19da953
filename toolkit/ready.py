"""What the servers must be like before anything is written to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.connect import Connection, connect, describe
from plans import names
from plans.errors import NotReady
from plans.load import Plan
from toolkit.need import Need
from toolkit.prepared import is_completed
from toolkit.privileges import source_privileges, target_privileges
from toolkit.revisions import revision_ids
from toolkit.room import Room, enough_room, read_room

VERSION_MIN = 150_000
_ALEMBIC = "public.alembic_version"


def check_servers(plan: Plan) -> list[Need]:
    """All requirements on the source and the targets; changes nothing.

    One that cannot be reached is told, and the others are looked at all the same.
    """
    needs: list[Need] = []
    rooms: list[Room] = []
    taken: dict[tuple[str, str], str] = {}
    with ExitStack() as stack:
        source = _reached(plan.source.dsn, "source", needs, stack)
        if source is not None:
            needs += _source_needs(plan, source)
            rooms.append(read_room(plan, source, "source", writers=len(plan.services)))
            taken[rooms[-1].place] = "the source"
        for service in plan.services:
            with ExitStack() as with_target:
                where = f"service {service}"
                target = _reached(plan.services[service].dsn, where, needs, with_target)
                if target is not None:
                    rooms.append(read_room(plan, target, where, writers=1))
                    holder = taken.setdefault(rooms[-1].place, where)
                    needs += _target_needs(plan, service, target, source, holder)
    return [*needs, *enough_room(rooms)]


def _reached(dsn: str, where: str, needs: list[Need], stack: ExitStack) -> Connection | None:
    try:
        return stack.enter_context(connect(dsn, name="dbsplit doctor"))
    except NotReady as error:
        needs.append(Need(f"{where}: answers", ok=False, observed=str(error), remedy=error.hint))
        return None


def create_databases(plan: Plan) -> list[str]:
    """Create the targets' databases that do not exist; returns their services."""
    created = []
    for service, target in plan.services.items():
        parts = conninfo_to_dict(target.dsn)
        database = str(parts.get("dbname") or parts.get("user") or "postgres")
        with connect(make_conninfo(target.dsn, dbname="postgres")) as connection:
            row = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
            if row is None:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                        sql.Identifier(database)
                    )
                )
                created.append(service)
    return created


def _source_needs(plan: Plan, source: Connection) -> Iterator[Need]:
    yield _version(source, "source")
    yield _direct(source, "source")
    yield writable(source, "source")
    yield _wal_level(source, "source")
    yield from source_privileges(plan, source)


def _target_needs(
    plan: Plan,
    service: str,
    target: Connection,
    source: Connection | None,
    holder: str,
) -> Iterator[Need]:
    where = f"service {service}"
    yield _version(target, where)
    yield _direct(target, where)
    yield writable(target, where)
    yield _wal_level(target, where)  # its changes have to find the way back
    yield target_privileges(plan, service, target)
    other = None if holder == where else holder
    yield Need(
        f"{where} has a database of its own",
        other is None,
        describe(plan.services[service].dsn) + (f" is that of {other}" if other else ""),
        f"let its dsn name another database than that of {other}" if other else "",
    )
    if source is not None:
        yield _encoding(target, source, where)
    if source is None or not is_completed(plan, source):
        yield _empty(plan, service, target)


def _version(connection: Connection, where: str) -> Need:
    version = connection.info.server_version
    return Need(
        f"{where}: PostgreSQL 15 or later",
        version >= VERSION_MIN,
        f"{version // 10_000}.{version % 10_000}",
        f"upgrade the {where}'s server",
    )


def _direct(connection: Connection, where: str) -> Need:
    """A pooler between us and the server gives numbers of its own to its connections."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    pooled = row is None or row[0] != connection.info.backend_pid
    return Need(
        f"{where}: no pooler in between",
        not pooled,
        "another process answers than the one that we connected to" if pooled else "direct",
        f"let the dsn of {where} name the server itself: replication, advisory locks and"
        " settings need sessions of their own"
        if pooled
        else "",
    )


def writable(connection: Connection, where: str) -> Need:
    """That a session, as it is set up by the server, may write at all; ours is set up anew."""
    row = connection.execute(
        "SELECT pg_is_in_recovery(), reset_val = 'on' FROM pg_settings"
        " WHERE name = 'default_transaction_read_only'"
    ).fetchone()
    standby, read_only = row or (True, True)
    observed, remedy = "it does", ""
    if standby:
        observed, remedy = "it is a standby", f"let the dsn of {where} lead to the primary"
    elif read_only:
        observed = "default_transaction_read_only is on"
        remedy = f"ALTER DATABASE or ALTER ROLE … RESET it, or take it out of the dsn of {where}"
    return Need(f"{where}: takes writes", not (standby or read_only), observed, remedy)


def _wal_level(connection: Connection, where: str) -> Need:
    level = _show(connection, "wal_level")
    return Need(
        f"{where}: wal_level",
        level == "logical",
        f"is {level}, and has to be logical",
        f"ALTER SYSTEM SET wal_level = logical on the server of {where}, and restart it",
    )


def _encoding(target: Connection, source: Connection, where: str) -> Need:
    ours, theirs = _show(target, "server_encoding"), _show(source, "server_encoding")
    return Need(
        f"{where}: encoding",
        ours in (theirs, "UTF8"),
        f"{ours}, and the source has {theirs}",
        "create the database with ENCODING 'UTF8'",
    )


def _empty(plan: Plan, service: str, target: Connection) -> Need:
    """A target is empty, or was prepared by this very split."""
    remedy = "give it an empty database; `dbsplit abort` removes what an earlier try has made"
    try:
        row = target.execute(
            "SELECT count(*) FROM dbsplit.split WHERE split = %s", [plan.split]
        ).fetchone()
        prepared = bool(row and row[0])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        prepared = False
    versions = _alembic_versions(target)
    rendered = set(versions or ()).intersection(revision_ids(service, plan.digest))
    rows = target.execute(
        "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
        " AND n.nspname !~ '^pg_' AND n.nspname <> ALL (%s)"
        " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')"
        " ORDER BY 1",
        [["information_schema", names.CONTROL_SCHEMA]],
    ).fetchall()
    # Alembic leaves its table behind when everything is undone.
    found = [row[0] for row in rows if versions != [] or row[0] != _ALEMBIC]
    if rendered and not prepared:
        return Need(
            f"service {service}: database is empty",
            ok=False,
            observed=f"has what `dbsplit plan render` wrote, at revision {min(rendered)}",
            remedy=f"`alembic -n {service} downgrade base` where it was rendered:"
            " prepare makes the same schema, and copy fills it",
        )
    return Need(
        f"service {service}: database is empty",
        prepared or not found,
        "prepared by this split"
        if prepared
        else f"holds {len(found)} relations, such as {found[0]}"
        if found
        else "empty",
        remedy,
    )


def _alembic_versions(target: Connection) -> list[str] | None:
    """The revisions that Alembic notes in its usual table; None if there is no such table."""
    try:
        rows = target.execute("SELECT version_num FROM public.alembic_version").fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return None
    return [row[0] for row in rows]


def _show(connection: Connection, setting: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
    return str(row[0]) if row else ""
