"""``dbsplit prepare``, ``dbsplit stream``, and ``dbsplit run``, which is all up to there in one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.copy import copy_rows
from toolkit.cli.options import (
    JOBS,
    JSON,
    PLAN,
)
from toolkit.cli.signals import stop_on_signals
from toolkit.cli.talk import Talk, told
from toolkit.cli.validate import compare_split, tell

if TYPE_CHECKING:
    pass


@click.command()
@PLAN
@JSON
@click.option("--create", is_flag=True, help="Create target databases that do not exist.")
def prepare(plan: Path, *, as_json: bool, create: bool) -> None:
    """Make target schemas, control schema, publication and slot; repeatable.

    \b
    dbsplit prepare plan.yaml
    dbsplit prepare plan.yaml --create   makes the target databases, too
    """
    with told(as_json=as_json) as talk:
        _prepare(plan, talk, create=create)
        talk.result({"outcome": "prepared"}, "prepared; next: dbsplit copy " + str(plan))


@click.command()
@PLAN
@JSON
@click.option("--until-caught-up", is_flag=True, help="End once all that there is now is applied.")
def stream(plan: Path, *, as_json: bool, until_caught_up: bool) -> None:
    """Follow the changes until stopped; SIGTERM is clean, kill -9 is safe.

    Exit 7 if it cannot go on without somebody's decision.

    \b
    dbsplit stream plan.yaml
    dbsplit stream plan.yaml --until-caught-up
    """
    with told(as_json=as_json) as talk:
        stop = stop_on_signals()
        progress = _stream(plan, talk, stop, until_caught_up=until_caught_up)
        result = {"outcome": "caught_up" if until_caught_up else "stopped", **progress}
        talk.result(result, f"{result['outcome']} at {progress['position']}")


@click.command()
@PLAN
@JSON
@JOBS
@click.option("--until", type=click.Choice(["following", "ready"]), help="End there.")
def run(plan: Path, jobs: int, until: str | None, *, as_json: bool) -> None:
    """Prepare, copy and stream in one go; what is done already is skipped.

    \b
    dbsplit run plan.yaml                    until stopped
    dbsplit run plan.yaml --until following  until the targets have caught up
    dbsplit run plan.yaml --until ready      and every row is proven equal
    """
    with told(as_json=as_json) as talk:
        from toolkit.evolving import is_to_be_carried, through_changes
        from toolkit.stages import stages_of_run

        progress: dict[str, Any] = {}

        def follow() -> None:
            stop = stop_on_signals()
            progress.update(_stream(plan, talk, stop, until_caught_up=until is not None))

        work: dict[str, Callable[[], object]] = {
            "prepare": lambda: through_changes(
                plan, lambda: _prepare(plan, talk, create=False), talk.say
            ),
            "copy": lambda: through_changes(plan, lambda: copy_rows(plan, talk, jobs), talk.say),
            "stream": follow,
            "validate": lambda: tell(talk, compare_split(plan, talk)),
        }
        for stage in stages_of_run(until, copied=is_to_be_carried(plan)):
            if as_json:
                talk.say("stage", {"name": stage.name})
            else:
                talk.line("stage", stage.name)
            work[stage.name]()
        outcome = until or "stopped"
        talk.result({"outcome": outcome, **progress}, f"{outcome} at {progress['position']}")


def _prepare(plan: Path, talk: Talk, *, create: bool) -> None:
    from plans.load import load_plan
    from toolkit.prepare import prepare as prepare_split
    from toolkit.ready import create_databases

    if create:
        for service in create_databases(load_plan(plan, os.environ)):
            talk.say("database", {"service": service})
    prepare_split(plan, talk.say)


def _stream(
    plan: Path, talk: Talk, stop: threading.Event, *, until_caught_up: bool
) -> dict[str, Any]:
    from dataclasses import asdict

    from cdc.memory import collect_seldom, keep_freed
    from toolkit.evolving import follow

    keep_freed()
    collect_seldom()
    progress = follow(
        plan,
        stop=stop,
        until_caught_up=until_caught_up,
        report=lambda p: talk.seldom("stream", "stream", asdict(p)),
        say=talk.say,
        begun=lambda split: talk.line(
            "stream", f"follows split {split.name}; stop it with Ctrl-C or SIGTERM"
        ),
    )
    return asdict(progress)
