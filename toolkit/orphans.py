"""Looking for orphans across services, for the foreign keys that the plan wants checked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from cdc.connect import Connection, connect
from plans.boundary import Boundary, Cut, names_of
from plans.catalog import TableName
from plans.routes import Route
from toolkit.catching_up import CatchUp
from toolkit.opened import Split
from toolkit.state import Direction, Phase, phases
from validators.orphans import End, OrphanCheck, OrphanResult, find_orphans


def checked_cuts(split: Split) -> list[Cut]:
    """The cut keys with ``replace_with: orphan_check``, once for each service that refers."""
    found = []
    for cut in Boundary.of(split.routes).cuts(split.catalog):
        entry = next((n for n in names_of(cut.key) if n in split.plan.foreign_keys), None)
        if entry and split.plan.foreign_keys[entry].replace_with == "orphan_check":
            found.append(cut)
    return found


def look_for_orphans(
    split: Split, routes: Sequence[Route], source: Connection
) -> list[OrphanResult]:
    """Check the keys whose referring rows come by one of `routes`, while applications write.

    Whichever side leads: what follows is waited for before a key counts.
    """
    chosen = {route.id for route in routes}
    results = []
    for cut in checked_cuts(split):
        if cut.route.id in chosen:
            with ExitStack() as stack:
                found = find_orphans([_check(split, cut, source, stack)])
            if cut.route.masked & set(cut.key.columns):
                found = [replace(one, sample=()) for one in found]
            results += found
    return results


def _check(split: Split, cut: Cut, source: Connection, stack: ExitStack) -> OrphanCheck:
    key = cut.key
    return OrphanCheck(
        foreign_key=f"{key.table}.{key.name}",
        references=key.references,
        referring=_end(split, cut.route, key.table, key.columns, source, stack),
        owners=tuple(
            _end(split, route, key.references, key.referenced_columns, source, stack)
            for route in cut.owners
        ),
    )


def _end(
    split: Split,
    route: Route,
    of: TableName,  # the route's table, or a partition of it, which has the same name there
    columns: Sequence[str],
    source: Connection,
    stack: ExitStack,
) -> End:
    service = route.service
    target = stack.enter_context(connect(split.dsn(service), name="dbsplit orphans"))
    target.prepare_threshold = None
    table = split.target_table(route)

    def catch_up(timeout_s: float) -> bool:
        if phases(source, split.name).get(service) is Phase.MOVED:
            return True  # it leads: what it has is what there is
        return CatchUp(split, service, Direction.CUTOVER, source, source, target)(timeout_s)

    return End(
        service=service,
        connection=target,
        table=of,
        columns=tuple(columns),
        types=tuple(table.column(name).type for name in columns),
        catch_up=catch_up,
    )
