"""Findings on sequences: who draws from them, and how many numbers are left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from plans.boundary import held_columns
from plans.catalog import TableName
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.some import some

Connection = psycopg.Connection[Any]

# Above it, somebody should look before the split; nothing fails yet.
USED_SHARE_MAX: Final = 0.8

_COLUMN_MAX: Final = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}

# last_value is NULL for a sequence that was never used.
SEQUENCES: Final[LiteralString] = """
SELECT schemaname::text AS schema, sequencename::text AS name, increment_by AS step,
       last_value AS last, start_value AS start, min_value AS lowest, max_value AS highest, cycle
  FROM pg_sequences ORDER BY schemaname, sequencename
"""

# Sequences of the plan's schemas that neither a column nor an extension has.
UNOWNED: Final[LiteralString] = """
SELECT n.nspname::text AS schema, c.relname::text AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname = ANY (%(schemas)s)
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype IN ('a', 'i', 'e'))
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                      AND d.classid = 'pg_attrdef'::regclass)
 ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A sequence's position and its range, counted upwards whichever way it counts."""

    last: int  # the number of the last one drawn; 0 if there is none
    step: int
    end: int  # beyond which there is none
    cycles: bool

    def share_used(self, gap: int, places: int) -> float:
        """How much of its range is used once a cutover has skipped `gap` numbers.

        Above 1 nothing is left.  With several `places` each of them has every n-th number.
        """
        at = self.last + (1 + gap) * self.step
        left = (self.end - at) / (self.step * places)
        drawn = max(0, self.last) / self.step
        if left < 0:
            return 2.0
        return drawn / (drawn + left) if drawn + left else 1.0


def users_of(subject: Subject) -> Mapping[TableName, Mapping[str, dict[TableName, str]]]:
    """Each sequence's services, with the tables and column types for which they draw."""
    users: dict[TableName, dict[str, dict[TableName, str]]] = defaultdict(lambda: defaultdict(dict))
    for route in subject.routes:
        columns = held_columns(route) if route.kind.owned else frozenset()
        for column in route.source.columns:
            if column.sequence and column.name in columns:
                users[column.sequence][route.service][route.source.name] = column.type
    return users


def check_shared(subject: Subject) -> Iterator[Finding]:
    """Sequences from which several services would draw."""
    for sequence, services in sorted(users_of(subject).items()):
        if len(services) > 1:
            yield subject.finding(
                Severity.NOTE, "sequence-shared", sequence,
                min(table for tables in services.values() for table in tables),
                f"{', '.join(sorted(services))} draw from it",
                why="each service gets a sequence of its own; the cutover lets them count in"
                f" steps of {len(services) + 1}, each from another start, so that no number"
                " is drawn twice",
                remedy="see that nothing relies on numbers without gaps, and that the columns'"
                " types have room for them",
            )  # fmt: skip


def check_sequences(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Sequences that end too soon, begin anew, or that no service would get."""
    users = users_of(subject)
    for row in subject.held(conn, SEQUENCES):
        sequence = TableName(row["schema"], row["name"])
        services = users.get(sequence)
        if not services:
            continue
        types = {type_ for tables in services.values() for type_ in tables.values()}
        table = min(table for tables in services.values() for table in tables)
        numbers = _numbers(row, types)
        if numbers.cycles:
            yield subject.finding(
                Severity.WARNING, "sequence-cycles", sequence, table,
                "it is CYCLE: it begins anew when it has reached its end",
                why="a cutover goes on behind the highest number and doesn't go round; numbers that"
                " come again may be in use, in another service too",
                remedy="ALTER SEQUENCE … NO CYCLE, with a type that has room",
            )  # fmt: skip
        places = len(services) + 1 if len(services) > 1 else 1
        yield from _check_room(subject, sequence, table, numbers, places)
    yield from _check_unowned(subject, conn)


def _numbers(row: Mapping[str, Any], types: set[str]) -> Numbers:
    step = row["step"]
    ends = [_COLUMN_MAX[type_] for type_ in types if type_ in _COLUMN_MAX]
    last = row["start"] - step if row["last"] is None else row["last"]
    if step < 0:
        return Numbers(
            -last, -step, min([-row["lowest"], *(end + 1 for end in ends)]), row["cycle"]
        )
    return Numbers(last, step, min([row["highest"], *ends]), row["cycle"])


def _check_room(
    subject: Subject, sequence: TableName, table: TableName, numbers: Numbers, places: int
) -> Iterator[Finding]:
    gap = subject.plan.sequences.gap
    share = numbers.share_used(gap, places)
    way = f", in steps of {numbers.step * places}" if numbers.step * places > 1 else ""
    stands = f"it stands at {numbers.last:,} of {numbers.end:,}"
    remedy = "widen the column and the sequence (ALTER … TYPE bigint), or set sequences.gap lower"
    if share > 1:
        yield subject.finding(
            Severity.BLOCKER, "sequence-exhausted", sequence, table, stands,
            why=f"a cutover skips {gap:,} numbers{way} and finds none left: it is given up",
            remedy=remedy,
        )  # fmt: skip
    elif share >= USED_SHARE_MAX:
        yield subject.finding(
            Severity.WARNING, "sequence-nearly-exhausted", sequence, table, stands,
            why=f"{share:.0%} are used once a cutover has skipped {gap:,} numbers and counts on"
            f"{way}",
            remedy=remedy,
        )  # fmt: skip


def _check_unowned(subject: Subject, conn: Connection) -> Iterator[Finding]:
    columns = (c for table in subject.catalog.tables.values() for c in table.columns)
    drawn = {column.sequence for column in columns}
    named = (TableName(row["schema"], row["name"]) for row in subject.held(conn, UNOWNED))
    found = [name for name in named if name not in drawn]
    if found:
        yield subject.finding(
            Severity.WARNING, "sequence-unowned", found[0] if len(found) == 1 else "sequences",
            ("tables",), f"no column draws from {some(found)}",
            why="no service gets such a sequence unless a function or view of its own names it, and"
            " a cutover sets it nowhere; an application that calls nextval() fails",
            remedy="let a column draw from it (DEFAULT nextval(…), or ALTER SEQUENCE … OWNED BY),"
            " or create it in the service's database beyond the numbers in use",
        )  # fmt: skip
