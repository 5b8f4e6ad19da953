"""Ending what a dead process left: deterministic, by the attempt and its journal alone.

| the attempt says  | the journal lacks | what is done                               |
| ----------------- | ----------------- | ------------------------------------------ |
| no outcome        |                   | given up: the old leader is opened         |
| aborted           | reopened          | the old leader is opened                   |
| moved or returned | certificate       | the new leader is opened, traffic switched |

A process that lost its role without knowing it, because its connection was cut,
may raise one more fence after the others were dropped.  So the last attempt of
each service is also looked at for a fence on the side that leads.

Whoever holds the role of the cutover may do it, and nobody else: the next call
of the command, or the stream process when the command's process has gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import Table, TableName
from plans.errors import GivenUp, NotReady
from toolkit import fencing, journal, locks, state
from toolkit.certificate import certify
from toolkit.moving import Move
from toolkit.opened import Split
from toolkit.opening import give_up, open_new_leader, reopen, watch_canary
from toolkit.say import Say
from toolkit.sides import open_sides, source_tables
from toolkit.state import Attempt, Direction, Phase


class Remedy(Enum):
    """What an attempt without its process needs."""

    NONE = "none"
    GIVE_UP = "give up"
    REOPEN = "reopen"
    FINISH = "finish"


def remedy(outcome: str | None, steps: frozenset[str], *, closed: bool = False) -> Remedy:
    """What an attempt needs, by its outcome, its steps, and whether its leader is closed."""
    if outcome is None:
        return Remedy.GIVE_UP
    if outcome == "aborted":
        return Remedy.NONE if "reopened" in steps and not closed else Remedy.REOPEN
    return Remedy.NONE if "certificate" in steps and not closed else Remedy.FINISH


def recover(
    split: Split,
    control: Connection,
    *,
    directory: Path | None = None,
    say: Say | None = None,
    holding_lock: bool = False,
    thorough: bool = True,
) -> list[tuple[Attempt, Remedy]]:
    """Bring every attempt that lacks its process to its end.

    Without `holding_lock`, does nothing while another process has the role.  Only
    if `thorough`, the leaders are looked at for fences that nobody wants any more.
    """
    todo = pending(split, control, thorough=thorough)
    if not todo:
        return []
    if holding_lock:
        return [(a, _carry_out(split, control, a, r, directory, say)) for a, r in todo]
    if locks.is_held(control, split.name, locks.CUTOVER):
        return []
    try:
        dsn = split.plan.source.dsn
        with locks.sole_runner(dsn, split.name, locks.CUTOVER, name=locks.RECOVERY) as own:
            todo = pending(split, own)
            return [(a, _carry_out(split, own, a, r, directory, say)) for a, r in todo]
    except NotReady:
        return []


def pending(
    split: Split, control: Connection, *, thorough: bool = True
) -> list[tuple[Attempt, Remedy]]:
    """The attempts that need something, the oldest first.

    While one is unfinished its services' phases do not tell who leads, so that only
    when none is left the leaders are looked at for fences.
    """
    attempts = state.attempts(control, split.name)
    steps = {a.id: frozenset(journal.steps_done(control, split.name, a.id)) for a in attempts}
    unfinished = [(a, remedy(a.outcome, steps[a.id])) for a in attempts]
    unfinished = [(a, what) for a, what in unfinished if what is not Remedy.NONE]
    if unfinished or not thorough:
        return unfinished[::-1]
    found: list[tuple[Attempt, Remedy]] = []
    later: set[str] = set()
    for attempt in attempts:
        last = not later & set(attempt.services)
        later |= set(attempt.services)
        if last and _leader_closed(split, attempt):
            found.append((attempt, remedy(attempt.outcome, steps[attempt.id], closed=True)))
    return found[::-1]


def _leader_closed(split: Split, attempt: Attempt) -> bool:
    """Whether a table that its services lead, as the attempt has ended, carries a fence."""
    cutover = attempt.direction is Direction.CUTOVER
    targets_lead = (attempt.outcome == "moved") if cutover else (attempt.outcome == "aborted")
    if not targets_lead:
        with connect(split.plan.source.dsn, name="dbsplit recovery") as source:
            now = state.settled_phases(source, split.name)
            gone = {s for s, p in now.items() if p in (Phase.MOVED, Phase.COMPLETED)}
            led = [
                t for t in source_tables(split, attempt.services) if not split.owners(t.name) & gone
            ]
            return bool(_relations(led) & fencing.fenced(source))
    for service in attempt.services:
        with connect(split.dsn(service), name="dbsplit recovery") as target:
            led = [split.target_table(route) for route in split.owned([service])]
            if _relations(led) & fencing.fenced(target):
                return True
    return False


def _relations(tables: Iterable[Table]) -> set[TableName]:
    return {name for table in tables for name in (table.name, *table.leaves)}


def _carry_out(
    split: Split,
    control: Connection,
    attempt: Attempt,
    what: Remedy,
    directory: Path | None,
    say: Say | None,
) -> Remedy:
    # To let writers into the source again, no target has to answer.
    alone = attempt.direction is Direction.CUTOVER and what is not Remedy.FINISH
    with open_sides(
        split, attempt.direction, attempt.services, {}, source=control, without_targets=alone
    ) as sides:
        now = state.settled_phases(sides.source, split.name)
        # What the phases were before the attempt: its own services', and the others' now.
        before = now | dict.fromkeys(attempt.services, attempt.direction.before)
        move = Move(replace(sides, phases=before), attempt.id, say or _silent)
        # A step that was begun may have been done, only not journaled.
        move.announced = "announce" in journal.steps_begun(sides.source, split.name, attempt.id)
        match what:
            case Remedy.GIVE_UP:
                give_up(move, GivenUp("the process that ran it has gone"))
            case Remedy.REOPEN:
                reopen(move)
            case Remedy.FINISH:
                open_new_leader(move)
                watch_canary(move)
                certify(move, directory, pause_ms=_pause_ms(sides.source, split.name, attempt.id))
            case Remedy.NONE:
                pass
    return what


def _pause_ms(control: Connection, split: str, attempt: int) -> float:
    """From the first fence to the opening, by the journal's own clock."""
    row = control.execute(
        "SELECT extract(epoch FROM max(at) FILTER (WHERE step = 'open' AND state = 'done')"
        " - min(at) FILTER (WHERE step = 'fence' AND state = 'begin')) * 1000"
        " FROM dbsplit.journal WHERE split = %s AND attempt = %s",
        [split, attempt],
    ).fetchone()
    return round(float(row[0]), 1) if row and row[0] is not None else 0.0


def _silent(step: str, details: dict[str, Any]) -> None:
    """Nobody watches a recovery in the background."""
