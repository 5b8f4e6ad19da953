"""What holds two tables together, and how strongly.

The weights are to each other as the question "how often would one of them belong to
another service nevertheless?".  They are compared with each other and with the weights
of `plans.propose.owners`, and mean nothing by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from plans.catalog import ForeignKey, Table, TableName
from plans.propose.evidence import Evidence
from plans.propose.naming import words

# Rows that are nothing without the other table's: ON DELETE CASCADE, a key made of it.
PART_OF: Final = 3.0
# A row that must have another; it may be another service's.
NEEDS: Final = 1.0
# A row that may have another: a hint, as often across as not.
MENTIONS: Final = 0.5
# What is pointed to follows those that point less than they follow it: everything
# points to customers.
BACK: Final = 0.5
# A trigger on the one writes the other, in the same transaction.
TRIGGERED: Final = 3.0
# One transaction writes both; if they part, it does.
TOGETHER: Final = 2.0
# One statement reads both, or one view or function names both; shared by all that it names.
MEETS: Final = 0.5
# Table names that begin alike (order_items, order_notes); shared by all that do.
ALIKE: Final = 1.0
# More tables than these begin alike for another reason, such as "tbl_".
ALIKE_SHARE_MAX: Final = 0.5


@dataclass(frozen=True, slots=True)
class Tie:
    """`table` follows `other`, because of `why`, behind which the other's name can stand."""

    table: TableName
    other: TableName
    weight: float
    why: str


def ties(evidence: Evidence) -> tuple[Tie, ...]:
    """All ties between tables of the proposal, both ways, in a fixed order."""
    known = {table.name for table in evidence.tables}
    found = [
        *_foreign_keys(evidence),
        *_dependents(evidence),
        *_transactions(evidence),
        *_joins(evidence),
        *_names(evidence),
    ]
    return tuple(
        sorted(
            (one for one in found if one.table != one.other and {one.table, one.other} <= known),
            key=lambda one: (one.table, one.other, -one.weight, one.why),
        )
    )


def _foreign_keys(evidence: Evidence) -> Iterator[Tie]:
    for key in evidence.catalog.foreign_keys:
        child, parent = evidence.root(key.table), evidence.root(key.references)
        if child in evidence.catalog.tables:
            weight = _strength(key, evidence.catalog.tables[child])
            yield Tie(child, parent, weight, "points to")
            yield Tie(parent, child, weight * BACK, "pointed to from")


def _strength(key: ForeignKey, table: Table) -> float:
    if key.on_delete == "c" or set(key.columns) < set(table.primary_key):
        return PART_OF
    if set(key.columns) == set(table.primary_key):
        return PART_OF
    not_null = {column.name for column in table.columns if column.not_null}
    return NEEDS if set(key.columns) <= not_null else MENTIONS


def _dependents(evidence: Evidence) -> Iterator[Tie]:
    for one in evidence.dependents:
        tables = sorted({evidence.root(table) for table in one.reads})
        if one.table is not None:
            for other in tables:
                yield from _both(
                    evidence.root(one.table), other, TRIGGERED, "written by a trigger with"
                )
        elif len(tables) > 1:
            weight = MEETS / (len(tables) - 1)
            for table, other in combinations(tables, 2):
                yield from _both(table, other, weight, f"in one {one.kind} with")


def _both(table: TableName, other: TableName, weight: float, why: str) -> Iterator[Tie]:
    yield Tie(table, other, weight, why)
    yield Tie(other, table, weight, why)


def _transactions(evidence: Evidence) -> Iterator[Tie]:
    for table, other in written_together(evidence):
        yield from _both(table, other, TOGETHER, "written in one transaction with")


def written_together(evidence: Evidence) -> dict[tuple[TableName, TableName], int]:
    """Every two tables that one transaction writes, with how often that was seen."""
    found: dict[tuple[TableName, TableName], int] = defaultdict(int)
    for pair, count in evidence.usage.together.items():
        found[pair] += count
    for used in evidence.usage.used:
        for table, other in combinations(sorted(used.statement.writes), 2):
            found[table, other] = max(found[table, other], round(used.calls or 0), 1)
    return {pair: found[pair] for pair in sorted(found)}


def _joins(evidence: Evidence) -> Iterator[Tie]:
    seen: dict[tuple[TableName, TableName], float] = {}
    for used in evidence.usage.used:
        tables = used.statement.tables
        for pair in used.statement.joins:
            seen[pair] = max(seen.get(pair, 0.0), MEETS / max(1, len(tables) - 1))
    for (table, other), weight in seen.items():
        yield from _both(table, other, weight, "in one statement with")


def _names(evidence: Evidence) -> Iterator[Tie]:
    alike: dict[tuple[str, str], list[TableName]] = defaultdict(list)
    for table in evidence.tables:
        first = next(iter(words(table.name.name)), "")
        alike[table.name.schema, _singular(first)].append(table.name)
    most = max(2.0, ALIKE_SHARE_MAX * len(evidence.tables))
    for (_, first), tables in sorted(alike.items()):
        if 1 < len(tables) <= most:
            weight = ALIKE / (len(tables) - 1)
            for one, other in combinations(sorted(tables), 2):
                yield from _both(one, other, weight, f"named {first}… like")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
