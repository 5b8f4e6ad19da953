"""An owner for every table, with how sure that is and why.

Each table has evidence of its own (who writes it, who may, what it is named after) and
follows the tables that it is tied to, as far as those are sure themselves.  So what is
known of some tables spreads over the keys to the others, and gets weaker on the way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from plans.catalog import TableName
from plans.model import DROP
from plans.propose.evidence import Evidence, Told
from plans.propose.naming import service_named, service_prefixed
from plans.propose.roles import Roles
from plans.propose.tally import IDLE, Activity, By, rate, share, tally, total
from plans.propose.ties import Tie
from plans.some import some
from plans.usage.model import Actor

# Who writes is what an owner is; nothing else outweighs it.
WRITES: Final = 100.0
# So many writes a day are trusted by half; one may have been somebody's repair.
WRITES_HALF: Final = 1.0
# Nobody else may write.  Grants are often wider than what is done, seldom narrower.
MAY_WRITE: Final = 8.0
# A role that may write some columns only has a part in the table, at most.
MAY_WRITE_COLUMNS: Final = 0.5
# Somebody named the schema, or the table's owner, after the service.
SCHEMA: Final = 6.0
TABLE_OWNER: Final = 4.0
# The table's name begins with the service's: crm_orders.
PREFIX: Final = 3.0
# A table that only one service reads is probably its own.
READS: Final = 1.0

# What could be against the proposal and isn't seen.  Measured against the weights above:
# one table that it is a part of (3.0) makes 0.67, one key that it needs (1.0) 0.4.
DOUBT: Final = 1.5
# Below, a person has to decide.
DECIDE_BELOW: Final = 0.5
# Written by two: each has more than this part in the writes.
CONTESTED: Final = 0.1

# A comment is one line or two.
REASONS_MAX: Final = 4

# Evidence gets weaker by each table on its way; after so many it is nothing.
ROUNDS: Final = 30

Weights = Mapping[str, float]
Scores = dict[TableName, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A table's proposed owner."""

    table: TableName
    owner: str
    confidence: float  # 0 to 1
    reasons: tuple[str, ...]  # the strongest first
    told: Told | None = None
    decide: str = ""  # what a person has to decide, if anything
    against: str = ""  # evidence that contradicts the owners file


@dataclass(frozen=True, slots=True)
class _Reason:
    service: str
    weight: float
    text: str


def decide_owners(
    evidence: Evidence,
    roles: Roles,
    activity: Mapping[TableName, Activity],
    tied: Sequence[Tie],
) -> dict[TableName, Owned]:
    """An owner for each table of the evidence; `activity` is by service.  Deterministic."""
    by_actor = tally(evidence.usage, str)
    own = {
        table.name: [
            *_used(activity.get(table.name, IDLE), by_actor.get(table.name, IDLE), roles),
            *_own(evidence, roles, table.name),
        ]
        for table in evidence.tables
    }
    scores = _spread(own, evidence.told, tied)
    owners = {name: _told_owner(one) for name, one in evidence.told.items()}
    for name, by_service in scores.items():
        if name not in owners and (best := _best(by_service, evidence.services)):
            owners[name] = best
    undecided = [name for name in own if name not in owners]
    owners |= _by_count(undecided, owners, tied, evidence.services)
    by_table: dict[TableName, list[Tie]] = defaultdict(list)
    for tie in tied:
        by_table[tie.table].append(tie)
    return {
        name: _told(name, one, scores[name], own[name])
        if (one := evidence.told.get(name))
        else _owned(name, owners[name], scores[name], [*own[name], *_tied(by_table[name], owners)])
        for name in own
    }


def _told_owner(told: Told) -> str:
    """The one service that is told for a table, of a split table the first; or drop."""
    return next(iter(told.services), DROP)


def _own(evidence: Evidence, roles: Roles, name: TableName) -> Iterator[_Reason]:
    """What grants and names say of the table itself."""
    yield from _may_write(evidence, roles, name)
    services = evidence.services
    if named := service_named(name.schema, services):
        yield _Reason(named, SCHEMA, f"schema {name.schema}")
    if named := service_prefixed(name.name, services):
        yield _Reason(named, PREFIX, f"named after {named}")
    owners = evidence.statistics.privileges.owners
    if len(set(owners.values())) > 1:
        role = owners.get(name, "")
        if service := roles.service_of(Actor(role)):
            yield _Reason(service, TABLE_OWNER, f"belongs to role {role}")


def _used(activity: Activity, by_actor: Activity, roles: Roles) -> Iterator[_Reason]:
    """Who writes, and who reads."""
    for weight, of, by, noun in (
        (WRITES, activity.writes, by_actor.writes, "writes"),
        (READS, activity.reads, by_actor.reads, "reads"),
    ):
        for service in sorted(of):
            part = share(of, service)
            said = ", ".join(
                f"{actor} {rate(amount, noun)}"
                for actor, amount in sorted(by.items())
                if roles.of_text(actor) == service
            )
            shown = said if part == 1 else f"{said} ({part:.0%})"
            yield _Reason(service, weight * part * _trust(of), shown)


def _trust(by: By) -> float:
    weight = total(by).weight
    return weight / (weight + WRITES_HALF)


def _may_write(evidence: Evidence, roles: Roles, name: TableName) -> Iterator[_Reason]:
    """Grants say something where they are not the same for all services."""
    privileges = evidence.statistics.privileges
    able = _services({role for held in privileges.writers.values() for role in held}, roles)
    full = _services(privileges.writers.get(name, ()), roles)
    some = _services(privileges.column_writers.get(name, ()), roles) - full
    if len(able) < 2 or len(full) == len(able):
        return
    for service in sorted(full):
        alone = "only " if len(full) == 1 and not some else ""
        yield _Reason(service, MAY_WRITE / len(full), f"{alone}{service} may write")
    for service in sorted(some):
        yield _Reason(service, MAY_WRITE_COLUMNS, f"{service} may write some columns")


def _services(names: Iterable[str], roles: Roles) -> set[str]:
    return {service for name in names if (service := roles.service_of(Actor(name)))}


def _spread(
    own: Mapping[TableName, Iterable[_Reason]],
    told: Mapping[TableName, Told],
    tied: Sequence[Tie],
) -> Scores:
    """Each table's weight for each service, its own and what it gets from others."""
    base: Scores = {}
    for name, reasons in own.items():
        base[name] = defaultdict(float)
        for reason in reasons:
            base[name][reason.service] += reason.weight
    scores = {name: dict(by_service) for name, by_service in base.items()}
    for _ in range(ROUNDS):
        sure = {name: _shares(by_service) for name, by_service in scores.items()}
        for name, one in told.items():
            sure[name] = dict.fromkeys(one.services, 1 / max(1, len(one.services)))
        scores = {name: dict(by_service) for name, by_service in base.items()}
        for tie in tied:
            into = scores[tie.table]
            for service, part in sure[tie.other].items():
                into[service] = into.get(service, 0.0) + tie.weight * part
    return scores


def _shares(by_service: Mapping[str, float]) -> dict[str, float]:
    whole = sum(by_service.values()) + DOUBT
    return {service: weight / whole for service, weight in by_service.items()}


def _best(by_service: Mapping[str, float], services: Sequence[str]) -> str | None:
    """The service with the greatest weight, the first named of equal ones; None without any."""
    best = max(services, key=lambda service: round(by_service.get(service, 0.0), 9))
    return best if by_service.get(best, 0.0) > 0 else None


def _by_count(
    undecided: Iterable[TableName],
    owners: Mapping[TableName, str],
    tied: Sequence[Tie],
    services: Sequence[str],
) -> dict[TableName, str]:
    """Without evidence: where most keys lead, else where most tables are, else the first."""
    tables = Counter(owner for owner in owners.values() if owner != DROP)
    found = {}
    for name in undecided:
        keys = Counter(
            owners[tie.other] for tie in tied if tie.table == name and tie.other in owners
        )
        found[name] = max(services, key=lambda service: (keys[service], tables[service]))
    return found


def _tied(tied: Sequence[Tie], owners: Mapping[TableName, str]) -> Iterator[_Reason]:
    """Ties as reasons, those of one kind to tables of one service as one."""
    grouped: dict[tuple[str, str], list[Tie]] = defaultdict(list)
    for tie in tied:
        grouped[owners[tie.other], tie.why].append(tie)
    for (service, why), group in sorted(grouped.items()):
        names = list(dict.fromkeys(tie.other.name for tie in group))
        yield _Reason(service, sum(tie.weight for tie in group), f"{why} {some(names)}")


def _owned(name: TableName, owner: str, by_service: Weights, reasons: Iterable[_Reason]) -> Owned:
    confidence = by_service.get(owner, 0.0) / (sum(by_service.values()) + DOUBT)
    pro = [one for one in reasons if one.service == owner and one.weight > 0]
    texts = tuple(one.text for one in sorted(pro, key=_strongest)[:REASONS_MAX])
    decide = ""
    if not texts:
        decide = "nothing is known of it"
    elif confidence < DECIDE_BELOW:
        others = [service for service, weight in by_service.items() if weight and service != owner]
        decide = f"it may be {', '.join(sorted(others))}'s" if others else "the evidence is weak"
    return Owned(
        table=name, owner=owner, confidence=round(confidence, 2), reasons=texts, decide=decide
    )


def _told(name: TableName, told: Told, by_service: Weights, own: Iterable[_Reason]) -> Owned:
    """As told; of the evidence only what is the table's own is worth a word."""
    reasons = sorted(own, key=_strongest)
    pro = [one.text for one in reasons if one.service in told.services and one.weight > 0]
    con = [one for one in reasons if one.service not in told.services]
    place = told.place.rsplit("/", 1)[-1]
    return Owned(
        table=name, owner=_told_owner(told), confidence=1.0,
        reasons=(f"told ({place})", *pro[:REASONS_MAX]), told=told,
        against=_against(by_service, con),
    )  # fmt: skip


def _strongest(one: _Reason) -> tuple[float, str]:
    return -one.weight, one.text


def _against(by_service: Weights, con: Iterable[_Reason]) -> str:
    """Evidence that somebody else than those who were told writes."""
    whole = sum(by_service.values()) + DOUBT
    strong = [
        one
        for one in con
        if one.weight >= MAY_WRITE and by_service.get(one.service, 0.0) / whole > CONTESTED
    ]
    return "; ".join(one.text for one in strong)
