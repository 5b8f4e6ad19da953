"""The pause of a move, in which nobody can write: from the first fence to the decision."""

from __future__ import annotations

import time

from cdc.crash import crash_point
from plans.errors import GivenUp
from toolkit import dirty_keys, fencing, journal, markers, state
from toolkit.moving import Move
from toolkit.observe import fingerprints
from toolkit.renumber import renumber
from toolkit.sides import Sides
from toolkit.state import Direction, Phase


def pause(move: Move) -> None:
    """From the first refused write to the decision; GivenUp if time runs out."""
    sides = move.sides
    seconds = sides.limits.write_pause_s_max
    state.set_deadline(sides.source, move.attempt, seconds)
    state.set_phase(sides.source, sides.split.name, sides.services, Phase.DRAINING)
    move.paused_at = time.monotonic()
    move.deadline = move.paused_at + seconds
    crash_point("cutover.paused")
    _fence_leaders(move)
    _drain_to_marker(move)
    _verify(move)
    _ready_follower(move)
    _in_time(move, "the decision")


def _fence_leaders(move: Move) -> None:
    with move.step("fence") as details:
        for connection, fences in move.sides.leader_fences():
            fencing.set_up(connection)
            details |= fencing.raise_fences(
                connection,
                fences,
                lock_timeout_ms=move.sides.limits.lock_timeout_ms,
                deadline=move.deadline,
            )
        crash_point("cutover.fenced")


def _drain_to_marker(move: Move) -> None:
    sides = move.sides
    with move.step("marker") as details:
        emitted = {s: markers.emit(sides.leader(s)) for s in sides.movers}
        details["markers"] = emitted
        _recheck(sides)
        crash_point("cutover.marker")
    with move.step("drain") as details:
        details["passed"] = {s: _drain(move, s, emitted[s]) for s in sides.movers}
        if sides.direction is Direction.ROLLBACK:
            details["source"] = _drain_source(move)
        details["applied"] = {s: _applied(sides, s) for s in sides.movers}
        state.set_phase(sides.source, sides.split.name, sides.services, Phase.SETTLED)
        crash_point("cutover.drained")


def _verify(move: Move) -> None:
    sides = move.sides
    with move.step("verify") as details:
        details |= dirty_keys.verify_dirty(sides, move.ends, move.deadline)
        details["fingerprints"] = fingerprints(sides)
        if details["fingerprints"] != move.fingerprints:
            raise GivenUp(
                "columns of the moved tables have changed since the gates were passed",
                hint="undo the change, or abort and prepare again",
            )
        crash_point("cutover.verified")


def _ready_follower(move: Move) -> None:
    with move.step("sequences") as details:
        details["sequences"] = renumber(move.sides, deadline=move.deadline)
        crash_point("cutover.sequences")
    with move.step("way_back"):
        _require_way_back(move)


def decide_move(move: Move) -> None:
    """The point of no return: one commit says that the follower leads from here on.

    GivenUp if somebody has decided otherwise in the meantime.
    """
    sides, split = move.sides, move.sides.split.name
    with sides.source.transaction():
        if not state.end_attempt(sides.source, move.attempt, sides.direction.outcome):
            raise GivenUp(
                "the attempt was given up by another process, its time being over",
                hint="repeat the command",
            )
        state.set_phase(sides.source, split, sides.services, sides.direction.after)
        state.advance_epoch(sides.source, split, sides.services)
        journal.record(
            sides.source,
            split,
            "owns",
            attempt=move.attempt,
            details={"services": sides.services, "outcome": sides.direction.outcome},
        )
    crash_point("cutover.owns")


def _recheck(sides: Sides) -> None:
    """Check, after the marker, that the fence is still what it was."""
    for connection, fences in sides.leader_fences():
        missing = fencing.unfenced(connection, fences)
        if missing:
            raise GivenUp(
                f"the fence of {missing[0]} was removed while writers were to wait",
                hint="find who drops triggers, then repeat the command",
            )


def _drain(move: Move, service: str, marker: str) -> str:
    sides = move.sides
    passed = markers.wait_passed(
        sides.follower(service), sides.stream(service), marker, move.deadline
    )
    if passed is None:
        raise GivenUp(
            f"service {service} did not catch up within the write pause",
            hint="is the stream process alive? allow a longer limits.write_pause_s_max, or "
            "choose a quieter time",
        )
    return passed


def _applied(sides: Sides, service: str) -> str | None:
    row = (
        sides.follower(service)
        .execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [sides.stream(service)]
        )
        .fetchone()
    )
    return row[0] if row else None


def _drain_source(move: Move) -> dict[str, str]:
    """Before the source leads again: its own stream has passed what came back.

    Otherwise a change of another service, still on its way, would overwrite columns
    of a table split by column with what the source held before.
    """
    sides = move.sides
    marker = markers.emit(sides.source)
    passed = {}
    for service in sides.movers:
        stream = sides.return_stream(service)
        at = markers.wait_passed(sides.targets[service], stream, marker, move.deadline)
        if at is None:
            raise GivenUp(f"the stream to service {service} did not catch up", hint="repeat it")
        passed[service] = at
    return passed


def _require_way_back(move: Move) -> None:
    sides = move.sides
    for service in sides.movers:
        left = move.deadline - time.monotonic()
        if sides.direction is Direction.CUTOVER and not markers.passes(
            sides.targets[service], sides.source, sides.return_stream(service), max(left, 0)
        ):
            raise GivenUp(
                f"nothing carries the changes of service {service} back to the source",
                hint="is the stream process alive? see its output, then repeat the command",
            )


def _in_time(move: Move, what: str) -> None:
    if time.monotonic() > move.deadline:
        raise GivenUp(
            f"the write pause was over before {what}",
            hint="allow a longer limits.write_pause_s_max, or choose a quieter time",
        )
