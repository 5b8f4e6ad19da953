"""What the names in a statement can mean: tables, views, functions, triggers, rules.

Values only, read in one snapshot.  Views and functions are read from all schemas,
not only the plan's: a statement may reach the plan's tables through any of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from plans.catalog import Catalog, ForeignKey, TableName
from plans.errors import NotReady
from plans.holders import locked
from plans.names import CONTROL_SCHEMA
from plans.statements import scope_sql
from plans.statements.parts import (
    Attached,
    Event,
    Policy,
    Routine,
    Rule,
    Trigger,
    View,
    WriteEvent,
)
from plans.statements.settings import path_names

_RULE_EVENTS: Mapping[str, WriteEvent] = {"2": "update", "3": "insert", "4": "delete"}
_POLICY_EVENTS: Mapping[str, tuple[Event, ...]] = {
    "r": ("read",), "a": ("insert",), "w": ("update",), "d": ("delete",),
    "*": ("read", "insert", "update", "delete"),
}  # fmt: skip
_OTHERS = {"r": "table", "p": "table", "f": "foreign table", "S": "sequence"}
IGNORED = "ignored"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """All that stands between the names in a text and the tables of a catalog."""

    catalog: Catalog
    roots: Mapping[TableName, TableName]  # of every partition
    children: Mapping[TableName, tuple[TableName, ...]]  # by inheritance, at all depths
    referencing: Mapping[TableName, tuple[ForeignKey, ...]]  # keys by what they reference
    views: Mapping[TableName, View] = field(default_factory=dict)
    routines: Mapping[tuple[str, str], tuple[Routine, ...]] = field(default_factory=dict)
    triggers: Mapping[TableName, tuple[Trigger, ...]] = field(default_factory=dict)
    rules: Mapping[TableName, tuple[Rule, ...]] = field(default_factory=dict)
    policies: Mapping[TableName, tuple[Policy, ...]] = field(default_factory=dict)
    attached: Mapping[TableName, tuple[Attached, ...]] = field(default_factory=dict)
    operators: Mapping[tuple[str, str], tuple[Routine, ...]] = field(default_factory=dict)
    casts: Mapping[tuple[str, str], tuple[Routine, ...]] = field(default_factory=dict)  # by target
    others: Mapping[TableName, str] = field(default_factory=dict)  # relations, what they are
    system_functions: frozenset[str] | None = None  # None: not known
    system_relations: frozenset[str] | None = None
    # What the definitions were found to use; filled by `definitions`, never looked at elsewhere.
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        *,
        views: Iterable[View] = (),
        routines: Iterable[Routine] = (),
        triggers: Iterable[Trigger] = (),
        rules: Iterable[Rule] = (),
        policies: Iterable[Policy] = (),
    ) -> Scope:
        """The scope of a catalog and of what is given besides, without a server."""
        roots = {name: _root(catalog, name) for name in catalog.tables}
        named: dict[tuple[str, str], list[Routine]] = defaultdict(list)
        for routine in routines:
            named[routine.schema, routine.name].append(routine)
        return cls(
            catalog=catalog,
            roots={name: root for name, root in roots.items() if name != root},
            children=_children(catalog),
            referencing=_referencing(catalog, roots),
            views={view.name: view for view in views},
            routines={name: tuple(found) for name, found in named.items()},
            triggers=_by_relation((one.relation, one) for one in triggers),
            rules=_by_relation((one.relation, one) for one in rules),
            policies=_by_relation((one.relation, one) for one in policies),
            others=dict.fromkeys(catalog.foreign_tables, "foreign table"),
        )

    def root(self, table: TableName) -> TableName:
        """The table that `table` is a partition of, at the top; else itself."""
        return self.roots.get(table, table)


def read_scope(conn: psycopg.Connection[Any], catalog: Catalog) -> Scope:
    """Read what a database has besides the tables of `catalog`.

    Reads in a transaction of its own (REPEATABLE READ, READ ONLY), so `conn`
    must not be in one: ValueError.  NotReady if DDL keeps a definition locked.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("read_scope() needs a connection that isn't in a transaction")
    try:
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            for setting in scope_sql.SETTINGS:
                cursor.execute(setting)
            return _read(cursor, catalog)
    except psycopg.errors.LockNotAvailable as error:
        raise locked(conn, error) from None
    except psycopg.errors.QueryCanceled as error:
        raise NotReady(
            f"the views and functions of {conn.info.dbname} can't be read:"
            f" {error.diag.message_primary}",
            hint="try again when the server is less busy",
        ) from None


def _read(cursor: psycopg.Cursor[DictRow], catalog: Catalog) -> Scope:
    def rows(query: LiteralString) -> list[DictRow]:
        return cursor.execute(query, {"control": CONTROL_SCHEMA}).fetchall()

    relations = rows(scope_sql.RELATIONS)
    triggers = rows(scope_sql.TRIGGERS)
    transitions: dict[int, set[str]] = defaultdict(set)
    for row in triggers:
        transitions[row["function"]].update(row["transitions"])
    found = rows(scope_sql.ROUTINES)
    names = {row["oid"]: (row["schema"], row["name"]) for row in found}
    routines = {row["oid"]: _routine(row, names, transitions[row["oid"]]) for row in found}
    base = Scope.of(
        catalog,
        views=_views(relations),
        routines=routines.values(),
        triggers=[_trigger(row, catalog, routines) for row in triggers],
        rules=[_rule(row) for row in rows(scope_sql.RULES)],
        policies=[_policy(row, catalog) for row in rows(scope_sql.POLICIES)],
    )
    (known,) = rows(scope_sql.BUILTINS)
    return replace(
        base,
        attached=_by_relation(
            (one.relation, one)
            for one in (_attached(row, catalog, routines) for row in rows(scope_sql.ATTACHED))
        ),
        operators=_behind(rows(scope_sql.OPERATORS), routines),
        casts=_behind(rows(scope_sql.CASTS), routines),
        others=dict(_others(relations, catalog)),
        system_functions=frozenset(known["functions"]),
        system_relations=frozenset(known["relations"]),
    )


def _views(relations: Iterable[DictRow]) -> Iterator[View]:
    for row in relations:
        if row["kind"] in "vm" and not row["of_extension"]:
            yield View(
                _name(row), tuple(row["columns"] or ()), row["definition"], row["kind"] == "m"
            )


def _others(relations: Iterable[DictRow], catalog: Catalog) -> Iterator[tuple[TableName, str]]:
    for row in relations:
        if row["of_extension"] or row["schema"] == CONTROL_SCHEMA:
            yield _name(row), IGNORED
        elif row["kind"] in _OTHERS and _name(row) not in catalog.tables:
            yield _name(row), _OTHERS[row["kind"]]


def _routine(
    row: DictRow, names: Mapping[int, tuple[str, str]], transitions: Iterable[str]
) -> Routine:
    # CALL names an OUT parameter of a procedure too, a function call doesn't.
    outputs = (row["outputs"] or 0) if row["kind"] == "p" else 0
    return Routine(
        schema=row["schema"],
        name=row["name"],
        kind=row["kind"],
        language=row["language"],
        arguments=row["arguments"],
        definition=row["definition"] or "",
        args_min=row["args_min"],
        args_max=None if row["is_variadic"] else row["args"] + outputs,
        search_path=path_names(row["search_path"].partition("=")[2])
        if row["search_path"]
        else None,
        of_extension=row["of_extension"],
        transitions=frozenset(transitions),
        steps=tuple(names[oid] for oid in row["steps"] or () if oid in names),
    )


def _trigger(row: DictRow, catalog: Catalog, routines: Mapping[int, Routine]) -> Trigger:
    events: tuple[WriteEvent, ...] = ("insert", "update", "delete", "truncate")
    return Trigger(
        name=row["name"],
        relation=_relation(row, catalog),
        events=frozenset(event for event in events if row[f"on_{event}"]),
        # A trigger function of the server itself touches only the row.
        routine=routines.get(row["function"])
        or Routine(schema="pg_catalog", name=row["name"], language="internal"),
        columns=frozenset(row["columns"] or ()),
        before_row=row["before_row"],
        arguments=tuple(row["arguments"].decode(errors="replace").split("\0")[:-1]),
    )


def _attached(row: DictRow, catalog: Catalog, routines: Mapping[int, Routine]) -> Attached:
    return Attached(
        name=row["name"],
        relation=_relation(row, catalog),
        routines=_own(row["functions"], routines),
    )


def _behind(
    rows: Iterable[DictRow], routines: Mapping[int, Routine]
) -> dict[tuple[str, str], tuple[Routine, ...]]:
    """The functions behind the operators or casts of each name."""
    return {(row["schema"], row["name"]): _own(row["functions"], routines) for row in rows}


def _own(functions: Iterable[int], routines: Mapping[int, Routine]) -> tuple[Routine, ...]:
    """Those of them that no extension brings: such reach no tables of ours."""
    found = (routines[oid] for oid in functions if oid in routines)
    return tuple(routine for routine in found if not routine.of_extension)


def _policy(row: DictRow, catalog: Catalog) -> Policy:
    expressions = (row["rows_seen"], row["rows_written"])
    return Policy(
        name=row["name"],
        relation=_relation(row, catalog),
        events=frozenset(_POLICY_EVENTS[row["command"]]),
        expressions=tuple(expression for expression in expressions if expression),
    )


def _relation(row: DictRow, catalog: Catalog) -> TableName:
    relation = TableName(row["schema"], row["relation"])
    return _root(catalog, relation) if relation in catalog.tables else relation


def _rule(row: DictRow) -> Rule:
    return Rule(
        name=row["name"],
        relation=TableName(row["schema"], row["relation"]),
        event=_RULE_EVENTS[row["event"]],
        is_instead=row["is_instead"],
        definition=row["definition"],
    )


def _name(row: DictRow) -> TableName:
    return TableName(row["schema"], row["name"])


def _root(catalog: Catalog, name: TableName) -> TableName:
    table = catalog.tables[name]
    while table.is_partition and table.parent and table.parent in catalog.tables:
        table = catalog.tables[table.parent]
    return table.name


def _children(catalog: Catalog) -> dict[TableName, tuple[TableName, ...]]:
    below: dict[TableName, list[TableName]] = defaultdict(list)
    for table in catalog.tables.values():
        ancestor = None if table.is_partition else table.parent
        while ancestor and ancestor in catalog.tables:
            below[ancestor].append(table.name)
            ancestor = catalog.tables[ancestor].parent
    return {name: tuple(found) for name, found in below.items()}


def _referencing(
    catalog: Catalog, roots: Mapping[TableName, TableName]
) -> dict[TableName, tuple[ForeignKey, ...]]:
    found = ((roots.get(key.references, key.references), key) for key in catalog.foreign_keys)
    return _by_relation(found)


def _by_relation(pairs: Iterable[tuple[TableName, T]]) -> dict[TableName, tuple[T, ...]]:
    found: dict[TableName, list[T]] = defaultdict(list)
    for relation, one in pairs:
        found[relation].append(one)
    return {relation: tuple(all_of_it) for relation, all_of_it in found.items()}
