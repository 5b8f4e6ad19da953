"""A plan as it is proposed: everything that is written into the file; values only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plans.catalog import Catalog, TableName
from plans.propose.evidence import Evidence
from plans.propose.owners import Owned, decide_owners
from plans.propose.roles import Role, Roles, assign_roles
from plans.propose.shapes import Shape, shapes
from plans.propose.tally import tally
from plans.propose.ties import ties, written_together
from plans.usage.model import Statistics


@dataclass(frozen=True, slots=True)
class TableDraft:
    """A table's entry, with what speaks for it."""

    written: str  # its name in the plan
    owned: Owned
    shape: Shape
    counted: str = ""  # what the server counted, whoever it was

    @property
    def confidence(self) -> float:
        """How sure the entry is, from 0 to 1."""
        own = self.owned.confidence
        return own if self.shape.confidence is None else self.shape.confidence

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks for the entry; of parts not what speaks for one owner."""
        parts_only = self.shape.confidence is not None
        own = () if parts_only else self.owned.reasons
        return (*self.shape.said, *own, *([self.counted] if self.counted else []))

    @property
    def decide(self) -> tuple[str, ...]:
        """What a person has to decide."""
        owner = "" if self.shape.confidence is not None else self.owned.decide
        return tuple(one for one in (owner, self.shape.decide) if one)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "table": self.written,
            "owner": self.owned.owner,
            "entry": dict(self.shape.entry),
            "confidence": self.confidence,
            "reasons": list(self.reasons),
            "candidates": list(self.shape.candidates),
        }


@dataclass(frozen=True, slots=True)
class CutKey:
    """A foreign key that the split cuts."""

    written: str
    replace_with: str
    reason: str


@dataclass(frozen=True, slots=True)
class CutStatement:
    """A statement that no service, or not the one that executes it, could run any more."""

    text: str
    who: str
    why: str
    calls: float
    per_day: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the boundary cuts."""

    keys: tuple[CutKey, ...] = ()
    statements: tuple[CutStatement, ...] = ()
    judged: int = 0  # statements that were looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A proposal."""

    split: str
    evidence: Evidence
    roles: Roles
    tables: tuple[TableDraft, ...]  # in the order of the file
    groups: tuple[tuple[str, ...], ...] = ()  # tables that are written in one transaction
    parted: tuple[tuple[str, str, int], ...] = ()  # of these, pairs of different owners
    notes: tuple[str, ...] = ()  # about the evidence
    cost: Cost = field(default_factory=Cost)

    def roles_of(self, service: str) -> tuple[str, ...]:
        """The service's roles, by name."""
        return tuple(role.name for role in self.roles.all if role.service == service)

    @property
    def unsure_roles(self) -> tuple[Role, ...]:
        """Roles whose service was guessed, or isn't known."""
        return tuple(role for role in self.roles.all if not role.is_sure)

    @property
    def decide(self) -> tuple[tuple[str, str], ...]:
        """What a person has to decide: about what, and what."""
        return (
            *((table.written, what) for table in self.tables for what in table.decide),
            *((f"role {role.name}", role.why) for role in self.unsure_roles),
            *(
                (f"{one} and {other}", f"one transaction writes both; seen: {count}")
                for one, other, count in self.parted
            ),
        )

    @property
    def contradictions(self) -> tuple[tuple[str, str], ...]:
        """Tables whose told owner isn't the one whom the evidence shows."""
        return tuple(
            (table.written, f"told to be {table.owned.owner}'s, but {table.owned.against}")
            for table in self.tables
            if table.owned.against
        )


def propose(split: str, evidence: Evidence, notes: Iterable[str] = ()) -> Draft:
    """A draft without the cost of its boundary; the same for the same evidence."""
    roles = assign_roles(evidence)
    activity = tally(evidence.usage, roles.service_of)
    owned = decide_owners(evidence, roles, activity, ties(evidence))
    shaped = shapes(owned, activity, evidence, roles)
    drafts = [
        TableDraft(
            written_name(name, evidence.catalog),
            owned[name],
            shaped[name],
            _counted(name, evidence.statistics),
        )
        for name in owned
    ]
    together = written_together(evidence)
    return Draft(
        split=split,
        evidence=evidence,
        roles=roles,
        tables=tuple(sorted(drafts, key=lambda one: _place(one, evidence.services))),
        groups=tuple(_groups(together, evidence.catalog)),
        parted=tuple(_parted(together, shaped, evidence.catalog)),
        notes=(*notes, *_weakness(evidence, owned)),
    )


def _weakness(evidence: Evidence, owned: Mapping[TableName, Owned]) -> Iterator[str]:
    """How little the evidence says, if it is little."""
    open_ones = [one for one in owned.values() if one.told is None]
    if open_ones and not evidence.usage.used:
        yield "no statements were seen: owners are guessed from grants, names and foreign keys"
    if open_ones and all(one.confidence == 0 for one in owned.values()):
        yield (
            "nothing tells the services apart; name the owners of some tables (--owners), and"
            " the foreign keys will lead from them to others"
        )


def _counted(name: TableName, statistics: Statistics) -> str:
    """The rows that the server counted, if it did so for long enough to speak of days."""
    volume, days = statistics.volumes.get(name), statistics.counted_days
    if volume is None or days < 1:
        return ""
    read = f"{volume.rows_read / days:,.0f} read a day"
    if not volume.rows_written:
        return f"no row written in {days:.0f} days, {read}"
    return f"{volume.rows_written / days:,.0f} rows written and {read}"


def written_name(name: TableName, catalog: Catalog) -> str:
    """The shortest name by which a plan finds the table."""
    quoted = name.identifier.as_string()
    for text in (name.name, str(name)):
        found = catalog.find(text)
        if found is not None and found.name == name:
            return text
    return quoted


def _place(one: TableDraft, services: Sequence[str]) -> tuple[int, str]:
    """Tables of several services first, then each service's, by name; what is dropped last."""
    owners = one.shape.services
    if len(owners) > 1:
        return 0, one.written
    return (services.index(owners[0]) + 1 if owners else len(services) + 1), one.written


def _groups(
    together: Mapping[tuple[TableName, TableName], int], catalog: Catalog
) -> list[tuple[str, ...]]:
    group_of: dict[TableName, set[TableName]] = {}
    for one, other in together:
        merged = group_of.get(one, {one}) | group_of.get(other, {other})
        for name in merged:
            group_of[name] = merged
    distinct = {id(group): group for group in group_of.values()}.values()
    named = [tuple(written_name(name, catalog) for name in sorted(group)) for group in distinct]
    return sorted(named)


def _parted(
    together: Mapping[tuple[TableName, TableName], int],
    shaped: Mapping[TableName, Shape],
    catalog: Catalog,
) -> list[tuple[str, str, int]]:
    return [
        (written_name(one, catalog), written_name(other, catalog), count)
        for (one, other), count in together.items()
        if one in shaped
        and other in shaped
        and not set(shaped[one].services) & set(shaped[other].services)
    ]
