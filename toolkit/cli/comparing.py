"""How a comparison goes on, and what a repair did, on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from plans.printable import printable
from plans.routes import Route
from toolkit.cli.talk import Talk


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
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of ~{task.total:,} rows"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
        console=Console(stderr=True, markup=False, emoji=False),
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


def repair_text(repaired: Mapping[str, Any] | None) -> str:
    """What a repair did, below the comparison that followed it; "" without one."""
    if repaired is None:
        return ""
    told = ", ".join(f"{repaired[name]:,} {name}" for name in ("inserted", "updated", "deleted"))
    lines = [f"\nrepaired: {told} rows; compared again above"]
    for route, one in repaired["routes"].items():
        if one["left"]:
            reasons = "; ".join(one["reasons"])
            left = f"{one['left']:,} rows were left as they were"
            lines.append("\n" + printable(f"{route}: {left}: {reasons}"))
    return "".join(lines)
