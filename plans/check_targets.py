"""Findings for which the targets are asked: what the source has and they don't.

`dbsplit doctor` looks at settings and privileges.  Here it is asked what of the source's
schema would not come along, or would mean something else there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from plans.catalog import TableName
from plans.catalog_first import catalog_first
from plans.check_collations import check_collations
from plans.check_identity import check_target_identity
from plans.check_left_out import check_left_out, not_told
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.schema.ddl import Target
from plans.target_facts import Facts, read_facts, rows

Connection = psycopg.Connection[Any]

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT: Final[LiteralString] = "SET statement_timeout = '10s'"

INSTALLED: Final[LiteralString] = """
SELECT extname::text AS name, extversion::text AS version FROM pg_extension WHERE oid >= 16384
"""

FORCED: Final[LiteralString] = """
SELECT h.schema, h.name FROM held h JOIN pg_class c ON c.oid = h.oid
 WHERE c.relrowsecurity AND c.relforcerowsecurity ORDER BY h.schema, h.name
"""


def check_targets(subject: Subject, source: Connection, found: Sequence[Finding]) -> list[Finding]:
    """What of the source the targets could not have; those that don't answer are left out.

    What `found` tells already isn't told again.  `source` must not be in a transaction.
    """
    services = list(subject.plan.services)
    with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
        facts = dict(zip(services, pool.map(_ask, _dsns(subject)), strict=True))
    ours = read_facts(source)
    installed = {row["name"]: row["version"] for row in rows(source, INSTALLED)}
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
            findings += check_collations(subject, service, ours, theirs)
            findings += _check_row_security(subject, service, theirs, forced)
            findings += _check_money(subject, service, ours, theirs)
            findings += _check_xml(subject, service, ours, theirs)
            findings += check_target_identity(subject, service, theirs.database["version"])
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
            conn.execute(sql.SQL("SELECT {}").format(catalog_first()))
            return read_facts(conn)
    except psycopg.Error:
        return None  # doctor says why


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


def _check_xml(subject: Subject, service: str, ours: Facts, theirs: Facts) -> Iterator[Finding]:
    if theirs.has_xml or not ours.has_xml:
        return
    for route in subject.routes:
        for column in route.source.columns if route.service == service else ():
            if column.type.removesuffix("[]") == "xml":
                yield subject.finding(
                    Severity.BLOCKER, "xml-absent", f"{route.source.name}.{column.name}",
                    route.source.name,
                    f"the server of {service} is built without XML",
                    why="it makes the column and refuses each value",
                    remedy="use a server that is built with libxml, or make the column text",
                )  # fmt: skip
