"""What a target's server has that its schema depends on."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.connect import connect


@dataclass(frozen=True, slots=True)
class TargetServer:
    """A server as a schema is made for it."""

    version: int  # server_version_num
    roles: frozenset[str]
    extensions: frozenset[str] | None  # that it offers; None if unknown


def ask_server(dsn: str) -> TargetServer:
    """The server that `dsn` leads to; NotReady if it does not let us in."""
    with connect(dsn, name="dbsplit schema") as target:
        roles = target.execute("SELECT rolname FROM pg_roles").fetchall()
        extensions = target.execute("SELECT name FROM pg_available_extensions").fetchall()
        return TargetServer(
            target.info.server_version,
            frozenset(row[0] for row in roles),
            frozenset(row[0] for row in extensions),
        )
