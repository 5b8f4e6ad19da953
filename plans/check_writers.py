"""Findings on roles: who may write what moves, and whether a service claims them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg

from plans.catalog import TableName
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.some import some

Connection = psycopg.Connection[Any]

# Superusers may write everything anyway; the role that checks runs the split.
WRITERS: Final[LiteralString] = """
SELECT r.rolname::text AS role, h.schema, h.name,
       ARRAY(SELECT c.rolname::text FROM pg_roles c
              WHERE c.rolname = ANY (%(claimed)s) AND pg_has_role(r.oid, c.oid, 'MEMBER'))
         AS claimed
  FROM pg_roles r CROSS JOIN held h
  JOIN pg_namespace n ON n.nspname = h.schema
 WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> current_user
   AND has_database_privilege(r.oid, current_database(), 'CONNECT')
   AND has_schema_privilege(r.oid, n.oid, 'USAGE')
   AND (has_table_privilege(r.oid, h.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
        OR has_any_column_privilege(r.oid, h.oid, 'INSERT, UPDATE'))
 ORDER BY r.rolname, h.schema, h.name
"""

SESSIONS: Final[LiteralString] = """
SELECT usename::text AS role, count(*) AS sessions FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend'
   AND pid <> pg_backend_pid() AND application_name NOT LIKE 'dbsplit%%'
 GROUP BY usename
"""


def check_roles(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Roles that don't exist, and writers whom no service, or another, claims."""
    known = {name for (name,) in conn.execute("SELECT rolname::text FROM pg_roles")}
    # A service that is new may have no role on the source, nor tables to leave it with.
    owning = {route.service for route in subject.routes if route.kind.owned}
    for service, content in subject.plan.services.items():
        for index, role in enumerate(content.roles):
            if role not in known and service in owning:
                yield subject.finding(
                    Severity.WARNING, "role-unknown", role, ("services", service, "roles", index),
                    f"there is no role {role!r} on the source",
                    why="nothing shows whether the service's application has left the source",
                    remedy="name the roles by which the application connects",
                )  # fmt: skip
    yield from _check_writers(subject, conn)


def _check_writers(subject: Subject, conn: Connection) -> Iterator[Finding]:
    services = {
        role: service
        for service, content in subject.plan.services.items()
        for role in content.roles
    }
    tables: dict[str, set[TableName]] = defaultdict(set)
    claimed: dict[str, set[str]] = {}
    for row in subject.held(conn, WRITERS, claimed=list(services)):
        name = TableName(row["schema"], row["name"])
        tables[row["role"]].add(subject.roots[name])
        claimed[row["role"]] = {services[role] for role in row["claimed"]}
    sessions = {row["role"]: row["sessions"] for row in subject.held(conn, SESSIONS)}
    if not services:
        if tables:
            yield _nobody_named(subject, tables)
        return
    for role, written in sorted(tables.items()):
        if not claimed[role]:
            yield _unclaimed(subject, role, sorted(written), sessions.get(role, 0))
        else:
            yield from _elsewhere(subject, role, claimed[role], sorted(written))


def _nobody_named(subject: Subject, tables: Mapping[str, set[TableName]]) -> Finding:
    return subject.finding(
        Severity.NOTE, "writers-unnamed", "services", ("services",),
        f"no service names its roles; those that may write are {some(sorted(tables))}",
        why="nothing tells whose writers they are, or whether they have left the source; no role"
        " gets privileges in a service's database",
        remedy="name the roles by which each application connects (roles: [...])",
    )  # fmt: skip


def _unclaimed(subject: Subject, role: str, tables: Sequence[TableName], sessions: int) -> Finding:
    connected = (
        f", and has {sessions} session{'' if sessions == 1 else 's'} now" if sessions else ""
    )
    return subject.finding(
        Severity.WARNING, "writer-unclaimed", role, ("services",),
        f"the role may write {some(tables)}{connected}; no service names it",
        why="after a cutover its writes are refused on the source, and it has no privileges in a"
        " service's database",
        remedy="add it to the roles of the service whose application it is, or REVOKE the"
        " privileges",
    )  # fmt: skip


def _elsewhere(
    subject: Subject, role: str, services: set[str], tables: Sequence[TableName]
) -> Iterator[Finding]:
    foreign = [
        table
        for table in tables
        if not services
        & {r.service for r in subject.boundary.by_table.get(table, ()) if r.kind.owned}
        and table in subject.boundary.by_table
    ]
    if foreign:
        service = min(services)
        yield subject.finding(
            Severity.WARNING, "writer-elsewhere", role, ("services", service, "roles"),
            f"the role may write {some(foreign)}, of which {service} owns nothing",
            why="after the cutover of their owner such writes are refused",
            remedy="let the application ask their owner; REVOKE the privileges now, and see whether"
            " somebody misses them",
        )  # fmt: skip
