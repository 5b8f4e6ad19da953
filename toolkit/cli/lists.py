"""The plan's lists on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from plans.lists import run_lists
from plans.load import Plan
from plans.printable import printable


def read_lists(plan: Plan, *, source_only: bool) -> list[dict[str, Any]]:
    """What the plan's lists show now, as JSON has it."""
    dsns = {"source": plan.source.dsn} | {s: plan.services[s].dsn for s in plan.services}
    return [
        asdict(one)
        for one in run_lists(plan, dsns.__getitem__)
        if not source_only or one.on == "source"
    ]


def lists_text(lists: Sequence[Mapping[str, Any]]) -> str:
    """The same for a person; "" without lists."""
    lines: list[str] = []
    for one in lists:
        said = one["error"] or f"{one['total']} rows"
        lines += ["", printable(f"{one['name']} ({one['on']}): {said}. {one['reason']}".rstrip())]
        if one["rows"]:
            lines.append(_row(one["columns"]))
        lines += map(_row, one["rows"])
        if one["total"] > len(one["rows"]):
            lines.append(f"  … and {one['total'] - len(one['rows'])} more")
    return "\n".join(lines)


def _row(values: Iterable[str | None]) -> str:
    return "  " + " | ".join("" if value is None else printable(value) for value in values)
