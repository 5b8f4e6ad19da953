"""What `plan refresh` is told, and how it tells what it did."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from plans.printable import printable
from toolkit.refresh import Refreshed
from toolkit.refresh_edits import Answers


def answers(owners: Iterable[str], columns: Iterable[str], anew: Iterable[str]) -> Answers:
    """The decisions of the command line."""
    return Answers(_pairs(owners, "--owner"), _pairs(columns, "--column"), frozenset(anew))


def _pairs(values: Iterable[str], option: str) -> dict[str, str]:
    found = {}
    for value in values:
        what, equals, owner = value.rpartition("=")
        if not (what and equals and owner):
            raise click.BadParameter(f"{value!r} is not NAME=SERVICE", param_hint=option)
        found[what] = owner
    return found


def refreshed_text(outcome: str, done: Refreshed, plan: Path) -> str:
    """For people."""
    lines = [f"changed  {said}" for said in done.changes]
    lines += [f"plan     {edit}" for edit in done.edits]
    for service, statements in done.statements.items():
        lines += [f"{service:8} {' '.join(one.split())}" for one in statements]
    lines += [f"copied   {route}" for route in done.copied]
    lines += [f"to copy  {route}: `dbsplit copy {plan}`" for route in done.to_copy]
    for service, drops in done.kept.items():
        lines += [f"kept     in {service}, gone from the source: {one}" for one in drops]
    lines += [
        f"repair   {route}: once the stream runs, `dbsplit validate {plan} --repair --direction "
        f"source --table {route.partition(':')[2]}`"
        for route in done.to_repair
    ]
    lines += [
        f"ignored  table {name} is new, and in no service: a cutover waits for `dbsplit plan "
        f"refresh {plan} --owner {name}=SERVICE`, or =drop"
        for name in done.unassigned
        if name not in done.heirs
    ]
    lines += [
        f"ignored  table {name} is new, and inherits from one that is followed, which isn't "
        f"supported: a cutover waits for {statement}"
        for name, statement in done.heirs.items()
    ]
    return "\n".join([*map(printable, lines), outcome])
