"""``dbsplit doctor`` and ``dbsplit status``: what there is now; nothing is changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import (
    JSON,
    PLAN,
)
from toolkit.cli.talk import told

if TYPE_CHECKING:
    pass


@click.command()
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
        from plans.printable import printable
        from toolkit.doctor import examine
        from toolkit.need import missing_error

        needs = examine(load_plan(plan, os.environ))
        lines = []
        for need in needs:
            lines.append(f"{'ok     ' if need.ok else 'MISSING'}  {need.need}: {need.observed}")
            if not need.ok and need.remedy:
                lines.append(f"         → {need.remedy}")
        missing = [need for need in needs if not need.ok]
        failed = missing_error(missing)
        told_too = {"error": str(failed), "hint": failed.hint, "exit_code": failed.exit_code}
        result = {"ok": not missing, "needs": [n.as_dict() for n in needs]}
        talk.result(result | (told_too if missing else {}), "\n".join(map(printable, lines)))
        if missing:
            sys.exit(failed.exit_code)


@click.command()
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
