"""``dbsplit plan``: what is done before anything is changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from toolkit.cli.options import JSON, PLAN, InOrder
from toolkit.cli.talk import told


@click.group("plan", cls=InOrder)
def plan_group() -> None:
    """Read and check a plan."""


@plan_group.command("check")
@PLAN
@JSON
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github", "sarif"]), default="text"
)
def plan_check(plan: Path, form: str, *, as_json: bool) -> None:
    """Say everything that stands against PLAN; exit 3 if something blocks it.

    \b
    dbsplit plan check plan.yaml
    dbsplit plan check plan.yaml --format github
    """
    with told(as_json=as_json) as talk:
        from dataclasses import asdict

        from cdc.connect import connect
        from plans.check import check_source
        from plans.findings import has_blocker, render_findings
        from plans.load import load_plan
        from toolkit.cli.lists import print_lists, read_lists

        loaded = load_plan(plan, os.environ)
        with connect(loaded.source.dsn, name="dbsplit check") as source:
            findings = check_source(loaded, source)
        lists = read_lists(loaded, source_only=True)
        if as_json:
            blocked = has_blocker(findings)
            talk.result(
                {"ok": not blocked, "findings": [asdict(one) for one in findings], "lists": lists},
                "",
            )
        else:
            click.echo(render_findings(findings, form))  # type: ignore[arg-type]
            if form == "text":
                print_lists(lists)
        if has_blocker(findings):
            sys.exit(3)
