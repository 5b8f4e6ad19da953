"""What the role that runs the split may do on each server; a superuser may do everything.

Where a managed server gives a right in its own way, its catalogs do not tell.  So what
can be tried without changing anything is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from cdc.connect import Connection
from cdc.replication import ReplicationConnection
from plans.errors import NotReady
from plans.load import Plan
from plans.some import some
from toolkit.need import Need, require

ORIGIN_FUNCTIONS: Final = (
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_session_setup(text)",
)
INHERIT_SINCE: Final = 160_000

_WHO: Final[LiteralString] = """
SELECT rolsuper, rolreplication, rolname::text, current_database()::text,
       has_database_privilege(current_database(), 'CREATE'),
       has_database_privilege(current_database(), 'TEMPORARY'),
       ARRAY(SELECT f FROM unnest(%s::text[]) WITH ORDINALITY AS f (f, n)
              WHERE NOT has_function_privilege(f, 'EXECUTE') ORDER BY n)
  FROM pg_roles WHERE rolname = current_user
"""

_SCHEMAS: Final[LiteralString] = """
SELECT nspname::text FROM pg_namespace
 WHERE nspname = ANY (%s)
   AND NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE'))
 ORDER BY 1
"""

# Publishing, fencing and retiring a table is its owner's right, and so is it to set a
# sequence.  Leaves are not named by a plan; their root is.
_OTHERS: Final[LiteralString] = """
WITH moved AS (
    SELECT c.oid, c.relkind FROM pg_class AS c
      JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
      JOIN pg_namespace AS n ON n.oid = r.relnamespace
     WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%(schemas)s)
       AND (r.relname = ANY (%(names)s) OR n.nspname || '.' || r.relname = ANY (%(names)s))
), held AS (
    SELECT oid FROM moved
    UNION
    SELECT d.objid FROM pg_depend AS d JOIN moved ON moved.oid = d.refobjid
      JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
     WHERE d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    UNION
    SELECT d.refobjid FROM pg_attrdef AS a JOIN moved ON moved.oid = a.adrelid
      JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
      JOIN pg_class AS s ON s.oid = d.refobjid AND s.relkind = 'S'
)
SELECT format('%%I.%%I', n.nspname, c.relname), pg_get_userbyid(c.relowner)::text
  FROM held JOIN pg_class AS c ON c.oid = held.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1
"""


def source_privileges(plan: Plan, source: Connection) -> Iterator[Need]:
    """On the source: what each of the verbs needs, from `prepare` to `complete`."""
    yield _of_role(source, plan.source.dsn, "source", plan.source.schemas)
    yield _ownership(plan, source)


def target_privileges(plan: Plan, service: str, target: Connection) -> Need:
    """In a service's database: to make its schema and to write it."""
    dsn = plan.services[service].dsn
    return _of_role(target, dsn, f"service {service}", plan.source.schemas)


def require_temporary(follower: Connection, where: str) -> None:
    """Check that an applier can make its stages; NotReady with the GRANT if not.

    It makes them when a table first changes, which may be long after it began.
    """
    row = follower.execute(
        "SELECT quote_ident(current_database()), quote_ident(current_user),"
        " has_database_privilege(current_database(), 'TEMPORARY')"
    ).fetchone()
    assert row is not None  # noqa: S101
    name, role, has_it = row
    what, grant = _temporary(name, role)
    require([Need(f"{where}: privileges", has_it, f"{role} lacks {what}", grant)])


def _temporary(database: str, role: str) -> tuple[str, str]:
    what = f"TEMPORARY on database {database}"
    return what, f"GRANT TEMPORARY ON DATABASE {database} TO {role}"


def _of_role(connection: Connection, dsn: str, where: str, schemas: Sequence[str]) -> Need:
    row = connection.execute(_WHO, [list(ORIGIN_FUNCTIONS)]).fetchone()
    assert row is not None  # noqa: S101
    superuser, replication, user, database, create, temporary, functions = row
    if superuser:
        return Need(f"{where}: privileges", ok=True, observed=f"{user} is a superuser")
    role, name = (sql.Identifier(one).as_string(None) for one in (user, database))
    missing: list[tuple[str, str]] = []
    if not (replication or _replicates(dsn)):
        missing.append(("REPLICATION", f"ALTER ROLE {role} REPLICATION"))
    if not create:
        grant = f"GRANT CREATE ON DATABASE {name} TO {role}"
        missing.append((f"CREATE on database {name}", grant))
    if not temporary:
        missing.append(_temporary(name, role))
    if not _sets_replication_role(connection):
        grant = f"GRANT SET ON PARAMETER session_replication_role TO {role}"
        missing.append(("SET on session_replication_role", grant))
    for function in functions:
        grant = f"GRANT EXECUTE ON FUNCTION {function} TO {role}"
        missing.append((f"EXECUTE on {function}", f"{grant} (in {name})"))
    for (schema,) in connection.execute(_SCHEMAS, [list(schemas)]).fetchall():
        called = sql.Identifier(schema).as_string(None)
        grant = f"GRANT CREATE, USAGE ON SCHEMA {called} TO {role} (in {name})"
        missing.append((f"CREATE and USAGE on schema {called}", grant))
    return Need(
        f"{where}: privileges",
        not missing,
        f"{user} lacks {', '.join(what for what, _ in missing)}"
        if missing
        else f"{user} has what is needed",
        "; ".join(grant for _, grant in missing),
    )


def _replicates(dsn: str) -> bool:
    """Whether the role may replicate without the attribute, by its provider's own means."""
    try:
        ReplicationConnection(dsn, name="dbsplit doctor").close()
    except NotReady:
        return False
    return True


def _sets_replication_role(connection: Connection) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _ownership(plan: Plan, source: Connection) -> Need:
    names = [key.replace('"', "") for key, entry in plan.tables.items() if not entry.dropped]
    rows = source.execute(
        _OTHERS, {"schemas": list(plan.source.schemas), "names": names}
    ).fetchall()
    role = sql.Identifier(source.info.user).as_string(None)
    inherit = " WITH INHERIT TRUE" if source.info.server_version >= INHERIT_SINCE else ""
    owners = ", ".join(sorted({sql.Identifier(owner).as_string(None) for _, owner in rows}))
    shown = some([f"{table} to {owner}" for table, owner in rows])
    return Need(
        "source: ownership of tables and sequences",
        not rows,
        f"{shown} belong{'s' if len(rows) == 1 else ''}" if rows else "as it must be",
        f"GRANT {owners} TO {role}{inherit}" if rows else "",
    )
