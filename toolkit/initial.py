"""The initial copy of a split, and what comes after the data."""

from __future__ import annotations

from collections.abc import Iterable

from cdc.connect import connect
from cdc.copying import CopyTask, Report, copy_routes
from cdc.crash import crash_point
from plans.key_groups import key_groups
from toolkit import locks, state
from toolkit.opened import Split, require_prepared
from toolkit.prepare import build_schema
from toolkit.state import Phase


def copy(split: Split, report: Report, *, jobs: int) -> int:
    """Copy what is not copied, then build indexes, keys and triggers; returns the rows copied.

    A service that follows already is left alone.
    """
    with locks.sole_runner(split.plan.source.dsn, split.name, locks.SETUP) as source:
        require_prepared(split, source)
        now = state.phases(source, split.name)
        services = [
            s
            for s in split.plan.services
            if now.get(s) in (Phase.PLANNED, Phase.PREPARED, Phase.COPYING)
        ]
        if not services:
            return 0
        state.set_phase(source, split.name, services, Phase.COPYING)
        tasks = copy_tasks(split, services)
        copy_routes(
            split.plan.source.dsn,
            split.name,
            tasks,
            report,
            groups=key_groups(split.routes_of(services), split.catalog),
            jobs=jobs,
        )
        for service in services:
            build_schema(split, source, service, after_data=True)
            with connect(split.dsn(service), name="dbsplit copy") as target:
                target.execute("ANALYZE")
            crash_point("copy.after_data")
        state.set_phase(source, split.name, services, Phase.FOLLOWING)
        crash_point("copy.done")
        return _rows(split, services)


def copy_tasks(split: Split, services: Iterable[str]) -> list[CopyTask]:
    """The routes into these services, as the copy takes them."""
    targets = [(route.service, route.target) for route in split.routes]
    return [
        CopyTask(
            route,
            split.dsn(route.service),
            alone=targets.count((route.service, route.target)) == 1,
        )
        for route in split.routes_of(services)
    ]


def _rows(split: Split, services: list[str]) -> int:
    total = 0
    for service in services:
        with connect(split.dsn(service), name="dbsplit copy") as target:
            row = target.execute("SELECT coalesce(sum(rows), 0)::bigint FROM dbsplit.copied")
            total += int((row.fetchone() or (0,))[0])
    return total
