"""The plan's lists on the command line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from plans.lists import run_lists
from plans.load import Plan


def read_lists(plan: Plan, *, source_only: bool) -> list[dict[str, Any]]:
    """What the plan's lists show now, as JSON has it."""
    dsns = {"source": plan.source.dsn} | {s: plan.services[s].dsn for s in plan.services}
    return [
        asdict(one)
        for one in run_lists(plan, dsns.__getitem__)
        if not source_only or one.on == "source"
    ]


def print_lists(lists: list[dict[str, Any]]) -> None:
    """The same for a person."""
    for one in lists:
        said = one["error"] or f"{one['total']} rows"
        click.echo(f"\n{one['name']} ({one['on']}): {said}. {one['reason']}".rstrip())
        if one["rows"]:
            click.echo("  " + " | ".join(one["columns"]))
        for row in one["rows"]:
            click.echo("  " + " | ".join("" if value is None else value for value in row))
        if one["total"] > len(one["rows"]):
            click.echo(f"  … and {one['total'] - len(one['rows'])} more")
