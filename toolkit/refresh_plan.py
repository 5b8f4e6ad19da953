"""The plan file's next revision: tried beside the plan, and put in its place once it is noted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cdc.crash import crash_point
from plans.errors import PlanInvalid
from plans.load import Plan, load_plan
from plans.revision import Edit, edit_of, revise
from toolkit.refresh_work import Work


@contextmanager
def revised(plan: Plan, edits: Sequence[Edit]) -> Iterator[tuple[Plan, Path]]:
    """The plan with these edits, and the file that has its text until the end of the block."""
    if not edits:
        yield plan, plan.path
        return
    text = revise(plan.path.read_text(encoding="utf-8"), edits)
    with tempfile.NamedTemporaryFile(
        "w", dir=plan.path.parent, prefix=f".{plan.path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    beside = Path(file.name)
    try:
        yield replace(load_plan(beside, os.environ), path=plan.path), beside
    finally:
        beside.unlink(missing_ok=True)


def pending(plan: Plan, work: Work) -> tuple[Edit, ...]:
    """The edits of a refresh that was begun, as long as the plan does not have them."""
    return tuple(map(edit_of, work.edits)) if plan.digest == work.edited else ()


def as_begun(plan: Plan, work: Work, *, dry_run: bool = False) -> Plan:
    """The plan that the refresh goes by; writes it, if a crash has come before that.

    Raises PlanInvalid if it was edited since: what is copied by one text, and noted as if by
    another, could not be gone on with.
    """
    edits = pending(plan, work)
    with revised(plan, edits) as (found, beside):
        if found.digest != work.digest:
            raise PlanInvalid(
                f"{plan.path} is not as it was when the refresh of split {plan.split} was begun",
                hint="take back what was edited since, and repeat: the refresh goes on where it "
                "stopped; edit the plan afterwards",
            )
        if edits and not dry_run:
            beside.chmod(plan.path.stat().st_mode)
            beside.replace(plan.path)
            crash_point("refresh.plan")
        return found
