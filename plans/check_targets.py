"""Findings for which the targets are asked: what the source has and they don't.

`dbsplit doctor` looks at settings and privileges.  Here it is asked what of the source's
schema would not come along, or would mean something else there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from plans.catalog import TableName
from plans.catalog_first import CATALOG_FIRST
from plans.check_left_out import check_left_out, not_told
from plans.check_subject import Subject, some
from plans.findings import Finding, Severity
from plans.routes import Route
from plans.schema.ddl import Target

Connection = psycopg.Connection[Any]

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT: Final[LiteralString] = "SET statement_timeout = '10s'"

# datlocale was daticulocale before 17.  Our own sessions pin lc_monetary; what others get is asked.
DATABASE: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int AS version,
       j ->> 'datlocprovider' AS provider, j ->> 'datcollversion' AS collation_version,
       coalesce(j ->> 'datlocale', j ->> 'daticulocale', j ->> 'datcollate') AS locale,
       (SELECT replace(reset_val, 'POSIX', 'C') FROM pg_settings WHERE name = 'lc_monetary')
         AS money,
       current_user::text AS role, r.rolsuper OR r.rolbypassrls AS sees_all
  FROM pg_database d CROSS JOIN to_jsonb(d) j
  JOIN pg_roles r ON r.rolname = current_user
 WHERE d.datname = current_database()
"""

AVAILABLE: Final[LiteralString] = """
SELECT a.name::text AS name, coalesce(e.extversion, a.default_version)::text AS version
  FROM pg_available_extensions a LEFT JOIN pg_extension e ON e.extname = a.name
"""

INSTALLED: Final[LiteralString] = """
SELECT extname::text AS name, extversion::text AS version FROM pg_extension WHERE oid >= 16384
"""

# Of ICU's, `unicode` is in every catalog from 16 on, whether the server is built with ICU or not.
COLLATIONS: Final[LiteralString] = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) AS name,
       c.collprovider = 'i' AND c.collname <> 'unicode' AS is_icu
  FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
"""

FORCED: Final[LiteralString] = """
SELECT h.schema, h.name FROM held h JOIN pg_class c ON c.oid = h.oid
 WHERE c.relrowsecurity AND c.relforcerowsecurity ORDER BY h.schema, h.name
"""

ROLES: Final[LiteralString] = "SELECT rolname::text AS name FROM pg_roles"

_TEXT = ("text", "character", "name", "citext", "public.citext")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a target's server says about itself."""

    database: Mapping[str, Any]
    extensions: Mapping[str, str]  # that it offers -> version
    collations: Mapping[str, bool]  # -> whether ICU provides it
    roles: frozenset[str]


def check_targets(subject: Subject, source: Connection, found: Sequence[Finding]) -> list[Finding]:
    """What of the source the targets could not have; those that don't answer are left out.

    What `found` tells already isn't told again.  `source` must not be in a transaction.
    """
    services = list(subject.plan.services)
    with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
        facts = dict(zip(services, pool.map(_ask, _dsns(subject)), strict=True))
    ours = read_facts(source)
    installed = {row["name"]: row["version"] for row in _rows(source, INSTALLED)}
    forced = [TableName(row["schema"], row["name"]) for row in subject.held(source, FORCED)]
    findings: list[Finding] = []
    for service, theirs in facts.items():
        if service in subject.plan.unset:
            findings.append(_unset(subject, service))
        elif theirs is None:
            findings.append(_silent(subject, service))
        else:
            findings += _check_roles(subject, service, theirs)
            findings += _check_extensions(subject, service, theirs, installed)
            findings += _check_collations(subject, service, ours, theirs)
            findings += _check_row_security(subject, service, theirs, forced)
            findings += _check_money(subject, service, ours, theirs)
    targets = [_target(subject, service, theirs or ours) for service, theirs in facts.items()]
    left_out = list(check_left_out(subject, source, targets))
    return [*findings, *not_told(left_out, found)]


def _dsns(subject: Subject) -> list[str | None]:
    plan = subject.plan
    return [None if name in plan.unset else one.dsn for name, one in plan.services.items()]


def _ask(dsn: str | None) -> Facts | None:
    if dsn is None:
        return None
    try:
        with psycopg.connect(
            dsn,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="dbsplit check",
            client_encoding="UTF8",  # a database of SQL_ASCII would have us read bytes
            autocommit=True,
        ) as conn:
            conn.execute(STATEMENT_TIMEOUT)
            conn.execute(sql.SQL("SELECT {}").format(sql.SQL(CATALOG_FIRST)))
            return read_facts(conn)
    except psycopg.Error:
        return None  # doctor says why


def read_facts(conn: Connection) -> Facts:
    """Read them; `conn` may be the source's as well."""
    (database,) = _rows(conn, DATABASE)
    return Facts(
        database,
        {row["name"]: row["version"] for row in _rows(conn, AVAILABLE)},
        {row["name"]: row["is_icu"] for row in _rows(conn, COLLATIONS)},
        frozenset(row["name"] for row in _rows(conn, ROLES)),
    )


def _rows(conn: Connection, query: LiteralString) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def _target(subject: Subject, service: str, facts: Facts) -> Target:
    content = subject.plan.services[service]
    return Target(
        service=service,
        version=facts.database["version"],
        roles=tuple(role for role in content.roles if role in facts.roles),
        reference_keys=frozenset(
            cut.key.name
            for cut in subject.boundary.cuts(subject.catalog)
            if cut.service == service and cut.has_reference
        ),
        extensions=frozenset(facts.extensions),
    )


_NOT_CHECKED = (
    "its roles, extensions and collations were not checked; what would not come along was"
    " looked at as if it were a server like the source's"
)


def _unset(subject: Subject, service: str) -> Finding:
    plan = subject.plan
    # With no target at all it is meant so, as in CI; one that is missing may be a wrong name.
    meant = len(plan.unset) == len(plan.services)
    return subject.finding(
        Severity.NOTE if meant else Severity.WARNING,
        "target-unset", service, ("services", service, "dsn"),
        f"{plan.said_unset(service)}, so its database was not asked",
        why=_NOT_CHECKED,
        remedy=f"export {plan.unset[service][0]} to have them checked, too",
    )  # fmt: skip


def _silent(subject: Subject, service: str) -> Finding:
    return subject.finding(
        Severity.NOTE, "target-silent", service, ("services", service, "dsn"),
        f"its database doesn't exist, or doesn't let us in within {CONNECT_TIMEOUT_S} s",
        why=_NOT_CHECKED,
        remedy="start it, or see `dbsplit doctor`; then check again",
    )  # fmt: skip


def _check_roles(subject: Subject, service: str, theirs: Facts) -> Iterator[Finding]:
    for index, role in enumerate(subject.plan.services[service].roles):
        if role not in theirs.roles:
            yield subject.finding(
                Severity.WARNING, "role-absent", role, ("services", service, "roles", index),
                f"there is no role {role!r} on the server of {service}",
                why="it gets no privileges there, and its application cannot work there",
                remedy="CREATE ROLE it there before prepare",
            )  # fmt: skip


def _check_extensions(
    subject: Subject, service: str, theirs: Facts, installed: Mapping[str, str]
) -> Iterator[Finding]:
    for name, version in sorted(installed.items()):
        other = theirs.extensions.get(name)
        if other is None:
            yield subject.finding(
                Severity.WARNING, "extension-absent", name, ("services", service),
                f"the server of {service} doesn't offer the extension {name}",
                why="what needs it is left out there; tables whose types are the extension's cannot"
                " be made",
                remedy="install its package on that server, if the service needs it",
            )  # fmt: skip
        elif other != version:
            yield subject.finding(
                Severity.NOTE, "extension-version", name, ("services", service),
                f"{service} would have version {other} of the extension, the source has {version}",
                remedy="see in its release notes whether values or functions have changed",
            )  # fmt: skip


def _check_collations(
    subject: Subject, service: str, ours: Facts, theirs: Facts
) -> Iterator[Finding]:
    routes = [route for route in subject.routes if route.service == service and route.kind.owned]
    for route in routes:
        for column in route.source.columns:
            if column.collation and _lacks(column.collation, ours, theirs):
                yield subject.finding(
                    Severity.BLOCKER, "collation-absent", f"{route.source.name}.{column.name}",
                    route.source.name,
                    f"the server of {service} cannot have its collation {column.collation}",
                    why="the table cannot be made there",
                    remedy="use a server that is built with ICU and has the locale, or another"
                    " collation for the column",
                )  # fmt: skip
    here, there = (
        (one.database["provider"], one.database["locale"], one.database["collation_version"])
        for one in (ours, theirs)
    )
    if here == there:
        return
    keys = [str(route.source.name) for route in routes if _has_text_key(route)]
    differs = here[:2] != there[:2]
    yield subject.finding(
        Severity.WARNING if differs and keys else Severity.NOTE,
        "collation-differs", service, ("services", service),
        f"text is sorted by {_named(there)} there, and by {_named(here)} on the source",
        why="ORDER BY, ranges of text and partitions by text give other results"
        + (f"; of the keys those of {some(keys)} are text" if keys else ""),
        remedy="create the database with the source's locale (TEMPLATE template0 LOCALE …), or see"
        " that no application relies on the order",
    )  # fmt: skip


def _lacks(collation: str, ours: Facts, theirs: Facts) -> bool:
    """Whether the target has neither the collation nor what it would be made of."""
    if collation in theirs.collations:
        return False
    if collation.startswith("pg_catalog."):
        return True
    return ours.collations.get(collation, False) and not any(theirs.collations.values())


def _named(collation: tuple[str | None, ...]) -> str:
    provider, locale, version = collation
    kind = {"c": "libc", "i": "ICU", "b": "builtin"}.get(provider or "", provider)
    return f"{kind} {locale}" + (f" ({version})" if version else "")


def _has_text_key(route: Route) -> bool:
    return any(
        column.name in route.key and column.collation is None and column.type.startswith(_TEXT)
        for column in route.source.columns
    )


def _check_row_security(
    subject: Subject, service: str, theirs: Facts, forced: list[TableName]
) -> Iterator[Finding]:
    if theirs.database["sees_all"]:
        return
    held = {route.source.name for route in subject.routes if route.service == service}
    for name in forced:
        if subject.roots[name] in held:
            yield subject.finding(
                Severity.BLOCKER, "row-security-forced", name, name,
                f"it forces row level security, and {theirs.database['role']} on the server of"
                f" {service} is subject to it",
                why="the stream couldn't write the rows that its policies refuse",
                remedy=f"ALTER ROLE {theirs.database['role']} BYPASSRLS on that server",
            )  # fmt: skip


def _check_money(subject: Subject, service: str, ours: Facts, theirs: Facts) -> Iterator[Finding]:
    if ours.database["money"] == theirs.database["money"]:
        return
    for route in subject.routes:
        if route.service == service:
            for column in route.source.columns:
                if column.type.removesuffix("[]") == "money":
                    yield subject.finding(
                        Severity.BLOCKER, "money-locale", f"{route.source.name}.{column.name}",
                        route.source.name,
                        f"lc_monetary is {theirs.database['money']} there and"
                        f" {ours.database['money']} on the source",
                        why="money is read and written by it: stored amounts mean others there",
                        remedy="set lc_monetary alike on both, or make the column numeric",
                    )  # fmt: skip
