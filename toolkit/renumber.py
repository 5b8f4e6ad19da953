"""Setting the sequences of the side that takes over, within the write pause."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from plans.catalog import TableName
from toolkit import sequences
from toolkit.opened import Split
from toolkit.sequences import Numbers, State, Use, next_numbers, used_by
from toolkit.sides import Sides
from toolkit.state import Direction, Phase

Uses = dict[TableName, list[Use]]


def renumber(sides: Sides, *, decided: bool = False) -> dict[str, Any]:
    """Set every sequence of the new leader behind all that was issued anywhere.

    Those of the source that somebody draws from already wait until the rollback is
    `decided`, and are all that is set then: were it given up, they would meet the
    numbers of those who then stay away.

    Returns each sequence's first new number, for the certificate.
    """
    issuers = _issuers(sides)
    if not issuers:
        return {}
    observed = _observe(sides, issuers)
    numbers: dict[str, list[Numbers]] = {}
    for issuer in issuers:
        for where, new in _numbers(sides, issuer, observed, decided=decided):
            numbers.setdefault(where, []).append(new)
    for where, some in numbers.items():
        states = {n.sequence: observed.states[where, n.sequence] for n in some}
        there = sides.source if where == "source" else sides.targets[where]
        sequences.apply(there, some, states)
    return {f"{where}:{n.sequence}": n.start for where, some in numbers.items() for n in some}


@dataclass(frozen=True, slots=True)
class _Issuer:
    """A sequence of the source, who owns tables that draw from it, and its successors."""

    sequence: TableName
    columns: list[Use]
    services: list[str]
    successors: dict[str, Uses]  # service → the target's sequences that stand for it


@dataclass(frozen=True, slots=True)
class _Observed:
    """Sequences as they are, and the furthest number known of each source sequence."""

    states: dict[tuple[str, TableName], State]
    highest: dict[TableName, int]
    increments: dict[str, int]  # before we touched any


def _issuers(sides: Sides) -> list[_Issuer]:
    split = sides.split
    found = []
    for sequence, columns in used_by(split.catalog.tables.values()).items():
        owners = frozenset[str]().union(*(split.owners(use.table) for use in columns))
        if owners & set(sides.services):
            successors = {
                service: _successors(split, service, sequence)
                for service in owners & set(sides.targets)
            }
            found.append(_Issuer(sequence, columns, sorted(owners), successors))
    return found


def _successors(split: Split, service: str, sequence: TableName) -> Uses:
    found: Uses = {}
    for route in split.owned([service]):
        table = split.target_table(route)
        for column in route.columns:
            if column.plain is None:
                continue
            drawn = table.column(column.name).sequence
            if route.source.column(column.plain).sequence == sequence and drawn is not None:
                found.setdefault(drawn, []).append(Use.of(table, table.column(column.name)))
    return found


def _observe(sides: Sides, issuers: list[_Issuer]) -> _Observed:
    """One query for the states and one for the columns, on each server."""
    states: dict[tuple[str, TableName], State] = {}
    uses = {issuer.sequence: issuer.columns for issuer in issuers}
    on_source = sequences.read_states(sides.source, uses)
    states |= {("source", name): state for name, state in on_source.items()}
    best = sequences.highest(sides.source, uses, on_source)
    for service, target in sides.targets.items():
        there: Uses = {}
        for issuer in issuers:
            there |= issuer.successors.get(service, {})
        on_target = sequences.read_states(target, there)
        states |= {(service, name): state for name, state in on_target.items()}
        highest = sequences.highest(target, there, on_target)
        for issuer in issuers:
            for successor in issuer.successors.get(service, {}):
                furthest = max if on_source[issuer.sequence].increment > 0 else min
                best[issuer.sequence] = furthest(best[issuer.sequence], highest[successor])
    return _Observed(states, best, _own_increments(sides, on_source))


def _numbers(
    sides: Sides, issuer: _Issuer, observed: _Observed, *, decided: bool
) -> list[tuple[str, Numbers]]:
    services, gap = issuer.services, sides.split.plan.sequences.gap
    gone = {s for s, p in sides.phases.items() if p is Phase.MOVED} | set(sides.services)
    if sides.direction is Direction.ROLLBACK:
        gone -= set(sides.services)
    away = [service for service in services if service in gone]
    # Place 0 is the source's: it goes on issuing numbers as long as one owner stays.
    places = len(services) + 1 if len(services) > 1 and away else 1
    in_use = bool(set(services) - set(away) - set(sides.services))
    if sides.direction is Direction.ROLLBACK and in_use is not decided:
        return []
    highest = observed.highest[issuer.sequence]
    increment = observed.increments[str(issuer.sequence)]
    numbers: list[tuple[str, Numbers]] = []
    if sides.direction is Direction.ROLLBACK or len(away) < len(services):
        state = observed.states["source", issuer.sequence]
        new = next_numbers(
            issuer.sequence, state, highest, gap=gap, places=places, base_increment=increment
        )
        if sides.direction is Direction.ROLLBACK or new.increment != state.increment:
            numbers.append(("source", new))
    if sides.direction is Direction.ROLLBACK:
        return numbers
    for service in sorted(set(services) & set(sides.services)):
        for successor in issuer.successors.get(service, {}):
            new = next_numbers(
                successor,
                observed.states[service, successor],
                highest,
                gap=gap,
                place=services.index(service) + 1 if places > 1 else 0,
                places=places,
                base_increment=increment,
            )
            numbers.append((service, new))
    return numbers


def _own_increments(sides: Sides, states: dict[TableName, State]) -> dict[str, int]:
    """The increments that the source's sequences had before we touched any."""
    row = sides.source.execute(
        "SELECT settings -> 'increments' FROM dbsplit.split WHERE split = %s", [sides.split.name]
    ).fetchone()
    known: dict[str, int] = (row[0] if row else None) or {}
    new = {str(name): s.increment for name, s in states.items() if str(name) not in known}
    if new:
        known |= new
        sides.source.execute(
            "UPDATE dbsplit.split SET settings = jsonb_set(settings, '{increments}', %s::jsonb)"
            " WHERE split = %s",
            [json.dumps(known), sides.split.name],
        )
    return known
