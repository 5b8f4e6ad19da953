"""``dbsplit cutover`` and ``dbsplit rollback``: the right to write goes over, or back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import (
    DRY_RUN,
    JSON,
    PLAN,
    SERVICE,
    YES,
    require_directory,
    require_services,
)
from toolkit.cli.talk import Talk, told

if TYPE_CHECKING:
    from toolkit.cutover import Moved
    from toolkit.opened import Split

CERTIFICATES = click.option(
    "--certificates",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the certificate is written.",
)


@click.command()
@PLAN
@JSON
@SERVICE
@YES
@DRY_RUN
@click.option("--rehearse", is_flag=True, help="Everything up to the decision, then back.")
@CERTIFICATES
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
            talk.ask(yes=yes, question=f"Move {named} of {plan} now?")
        _move(plan, talk, "cutover", services, certificates, dry_run=dry_run, rehearse=rehearse)


@click.command()
@PLAN
@JSON
@SERVICE
@YES
@DRY_RUN
@CERTIFICATES
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
            talk.ask(yes=yes, question=f"Move {named} back now?")
        _move(plan, talk, "rollback", services, certificates, dry_run=dry_run, rehearse=False)


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
    from plans.errors import Halted, SplitError
    from plans.printable import printable
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
            outcome = "halted" if isinstance(error, Halted) else "aborted"
            nothing = {"outcome": outcome, "write_pause_ms": 0.0, "certificate": None}
            error.result = {**nothing, **error.result}
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
        text = "\n".join(map(printable, [*gates, *meanwhile]))
    talk.result(moved.as_dict(), text)
