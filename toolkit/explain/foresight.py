"""Reading what `plan explain` tells: from the source, and from the targets as far as they answer.

Only the source has to answer.  Everything is read; nothing is changed anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from cdc.connect import Connection, connect
from cdc.copy_sql import rows_of
from plans import catalog_sql
from plans.catalog import Catalog, Table, TableName
from plans.catalog_read import read_catalog
from plans.check import check_source
from plans.compile import compile_routes
from plans.dependents import read_dependents
from plans.errors import NotReady
from plans.holders import require_unlocked
from plans.load import Plan, Targets, load_plan
from toolkit import locks, migrations, state
from toolkit.control.schema import control_sql
from toolkit.explain.outlook import Index, Measured, Outlook, Planned, Progress, TargetSeen
from toolkit.opened import Split, schemas_of
from toolkit.prepared import require_same_plan, require_same_tables
from toolkit.target_server import TargetServer, ask_server, schema_of

TIMEOUT: Final[LiteralString] = "SET LOCAL statement_timeout = '60s'"

_MEASURED: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.reltuples >= 0 AS analyzed,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_relation_size(c.oid) END AS heap,
       coalesce(s.n_tup_ins, 0) AS inserted, coalesce(s.n_tup_upd, 0) AS updated,
       coalesce(s.n_tup_del, 0) AS deleted
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
"""

_INDEXES: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_relation_size(i.indexrelid) AS size,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)) AS columns
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_'
"""

# A rate over less than a minute would be that of a moment.
_WAL: Final[LiteralString] = """
SELECT (wal_bytes / seconds)::float8
  FROM pg_stat_wal, extract(epoch FROM clock_timestamp() - stats_reset) AS t (seconds)
 WHERE seconds > 60
"""

_WRITING: Final[LiteralString] = """
SELECT extract(epoch FROM clock_timestamp() - stats_reset)::float8
  FROM pg_stat_database WHERE datname = current_database() AND stats_reset IS NOT NULL
"""


def foresee(path: Path) -> Outlook:
    """Everything that is known of the split that a plan describes.

    Raises PlanInvalid with all that is wrong in the plan, NotReady if the source does
    not answer, GateClosed if the split is complete.
    """
    plan = load_plan(path, os.environ, targets=Targets.IF_SET)
    with connect(plan.source.dsn, name="dbsplit explain") as source:
        require_unlocked(source)
        catalog = read_catalog(source, plan.source.schemas)
        begun = require_same_plan(plan, source)
        require_same_tables(plan, catalog, source)
        compile_routes(plan, catalog)  # a plan that is wrong is told before targets are asked
        progress = _progress(plan, source) if begun else Progress()
        seen = dict(_ask_all(plan, catalog.server_version, with_tables=progress.prepared))
        catalogs = {service: there for service, (_, there) in seen.items() if there}
        # Types of computed columns are the targets', so all of them or none.
        known = catalogs if len(catalogs) == len(seen) else {}
        routes = compile_routes(plan, catalog, known or None)
        split = Split(plan=plan, catalog=catalog, targets=known, routes=routes)
        return _read(split, source, {s: one for s, (one, _) in seen.items()}, progress)


def _read(
    split: Split, source: Connection, targets: Mapping[str, TargetSeen], progress: Progress
) -> Outlook:
    findings = check_source(split.plan, source)
    dependents = read_dependents(source, split.catalog)
    schemas = {s: schema_of(split, source, s, seen.server) for s, seen in targets.items()}
    with source.transaction():
        source.execute(catalog_sql.READ_ONLY)
        source.execute(TIMEOUT)
        source.execute("SET LOCAL lock_timeout = '5s'")
        measured = dict(_measured(source, split.catalog))
        writes = sum(measured[name].writes for name in {r.source.name for r in split.routes})
        writing_s = _number(source, _WRITING)
        revisions = dict(_revisions(split.plan))
        return Outlook(
            split=split,
            findings=findings,
            dependents=dependents,
            measured=measured,
            planned={route.id: _planned(source, rows_of(route)) for route in split.routes},
            whole={
                name: _planned(source, sql.SQL("SELECT * FROM {}").format(name.identifier))
                for name in {route.source.name for route in split.routes}
            },
            schemas=schemas,
            targets=targets,
            progress=progress,
            control=control_sql(),
            revisions=revisions,
            wal_bytes_per_s=_number(source, _WAL),
            writes_per_s=writes / writing_s if writing_s and writing_s > 60 else None,
            unknown=tuple(_unknown(split, targets, progress, revisions)),
        )


def _unknown(
    split: Split,
    targets: Mapping[str, TargetSeen],
    progress: Progress,
    revisions: Mapping[str, str],
) -> Iterator[str]:
    for service, seen in targets.items():
        missing = [r for r in split.plan.services[service].roles if r not in seen.server.roles]
        if seen.said:
            yield (
                f"service {service}: {seen.said}; so its server is taken to be like the source's,"
                " with all roles and extensions, and what it holds is not known"
            )
        elif missing:
            yield (
                f"service {service}: its server has no role {', '.join(missing)}, so there will"
                " be no grants for it"
            )
    if not split.targets:
        why = "not all targets answer" if progress.prepared else "the split is not prepared"
        yield (
            f"{why}: the types of computed columns, and the triggers that close the targets, are"
            " not known yet"
        )
    for service, one in split.plan.services.items():
        if one.revisions is not None and service not in revisions:
            yield f"service {service}: the SQL of its revisions, which need a connection to run"


def _progress(plan: Plan, source: Connection) -> Progress:
    row = source.execute(
        "SELECT prepared_at IS NOT NULL FROM dbsplit.split WHERE split = %s", [plan.split]
    ).fetchone()
    validated = source.execute(
        "SELECT DISTINCT ON (route) route, state FROM dbsplit.validated WHERE split = %s"
        " ORDER BY route, at DESC",
        [plan.split],
    ).fetchall()
    return Progress(
        prepared=bool(row and row[0]),
        phases=state.phases(source, plan.split),
        validated=dict(validated),
        stream_live=locks.is_held(source, plan.split, locks.STREAM),
    )


def _ask_all(
    plan: Plan, version: int, *, with_tables: bool
) -> Iterator[tuple[str, tuple[TargetSeen, Catalog | None]]]:
    """Each target, all at the same time: one that does not answer takes ten seconds."""

    def ask(service: str) -> tuple[TargetSeen, Catalog | None]:
        return _ask(plan, service, version, with_tables=with_tables)

    with ThreadPoolExecutor(len(plan.services), thread_name_prefix="explain") as pool:
        yield from zip(plan.services, pool.map(ask, plan.services), strict=True)


def _ask(
    plan: Plan, service: str, version: int, *, with_tables: bool
) -> tuple[TargetSeen, Catalog | None]:
    one = plan.services[service]
    like_source = TargetServer(version, frozenset(one.roles), None)
    if service in plan.unset:
        return TargetSeen(server=like_source, said=plan.said_unset(service)), None
    try:
        server = ask_server(one.dsn)
        with connect(one.dsn, name="dbsplit explain") as target:
            there = read_catalog(target, schemas_of(target)) if with_tables else None
            return TargetSeen(server=server, copied=_copied(target)), there
    except NotReady as error:
        return TargetSeen(server=like_source, said=str(error)), None


def _copied(target: Connection) -> dict[str, int]:
    """The routes that are copied, with their rows; none before `prepare`."""
    if target.execute("SELECT to_regclass('dbsplit.copied')").fetchone() == (None,):
        return {}
    return dict(target.execute("SELECT route, rows FROM dbsplit.copied").fetchall())


def _measured(source: Connection, catalog: Catalog) -> Iterator[tuple[TableName, Measured]]:
    with source.cursor(row_factory=dict_row) as cursor:
        found = {_name(row): row for row in cursor.execute(_MEASURED).fetchall()}
        indexes: dict[TableName, list[Index]] = {}
        for row in cursor.execute(_INDEXES).fetchall():
            one = Index(frozenset(row["columns"]), row["size"])
            indexes.setdefault(_name(row), []).append(one)
    for table in catalog.tables.values():
        yield table.name, _of(table, found, indexes)


def _of(
    table: Table, found: Mapping[TableName, Any], indexes: Mapping[TableName, list[Index]]
) -> Measured:
    names = [table.name, *table.leaves] if table.kind == "r" else [*table.leaves]
    rows = [found[name] for name in names if name in found]
    return Measured(
        heap_bytes=sum(row["heap"] for row in rows),
        analyzed=all(row["analyzed"] for row in rows),
        inserted=sum(row["inserted"] for row in rows),
        updated=sum(row["updated"] for row in rows),
        deleted=sum(row["deleted"] for row in rows),
        indexes=tuple(index for name in names for index in indexes.get(name, ())),
    )


def _planned(source: Connection, query: sql.Composed) -> Planned:
    row = source.execute(sql.SQL("EXPLAIN (FORMAT JSON) ") + query, prepare=False).fetchone()
    assert row is not None  # noqa: S101
    plan = row[0][0]["Plan"]
    return Planned(int(plan["Plan Rows"]), int(plan["Plan Width"]))


def _number(source: Connection, query: LiteralString) -> float | None:
    row = source.execute(query).fetchone()
    return float(row[0]) if row and row[0] is not None else None


def _revisions(plan: Plan) -> Iterator[tuple[str, str]]:
    for service, one in plan.services.items():
        if one.revisions is not None and (text := _as_sql(one.revisions)) is not None:
            yield service, text


def _as_sql(directory: Path) -> str | None:
    """Hand-written revisions as SQL; None for those that cannot do without a connection."""
    render: Callable[..., str] = migrations.as_sql
    try:
        return render(directory, version_table_schema="public")
    except Exception:  # noqa: BLE001  (they are somebody's own programs)
        return None


def _name(row: Mapping[str, Any]) -> TableName:
    return TableName(row["schema"], row["name"])
