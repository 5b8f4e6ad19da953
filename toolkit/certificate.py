"""Certificates: the written proof of a cutover or rollback, chained to the journal."""

from __future__ import annotations

import getpass
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdc.connect import Connection
from toolkit import journal
from toolkit.moving import Move
from toolkit.report.certificate import render_certificate


def certify(move: Move, directory: Path | None, *, pause_ms: float) -> Path | None:
    """Write the certificate and journal it; returns the file, if one was asked for.

    The file's `journal` part names the hash of the journal's last row, so that an
    auditor can recompute the chain up to it.
    """
    sides = move.sides
    steps = journal.steps_done(sides.source, sides.split.name, move.attempt)
    document: dict[str, Any] = {
        "split": sides.split.name,
        "direction": sides.direction.value,
        "outcome": sides.direction.outcome,
        "attempt": move.attempt,
        "services": list(sides.services),
        "plan_digest": sides.split.plan.digest,
        "who": f"{_user()}@{socket.gethostname()}",
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "versions": {
            "source": _version(sides.source),
            **{service: _version(target) for service, target in sides.targets.items()},
        },
        "write_pause_ms": pause_ms,
        "fence_point": _of(steps, "drain", "passed"),
        "markers": _of(steps, "marker", "markers"),
        "applied_positions": _of(steps, "drain", "applied"),
        "dirty_keys": _of(steps, "verify", "dirty_keys"),
        "sequences": _of(steps, "sequences", "sequences"),
        "fingerprints": _of(steps, "verify", "fingerprints"),
        "steps": {name: _without_chunks(step) for name, step in steps.items()},
        "tables": _tables(move, steps),
    }
    document["journal"] = {
        "hash": journal.record(
            sides.source, sides.split.name, "certify", attempt=move.attempt, details={}
        )
    }
    path = None
    if directory is not None:
        path = _written(directory, move, document)
    journal.record(
        sides.source,
        sides.split.name,
        "certificate",
        attempt=move.attempt,
        details={
            "path": str(path) if path else None,
            "write_pause_ms": pause_ms,
            "steps_ms": move.steps_ms,
            "document": _plain(document),
        },
    )
    return path


def _written(directory: Path, move: Move, document: dict[str, Any]) -> Path | None:
    """The file, or None if it could not be written: the move is made, and the journal has it."""
    sides = move.sides
    path = directory / f"{sides.split.name}-{sides.direction.value}-{move.attempt}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2, sort_keys=True, default=str) + "\n")
        path.with_suffix(".html").write_text(render_certificate(_plain(document)))
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror or error}"
        move.say("certificate", {"warning": f"{why}; the document is in dbsplit.journal"})
        return None
    return path


def _of(steps: dict[str, Any], step: str, detail: str) -> dict[str, Any]:
    """What a step has noted; nothing of a step that an earlier version has journaled."""
    told: dict[str, Any] = steps.get(step, {}).get(detail, {})
    return told


def _tables(move: Move, steps: dict[str, Any]) -> list[dict[str, Any]]:
    hashes, chunks = (_of(steps, "validate", name) for name in ("hashes", "chunks"))
    rows = move.sides.source.execute(
        "SELECT route, rows, missing, extra, different, state, at::text, since::text"
        " FROM dbsplit.validated WHERE split = %s AND direction = %s AND route = ANY (%s)"
        " ORDER BY route",
        [
            move.sides.split.name,
            move.sides.direction.value,
            [route.id for route in move.sides.split.owned(move.sides.services)],
        ],
    ).fetchall()
    names = ("route", "rows", "missing", "extra", "different", "state", "at", "since")
    told: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in rows]
    for one in told:
        one["hash"] = hashes.get(one["route"])
        if of_table := chunks.get(one["route"]):
            one["chunks"] = of_table
    return told


def _without_chunks(step: Any) -> Any:  # noqa: ANN401 - JSON
    """The tables have them."""
    return {name: told for name, told in step.items() if name != "chunks"}


def _version(connection: Connection) -> str:
    row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return plain
