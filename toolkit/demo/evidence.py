"""What the databases themselves say afterwards about how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from cdc.connect import Connection, connect
from toolkit.demo.stage import SOURCE, Stage
from toolkit.report.model import (
    Contradiction,
    IllegalTransition,
    Pause,
    PauseStep,
    PhaseSpan,
    ServerInfo,
)
from toolkit.state import Phase

LISTED_MAX: Final = 50
_NO_PAUSE: Final = "canary"  # timed with the steps of the pause, but nobody waits for it
_SYSTEM: Final = {"shop": "the shop", "crm": "the CRM", "mes": "the MES"}


def read_servers(stage: Stage) -> list[ServerInfo]:
    """The servers and their versions."""
    found = []
    for name in stage.servers:
        with connect(stage.dsn(name), name="dbsplit demo") as connection:
            version = _value(connection, "SELECT current_setting('server_version')")
        role = "source" if name == SOURCE else "target"
        found.append(ServerInfo(name=name, version=f"PostgreSQL {version}", role=role))
    return found


def read_changes(stage: Stage) -> int:
    """Changes that were carried over, in either direction; gone once the split is complete."""
    total = 0
    for name in stage.servers:
        with connect(stage.dsn(name), name="dbsplit demo") as connection:
            total += int(_value(connection, "SELECT sum(changes)::bigint FROM dbsplit.progress"))
    return total


def read_phases(
    source: Connection, split: str, services: Sequence[str], *, began: float, ended: float
) -> list[PhaseSpan]:
    """How long each service was in which phase, from the events of the control schema."""
    rows = source.execute(
        "SELECT extract(epoch FROM at)::float8, details FROM dbsplit.event"
        " WHERE split = %s AND kind = 'phase' ORDER BY id",
        [split],
    ).fetchall()
    spans = []
    for service in services:
        changes = [(began, Phase.PLANNED.value)]
        for at, details in rows:
            if service in details["services"] and details["phase"] != changes[-1][1]:
                changes.append((at, details["phase"]))
        changes.append((ended, ""))
        spans += [
            PhaseSpan(service=service, phase=phase, begin=begin, end=end)
            for (begin, phase), (end, _) in pairwise(changes)
        ]
    return spans


def read_pauses(
    source: Connection, split: str, moves: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[Pause]:
    """The pauses of the moves that were made, each with its name and its verb's result."""
    rows = source.execute(
        "SELECT extract(epoch FROM min(j.at))::float8 FROM dbsplit.attempt AS a"
        " JOIN dbsplit.journal AS j ON j.attempt = a.id AND j.split = a.split"
        " WHERE a.split = %s AND a.outcome IN ('moved', 'returned')"
        " AND j.step = 'fence' AND j.state = 'begin' GROUP BY a.id ORDER BY a.id",
        [split],
    ).fetchall()
    return [
        Pause(
            what=what,
            begin=begin,
            total_ms=result["write_pause_ms"],
            steps=[
                PauseStep(name=name, ms=ms)
                for name, ms in result["steps_ms"].items()
                if name != _NO_PAUSE
            ],
        )
        for (begin,), (what, result) in zip(rows, moves, strict=True)
    ]


def read_contradictions(orchestrator: Connection, listed: Mapping[str, Any]) -> list[Contradiction]:
    """Orders of the plan's list of contradictions, with what the orchestrator made of each."""
    orders = [dict(zip(listed["columns"], row, strict=True)) for row in listed["rows"]]
    rows = orchestrator.execute(
        "SELECT o.order_id::text, o.state, w.system, w.precedence FROM order_state AS o"
        " JOIN winning_claim AS w USING (order_id) WHERE o.order_id = ANY (%s)",
        [[int(order["order_id"]) for order in orders[:LISTED_MAX]]],
    ).fetchall()
    resolved = {order_id: rest for order_id, *rest in rows}
    return [
        Contradiction(
            order_id=order["order_id"],
            shop=order["shop"],
            crm=order["crm"],
            mes=order["mes"],
            resolved=state,
            why=f"{_SYSTEM[system]} is believed here (precedence {precedence})",
        )
        for order in orders
        for state, system, precedence in [resolved.get(order["order_id"], (None, "", 0))]
        if state is not None
    ]


def count_resolved(orchestrator: Connection) -> int:
    """Orders of which the systems disagree, and which have one state nevertheless."""
    return int(
        _value(orchestrator, "SELECT count(*) FROM contradiction WHERE resolved IS NOT NULL")
    )


def illegal_transitions(listed: Mapping[str, Any]) -> list[IllegalTransition]:
    """The rows of the plan's list of illegal transitions."""
    steps = [dict(zip(listed["columns"], row, strict=True)) for row in listed["rows"]]
    return [
        IllegalTransition(
            order_id=step["order_id"],
            source=step["system"],
            before=step["from_status"],
            after=step["to_status"],
            why=f"written by {step['actor']} at {step['changed_at']}",
        )
        for step in steps[:LISTED_MAX]
    ]


def _value(connection: Connection, query: str) -> Any:  # noqa: ANN401
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row and row[0] is not None else 0
