"""The orchestrator at work: it moves an order, and refuses to move another."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from cdc.connect import connect


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of two moves, in words."""

    accepted: str
    refused: str


def move_orders(dsn: str) -> Moves:
    """Try a legal move and an illegal one, as the role that the DSN names.

    Raises RuntimeError if the database does not tell them apart.
    """
    with connect(dsn, name="orchestrator") as orchestrator:
        legal = orchestrator.execute(
            "SELECT o.order_id, o.state, t.to_state, o.version FROM order_state AS o"
            " JOIN legal_transition AS t ON t.from_state = o.state"
            " WHERE o.state = 'APPROVED' AND t.to_state = 'PRODUCTION'"
            " ORDER BY o.priority, o.due_order, o.order_id LIMIT 1"
        ).fetchone()
        illegal = orchestrator.execute(
            "SELECT order_id, state, version FROM order_state WHERE state = 'CLOSED'"
            " ORDER BY order_id LIMIT 1"
        ).fetchone()
        if legal is None or illegal is None:
            raise RuntimeError("the bundled case has no order that can be moved")
        order, before, after, version = legal
        move = "SELECT move_order(%s, %s, %s)"
        orchestrator.execute(move, [order, after, version])
        accepted = f"order {order} went from {before} to {after}"
        order, _, version = illegal
        try:
            orchestrator.execute(move, [order, "PRODUCTION", version])
        except psycopg.errors.CheckViolation as error:
            return Moves(accepted, error.diag.message_primary or str(error))
    raise RuntimeError(f"order {order} was closed, and could be put into production again")
