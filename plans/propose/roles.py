"""Which service a role works for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from plans.catalog import TableName
from plans.propose.evidence import Evidence
from plans.propose.naming import service_named
from plans.propose.tally import tally
from plans.usage.model import Actor

# Reading another's table is common, writing to it isn't.
READS_TOO: Final = 0.5
WRITES_TOO: Final = 1.0
POINTS_TO: Final = 1.0  # a foreign key from a table that it writes


@dataclass(frozen=True, slots=True)
class Role:
    """A role and the service that it works for, with the reason."""

    name: str
    service: str | None
    why: str
    is_sure: bool = True  # told, or by its name


@dataclass(frozen=True, slots=True)
class Roles:
    """All roles that do something, or may write."""

    all: tuple[Role, ...] = ()
    by_name: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()

    def service_of(self, actor: Actor) -> str | None:
        """The service whose statement it is; None if that isn't known."""
        return actor.service or self.by_name.get(actor.role)

    def of_text(self, actor: str) -> str | None:
        """As `service_of`, by the actor as it is shown."""
        return self.by_name.get(actor) or next(
            (name for name in self.services if actor == str(Actor(service=name))), None
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """The tables that a role writes, or may write, and those that it reads."""

    writes: frozenset[TableName]
    reads: frozenset[TableName]


def assign_roles(evidence: Evidence) -> Roles:
    """A service for every role that was told, is named after one, or works on its tables.

    Superusers are administrators, unless they were told to be somebody's.
    """
    work = _work(evidence)
    found = {name: _plainly(name, evidence) for name in sorted({*work, *evidence.roles})}
    known = {name: role.service for name, role in found.items() if role and role.service}
    written: dict[str, set[TableName]] = defaultdict(set)
    for name, service in known.items():
        if name in work:
            written[service] |= work[name].writes
    roles = [role or _by_work(name, work[name], written, evidence) for name, role in found.items()]
    return Roles(
        tuple(roles),
        {role.name: role.service for role in roles if role.service},
        evidence.services,
    )


def _work(evidence: Evidence) -> dict[str, _Work]:
    activity = tally(evidence.usage, lambda actor: actor.role or None)
    writes: dict[str, set[TableName]] = defaultdict(set)
    reads: dict[str, set[TableName]] = defaultdict(set)
    for table, one in activity.items():
        for role in one.writes:
            writes[role].add(table)
        for role in one.reads:
            reads[role].add(table)
    privileges = evidence.statistics.privileges
    for role in {role for roles in privileges.writers.values() for role in roles} - set(writes):
        writes[role] = {
            evidence.root(table) for table, roles in privileges.writers.items() if role in roles
        }
    return {
        role: _Work(frozenset(writes[role]), frozenset(reads[role])) for role in {*writes, *reads}
    }


def _plainly(name: str, evidence: Evidence) -> Role | None:
    """What needs no comparison of work; None for the others."""
    if name in evidence.roles:
        return Role(name, evidence.roles[name], "as told")
    if name in evidence.statistics.privileges.administrators:
        return Role(name, None, "a superuser; its statements aren't counted")
    if service := service_named(name, evidence.services):
        return Role(name, service, "by its name")
    return None


def _by_work(
    name: str, work: _Work, written: Mapping[str, set[TableName]], evidence: Evidence
) -> Role:
    if not work.writes:
        return Role(name, None, "writes nothing; its reads aren't counted")
    if not written:
        return Role(name, None, "no role is named after a service, so roles tell nothing",
                    is_sure=False)  # fmt: skip
    points_to = [
        evidence.root(key.references)
        for key in evidence.catalog.foreign_keys
        if evidence.root(key.table) in work.writes
    ]
    scores = {
        service: sum(WRITES_TOO for table in work.writes if table in tables)
        + sum(READS_TOO for table in work.reads if table in tables)
        + sum(POINTS_TO for table in points_to if table in tables)
        for service, tables in sorted(written.items())
    }
    best = max(scores.values())
    first = [service for service, score in scores.items() if score == best]
    if best == 0 or len(first) > 1:
        return Role(name, None, "shares tables with no service more than with others",
                    is_sure=False)  # fmt: skip
    return Role(name, first[0], f"shares most tables with {first[0]}; name it if that is wrong",
                is_sure=False)  # fmt: skip
