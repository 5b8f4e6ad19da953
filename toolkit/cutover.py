"""Cutover and rollback, from the command to the certificate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from cdc.connect import Connection
from cdc.crash import crash_point
from plans.errors import (
    GateClosed,
    GivenUp,
    Halted,
    Interrupted,
    NotReady,
    PlanInvalid,
    SplitError,
)
from toolkit import locks, state
from toolkit.before_pause import make_ready
from toolkit.certificate import certify
from toolkit.dirty_keys import open_ends
from toolkit.freshness import read_freshness
from toolkit.gates import Gate, decide
from toolkit.left_behind import refused_meanwhile
from toolkit.moving import Move
from toolkit.observe import observe
from toolkit.opened import Split
from toolkit.opening import give_up, open_new_leader, watch_canary
from toolkit.prepared import require_prepared
from toolkit.recovery import recover
from toolkit.say import Say
from toolkit.sides import Sides, open_sides
from toolkit.state import Direction, Phase
from toolkit.write_pause import decide_move, pause


@dataclass(frozen=True, slots=True)
class Moved:
    """How an attempt ended."""

    outcome: str  # moved, returned, aborted or ready
    services: tuple[str, ...]
    write_pause_ms: float
    certificate: str | None
    steps_ms: dict[str, float]
    gates: tuple[Gate, ...] = ()
    reason: str = ""
    refused_meanwhile: tuple[str, ...] = ()
    """What the source refuses of services that stay, once these have moved; of a dry run."""

    def as_dict(self) -> dict[str, Any]:
        """The result object that scripts read."""
        return {
            "outcome": self.outcome,
            "services": list(self.services),
            "write_pause_ms": self.write_pause_ms,
            "certificate": self.certificate,
            "steps_ms": self.steps_ms,
            "gates": [gate.as_dict() for gate in self.gates],
            **({"reason": self.reason} if self.reason else {}),
            **(
                {"refused_meanwhile": list(self.refused_meanwhile)}
                if self.refused_meanwhile
                else {}
            ),
        }


def move(
    split: Split,
    direction: Direction,
    services: Iterable[str],
    *,
    directory: Path,
    say: Say,
    rehearse: bool = False,
) -> Moved:
    """Give the right to write to the follower of each service, or give up.

    `directory` receives the certificate.  Raises GateClosed before anything was
    changed for writers, GivenUp when the old leader takes writes again, Halted
    when an operator is needed.
    """
    with locks.sole_runner(split.plan.source.dsn, split.name, locks.CUTOVER) as control:
        require_prepared(split.plan, split.catalog, control)
        recover(split, control, directory=directory, say=say, holding_lock=True)
        now = state.phases(control, split.name)
        chosen = _choose(split, direction, services, now)
        if not chosen:
            return _already(split, control, direction, services)
        _require_phase(split, chosen, direction, now)
        if not locks.is_held(control, split.name, locks.STREAM):
            raise NotReady(
                "no stream process is running, and without it nothing follows",
                hint=f"start it, in a process of its own: dbsplit stream {split.plan.path}; if one"
                " is reconnecting, repeat this when it is back, within seconds",
            )
        with open_sides(split, direction, chosen, now, source=control) as sides:
            return _attempt(sides, directory=directory, say=say, rehearse=rehearse)


def dry_run(split: Split, direction: Direction, services: Iterable[str]) -> Moved:
    """What a move would find now; changes nothing."""
    from cdc.connect import connect

    with connect(split.plan.source.dsn, name="dbsplit dry-run") as control:
        require_prepared(split.plan, split.catalog, control)
        now = state.phases(control, split.name)
        chosen = _choose(split, direction, services, now)
        if not chosen:
            return _already(split, control, direction, services)
        _require_phase(split, chosen, direction, now)
        with open_sides(split, direction, chosen, now) as sides:
            differing = _known_to_differ(split, control, chosen, now)
            observed = replace(observe(sides, compared=None), differences=differing)
            gates = [
                gate
                for gate in decide(observed, split.plan.limits, split.plan.path)
                # Comparing is a step of the attempt itself.
                if gate.gate != "validated" or differing
            ]
        away = {service for service, phase in now.items() if phase is Phase.MOVED}
        gone = away | set(chosen) if direction is Direction.CUTOVER else away - set(chosen)
        refused = refused_meanwhile(split, control, gone)
    closed = [gate for gate in gates if not gate.ok]
    if closed:
        said = "; ".join(f"{g.gate} is {g.observed}, limit {g.limit}" for g in closed)
        error = GateClosed(f"gate closed: {said}", hint="; ".join(g.remedy for g in closed))
        error.result = {
            "gates": [gate.as_dict() for gate in gates],
            "refused_meanwhile": list(refused),
        }
        raise error
    return Moved("ready", chosen, 0.0, None, {}, tuple(gates), refused_meanwhile=refused)


def _known_to_differ(
    split: Split, control: Connection, services: Iterable[str], now: Mapping[str, Phase]
) -> int:
    """How many rows differed when they were last compared, however long ago."""
    owned = split.owned(services)
    return sum(one.differing for one in read_freshness(control, split.name, owned, now))


def _attempt(sides: Sides, *, directory: Path, say: Say, rehearse: bool) -> Moved:
    split = sides.split
    attempt = state.begin_attempt(sides.source, split.name, sides.services, sides.direction)
    moving = Move(sides, attempt, say)
    try:
        _until_decided(moving, rehearse=rehearse)
    except BaseException as error:
        if not isinstance(error, SplitError | psycopg.Error | KeyboardInterrupt):  # a bug
            give_up(moving, error)
            raise
        return _gave_up(moving, error, directory)
    try:
        return _finish(moving, directory)
    except KeyboardInterrupt:
        interrupted = Interrupted(
            "interrupted after the decision: the right to write has moved",
            hint="run the same command again: it goes on from here, as the stream process does",
        )
        interrupted.result = {"outcome": "halted", "services": list(sides.services)}
        raise interrupted from None
    except (psycopg.Error, SplitError) as error:
        halted = error if isinstance(error, Halted) else _halted(moving, error)
        halted.result |= {"services": list(sides.services), "write_pause_ms": moving.pause_ms}
        raise halted from None


def _finish(moving: Move, directory: Path) -> Moved:
    """What follows the decision; from here on it only goes forward."""
    open_new_leader(moving)
    pause_ms = moving.pause_ms
    watch_canary(moving)
    certificate = certify(moving, directory, pause_ms=pause_ms)
    crash_point("cutover.certificate")
    return Moved(
        moving.sides.direction.outcome,
        moving.sides.services,
        pause_ms,
        str(certificate) if certificate else None,
        moving.steps_ms,
        tuple(moving.gates),
    )


def _halted(moving: Move, error: BaseException) -> Halted:
    """The decision stands, so that no other exit code would tell where the split is."""
    said = (
        "and the new side is open, but not everything after it was done"
        if "open" in moving.facts
        else "but the new side could not be opened"
    )
    return Halted(
        f"the right to write has moved, {said}: {error}",
        hint="see to the servers, then run the same command again: it goes on from here",
    )


def _until_decided(moving: Move, *, rehearse: bool) -> None:
    with open_ends(moving.sides) as moving.ends:
        make_ready(moving)
        pause(moving)
        if rehearse:
            raise _Rehearsed("rehearsal: everything up to the decision was done, and undone")
        decide_move(moving)


class _Rehearsed(SplitError):
    exit_code = 0


def _gave_up(moving: Move, error: BaseException, directory: Path) -> Moved:
    try:
        give_up(moving, error)
    except Halted:
        ended = _ended_anew(moving, directory)
        if ended is None:
            raise
        if ended.outcome != "aborted":  # the decision was made, and its answer cut off
            return ended
    pause_ms = moving.pause_ms
    if isinstance(error, _Rehearsed):
        return _aborted(moving, str(error))
    if isinstance(error, GateClosed | NotReady) and not moving.paused_at:
        raise error
    hint = error.hint if isinstance(error, SplitError) else "repeat the command"
    leader = (
        "the source takes" if moving.sides.direction is Direction.CUTOVER else "the targets take"
    )
    given_up: SplitError
    if isinstance(error, KeyboardInterrupt):
        given_up = Interrupted(f"interrupted, and given up: {leader} writes again", hint=hint)
    else:
        given_up = GivenUp(f"given up, {leader} writes again: {error}", hint=hint)
    given_up.result = {
        "services": list(moving.sides.services),
        "write_pause_ms": pause_ms,
        "steps_ms": moving.steps_ms,
    }
    raise given_up from None


def _ended_anew(moving: Move, directory: Path) -> Moved | None:
    """End the attempt as whoever comes next would; None if that is not possible either.

    None, too, if another one has moved the services since: who leads is not ours to tell.
    An interruption in the middle of an answer, or whoever ends sessions, leaves one of no
    more use.
    """
    split, direction = moving.sides.split, moving.sides.direction
    moving.sides.source.close()
    deadline = time.monotonic() + locks.RECOVERY_S_MAX
    while True:
        try:
            with locks.sole_runner(split.plan.source.dsn, split.name, locks.CUTOVER) as control:
                recover(split, control, directory=directory, say=moving.say, holding_lock=True)
                outcome = state.outcome(control, moving.attempt)
                now = state.phases(control, split.name)
                there = direction.before if outcome == "aborted" else direction.after
                if any(now.get(service) is not there for service in moving.sides.services):
                    return None
                if outcome == "aborted":
                    return _aborted(moving)
                return _already(split, control, direction, moving.sides.services)
        except locks.Held as held:
            # The server ends the session that we have closed in a moment.
            if not held.ours or time.monotonic() > deadline:
                return None
            time.sleep(locks.POLL_S)
        except (psycopg.Error, SplitError):
            return None


def _aborted(moving: Move, reason: str = "") -> Moved:
    return Moved(
        "aborted",
        moving.sides.services,
        moving.pause_ms,
        None,
        moving.steps_ms,
        tuple(moving.gates),
        reason,
    )


def _choose(
    split: Split, direction: Direction, services: Iterable[str], now: dict[str, Phase]
) -> tuple[str, ...]:
    """The services to move: those named, or all that have not gone that way yet."""
    named = tuple(dict.fromkeys(services))
    unknown = [service for service in named if service not in split.plan.services]
    if unknown:
        raise PlanInvalid(
            f"the plan has no service {unknown[0]!r}",
            hint=f"its services are {', '.join(split.plan.services)}",
        )
    chosen = named or tuple(split.plan.services)
    return tuple(s for s in chosen if now.get(s) is not direction.after)


def _require_phase(
    split: Split, services: tuple[str, ...], direction: Direction, now: dict[str, Phase]
) -> None:
    wrong = [s for s in services if now.get(s) is not direction.before]
    if wrong:
        phase = now.get(wrong[0], Phase.PLANNED).value
        raise GateClosed(
            f"service {wrong[0]} is {phase}, and a {direction.value} begins when it is "
            f"{direction.before.value}",
            hint=_next_step(split, now.get(wrong[0], Phase.PLANNED)),
        )


def _next_step(split: Split, phase: Phase) -> str:
    """What leads on from a phase in which no move can begin."""
    path = split.plan.path
    match phase:
        case Phase.PLANNED | Phase.PREPARED | Phase.COPYING:
            return f"run `dbsplit copy {path}`, then `dbsplit stream {path}`"
        case Phase.FOLLOWING:
            return f"run `dbsplit cutover {path}`"
        case Phase.MOVED:
            return f"run `dbsplit rollback {path}`, or `dbsplit complete {path}`"
        case Phase.DRAINING | Phase.SETTLED:
            return "an attempt is under way: see `dbsplit status`"
        case Phase.COMPLETED:
            return "the split has ended: there is no way back"


def _already(
    split: Split, control: Connection, direction: Direction, services: Iterable[str]
) -> Moved:
    """Nothing was left to do: tell of the attempt that did it."""
    wanted = set(services) or set(split.plan.services)
    for attempt in state.attempts(control, split.name):
        if attempt.outcome == direction.outcome and wanted & set(attempt.services):
            row = control.execute(
                "SELECT details FROM dbsplit.journal WHERE split = %s AND attempt = %s"
                " AND step = 'certificate' AND state = 'done'",
                [split.name, attempt.id],
            ).fetchone()
            told = row[0] if row else {}
            return Moved(
                direction.outcome,
                tuple(s for s in split.plan.services if s in attempt.services),
                told.get("write_pause_ms", 0.0),
                told.get("path"),
                told.get("steps_ms", {}),
            )
    raise GateClosed(
        "no service has been moved" if direction is Direction.ROLLBACK else "nothing to move",
        hint="see `dbsplit status`",
    )
