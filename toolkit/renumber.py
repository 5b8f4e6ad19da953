"""Setting the sequences of the side that takes over, within the write pause.

Where services stay that draw from a sequence of the source, they do so while it is set.
Its last number is read and its next one set under a lock that keeps others from drawing:
however many they drew before, and however small the gap, no number comes twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from plans.catalog import TableName
from plans.errors import GivenUp
from toolkit import sequences
from toolkit.opened import Split
from toolkit.sequences import Numbers, State, Use, next_numbers, used_by
from toolkit.sides import Sides
from toolkit.state import Direction, Phase
from toolkit.stored import stored

Uses = dict[TableName, list[Use]]

HOLD_MS_MAX = 200  # as long as others who want to draw wait behind us, at a time


def renumber(sides: Sides, *, deadline: float, decided: bool = False) -> dict[str, Any]:
    """Set every sequence of the new leader behind all that was issued anywhere.

    Those of the source that somebody draws from already wait until the rollback is
    `decided`, and are all that is set then: were it given up, they would meet the
    numbers of those who then stay away.

    `deadline` is of `time.monotonic()`; GivenUp when it passes before a sequence could be
    had.  Returns each sequence's first new number, for the certificate.
    """
    issuers = _issuers(sides)
    if not issuers:
        return {}
    observed = _observe(sides, issuers)
    done: dict[str, int] = {}
    waiting: dict[str, list[Numbers]] = {}
    for issuer in issuers:
        new = _numbers(sides, issuer, observed, decided=decided)
        if "source" in new and _others_draw(sides, issuer):
            new = _set_source(sides, issuer, observed, deadline, decided=decided)
            (on_source,) = new.pop("source")
            done[f"source:{on_source.sequence}"] = on_source.start
        for where, some in new.items():
            waiting.setdefault(where, []).extend(some)
    for where, some in waiting.items():
        states = {n.sequence: observed.states[where, n.sequence] for n in some}
        there = sides.source if where == "source" else sides.targets[where]
        sequences.apply(there, some, states)
        done |= {f"{where}:{n.sequence}": n.start for n in some}
    return done


def _set_source(
    sides: Sides, issuer: _Issuer, observed: _Observed, deadline: float, *, decided: bool
) -> dict[str, list[Numbers]]:
    """Set a sequence of the source from which others draw; the numbers that belong to it.

    Whoever has drawn from it holds a lock until his transaction ends, and whoever wants to
    draw waits behind us: so we wait for it not long at a time.
    """
    while (left := deadline - time.monotonic()) > 0:
        try:
            with sides.source.transaction():
                (wanted,) = _numbers(sides, issuer, observed, decided=decided)["source"]
                wait_ms = max(1, min(HOLD_MS_MAX, int(left * 1000)))
                last = sequences.hold(sides.source, wanted, wait_ms=wait_ms)
                new = _numbers(
                    sides, issuer, observed.behind(issuer.sequence, last), decided=decided
                )
                sequences.set_next(sides.source, new["source"])
                return new
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(min(0.02, left))
    raise GivenUp(
        f"the sequence {issuer.sequence}, from which others draw, could not be had in time",
        hint="end long transactions that have drawn from it (pg_locks), or allow a longer"
        " limits.write_pause_s_max",
    )


def _others_draw(sides: Sides, issuer: _Issuer) -> bool:
    """Whether services that stay where they are write to the source now."""
    away = {s for s, phase in sides.phases.items() if phase is Phase.MOVED}
    return bool(set(issuer.services) - away - set(sides.services))


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

    def behind(self, sequence: TableName, last: int) -> _Observed:
        """The same, with a sequence of the source that has gone on to `last`."""
        furthest = max if self.increments[str(sequence)] > 0 else min
        highest = furthest(self.highest[sequence], last)
        return replace(self, highest={**self.highest, sequence: highest})


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
) -> dict[str, list[Numbers]]:
    """What goes on with which number; the source's own is there if it has to be set."""
    services, gap = issuer.services, sides.split.plan.sequences.gap
    gone = {s for s, p in sides.phases.items() if p is Phase.MOVED} | set(sides.services)
    if sides.direction is Direction.ROLLBACK:
        gone -= set(sides.services)
    away = [service for service in services if service in gone]
    # Place 0 is the source's: it goes on issuing numbers as long as one owner stays.
    places = len(services) + 1 if len(services) > 1 and away else 1
    if sides.direction is Direction.ROLLBACK and _others_draw(sides, issuer) is not decided:
        return {}
    highest = observed.highest[issuer.sequence]
    increment = observed.increments[str(issuer.sequence)]
    numbers: dict[str, list[Numbers]] = {}
    if sides.direction is Direction.ROLLBACK or len(away) < len(services):
        state = observed.states["source", issuer.sequence]
        new = next_numbers(
            issuer.sequence, state, highest, gap=gap, places=places, base_increment=increment
        )
        if sides.direction is Direction.ROLLBACK or new.increment != state.increment:
            numbers["source"] = [new]
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
            numbers.setdefault(service, []).append(new)
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
            [stored(sides.source, known), sides.split.name],
        )
    return known
