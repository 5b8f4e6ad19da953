"""What ``dbsplit plan queries`` reads and tells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from cdc.connect import connect
from plans.boundary import Boundary
from plans.catalog_read import read_catalog
from plans.compile import compile_routes
from plans.load import Targets, load_plan
from plans.queries.allowed import allowed_of, load_allowed
from plans.queries.report import QueriesReport, check_queries
from plans.queries.texts import Collector, Spec
from plans.statements.confirmed import Confirmation
from plans.statements.scope import read_scope
from plans.usage.search_paths import role_paths
from plans.usage.statistics import read_statistics


def read_report(
    path: Path, arguments: Sequence[str], allow: Path | None, *, statistics: bool
) -> tuple[QueriesReport, Mapping[str, str]]:
    """Judge what the command line names; also what could not be read, and why."""
    plan = load_plan(path, os.environ, targets=Targets.IGNORED)
    specs = [Spec.of(argument, plan.services) for argument in arguments]
    allowed = load_allowed(allow) if allow else allowed_of(path)
    with connect(plan.source.dsn, name="dbsplit queries") as source:
        catalog = read_catalog(source, plan.source.schemas)
        boundary = Boundary.of(compile_routes(plan, catalog))
        scope = read_scope(source, catalog)
        known = read_statistics(source, catalog) if statistics else None
        row = source.execute("SELECT current_setting('log_line_prefix')").fetchone()
        prefix = row[0] if row else None
        collector = Collector(plan, catalog.database, prefix, role_paths(source))
        if known is not None and known.origin is None:
            collector.skipped["pg_stat_statements"] = ", ".join(known.notes)
        report = check_queries(
            chain(collector.read(specs), collector.executed(known.executed if known else ())),
            boundary,
            scope,
            allowed,
            datetime.now(UTC).date(),
            confirm=Confirmation(source, catalog),
        )
    return report, collector.skipped


def queries_result(report: QueriesReport, skipped: Mapping[str, str]) -> dict[str, Any]:
    """The verb's result object."""
    return {
        "ok": report.ok,
        "files": len(report.files),
        "statements": report.statements,
        "verdicts": {verdict.value: count for verdict, count in report.counts.items()},
        "places": [place.as_dict() for place in report.places],
        "unused": [report.allowed.place(number) for number in report.unused],
        "skipped": dict(skipped),
    }
