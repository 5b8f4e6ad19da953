"""Before the pause: everything of a move that can be done while writers go on."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cdc.crash import crash_point
from toolkit import dirty_keys, validation
from toolkit.back import ensure_way_back
from toolkit.gates import decide, require_open
from toolkit.moving import Move
from toolkit.need import require
from toolkit.observe import fingerprints, lag_bytes, observe
from toolkit.opening import close_follower, routes_after
from toolkit.ready import writable
from toolkit.sides import Sides
from toolkit.switch import run_switch

LAG_S_MAX = 30.0
WAY_BACK_S_MAX = 60.0


def make_ready(move: Move) -> None:
    """Everything that can be done while writers go on."""
    sides = move.sides
    with move.step("preflight"):
        _preflight(sides)
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
        observed = replace(observed, verification_s=verification_s)
        move.gates = decide(observed, sides.limits, sides.split.plan.path)
        details["gates"] = [gate.as_dict() for gate in move.gates]
        require_open(move.gates)
    with move.step("announce"):
        move.announced = True
        run_switch(sides.split.plan.switch, "prepare", routes_after(sides))
    with move.step("recheck") as details:
        details["dirty_keys"] = dirty_keys.shrink_dirty(sides, move.ends)


def _preflight(sides: Sides) -> None:
    require(writable(target, f"service {name}") for name, target in sides.targets.items())
    _await_lag(sides)
    observed = observe(sides, compared=None)
    gates = decide(observed, sides.limits, sides.split.plan.path)
    require_open([gate for gate in gates if gate.gate != "validated"])


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
    details["chunks"] = {r.route: [c.as_dict() for c in r.chunks] for r in compared.results}
    return compared


def _await_lag(sides: Sides) -> None:
    """Give a stream that is behind for a moment the time to catch up; the gate decides."""
    deadline = time.monotonic() + LAG_S_MAX
    while time.monotonic() < deadline:
        if all(lag_bytes(sides, s) <= sides.limits.lag_bytes_max for s in sides.movers):
            return
        time.sleep(0.2)
