"""The rules that follow from a service's constraints and from the plan.  No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from plans.boundary import Cut
from plans.catalog import TableName
from plans.expressions import quoted
from plans.routes import Kind
from validators.rules.constraints import (
    Check,
    Constraint,
    DomainCheck,
    Labels,
    NotNull,
    References,
    Unique,
    label_of,
)
from validators.rules.rows import ServiceTable
from validators.rules.rule import SIDES, Rule, Side

ORPHANS: Final = "no-orphans"

Tables = Mapping[TableName, ServiceTable]


@dataclass(frozen=True, slots=True)
class _Made:
    """A rule before it is known on which sides it can be asked."""

    kind: str
    meaning: str
    query: Callable[[Side], str]
    columns: Mapping[TableName, frozenset[str]]  # that must be there


def generated_rules(
    tables: Tables, source: Iterable[Constraint], target: Iterable[Constraint]
) -> Iterator[Rule]:
    """The rules of one service.

    Tables that come from the source keep its constraints; to these come what the target's
    database says besides.  A rule is asked on each side that has what it reads.
    """
    known: set[tuple[type, TableName, str]] = set()
    for constraint, is_source in [*((c, True) for c in source), *((c, False) for c in target)]:
        table = tables.get(constraint.table)
        if table is None or table.is_copy or (is_source and not table.keeps_shape):
            continue
        constraint = _of_part(constraint, table)
        identity = (type(constraint), constraint.table, constraint.name)
        if identity in known or (is_source and _may_be_elsewhere(constraint, tables)):
            continue
        rule = _rule(constraint, table, tables)
        if rule.queries:
            known.add(identity)
            yield rule


def row_part_rules(tables: Tables, parts: Mapping[TableName, Mapping[str, str]]) -> Iterator[Rule]:
    """For tables split by rows: each row belongs to one part, and is where it belongs.

    `parts` are the predicates of a table by service, those of rows left behind with them.
    """
    for table in tables.values():
        route = table.routes[0] if table.routes else None
        if route is None or route.kind is not Kind.ROWS or route.where is None:
            continue
        predicates = parts.get(route.source.name, {})
        belongs = " + ".join(f"(({text}\n) IS TRUE)::int" for text in predicates.values())
        key = _names(table.key or _columns(table))
        yield Rule(
            name=f"row-part {table.name.name}",
            service=table.service,
            table=str(table.name),
            meaning="each row belongs to one part, and the service's are those of its own",
            queries={
                "source": f"SELECT {key}, {belongs} AS parts"
                f" FROM {route.source.name.identifier.as_string()}"
                f" WHERE {belongs} <> 1 AND (({route.where}\n) IS TRUE OR {belongs} = 0)",
                "target": f"SELECT {key} FROM {table.rows('target')}"
                f" WHERE ({route.where}\n) IS NOT TRUE",
            },
        )


def orphan_rule(cut: Cut, table: ServiceTable) -> Rule:
    """A key that the split cuts, asked on the source, where both ends are.

    Across databases no query can ask it; `validators.orphans` does.
    """
    key = cut.key
    query = _dangling(
        table,
        "source",
        _Ends(key.columns, key.referenced_columns, match_full=False),
        key.references.identifier.as_string(),
    )
    return Rule(
        name=f"{ORPHANS} {key.table.name}.{key.name}",
        service=cut.service,
        table=str(table.name),
        meaning=f"({', '.join(key.columns)}) refers to a row of {key.references} that there is",
        queries={"source": query},
    )


def _of_part(constraint: Constraint, table: ServiceTable) -> Constraint:
    """What a service that has some columns only keeps of a constraint."""
    if isinstance(constraint, NotNull):
        return replace(constraint, reads=constraint.reads & table.columns_of["target"])
    return constraint


def _may_be_elsewhere(constraint: Constraint, tables: Tables) -> bool:
    """Whether what a key of the source refers to may be in another service's part."""
    if not isinstance(constraint, References):
        return False
    other = tables.get(constraint.references)
    return other is None or any(route.kind is Kind.ROWS for route in other.routes)


def _rule(constraint: Constraint, table: ServiceTable, tables: Tables) -> Rule:
    made = _made(constraint, table, tables)
    queries = {
        side: made.query(side)
        for side in SIDES
        if made.columns
        and all(
            name in tables and columns and columns <= tables[name].columns_of.get(side, frozenset())
            for name, columns in made.columns.items()
        )
    }
    return Rule(
        name=f"{made.kind} {table.name.name}" + (f".{constraint.name}" if constraint.name else ""),
        service=table.service,
        table=str(table.name),
        meaning=made.meaning,
        queries=queries,
    )


def _made(constraint: Constraint, table: ServiceTable, tables: Tables) -> _Made:
    own = {table.name: constraint.reads}
    match constraint:
        case NotNull():
            said = f"no NULL in {', '.join(sorted(constraint.reads))}"
            return _Made("not-null", said, lambda side: _nulls(constraint, table, side), own)
        case Check():
            said = constraint.condition
            return _Made("check", said, lambda side: _unchecked(constraint, table, side), own)
        case DomainCheck():
            said = f"{constraint.column}: {constraint.condition}"
            return _Made("domain", said, lambda side: _outside(constraint, table, side), own)
        case Labels():
            said = f"{constraint.column} is one of {', '.join(constraint.labels)}"
            return _Made("one-of", said, lambda side: _unlabelled(constraint, table, side), own)
        case Unique():
            said = f"({', '.join(constraint.expressions)}) is there once"
            return _Made("unique", said, lambda side: _repeated(constraint, table, side), own)
        case References():
            columns = ", ".join(constraint.columns)
            said = f"({columns}) refers to a row of {constraint.references} that there is"
            ends = _Ends(constraint.columns, constraint.referenced, constraint.match_full)
            return _Made(
                "foreign-key",
                said,
                lambda side: _dangling(table, side, ends, tables[constraint.references].rows(side)),
                _both(table.name, constraint),
            )
        case _:
            # Constraint itself is never made.
            raise AssertionError(constraint)


def _both(table: TableName, constraint: References) -> Mapping[TableName, frozenset[str]]:
    """The columns that a key needs, of both of its tables, which may be one."""
    found = {table: constraint.reads}
    other = frozenset(constraint.referenced)
    return found | {constraint.references: found.get(constraint.references, frozenset()) | other}


def _nulls(constraint: NotNull, table: ServiceTable, side: Side) -> str:
    columns = sorted(constraint.reads)
    where = " OR ".join(f"{quoted(name)} IS NULL" for name in columns)
    null = ", ".join(f"CASE WHEN {quoted(name)} IS NULL THEN {_text(name)} END" for name in columns)
    shown = _names(table.key) + ", " if table.key else ""
    return (
        f"SELECT {shown}concat_ws(', ', {null}) AS \"is NULL\" FROM {table.rows(side)} AS r"
        f" WHERE {where}"
    )


def _unchecked(constraint: Check, table: ServiceTable, side: Side) -> str:
    return (
        f"SELECT {_shown(table, constraint)} FROM {table.rows(side)} AS r"
        f" WHERE NOT ({constraint.condition})"
    )


def _outside(constraint: DomainCheck, table: ServiceTable, side: Side) -> str:
    # VALUE is no reserved word: here it is a column of that name.
    return (
        f"SELECT {_shown(table, constraint, 'r.')} FROM {table.rows(side)} AS r"
        f" CROSS JOIN LATERAL"
        f" (SELECT r.{quoted(constraint.column)}::{constraint.type} AS value) AS v"
        f" WHERE NOT ({constraint.condition})"
    )


def _unlabelled(constraint: Labels, table: ServiceTable, side: Side) -> str:
    labels = ", ".join(_text(label) for label in constraint.labels)
    return (
        f"SELECT {_shown(table, constraint)} FROM {table.rows(side)} AS r"
        f" WHERE {quoted(constraint.column)}::text NOT IN ({labels})"
    )


def _repeated(constraint: Unique, table: ServiceTable, side: Side) -> str:
    numbers = range(len(constraint.expressions))
    values = ", ".join(f"{constraint.expressions[n]} AS {label_of(constraint, n)}" for n in numbers)
    conditions = [f"({constraint.predicate})"] if constraint.predicate else []
    if constraint.nulls_distinct:
        conditions += [f"({text}) IS NOT NULL" for text in constraint.expressions]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return (
        f'SELECT {values}, count(*) AS "rows" FROM {table.rows(side)} AS r{where}'
        f" GROUP BY {', '.join(str(n + 1) for n in numbers)} HAVING count(*) > 1"
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    columns: Sequence[str]
    referenced: Sequence[str]
    match_full: bool


def _dangling(table: ServiceTable, side: Side, ends: _Ends, referenced_rows: str) -> str:
    pairs = list(zip(ends.columns, ends.referenced, strict=True))
    same = " AND ".join(f"p.{quoted(there)} = r.{quoted(here)}" for here, there in pairs)
    given = " AND ".join(f"r.{quoted(name)} IS NOT NULL" for name in ends.columns)
    dangling = f"({given} AND NOT EXISTS (SELECT FROM {referenced_rows} AS p WHERE {same}))"
    if ends.match_full:
        some = ", ".join(f"r.{quoted(name)}" for name in ends.columns)
        dangling += f" OR num_nulls({some}) BETWEEN 1 AND {len(pairs) - 1}"
    shown = _names(dict.fromkeys([*table.key, *ends.columns]), "r.")
    return f"SELECT {shown} FROM {table.rows(side)} AS r WHERE {dangling}"


def _shown(table: ServiceTable, constraint: Constraint, of: str = "") -> str:
    """The key, and what the constraint is about."""
    return _names(dict.fromkeys([*table.key, *sorted(constraint.reads)]), of)


def _names(names: Iterable[str], of: str = "") -> str:
    return ", ".join(f"{of}{quoted(name)}" for name in names)


def _columns(table: ServiceTable) -> list[str]:
    return [column.name for column in table.target.columns]


def _text(text: str) -> str:
    return sql.Literal(text).as_string()
