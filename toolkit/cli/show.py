"""How results look on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from cdc.copy_pace import BuildProgress, CatchUpProgress, CopyProgress, Pace, Report
from plans.routes import Route
from toolkit.cli.talk import Talk
from toolkit.status import Status
from validators.orphans import OrphanResult
from validators.results import TableResult


@contextmanager
def copy_reporter(talk: Talk, routes: Sequence[Route]) -> Iterator[Report]:
    """Show the copy's progress: bars on a terminal, lines elsewhere."""
    lock = threading.Lock()
    if talk.as_json or not sys.stderr.isatty():

        def tell(progress: CopyProgress | BuildProgress | CatchUpProgress) -> None:
            with lock:
                _tell_copy(talk, progress)

        yield tell
        return
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of ~{task.total:,} rows"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    ) as bars:
        total = sum(max(route.source.rows_estimated, 1) for route in routes)
        every = bars.add_task("copy", total=total, left="")
        rows: dict[str, int] = {}

        def advance(progress: CopyProgress | BuildProgress | CatchUpProgress) -> None:
            with lock:
                if isinstance(progress, CatchUpProgress):
                    bars.update(every, left=f"{progress.behind_bytes:,} bytes of log to apply")
                    return
                if isinstance(progress, CopyProgress):
                    rows[progress.route.id] = progress.rows
                done, left = sum(rows.values()), _left(progress.pace)
                bars.update(every, completed=done, total=max(done, total), left=left)

        yield advance
        done = sum(rows.values())
        bars.update(every, completed=done, total=max(1, done), left="")


def _tell_copy(talk: Talk, progress: CopyProgress | BuildProgress | CatchUpProgress) -> None:
    if isinstance(progress, CatchUpProgress):
        details = {"behind_bytes": progress.behind_bytes}
        talk.seldom("catching up", "catching up", details)
        return
    pace = {"bytes_per_s": round(progress.pace.bytes_per_s)}
    if progress.pace.eta_s is not None:
        pace["eta_s"] = round(progress.pace.eta_s)
    if isinstance(progress, BuildProgress):
        took = {"service": progress.service, "what": progress.what}
        told = {**took, "took_s": round(progress.took_s, 2), **pace}
        if talk.as_json:
            talk.say("built", told)
        else:
            talk.seldom("built", "built", told)
        return
    route, size = progress.route.id, progress.size_bytes
    come = {"route": route, "rows": progress.rows, "bytes": size, "done": progress.done, **pace}
    if progress.done:
        talk.say("copied", come)
    else:
        talk.seldom("copying", route, come)


def _left(pace: Pace) -> str:
    if pace.eta_s is None:
        return ""
    minutes, seconds = divmod(round(pace.eta_s), 60)
    return f"{minutes}:{seconds:02} left"


@contextmanager
def comparison_reporter(
    talk: Talk, routes: Sequence[Route]
) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Show the comparison's progress: a bar on a terminal, lines elsewhere."""
    if talk.as_json or not sys.stderr.isatty():
        yield talk.say_step
        return
    estimated = {route.id: max(route.source.rows_estimated, 1) for route in routes}
    lock = threading.Lock()
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of ~{task.total:,} rows"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
        console=Console(stderr=True),
    ) as bars:
        bar = bars.add_task("compare", total=sum(estimated.values()), found="")
        done: dict[str, int] = {}
        found: dict[str, int] = {}

        def say(step: str, details: dict[str, Any]) -> None:
            if step not in ("comparing", "compared"):
                talk.say_step(step, details)
                return
            with lock:
                route, rows = details["route"], details["rows"]
                done[route] = rows
                if step == "compared":
                    estimated[route] = max(rows, 1)
                    done[route] = estimated[route]
                else:
                    estimated[route] = max(rows, estimated[route])
                    found[route] = details["found"]
                rechecked = sum(found.values())
                bars.update(
                    bar,
                    completed=sum(done.values()),
                    total=sum(estimated.values()),
                    found=f"{rechecked:,} rechecked" if rechecked else "",
                )

        yield say


def status_text(status: Status) -> str:
    """The status as a table and the gates below it."""
    table = Table("service", "phase", "tables", "copied", "lag bytes", "lag s", box=None)
    for name, one in status.services.items():
        table.add_row(
            name, one.phase, str(one.tables), str(one.copied), f"{one.lag_bytes:,}", f"{one.lag_s}"
        )
    lines = [
        f"split {status.split}: {status.phase}; stream "
        + ("live" if status.stream.get("live") else "not running"),
        _render(table),
    ]
    lines += [
        f"{'open  ' if g.ok else 'CLOSED'}  {g.gate}: {g.observed} (limit {g.limit})"
        + ("" if g.ok else f" → {g.remedy}")
        for g in status.gates
    ]
    return "\n".join(lines)


def validation_text(results: Sequence[TableResult]) -> str:
    """The comparison as a table, and the first differences below it."""
    table = Table("service", "table", "rows", "missing", "extra", "different", "state", box=None)
    for one in results:
        table.add_row(
            one.service,
            str(one.table),
            f"{one.rows:,}",
            str(one.missing),
            str(one.extra),
            str(one.different),
            one.state,
        )
    lines = [_render(table)]
    for one in results:
        if one.reason:
            lines.append(f"{one.service} {one.table}: {one.reason}")
        for difference in one.examples[:5]:
            key = ", ".join("NULL" if part is None else part for part in difference.key)
            columns = "; ".join(
                f"{c.column}: {c.leader!r} here, {c.follower!r} there" for c in difference.columns
            )
            lines.append(f"{one.service} {one.table} ({key}) {difference.how}: {columns}")
    return "\n".join(lines)


def repair_text(repaired: Mapping[str, Any] | None) -> str:
    """What a repair did, below the comparison that followed it; "" without one."""
    if repaired is None:
        return ""
    told = ", ".join(f"{repaired[name]:,} {name}" for name in ("inserted", "updated", "deleted"))
    lines = [f"\nrepaired: {told} rows; compared again above"]
    for route, one in repaired["routes"].items():
        if one["left"]:
            reasons = "; ".join(one["reasons"])
            lines.append(f"\n{route}: {one['left']:,} rows were left as they were: {reasons}")
    return "".join(lines)


def orphans_text(results: Sequence[OrphanResult]) -> str:
    """The orphans of each key that is checked, below the comparison; "" without such keys."""
    lines = []
    for one in results:
        keys = "; ".join(", ".join(str(part) for part in key) for key in one.sample[:5])
        said = f"{one.orphans:,} orphans" if one.state == "checked" else f"unverified: {one.reason}"
        of = f"{one.service} {one.foreign_key} → {one.references}"
        lines.append(f"\n{of}: {said}" + (f", such as {keys}" if keys else ""))
    return "".join(lines)


def _render(table: Table) -> str:
    console = Console(width=140, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
