"""What a target's server has that its schema depends on."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.connect import Connection, connect
from plans.schema.ddl import Target, TargetSchema
from plans.schema.target import target_schema
from toolkit.opened import Split


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


def schema_of(
    split: Split,
    source: Connection,
    service: str,
    server: TargetServer,
) -> TargetSchema:
    """A service's schema on such a server."""
    replaced = split.plan.foreign_keys.items()
    return target_schema(
        source,
        split.plan.source.schemas,
        split.routes,
        Target(
            service=service,
            version=server.version,
            roles=tuple(r for r in split.plan.services[service].roles if r in server.roles),
            reference_keys=frozenset(n for n, cut in replaced if cut.replace_with == "reference"),
            checked_keys=frozenset(n for n, cut in replaced if cut.replace_with == "orphan_check"),
            extensions=server.extensions,
        ),
    )


def noted_line(target: Connection, split: str) -> tuple[str, list[str]] | None:
    """The plan's digest that the schema was first made for, and what refreshed it since."""
    row = target.execute(
        "SELECT plan_digest, coalesce(settings -> 'refreshes', '[]')"
        " FROM dbsplit.split WHERE split = %s",
        [split],
    ).fetchone()
    return (row[0], row[1]) if row else None
