"""The move of the right to write: a cutover, or the same with the sides exchanged.

Theory of operation.  An attempt is a row of the control schema that is decided
once, by one committed statement.  Before that commit every failure leads back:
the leader's fences fall and its writers go on.  After it every failure leads
forward: the new leader is opened.  Each step is journaled, and each is such that
repeating it does no harm, so that whoever finds an attempt without its process
(the next call, or the stream process) can tell from the attempt and the journal
alone which way to go.  `toolkit.recovery` does that with the functions here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from cdc.connect import Connection
from cdc.crash import crash_point
from plans.catalog import Table
from plans.errors import GivenUp, Halted, NotReady, SplitError
from plans.model import Limits
from toolkit import dirty_keys, fence, journal, markers, state, validation
from toolkit.back import ensure_way_back
from toolkit.gates import Gate, Readiness, decide, require_open
from toolkit.observe import fingerprints, lag_bytes, observe
from toolkit.renumber import renumber
from toolkit.sides import Sides, insert_guards, source_fences, target_fences
from toolkit.state import Direction, Phase
from toolkit.switch import SwitchFailed, run_switch
from validators.session import Ends

LAG_S_MAX = 30.0
WAY_BACK_S_MAX = 60.0
OPEN_S_MAX = 60.0
CANARY_S_MAX = 30.0

Say = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True)
class Move:
    """One attempt under way."""

    sides: Sides
    attempt: int
    say: Say
    ends: Mapping[str, Ends] = field(default_factory=dict)  # for comparing keys
    deadline: float = 0.0  # of time.monotonic(), once the pause has begun
    paused_at: float = 0.0
    steps_ms: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    announced: bool = False  # the switch was told to prepare

    @property
    def pause_ms(self) -> float:
        """How long nobody has been able to write, until now."""
        return round((time.monotonic() - self.paused_at) * 1000, 1) if self.paused_at else 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Journal a step before and after, and time it if writers wait."""
        split, source = self.sides.split.name, self.sides.source
        journal.record(source, split, name, "begin", attempt=self.attempt)
        began = time.monotonic()
        details: dict[str, Any] = {}
        yield details
        took = round((time.monotonic() - began) * 1000, 1)
        if self.paused_at:
            self.steps_ms[name] = took
        self.facts[name] = details
        journal.record(source, split, name, attempt=self.attempt, details={**details, "ms": took})
        self.say(name, {**details, "ms": took})


def make_ready(move: Move) -> None:
    """Everything that can be done while writers go on."""
    sides = move.sides
    with move.step("preflight"):
        _await_lag(sides)
        observed = observe(sides, compared=None)
        require_open([gate for gate in _gates(sides, observed) if gate.gate != "validated"])
    with move.step("reverse_slot") as details:
        details["back"] = ensure_way_back(sides, WAY_BACK_S_MAX)
        crash_point("cutover.reverse_slot")
    with move.step("close_follower") as details:
        details["closed"] = close_follower(sides)
        crash_point("cutover.target_closed")
    with move.step("validate") as details:
        # What was proven before the targets were closed may have been written since.
        compared = _compared(move, details)
        crash_point("cutover.validated")
    with move.step("gates") as details:
        _await_lag(sides)
        move.fingerprints = fingerprints(sides)
        observed = observe(sides, compared=compared)
        verification_s = dirty_keys.verification_s(sides, move.ends, compared)
        move.gates = _gates(sides, replace(observed, verification_s=verification_s))
        details["gates"] = [gate.as_dict() for gate in move.gates]
        require_open(move.gates)
    with move.step("announce"):
        move.announced = True
        run_switch(sides.split.plan.switch, "prepare", routes_after(sides))
    with move.step("recheck") as details:
        details["dirty_keys"] = dirty_keys.shrink_dirty(sides, move.ends)


def _compared(move: Move, details: dict[str, Any]) -> validation.Compared:
    sides = move.sides
    compared = validation.validate(
        sides.split,
        sides.split.owned(sides.services),
        sides.direction,
        sides.source,
        move.say,
        validation.Asked(resume=False),
    )
    details["tables"] = len(compared.results)
    details["differences"] = compared.differences
    details["hashes"] = {r.route: r.fingerprint for r in compared.results if r.fingerprint}
    return compared


def pause(move: Move) -> None:
    """From the first refused write to the decision; GivenUp if time runs out."""
    sides = move.sides
    seconds = _limits(sides).write_pause_s_max
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
            fence.set_up(connection)
            details |= fence.raise_fences(
                connection,
                fences,
                lock_timeout_ms=_limits(move.sides).lock_timeout_ms,
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


def _await_lag(sides: Sides) -> None:
    """Give a stream that is behind for a moment the time to catch up; the gate decides."""
    deadline = time.monotonic() + LAG_S_MAX
    while time.monotonic() < deadline:
        if all(lag_bytes(sides, s) <= _limits(sides).lag_bytes_max for s in sides.movers):
            return
        time.sleep(0.2)


def close_follower(sides: Sides) -> int:
    """Shut everyone but the applier out of the follower; returns the number of tables."""
    deadline = time.monotonic() + OPEN_S_MAX
    lock_timeout_ms = _limits(sides).lock_timeout_ms
    count = 0
    if sides.direction is Direction.ROLLBACK:
        fences = source_fences(sides.split, sides.services, sides.phases)
        missing = fence.unfenced(sides.source, fences)
        if missing:
            raise NotReady(
                f"the source is not fenced although it does not lead: {missing[0]}",
                hint="somebody has dropped our triggers; writes to the source may be lost: "
                "run `dbsplit validate` and compare before rolling back",
            )
        return len(fences)
    for service in sides.services:
        target = sides.targets[service]
        fence.set_up(target)
        fences = [
            *target_fences(sides.split, service, owned=True),
            *target_fences(sides.split, service, owned=False),
        ]
        todo = {str(name) for name in fence.unfenced(target, fences)}
        fence.raise_fences(
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


def _gates(sides: Sides, observed: Readiness) -> list[Gate]:
    return decide(observed, _limits(sides), sides.split.plan.path)


def _limits(sides: Sides) -> Limits:
    return sides.split.plan.limits


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
    lock_timeout_ms = _limits(sides).lock_timeout_ms
    fence.drop_fences(
        connection,
        [table for table in tables if table.name not in kept],
        lock_timeout_ms=lock_timeout_ms,
        deadline=deadline,
    )
    opened = {table.name for table in tables}
    fence.raise_fences(
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


def _recheck(sides: Sides) -> None:
    """Check, after the marker, that the fence is still what it was."""
    for connection, fences in sides.leader_fences():
        missing = fence.unfenced(connection, fences)
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


def _tell_targets(sides: Sides) -> None:
    """Let each target know whether it leads, where its applier looks for it."""
    for service in sides.services:
        state.set_phase_in_target(
            sides.targets[service], sides.split.name, service, sides.direction.after
        )


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that an operator is told, and not a bug."""
    return isinstance(error, SplitError | psycopg.Error | KeyboardInterrupt)
