"""Gathering the evidence from a source and from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from plans.catalog import Catalog
from plans.catalog_read import read_catalog
from plans.dependents import read_dependents
from plans.errors import PlanInvalid
from plans.names import CONTROL_SCHEMA
from plans.propose.evidence import Evidence
from plans.propose.naming import service_named
from plans.propose.owners_file import OwnersFile, read_owners
from plans.statements.confirmed import Confirmation
from plans.statements.scope import read_scope
from plans.usage.collect import Collector
from plans.usage.logs import LogReader
from plans.usage.model import Origin, Statistics, Usage
from plans.usage.paths import Given, read_paths
from plans.usage.statistics import NAME, read_statistics

# Statements whose meaning stayed unknown; --json of `plan queries` has them all.
UNREAD_SHOWN: Final = 3

SCHEMAS: Final[LiteralString] = """
SELECT n.nspname::text
  FROM pg_namespace n
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(ours)s)
   AND EXISTS (SELECT FROM pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
                  AND NOT EXISTS (SELECT FROM pg_depend d
                                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                     AND d.deptype = 'e'))
 ORDER BY n.nspname <> 'public', n.nspname
"""
LOG_PREFIX: Final[LiteralString] = "SELECT current_setting('log_line_prefix')"


def gather(
    conn: psycopg.Connection[Any],
    services: Sequence[str],
    *,
    schemas: Sequence[str] = (),
    owners: Path | None = None,
    roles: Mapping[str, str] | None = None,
    usage: Sequence[Given] = (),
) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence, and what has to be said about it.

    Without `schemas` all that hold tables are read, public first.  Raises PlanInvalid if
    there are no tables, or for what is wrong in the owners file; OSError for files that
    cannot be read.  Reads in transactions of its own, and changes nothing.
    """
    catalog = _catalog(conn, schemas)
    told = read_owners(owners, catalog, services) if owners else OwnersFile({})
    dependents = tuple(read_dependents(conn, catalog))
    statistics = read_statistics(conn, catalog)
    ignored = statistics.privileges.administrators - set(roles or {})
    collector = Collector(
        read_scope(conn, catalog), statistics.paths, ignored, Confirmation(conn, catalog)
    )
    known, notes = _usage(conn, collector, statistics, usage, services)
    if told.ignored:
        notes.append(f"the owners file's {', '.join(told.ignored)}: not read")
    unknown = sorted(set(roles or {}) - statistics.privileges.roles)
    notes += [f"there is no role {role}, which --roles names" for role in unknown]
    evidence = Evidence(
        catalog=catalog,
        services=tuple(services),
        roles={role: name for role, name in (roles or {}).items() if role not in unknown},
        told=told.told,
        copied=told.copied,
        usage=known,
        statistics=statistics,
        dependents=dependents,
    )
    return evidence, (*statistics.notes, *notes)


def _catalog(conn: psycopg.Connection[Any], schemas: Sequence[str]) -> Catalog:
    if not schemas:
        rows = conn.execute(SCHEMAS, {"ours": CONTROL_SCHEMA}).fetchall()
        schemas = [str(row[0]) for row in rows]
    catalog = read_catalog(conn, schemas or ["public"])
    if not catalog.tables:
        raise PlanInvalid(
            f"{catalog.database} has no tables in {', '.join(catalog.schemas)}",
            hint="name the schemas that hold them: --schema NAME",
        )
    return catalog


def _usage(
    conn: psycopg.Connection[Any],
    collector: Collector,
    statistics: Statistics,
    given: Sequence[Given],
    services: Sequence[str],
) -> tuple[Usage, list[str]]:
    origins: list[Origin] = []
    if statistics.origin is not None:
        collector.add(NAME, statistics.executed, is_normalized=True)
        origins.append(statistics.origin)
    row = conn.execute(LOG_PREFIX).fetchone()
    database = collector.scope.catalog.database
    reader = LogReader(database, str(row[0]) if row else None)
    origins += read_paths(given, collector, reader, lambda name: service_named(name, services))
    usage = collector.usage(origins)
    notes = [f"could not be read: {one}" for one in usage.unread[:UNREAD_SHOWN]]
    if len(usage.unread) > UNREAD_SHOWN:
        notes.append(f"nor could {len(usage.unread) - UNREAD_SHOWN} other statements")
    notes += [
        f"{role} is a superuser, so its statements aren't counted; --roles SERVICE={role} does"
        for role in sorted(collector.seen_ignored)
    ]
    if collector.left_out:
        notes.append(f"{collector.left_out} statements were left out, there were too many")
    return usage, notes
