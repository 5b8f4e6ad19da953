"""How a copy's progress looks: bars on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import assert_never

from cdc.copy_pace import (
    BuildProgress,
    CatchUpProgress,
    CopyProgress,
    Pace,
    Progress,
    Report,
    ThrottleProgress,
)
from plans.printable import printable_lines
from plans.routes import Route
from toolkit.cli.talk import Talk


@contextmanager
def copy_reporter(talk: Talk, routes: Sequence[Route]) -> Iterator[Report]:
    """Show the copy's progress: bars on a terminal, lines elsewhere."""
    lock = threading.Lock()
    if talk.as_json or not sys.stderr.isatty():

        def tell(progress: Progress) -> None:
            with lock:
                _tell_copy(talk, progress)

        yield tell
        return
    from rich.console import Console  # only here: it takes long to import
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of ~{task.total:,} rows"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True, markup=False, emoji=False),
    ) as bars:
        total = sum(max(route.source.rows_estimated, 1) for route in routes)
        every = bars.add_task("copy", total=total, left="")
        rows: dict[str, int] = {}

        def advance(progress: Progress) -> None:
            with lock:
                if isinstance(progress, CatchUpProgress):
                    bars.update(every, left=f"{progress.behind_bytes:,} bytes of log to apply")
                    return
                if isinstance(progress, ThrottleProgress):
                    bars.console.print(printable_lines(_throttled(progress)))
                    return
                if isinstance(progress, CopyProgress):
                    rows[progress.route.id] = progress.rows
                done, left = sum(rows.values()), _left(progress.pace)
                bars.update(every, completed=done, total=max(done, total), left=left)

        yield advance
        done = sum(rows.values())
        bars.update(every, completed=done, total=max(1, done), left="")


def _tell_copy(talk: Talk, progress: Progress) -> None:
    match progress:
        case CatchUpProgress():
            talk.seldom("catching up", "catching up", asdict(progress))
        case ThrottleProgress():
            if talk.as_json:
                talk.say("throttled", asdict(progress))
            else:
                talk.line("throttle", _throttled(progress))
        case BuildProgress():
            _tell_built(talk, progress)
        case CopyProgress():
            _tell_copied(talk, progress)
        case _:
            assert_never(progress)


def _tell_built(talk: Talk, progress: BuildProgress) -> None:
    took = {"service": progress.service, "what": progress.what}
    told = {**took, "took_s": round(progress.took_s, 2), **_pace(progress.pace)}
    if talk.as_json:
        talk.say("built", told)
    else:
        talk.seldom("built", "built", told)


def _tell_copied(talk: Talk, progress: CopyProgress) -> None:
    route, size = progress.route.id, progress.size_bytes
    come = {"route": route, "rows": progress.rows, "bytes": size, "done": progress.done}
    if progress.done:
        talk.say("copied", come | _pace(progress.pace))
    else:
        talk.seldom("copying", route, come | _pace(progress.pace))


def _pace(pace: Pace) -> dict[str, int]:
    told = {"bytes_per_s": round(pace.bytes_per_s)}
    return told if pace.eta_s is None else told | {"eta_s": round(pace.eta_s)}


def _throttled(progress: ThrottleProgress) -> str:
    said = [*progress.reasons, *(f"take care: {one}" for one in progress.warnings)]
    head = "paused" if progress.paused else "slower" if progress.reasons else "as fast as it goes"
    return ": ".join([head, "; ".join(said)] if said else [head])


def _left(pace: Pace) -> str:
    if pace.eta_s is None:
        return ""
    minutes, seconds = divmod(round(pace.eta_s), 60)
    return f"{minutes}:{seconds:02} left"
