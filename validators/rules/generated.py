"""The rules that follow from a service's constraints and from the plan.  No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from plans.boundary import Cut
from plans.catalog import TableName
from plans.routes import Kind
from validators.canonical import trusted
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
    query: Callable[[Side], sql.Composed]
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
        condition = trusted(route.where)
        belongs = sql.SQL(" + ").join(
            sql.SQL("(({}\n) IS TRUE)::int").format(trusted(text)) for text in predicates.values()
        )
        key = _names(table.key or _columns(table))
        on_source = sql.SQL(
            "SELECT {key}, {belongs} AS parts FROM {table}"
            " WHERE {belongs} <> 1 AND (({condition}\n) IS TRUE OR {belongs} = 0)"
        ).format(key=key, belongs=belongs, table=route.source.name.identifier, condition=condition)
        on_target = sql.SQL("SELECT {} FROM {} WHERE ({}\n) IS NOT TRUE").format(
            key, table.rows("target"), condition
        )
        yield Rule(
            name=f"row-part {table.name.name}",
            service=table.service,
            table=str(table.name),
            meaning="each row belongs to one part, and the service's are those of its own",
            queries={"source": on_source.as_string(), "target": on_target.as_string()},
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
        key.references.identifier,
    )
    return Rule(
        name=f"{ORPHANS} {key.table.name}.{key.name}",
        service=cut.service,
        table=str(table.name),
        meaning=f"({', '.join(key.columns)}) refers to a row of {key.references} that there is",
        queries={"source": query.as_string()},
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
        side: made.query(side).as_string()
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


def _nulls(constraint: NotNull, table: ServiceTable, side: Side) -> sql.Composed:
    columns = sorted(constraint.reads)
    null = sql.SQL(", ").join(
        sql.SQL("CASE WHEN {} IS NULL THEN {} END").format(sql.Identifier(name), sql.Literal(name))
        for name in columns
    )
    shown = [*(sql.Identifier(name) for name in table.key)]
    which = sql.SQL("pg_catalog.concat_ws(', ', {}) AS \"is NULL\"").format(null)
    return sql.SQL("SELECT {} FROM {} AS r WHERE {}").format(
        sql.SQL(", ").join([*shown, which]),
        table.rows(side),
        sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier(n)) for n in columns),
    )


def _unchecked(constraint: Check, table: ServiceTable, side: Side) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS r WHERE NOT ({})").format(
        _shown(table, constraint), table.rows(side), trusted(constraint.condition)
    )


def _outside(constraint: DomainCheck, table: ServiceTable, side: Side) -> sql.Composed:
    # VALUE is no reserved word: here it is a column of that name.
    return sql.SQL(
        "SELECT {} FROM {} AS r CROSS JOIN LATERAL (SELECT {}::{} AS value) AS v WHERE NOT ({})"
    ).format(
        _shown(table, constraint, "r"),
        table.rows(side),
        sql.Identifier("r", constraint.column),
        trusted(constraint.type),
        trusted(constraint.condition),
    )


def _unlabelled(constraint: Labels, table: ServiceTable, side: Side) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS r WHERE {}::text NOT IN ({})").format(
        _shown(table, constraint),
        table.rows(side),
        sql.Identifier(constraint.column),
        sql.SQL(", ").join(map(sql.Literal, constraint.labels)),
    )


def _repeated(constraint: Unique, table: ServiceTable, side: Side) -> sql.Composed:
    values = [
        sql.SQL("{} AS {}").format(trusted(text), sql.Identifier(label_of(text)))
        for text in constraint.expressions
    ]
    conditions = [constraint.predicate] if constraint.predicate else []
    if constraint.nulls_distinct:
        conditions += [f"({text}) IS NOT NULL" for text in constraint.expressions]
    where = sql.SQL(" AND ").join(sql.SQL("({})").format(trusted(text)) for text in conditions)
    places = sql.SQL(", ").join(sql.Literal(n + 1) for n in range(len(values)))
    return sql.SQL(
        'SELECT {}, count(*) AS "rows" FROM {} AS r WHERE {} GROUP BY {} HAVING count(*) > 1'
    ).format(
        sql.SQL(", ").join(values),
        table.rows(side),
        where if conditions else sql.SQL("true"),
        places,
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    columns: Sequence[str]
    referenced: Sequence[str]
    match_full: bool


def _dangling(
    table: ServiceTable, side: Side, ends: _Ends, referenced_rows: sql.Composable
) -> sql.Composed:
    pairs = list(zip(ends.columns, ends.referenced, strict=True))
    own = [sql.Identifier("r", name) for name in ends.columns]
    dangling = sql.SQL("({} AND NOT EXISTS (SELECT FROM {} AS p WHERE {}))").format(
        sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(name) for name in own),
        referenced_rows,
        sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("p", there), sql.Identifier("r", here))
            for here, there in pairs
        ),
    )
    if ends.match_full:
        partly = sql.SQL(" OR pg_catalog.num_nulls({}) BETWEEN 1 AND {}")
        dangling += partly.format(sql.SQL(", ").join(own), sql.Literal(len(pairs) - 1))
    return sql.SQL("SELECT {} FROM {} AS r WHERE {}").format(
        _names(dict.fromkeys([*table.key, *ends.columns]), "r"), table.rows(side), dangling
    )


def _shown(table: ServiceTable, constraint: Constraint, of: str = "") -> sql.Composed:
    """The key, and what the constraint is about."""
    return _names(dict.fromkeys([*table.key, *sorted(constraint.reads)]), of)


def _names(names: Iterable[str], of: str = "") -> sql.Composed:
    """Columns, of an alias."""
    return sql.SQL(", ").join(sql.Identifier(*([of] if of else []), name) for name in names)


def _columns(table: ServiceTable) -> list[str]:
    return [column.name for column in table.target.columns]
