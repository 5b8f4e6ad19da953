"""Who may write: closing the side that follows, opening the side that leads.

After the decision the new leader is opened, after giving up the old one again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from cdc.connect import Connection
from cdc.crash import crash_point
from plans.catalog import Table
from plans.errors import GivenUp, Halted, NotReady
from toolkit import fencing, journal, markers, state
from toolkit.moving import Move
from toolkit.renumber import renumber
from toolkit.sides import Sides, insert_guards, source_fences, target_fences
from toolkit.state import Direction, Phase
from toolkit.switch import SwitchFailed, run_switch

OPEN_S_MAX = 60.0
CANARY_S_MAX = 30.0


def open_new_leader(move: Move) -> None:
    """Let the new leader's writers in, and send the traffic there; harmless when repeated."""
    sides = move.sides
    deadline = time.monotonic() + OPEN_S_MAX
    with move.step("open"):
        _tell_targets(sides)
        try:
            if sides.direction is Direction.ROLLBACK:
                renumber(sides, deadline=deadline, decided=True)
            for connection, tables in sides.open_follower():
                _let_in(sides, connection, tables, deadline)
        except (GivenUp, psycopg.Error) as error:
            raise Halted(
                f"the right to write has moved, but the new side could not be opened: {error}",
                hint="run the same command again: it goes on from here",
            ) from None
        crash_point("cutover.opened")
    with move.step("switch"):
        step = "switch" if sides.direction is Direction.CUTOVER else "back"
        try:
            run_switch(sides.split.plan.switch, step, routes_after(sides))
        except SwitchFailed as failed:
            raise Halted(
                f"the right to write has moved, but the traffic was not switched: {failed}",
                hint="mend the switch command and run the same command again, or send the "
                "traffic to the new side by hand",
            ) from None
        crash_point("cutover.switched")


def watch_canary(move: Move) -> None:
    """See that what is written on the new leader arrives on the old one."""
    sides = move.sides
    with move.step("canary") as details:
        for service in sides.movers:
            details[service] = markers.passes(
                sides.follower(service),
                sides.leader(service),
                sides.return_stream(service),
                CANARY_S_MAX,
            )


def give_up(move: Move, cause: BaseException) -> None:
    """Back to where it was: fences down, the follower closed, the stream going on.

    Raises Halted if the old leader cannot be reached to be opened.
    """
    sides = move.sides
    try:
        if not state.end_attempt(sides.source, move.attempt, "aborted"):
            if state.outcome(sides.source, move.attempt) == "aborted":
                # Whoever gave it up may have done so before our last fence.
                reopen(move)
                return
            raise Halted(
                f"the right to write has moved, but what follows was not begun: {cause}",
                hint="run the same command again: it goes on from here",
            ) from cause
        journal.record(
            sides.source,
            sides.split.name,
            "given_up",
            "failed",
            attempt=move.attempt,
            details={"why": str(cause)},
        )
        reopen(move)
    except psycopg.Error as error:
        raise Halted(
            f"the attempt failed ({cause}), and so did giving it up: {error}",
            hint="writers may be shut out: run the same command again as soon as the servers "
            "answer; the stream process also tries",
        ) from cause


def reopen(move: Move) -> None:
    """Open the old leader again after an attempt was given up; harmless when repeated."""
    sides = move.sides
    deadline = time.monotonic() + OPEN_S_MAX
    for connection, fences in sides.leader_fences():
        _let_in(sides, connection, [f.table for f in fences], deadline)
    state.set_phase(sides.source, sides.split.name, sides.services, sides.direction.before)
    if move.announced:
        _switch_back(sides)
    journal.record(sides.source, sides.split.name, "reopened", attempt=move.attempt)


def close_follower(sides: Sides) -> int:
    """Shut everyone but the applier out of the follower; returns the number of tables."""
    deadline = time.monotonic() + OPEN_S_MAX
    lock_timeout_ms = sides.limits.lock_timeout_ms
    count = 0
    if sides.direction is Direction.ROLLBACK:
        fences = source_fences(sides.split, sides.services, sides.phases)
        missing = fencing.unfenced(sides.source, fences)
        if missing:
            raise NotReady(
                f"the source is not fenced although it does not lead: {missing[0]}",
                hint="somebody has dropped our triggers; writes to the source may be lost: "
                "run `dbsplit validate` and compare before rolling back",
            )
        return len(fences)
    for service in sides.services:
        target = sides.targets[service]
        fencing.set_up(target)
        fences = [
            *target_fences(sides.split, service, owned=True),
            *target_fences(sides.split, service, owned=False),
        ]
        todo = {str(name) for name in fencing.unfenced(target, fences)}
        fencing.raise_fences(
            target,
            [f for f in fences if any(str(r) in todo for r in f.relations)],
            lock_timeout_ms=lock_timeout_ms,
            deadline=deadline,
        )
        count += len(fences)
    return count


def routes_after(sides: Sides) -> dict[str, str]:
    """Each service with the DSN that is to take its traffic after this move."""
    plan = sides.split.plan
    where = {}
    for service, dsn in ((s, plan.services[s].dsn) for s in plan.services):
        moving = service in sides.services
        moved = sides.phases.get(service) is Phase.MOVED
        leads = sides.direction is Direction.CUTOVER if moving else moved
        where[service] = dsn if leads else plan.source.dsn
    return where


def _others_gone(sides: Sides) -> tuple[str, ...]:
    return tuple(
        s for s, phase in sides.phases.items() if phase is Phase.MOVED and s not in sides.services
    )


def _let_in(sides: Sides, connection: Connection, tables: Sequence[Table], deadline: float) -> None:
    """Open tables, apart from what services that stay away have taken from them."""
    keep = []
    if connection is sides.source:
        keep = source_fences(sides.split, _others_gone(sides), {})
    else:
        guards = insert_guards(sides.split, sides.services)
        keep = [g for s, some in guards.items() if connection is sides.targets[s] for g in some]
    kept = {f.table.name for f in keep}
    lock_timeout_ms = sides.limits.lock_timeout_ms
    fencing.drop_fences(
        connection,
        [table for table in tables if table.name not in kept],
        lock_timeout_ms=lock_timeout_ms,
        deadline=deadline,
    )
    opened = {table.name for table in tables}
    fencing.raise_fences(
        connection,
        [f for f in keep if f.table.name in opened],
        lock_timeout_ms=lock_timeout_ms,
        deadline=deadline,
    )


def _switch_back(sides: Sides) -> None:
    plan = sides.split.plan
    where = {
        service: plan.services[service].dsn
        if sides.phases.get(service) is Phase.MOVED
        else plan.source.dsn
        for service in plan.services
    }
    run_switch(plan.switch, "back", where)


def _tell_targets(sides: Sides) -> None:
    """Let each target know whether it leads, where its applier looks for it."""
    for service in sides.services:
        state.set_phase_in_target(
            sides.targets[service], sides.split.name, service, sides.direction.after
        )
