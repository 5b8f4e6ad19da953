"""Findings on tables whose own writes a server would refuse once they are published.

From 18 on it refuses UPDATE and DELETE where old rows are logged in full and a generated
column isn't published with them (CheckCmdReplicaIdentity in its execReplication.c).  Ours
aren't, so that each server computes them itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from plans.catalog import Catalog, Table
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.routes import Route

GENERATED_REFUSED: Final = 180_000
"""The server_version_num from which on such writes are refused."""


def check_source_identity(subject: Subject) -> Iterator[Finding]:
    """Tables that the source's applications could not change after `prepare`."""
    version = subject.catalog.server_version
    for table, routes in _followed(subject):
        generated = generated_columns(table)
        if generated and version >= GENERATED_REFUSED and _logged_in_full(subject.catalog, routes):
            yield subject.finding(
                Severity.BLOCKER, "identity-generated", table.name, table.name,
                f"its old rows are to be logged in full, and {', '.join(generated)} is generated",
                why=_why(version),
                remedy=_remedy(subject.catalog, table, routes),
            )  # fmt: skip


def check_target_identity(subject: Subject, service: str, version: int) -> Iterator[Finding]:
    """Tables that a service could not change after its cutover, on a server of this version.

    What the source's server would refuse as well is told of the source.
    """
    if version < GENERATED_REFUSED or subject.catalog.server_version >= GENERATED_REFUSED:
        return
    for table, routes in _followed(subject):
        for route in routes:
            owned = route.kind.owned and route.service == service
            # The target's table gets its identity from the source's, as that is by then.
            if owned and route.generated and _logged_in_full(subject.catalog, routes):
                yield subject.finding(
                    Severity.BLOCKER, "identity-generated", route.id, table.name,
                    f"from the cutover on its old rows are logged in full in {service}'s database,"
                    f" and {', '.join(route.generated)} is generated",
                    why=_why(version),
                    remedy=_remedy(subject.catalog, table, routes),
                )  # fmt: skip


def generated_columns(table: Table) -> tuple[str, ...]:
    """The columns that no publication of ours has."""
    return tuple(column.name for column in table.columns if column.generated is not None)


def _followed(subject: Subject) -> Iterator[tuple[Table, list[Route]]]:
    """The source's tables whose changes can be followed, each with its routes."""
    tables = {route.source.name: route.source for route in subject.routes}
    for name, table in sorted(tables.items()):
        if set(generated_columns(table)).isdisjoint(table.key):
            yield table, [route for route in subject.routes if route.source.name == name]


def _logged_in_full(catalog: Catalog, routes: Sequence[Route]) -> bool:
    """Whether the table is left with REPLICA IDENTITY FULL, or is given it, or a partition is."""
    table = routes[0].source
    if any(route.needs_old_rows for route in routes):
        return True
    return any(catalog.tables[leaf].replica_identity == "f" for leaf in table.leaves)


def _why(version: int) -> str:
    return (
        f"PostgreSQL {version // 10_000} refuses all updates and deletes of a table that is"
        " published so"
    )


def _remedy(catalog: Catalog, table: Table, routes: Sequence[Route]) -> str:
    steps = []
    widened = [route.id for route in routes if route.needs_full_identity]
    if not table.key:
        steps.append("add a primary key that is not deferrable")
    elif widened:
        steps.append(f"let the key of {widened[0]} be made of {', '.join(table.key)} alone")
    if table.has_deferrable_key:
        steps.append("make the key NOT DEFERRABLE, or choose REPLICA IDENTITY USING INDEX …")
    relations = (table, *(catalog.tables[leaf] for leaf in table.leaves))
    steps += [
        f"ALTER TABLE {one.name.identifier.as_string()} REPLICA IDENTITY DEFAULT"
        for one in relations
        if one.replica_identity in "fn"
    ]
    return f"{'; '.join(steps)}; or drop the generated column"
