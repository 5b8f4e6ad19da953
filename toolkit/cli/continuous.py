"""``dbsplit validate --continuous``: round after round, on the command line."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from toolkit.cli.signals import interrupted_by
from toolkit.cli.talk import Talk

F = TypeVar("F", bound=Callable[..., Any])

_ALONE = ("html", "junit", "github", "differences", "csv", "repair_sql", "repair", "rules")
_WHOLE = ("sample", "within", "key_from", "key_below", "snapshot")
_ALERTS = ("differs", "unverified", "stuck")
_FOR_PROGRAMS = ("comparing", "compared", "proven")
"""Told for each table in each round; a person asks `dbsplit status` for them."""


def continuous_options(command: F) -> F:
    """The options by which a validation goes on and on."""
    for option in (
        click.option(
            "--every",
            type=click.FloatRange(min=0),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="With --continuous: begin a round so long after the one before.",
        ),
        click.option("--continuous", is_flag=True, help="Compare round after round until stopped."),
    ):
        command = option(command)
    return command


def require_sensible(options: Mapping[str, Any]) -> None:
    """Have it a usage error to want of many rounds what only one can give."""
    for name in (*_ALONE, *_WHOLE):
        if options[name]:
            option = name.replace("key_", "").replace("_", "-")
            raise click.UsageError(f"--continuous compares all rows, live, and has no --{option}")


def watch_split(
    plan: Path,
    talk: Talk,
    services: Sequence[str],
    tables: Sequence[str],
    *,
    every_s: float,
    jobs: int,
) -> None:
    """Compare until stopped; ends with exit code 5 if something was not equal at last."""
    from toolkit.chosen_routes import chosen_routes
    from toolkit.cli.options import require_services
    from toolkit.continuous import Pace, keep_validating
    from toolkit.opened import open_split

    split = open_split(plan)
    require_services(split, services)
    routes = chosen_routes(split, services, tables)
    stop = threading.Event()

    def say(step: str, details: dict[str, Any]) -> None:
        if talk.as_json and step != "comparing":
            talk.say(step, details)
        elif step not in _FOR_PROGRAMS:
            alert = click.style("ALERT", fg="red") if step in _ALERTS else ""
            talk.line(f"{step} {alert}".strip(), _said(step, details))

    def still() -> None:
        open_split(plan, with_targets=False)  # a target that is away will be back

    hint = f"split {split.name}, round after round; stop it with Ctrl-C or SIGTERM"
    with interrupted_by(signal.SIGTERM, signal.SIGINT, first=stop.set):
        talk.line("validate", hint)
        watched = keep_validating(
            split, routes, say, pace=Pace(every_s=every_s, jobs=jobs), still=still, stop=stop
        )
    equal = sum(one.state == "equal" for one in watched.tables)
    talk.result(
        watched.as_dict(),
        f"stopped after {watched.rounds} rounds; {equal} of {len(watched.tables)} tables were"
        " equal when they were last compared",
    )
    if not watched.is_fine:
        sys.exit(5)


def _said(step: str, details: Mapping[str, Any]) -> str:
    where = f"{details['service']} {details['table']}: " if "table" in details else ""
    match step:
        case "differs":
            keys = "; ".join(str(one["key"]) for one in details["examples"])
            return f"{where}{details['new']} more rows differ, {details['open']} in all; {keys}"
        case "closed":
            return f"{where}{details['closed']} rows are equal again, {details['open']} differ"
        case "unverified":
            return f"{where}{details['reason']}"
        case _:
            return ", ".join(f"{name} {value}" for name, value in details.items() if value)
