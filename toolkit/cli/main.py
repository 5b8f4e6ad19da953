"""``dbsplit``: the verbs in the order in which they are used.

Whatever is heavy is imported by the verb that needs it, so that ``--help`` and
shell completion answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolkit.cli.compare import compare
from toolkit.cli.copy import copy_command, copy_rows, throttle_command
from toolkit.cli.options import (
    DRY_RUN,
    JOBS,
    JSON,
    PLAN,
    SERVICE,
    YES,
    InOrder,
    name_variables,
    require_directory,
    require_services,
)
from toolkit.cli.plan import plan_group
from toolkit.cli.talk import Talk, declined, told
from toolkit.cli.validate import compare_split, tell, validate

if TYPE_CHECKING:
    from toolkit.cutover import Moved
    from toolkit.opened import Split

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dbsplit")
def cli() -> None:
    """Split one shared PostgreSQL database into one per service, while they keep writing.

    \b
    dbsplit plan check plan.yaml
    dbsplit prepare plan.yaml && dbsplit copy plan.yaml
    dbsplit stream plan.yaml &
    dbsplit validate plan.yaml && dbsplit cutover plan.yaml

    Every option can be set in the environment, too: DBSPLIT_COPY_JOBS=4 stands for
    dbsplit copy --jobs 4, DBSPLIT_CUTOVER_YES=1 for dbsplit cutover --yes.  With --json
    the last line on standard output is one object, however a verb ends.

    Exit codes: 0 ok, 1 bug, 2 usage, 3 plan invalid, 4 not ready, 5 rows differ,
    6 gate closed, 7 stream broken, 8 given up and the old side writable again,
    9 halted, 130 interrupted.
    """


def main() -> None:
    """Run the command line; NO_COLOR is heeded on terminals too (no-color.org)."""
    cli(color=False if os.environ.get("NO_COLOR") else None)


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="New directory for the report and what else stays; dbsplit-demo-… here if not given.",
)
@click.option(
    "--scale",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 10, min_open=True),
    help="Size of the database; 1 is 100,000 orders.",
)
@click.option("--keep", is_flag=True, help="Leave the servers running.")
@click.option("--pg-version", metavar="MAJOR", help="Of PostgreSQL; 18 if not given.")
@JSON
def demo(
    directory: Path | None, scale: float, pg_version: str | None, *, keep: bool, as_json: bool
) -> None:
    """See it all at work on servers of its own; exit 1 unless every write is there once.

    A shared database of a CRM, a shop and an MES is split while they write to it, moved,
    rolled back, and moved again.  Nothing is left but a directory with a report.

    \b
    dbsplit demo
    dbsplit demo --scale 1 --dir /tmp/demo
    dbsplit demo --keep
    """
    with told(as_json=as_json) as talk:
        from toolkit.cli.demo import show_demo

        if not show_demo(talk, directory, scale=scale, version=pg_version, keep=keep):
            sys.exit(1)


cli.add_command(plan_group)


@cli.command()
@PLAN
@JSON
def doctor(plan: Path, *, as_json: bool) -> None:
    """Check servers, settings, privileges and the journal; exit 4 if something is missing.

    \b
    dbsplit doctor plan.yaml
    dbsplit doctor plan.yaml --json | tail -1 | jq '.needs[] | select(.ok | not)'
    """
    with told(as_json=as_json) as talk:
        from plans.load import load_plan
        from toolkit.doctor import examine

        needs = examine(load_plan(plan, os.environ))
        lines = [f"{'ok     ' if n.ok else 'MISSING'}  {n.need}: {n.observed}" for n in needs]
        lines += [f"         → {need.remedy}" for need in needs if not need.ok]
        ok = all(need.ok for need in needs)
        talk.result({"ok": ok, "needs": [n.as_dict() for n in needs]}, "\n".join(lines))
        if not ok:
            sys.exit(4)


@cli.command()
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


cli.add_command(copy_command)
cli.add_command(throttle_command)


@cli.command()
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
        stop = _stop_on_signals()
        progress = _stream(plan, talk, stop, until_caught_up=until_caught_up)
        result = {"outcome": "caught_up" if until_caught_up else "stopped", **progress}
        talk.result(result, f"{result['outcome']} at {progress['position']}")


@cli.command()
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
        from toolkit.stages import stages_of_run

        progress: dict[str, Any] = {}

        def follow() -> None:
            stop = _stop_on_signals()
            progress.update(_stream(plan, talk, stop, until_caught_up=until is not None))

        work: dict[str, Callable[[], object]] = {
            "prepare": lambda: _prepare(plan, talk, create=False),
            "copy": lambda: copy_rows(plan, talk, jobs),
            "stream": follow,
            "validate": lambda: tell(talk, compare_split(plan, talk)),
        }
        for stage in stages_of_run(until):
            if as_json:
                talk.say("stage", {"name": stage.name})
            else:
                talk.line("stage", stage.name)
            work[stage.name]()
        outcome = until or "stopped"
        talk.result({"outcome": outcome, **progress}, f"{outcome} at {progress['position']}")


@cli.command()
@PLAN
@JSON
@click.option("--watch", is_flag=True, help="Show it again every second until stopped.")
def status(plan: Path, *, as_json: bool, watch: bool) -> None:
    """Show phase, lag and gates.

    \b
    dbsplit status plan.yaml --watch
    dbsplit status plan.yaml --json | jq -r .phase
    """
    with told(as_json=as_json) as talk:
        import time

        from toolkit.cli.show import status_text
        from toolkit.opened import open_split
        from toolkit.status import read_status

        split = open_split(plan, tolerant=True)
        while True:
            now = read_status(split)
            if watch and not as_json:
                click.clear()
            talk.result(now.as_dict(), status_text(now))
            if not watch:
                return
            time.sleep(1)


cli.add_command(validate)


cli.add_command(compare)


@cli.command()
@PLAN
@JSON
@SERVICE
@YES
@DRY_RUN
@click.option("--rehearse", is_flag=True, help="Everything up to the decision, then back.")
@click.option(
    "--certificates",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the certificate is written.",
)
def cutover(
    plan: Path,
    services: tuple[str, ...],
    certificates: Path,
    *,
    as_json: bool,
    yes: bool,
    dry_run: bool,
    rehearse: bool,
) -> None:
    """Give the right to write to the new databases; writers wait less than a second.

    Exit 6 if a gate is closed, 8 if it was given up and the source takes writes
    again, 9 if an operator is needed.  Repeating it after a crash is right.

    \b
    dbsplit cutover plan.yaml --dry-run      the gates, as they are now
    dbsplit cutover plan.yaml --rehearse     up to the decision, and back
    dbsplit cutover plan.yaml --yes
    dbsplit cutover plan.yaml --service crm  the others stay
    """
    with told(as_json=as_json) as talk:
        if dry_run and rehearse:
            raise click.UsageError("--dry-run changes nothing, and --rehearse goes to the decision")
        if not dry_run:
            require_directory(certificates)
        if not (dry_run or rehearse):
            named = ", ".join(services) or "all services"
            _ask(talk, yes=yes, question=f"Move {named} of {plan} now?")
        _move(plan, talk, "cutover", services, certificates, dry_run=dry_run, rehearse=rehearse)


@cli.command()
@PLAN
@JSON
@SERVICE
@YES
@DRY_RUN
@click.option(
    "--certificates",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the certificate is written.",
)
def rollback(
    plan: Path,
    services: tuple[str, ...],
    certificates: Path,
    *,
    as_json: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    """Give the right to write back to the source; nothing written since is lost.

    Exit codes as with cutover.

    \b
    dbsplit rollback plan.yaml --dry-run
    dbsplit rollback plan.yaml --yes
    """
    with told(as_json=as_json) as talk:
        if not dry_run:
            require_directory(certificates)
            named = ", ".join(services) or "all services"
            _ask(talk, yes=yes, question=f"Move {named} back now?")
        _move(plan, talk, "rollback", services, certificates, dry_run=dry_run, rehearse=False)


@cli.command()
@PLAN
@JSON
@DRY_RUN
@YES
@click.option("--drop", is_flag=True, help="Also drop the tables that were retired.")
def complete(plan: Path, *, as_json: bool, dry_run: bool, yes: bool, drop: bool) -> None:
    """Retire the source's tables and end the split; there is no way back afterwards.

    \b
    dbsplit complete plan.yaml --dry-run
    dbsplit complete plan.yaml --yes         renames them to NAME_retired
    dbsplit complete plan.yaml --yes --drop  some weeks later
    """
    with told(as_json=as_json) as talk:
        from toolkit.complete import complete as complete_split
        from toolkit.opened import open_split

        if not dry_run:
            _ask(talk, yes=yes, question="Retire the source's tables, with no way back?")
        split = open_split(plan, tolerant=True)
        steps = complete_split(split, drop=drop, dry_run=dry_run, say=talk.say)
        outcome = "dry-run" if dry_run else "completed"
        talk.result({"outcome": outcome, "steps": steps}, f"{outcome}: {len(steps)} steps")


@cli.command()
@PLAN
@JSON
@DRY_RUN
@YES
def abort(plan: Path, *, as_json: bool, dry_run: bool, yes: bool) -> None:
    """Remove every trace of the split from all servers; the source goes on as it was.

    \b
    dbsplit abort plan.yaml --dry-run
    dbsplit abort plan.yaml --yes
    """
    with told(as_json=as_json) as talk:
        from toolkit.abort import abort as abort_split
        from toolkit.opened import open_split

        if not dry_run:
            _ask(talk, yes=yes, question="Remove the split, and what was copied to its targets?")
        split = open_split(plan, tolerant=True)
        steps = abort_split(split, dry_run=dry_run, say=talk.say)
        outcome = "dry-run" if dry_run else "removed"
        talk.result({"outcome": outcome, "steps": steps}, f"{outcome}: {len(steps)} steps")


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

    from toolkit.evolving import follow

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


def _move(
    plan: Path,
    talk: Talk,
    direction: str,
    services: tuple[str, ...],
    directory: Path,
    *,
    dry_run: bool,
    rehearse: bool,
) -> None:
    from plans.errors import NOT_MOVED, SplitError
    from toolkit.cutover import dry_run as look
    from toolkit.cutover import move
    from toolkit.opened import open_split
    from toolkit.state import Direction

    try:
        split: Split = open_split(plan)
        require_services(split, services)
        way = Direction(direction)
        moved: Moved = (
            look(split, way, services)
            if dry_run
            else move(
                split, way, services, directory=directory, say=talk.say_step, rehearse=rehearse
            )
        )
    except SplitError as error:
        if not dry_run:
            error.result = {**NOT_MOVED, **error.result}
        raise
    text = f"{moved.outcome}: writers waited {moved.write_pause_ms:.0f} ms"
    if moved.certificate:
        text += f"; certificate {moved.certificate}"
    if moved.outcome == "ready":
        gates = [
            f"{'open  ' if g.ok else 'CLOSED'}  {g.gate}: {g.observed} (limit {g.limit})"
            for g in moved.gates
        ]
        meanwhile = [f"warning: {one}" for one in moved.refused_meanwhile]
        text = "\n".join([*gates, *meanwhile])
    talk.result(moved.as_dict(), text)


def _ask(talk: Talk, *, yes: bool, question: str) -> None:
    """Ask a person; a script that calls this verb has decided already."""
    if not yes and sys.stdin.isatty() and not click.confirm(question, err=True):
        declined(as_json=talk.as_json)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    return stop


name_variables(cli, "DBSPLIT")


if __name__ == "__main__":
    main()
