"""Running a validation from end to end: compare, hand out, repair, compare again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdc.connect import Connection
from plans.routes import Route
from toolkit import locks
from toolkit.difference_files import Csv, JsonLines, opened
from toolkit.differences import ControlTable, Handover, Shown, Sink
from toolkit.links import require_copied
from toolkit.opened import Split
from toolkit.orphans import look_for_orphans
from toolkit.prepared import require_prepared
from toolkit.repair import Spool, Toward, repair, require_toward, summary
from toolkit.repair_script import RepairScript
from toolkit.rules import Chosen, check_rules, wanted_rules
from toolkit.say import Say
from toolkit.state import Direction, direction_of, phases
from toolkit.validated import Clock, Validated
from toolkit.validation import Asked, pair_for, validate_all
from validators.results import TableResult
from validators.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to come of the differences."""

    json_lines: Path | None = None
    csv: Path | None = None
    repair_sql: Path | None = None
    repair: bool = False
    toward: Toward | None = None
    rules: Chosen | None = None  # asked after the comparison
    scope: Scope = field(default_factory=Scope)
    snapshot_s: float | None = None
    """Compare at one position, and hold its snapshots so long at most; None: live."""
    jobs: int = 2
    may_repair: Callable[[Spool], bool] = lambda _: False  # asked once the rows are counted


NOTHING = Wanted()


def run_validation(
    split: Split, routes: Sequence[Route], say: Say, wanted: Wanted = NOTHING
) -> Validated:
    """Compare routes while applications write, repair them if that is wanted, and tell.

    Raises NotReady if another process validates the split, if rows are not copied yet, or,
    at one position, if the stream cannot stop there; GateClosed if rows of the side that
    leads would be repaired.
    """
    started_at = time.time()
    clock = Clock()

    def heard(step: str, details: dict[str, Any]) -> None:
        clock.hear(step, details)
        say(step, details)

    with ExitStack() as stack:
        source = stack.enter_context(
            locks.sole_runner(split.plan.source.dsn, split.name, locks.VALIDATE)
        )
        _require_ready(split, routes, source)
        is_mended = wanted.repair or wanted.repair_sql is not None
        chosen = (
            require_toward(split, routes, source, wanted.toward) if is_mended else tuple(routes)
        )
        # What is wrong in suites is said before the tables are read.
        asked = wanted_rules(split, wanted.rules, source) if wanted.rules else []
        kept, shown = ControlTable(split.name, source), Shown()
        sinks: list[Sink] = [kept, shown, *_files(stack, wanted)]
        spool = stack.enter_context(Spool())
        script = stack.enter_context(RepairScript(split))
        sinks += [*([spool] if wanted.repair else []), *([script] if wanted.repair_sql else [])]
        results = _compare(split, chosen, source, heard, sinks, wanted)
        if wanted.repair_sql is not None:
            _write_script(script, wanted.repair_sql, say)
        repaired = None
        if wanted.repair and spool.total and wanted.may_repair(spool):
            by_id = {route.id: route for route in chosen}
            differing = [
                by_id[one.route] for one in results if any(spool.counts[one.route].values())
            ]
            repaired = summary(repair(split, spool, differing, say))
            mended = _compare(split, differing, source, heard, [kept, shown], wanted)
            again = {one.route: one for one in mended}
            results = [again.get(one.route, one) for one in results]
        orphans = look_for_orphans(split, chosen, source)
        leads = {
            route.id: "source" if direction_of(route, now).value == "cutover" else "target"
            for now in [phases(source, split.name)]
            for route in chosen
        }
        return Validated(
            split=split.name,
            planned=split.routes,
            routes=tuple(chosen),
            results=tuple(results),
            leads=leads,
            started_at=started_at,
            ended_at=time.time(),
            times=clock.times(),
            differences=shown.by_route,
            classes=shown.classes,
            left_out=kept.left_out,
            orphans=tuple(orphans),
            rules=tuple(
                check_rules(split, asked, wanted.rules, source, orphans, say)
                if wanted.rules
                else ()
            ),
            lines={route.id: _line(split, route) for route in chosen},
            repaired=repaired,
        )


def _require_ready(split: Split, routes: Sequence[Route], source: Connection) -> None:
    require_prepared(split.plan, split.catalog, source)
    require_copied(split, routes)  # or all rows would be told to be missing


def require_scope(split: Split, routes: Sequence[Route], scope: Scope) -> None:
    """Raise NoScope if a table has no such part, before anything is read."""
    scope.require_bounds([scope.of(pair_for(split, route, Direction.CUTOVER)) for route in routes])


def with_lists(validated: Validated, lists: Sequence[Mapping[str, Any]]) -> Validated:
    """The same with the plan's lists."""
    return replace(validated, lists=tuple(lists))


def _compare(
    split: Split,
    routes: Sequence[Route],
    source: Connection,
    say: Say,
    sinks: Sequence[Sink],
    wanted: Wanted,
) -> list[TableResult]:
    with Handover(split, sinks) as handover:
        asked = Asked(
            handover=handover,
            scope=wanted.scope,
            snapshot_s=wanted.snapshot_s,
            jobs=wanted.jobs,
        )
        compared = validate_all(split, routes, source, say, asked)
        return list(compared.results)


def _write_script(script: RepairScript, path: Path, say: Say) -> None:
    with opened(path) as file:
        say("repair_sql", {"file": str(path), "statements": script.write(file)})


def _line(split: Split, route: Route) -> int:
    """Where the plan's file has the route's table."""
    names = {str(route.source.name), route.source.name.name}
    entry = next((name for name in split.plan.tables if name in names), "")
    return split.plan.places.mark(("tables", entry))[0]


def _files(stack: ExitStack, wanted: Wanted) -> list[Sink]:
    files: list[Sink] = []
    if wanted.json_lines is not None:
        files.append(JsonLines(stack.enter_context(opened(wanted.json_lines))))
    if wanted.csv is not None:
        files.append(Csv(stack.enter_context(opened(wanted.csv))))
    return files
