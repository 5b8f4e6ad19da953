"""The routes that a person names by services and tables."""

from __future__ import annotations

from collections.abc import Sequence

from plans.errors import SplitError
from plans.problems import one_of
from plans.routes import Route
from toolkit.opened import Split


class NoRoute(SplitError):
    """What was named on the command line is not in the plan."""

    exit_code = 2


def chosen_routes(
    split: Split, services: Sequence[str], tables: Sequence[str]
) -> tuple[Route, ...]:
    """The routes of some services and tables, of all without any.

    Raises NoRoute for a name that no route has.
    """
    known = {r.service for r in split.routes}
    for service in services:
        if service not in known:
            raise NoRoute(
                f"the plan has no service {service!r} with tables",
                hint=f"services with tables are {', '.join(sorted(known))}",
            )
    chosen = [r for r in split.routes if not services or r.service in services]
    if not tables:
        return tuple(chosen)
    found: list[Route] = []
    for table in tables:
        named = [
            r
            for r in chosen
            if table in (r.target.name, str(r.target), r.source.name.name, str(r.source.name))
        ]
        if not named:
            known = {r.source.name.name for r in chosen}
            raise NoRoute(f"no route of the plan has a table {table!r}", hint=one_of(table, known))
        found += [r for r in named if r not in found]
    return tuple(found)
