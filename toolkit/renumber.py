"""Setting the sequences of the side that takes over, within the write pause."""

from __future__ import annotations

import json
from typing import Any

from cdc.connect import Connection
from plans.catalog import Table, TableName
from toolkit import sequences
from toolkit.opened import Split
from toolkit.sequences import Numbers, Use, next_numbers, read_state, used_by
from toolkit.sides import Sides
from toolkit.state import Direction, Phase


def renumber(sides: Sides) -> dict[str, Any]:
    """Set every sequence of the new leader behind all that was issued anywhere.

    Returns each sequence's first new number, for the certificate.
    """
    split = sides.split
    uses = used_by(split.catalog.tables.values())
    owners = {
        sequence: sorted(frozenset[str]().union(*(split.owners(use.table) for use in columns)))
        for sequence, columns in uses.items()
    }
    increments = _own_increments(split, sides.source, list(uses))
    told: dict[str, Any] = {}
    for sequence, services in owners.items():
        if not set(services) & set(sides.services):
            continue
        highest = _highest(sides, sequence, uses[sequence], services)
        for connection, numbers, where in _numbers(
            sides, sequence, services, highest, increments[str(sequence)]
        ):
            sequences.apply(connection, [numbers])
            told[f"{where}:{numbers.sequence}"] = numbers.start
    return told


def _highest(
    sides: Sides,
    sequence: TableName,
    columns: list[Use],
    services: list[str],
) -> int:
    """The number furthest along on the source and on every target that issues some."""
    state = read_state(sides.source, sequence)
    best = [sequences.highest(sides.source, columns, state)]
    for service in services:
        if service not in sides.targets:
            continue
        for target_sequence, target_columns in _target_uses(sides.split, service, sequence):
            target = sides.targets[service]
            best.append(
                sequences.highest(target, target_columns, read_state(target, target_sequence))
            )
    return max(best) if state.increment > 0 else min(best)


def _numbers(
    sides: Sides, sequence: TableName, services: list[str], highest: int, increment: int
) -> list[tuple[Connection, Numbers, str]]:
    gap = sides.split.plan.sequences.gap
    gone = {s for s, p in sides.phases.items() if p is Phase.MOVED} | set(sides.services)
    if sides.direction is Direction.ROLLBACK:
        gone -= set(sides.services)
    away = [service for service in services if service in gone]
    # Place 0 is the source's: it goes on issuing numbers as long as one owner stays.
    places = len(services) + 1 if len(services) > 1 and away else 1
    numbers: list[tuple[Connection, Numbers, str]] = []
    if sides.direction is Direction.ROLLBACK or len(away) < len(services):
        state = read_state(sides.source, sequence)
        new = next_numbers(
            sequence, state, highest, gap=gap, places=places, base_increment=increment
        )
        if sides.direction is Direction.ROLLBACK or new.increment != state.increment:
            numbers.append((sides.source, new, "source"))
    if sides.direction is Direction.CUTOVER:
        for service in sorted(set(services) & set(sides.services)):
            target = sides.targets[service]
            for target_sequence, _ in _target_uses(sides.split, service, sequence):
                new = next_numbers(
                    target_sequence,
                    read_state(target, target_sequence),
                    highest,
                    gap=gap,
                    place=services.index(service) + 1 if places > 1 else 0,
                    places=places,
                    base_increment=increment,
                )
                numbers.append((target, new, service))
    return numbers


def _target_uses(
    split: Split, service: str, sequence: TableName
) -> list[tuple[TableName, list[Use]]]:
    """The target's sequences that stand for a source's sequence, with their columns."""
    found: dict[TableName, list[Use]] = {}
    for route in split.owned([service]):
        table: Table = split.target_table(route)
        for column in route.columns:
            if column.plain is None:
                continue
            drawn = table.column(column.name).sequence
            if route.source.column(column.plain).sequence == sequence and drawn is not None:
                found.setdefault(drawn, []).append(Use.of(table, table.column(column.name)))
    return list(found.items())


def _own_increments(split: Split, source: Connection, names: list[TableName]) -> dict[str, int]:
    """The increments that the source's sequences had before we touched any."""
    row = source.execute(
        "SELECT settings -> 'increments' FROM dbsplit.split WHERE split = %s", [split.name]
    ).fetchone()
    known: dict[str, int] = (row[0] if row else None) or {}
    new = {
        str(name): read_state(source, name).increment for name in names if str(name) not in known
    }
    if new:
        known |= new
        source.execute(
            "UPDATE dbsplit.split SET settings = jsonb_set(settings, '{increments}', %s::jsonb)"
            " WHERE split = %s",
            [json.dumps(known), split.name],
        )
    return known
