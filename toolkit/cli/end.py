"""``dbsplit complete`` and ``dbsplit abort``: the two ways in which a split ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import (
    DRY_RUN,
    JSON,
    PLAN,
    YES,
)
from toolkit.cli.talk import told

if TYPE_CHECKING:
    pass


@click.command()
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
            talk.ask(yes=yes, question="Retire the source's tables, with no way back?")
        split = open_split(plan, tolerant=True)
        steps = complete_split(split, drop=drop, dry_run=dry_run, say=talk.say)
        outcome = "dry-run" if dry_run else "completed"
        talk.result({"outcome": outcome, "steps": steps}, f"{outcome}: {len(steps)} steps")


@click.command()
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
            talk.ask(yes=yes, question="Remove the split, and what was copied to its targets?")
        split = open_split(plan, tolerant=True)
        steps = abort_split(split, dry_run=dry_run, say=talk.say)
        outcome = "dry-run" if dry_run else "removed"
        talk.result({"outcome": outcome, "steps": steps}, f"{outcome}: {len(steps)} steps")
