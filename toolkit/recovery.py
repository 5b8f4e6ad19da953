"""Ending what a dead process left: deterministic, by the attempt and its journal alone.

| the attempt says        | the journal lacks | what is done                              |
| ----------------------- | ----------------- | ----------------------------------------- |
| no outcome              |                   | given up: the old leader is opened        |
| aborted                 | reopened          | the old leader is opened                  |
| moved or returned       | certificate       | the new leader is opened, traffic switched |

Whoever holds the role of the cutover may do it, and nobody else: the next call
of the command, or the stream process when the command's process has gone.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from cdc.connect import Connection
from plans.errors import GivenUp, NotReady
from toolkit import journal, locks, state
from toolkit.certificate import certify
from toolkit.moving import Move, Say, give_up, open_new_leader, reopen, watch_canary
from toolkit.opened import Split
from toolkit.sides import open_sides
from toolkit.state import Attempt


class Remedy(Enum):
    """What an attempt without its process needs."""

    NONE = "none"
    GIVE_UP = "give up"
    REOPEN = "reopen"
    FINISH = "finish"


def remedy(outcome: str | None, steps: frozenset[str]) -> Remedy:
    """What to do about an attempt, given its outcome and the steps that were done."""
    if outcome is None:
        return Remedy.GIVE_UP
    if outcome == "aborted":
        return Remedy.NONE if "reopened" in steps else Remedy.REOPEN
    return Remedy.NONE if "certificate" in steps else Remedy.FINISH


def recover(
    split: Split,
    control: Connection,
    *,
    directory: Path | None = None,
    say: Say | None = None,
    holding_lock: bool = False,
) -> list[tuple[Attempt, Remedy]]:
    """Bring every attempt that lacks its process to its end.

    Without `holding_lock`, does nothing while another process has the role.
    """
    todo = pending(split, control)
    if not todo:
        return []
    if holding_lock:
        return [(a, _carry_out(split, a, r, directory, say)) for a, r in todo]
    if locks.is_held(control, split.name, locks.CUTOVER):
        return []
    try:
        with locks.sole_runner(split.plan.source.dsn, split.name, locks.CUTOVER):
            todo = pending(split, control)
            return [(a, _carry_out(split, a, r, directory, say)) for a, r in todo]
    except NotReady:
        return []


def pending(split: Split, control: Connection) -> list[tuple[Attempt, Remedy]]:
    """The attempts that need something, the oldest first."""
    found: list[tuple[Attempt, Remedy]] = []
    for attempt in reversed(state.attempts(control, split.name)):
        steps = frozenset(journal.steps_done(control, split.name, attempt.id))
        if (what := remedy(attempt.outcome, steps)) is not Remedy.NONE:
            found.append((attempt, what))
    return found


def _carry_out(
    split: Split, attempt: Attempt, what: Remedy, directory: Path | None, say: Say | None
) -> Remedy:
    with open_sides(split, attempt.direction, attempt.services, {}) as sides:
        now = state.phases(sides.source, split.name)
        # What the phases were before the attempt: its own services', and the others' now.
        before = now | dict.fromkeys(attempt.services, attempt.direction.before)
        move = Move(replace(sides, phases=before), attempt.id, say or _silent)
        move.announced = "announce" in journal.steps_done(sides.source, split.name, attempt.id)
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
