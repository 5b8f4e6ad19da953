"""The schema of a service's database, read from the source.

1. Everything that could come along is read, with what it needs (`source`).
2. What needs a table, a column or an object that the service does not have is
   refused, with the chain that leads there; the rest is chosen if it is used or
   hangs on a table of the service (`selection`).
3. What has to be there before rows can be copied comes before the data, the rest
   after it, each in an order in which nothing is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from plans.errors import PlanInvalid
from plans.routes import Route
from plans.schema.annotations import read_comments, read_grants
from plans.schema.choice import Choice
from plans.schema.ddl import Statement, Target, TargetSchema
from plans.schema.objects import Address, Need, Object
from plans.schema.orphan_indexes import orphan_indexes
from plans.schema.reading import Cursor, reading
from plans.schema.scope import scope_of
from plans.schema.selection import Graph, in_order
from plans.schema.source import Common, Source, is_here, read_common, read_source
from plans.schema.tables import TableWriter

# Bodies may speak of tables that are created after them.
_SETTINGS = Statement("SET LOCAL check_function_bodies = off")
_FIRST = ("schema", "extension")
_BEFORE = ("collation", "type", "sequence", "function", "table")
_PUBLIC_SCHEMA = Address("pg_namespace", 2200)
_READ_ONLY = frozenset({"SELECT"})


def target_schema(
    source: psycopg.Connection[Any],
    schemas: Collection[str],
    routes: Iterable[Route],
    target: Target,
) -> TargetSchema:
    """What `target`'s service needs of the source, and what of it can't come along.

    `schemas` are the plan's, `routes` those of all services.  Reads in one
    snapshot of its own; `source` must not be in a transaction (ValueError).

    Raises PlanInvalid for a table that is given another shape, and for one that
    cannot exist without something that cannot come along.
    """
    (schema,) = target_schemas(source, schemas, routes, [target])
    if isinstance(schema, PlanInvalid):
        raise schema
    return schema


def target_schemas(
    source: psycopg.Connection[Any],
    schemas: Collection[str],
    routes: Iterable[Route],
    targets: Iterable[Target],
) -> Iterator[TargetSchema | PlanInvalid]:
    """The schemas of several services, or why there is none, for each of `targets` in turn.

    What they have in common is read once, which is most of it for a large database.
    """
    routes, targets = list(routes), list(targets)
    by_quoting: dict[bool, list[int]] = {}
    for number, target in enumerate(targets):
        other_version = source.info.server_version // 10_000 != target.major
        by_quoting.setdefault(other_version, []).append(number)
    found: dict[int, TargetSchema | PlanInvalid] = {}
    for quote_all, numbers in by_quoting.items():
        with reading(source, quote_all=quote_all) as cursor:
            common = read_common(cursor)
            for number in numbers:
                found[number] = _schema(cursor, schemas, routes, targets[number], common)
    yield from (found[number] for number in range(len(targets)))


def _schema(
    cursor: Cursor,
    schemas: Collection[str],
    routes: list[Route],
    target: Target,
    common: Common,
) -> TargetSchema | PlanInvalid:
    try:
        scope = scope_of(target.service, routes)
        found = read_source(cursor, scope, schemas, target, common)
        return _Assembly(found, Choice.of(cursor, found, target), target).schema(cursor)
    except PlanInvalid as invalid:
        return invalid


@dataclass(frozen=True, slots=True)
class _Assembly:
    """Puts what was chosen into an order that works."""

    source: Source
    choice: Choice
    target: Target

    def schema(self, cursor: Cursor) -> TargetSchema:
        """All of it as DDL."""
        chosen, objects = self.choice.chosen, self.choice.graph.objects
        deferred = self._deferred_defaults()
        inline = {one for one in chosen - deferred if objects[one].kind == "default value"}
        graph = self._with_defaults_inside(inline)
        sequences = self._owned_sequences()
        tables = {relation.address for relation in self.source.tables()}
        needed = graph.closure(tables | set(sequences))
        before = {one for one in needed if objects[one].kind in _BEFORE}
        before |= {one for one in chosen if objects[one].kind in _FIRST}
        writer = self._writer(deferred)
        written = {one.address: writer.table(one) for one in self.source.tables()}
        first = [written.get(one.address, one) for one in in_order(graph, before)]
        after = in_order(graph, chosen - before - inline)
        apart = _apart(graph, after)
        return TargetSchema(
            (_SETTINGS, *self._public(), *_statements(first), *self._owned_by(sequences)),
            (
                _SETTINGS,
                *_statements(after, apart),
                *orphan_indexes(cursor, self.source, self.choice, self.target.checked_keys),
                *self._annotations(cursor),
            ),
            (*self.choice.left_out(), *writer.left_out),
        )

    def _writer(self, deferred: set[Address]) -> TableWriter:
        refused = {one for one in self.choice.refused if one.catalog == "pg_attrdef"}
        return TableWriter(
            self.source.relations,
            self.source.scope,
            self.target.major,
            self.source.sequences.identity_options,
            deferred | refused,
        )

    def _deferred_defaults(self) -> set[Address]:
        """Defaults that call a function which needs tables: they are set when these exist."""
        graph = self.choice.graph
        found = set()
        for address in self.choice.chosen:
            if graph.objects[address].kind == "default value":
                calls = (n.of.whole for n in graph.needs[address] if n.of.catalog == "pg_proc")
                needed = graph.closure(calls, hard_only=True)
                if any(graph.objects[one].kind == "table" for one in needed):
                    found.add(address)
        return found

    def _with_defaults_inside(self, inline: set[Address]) -> Graph:
        """Defaults that are written with their tables: what they need the tables need."""
        graph = self.choice.graph

        def place(address: Address) -> Address:
            of_default = address.whole in inline and graph.objects[address.whole].relation
            return of_default or address.whole

        moved = [
            Need(place(need.by), place(need.of), need.hard)
            for address in self.choice.chosen
            for need in graph.needs[address]
        ]
        return Graph.of(
            (graph.objects[one] for one in self.choice.chosen - inline),
            (need for need in moved if need.by != need.of),
        )

    def _owned_sequences(self) -> dict[Address, Address]:
        """Sequences of the service's columns, used by a default or not, and their columns."""
        sequences = {
            one: self.choice.owner_here(one)
            for one in self.choice.chosen
            if self.choice.graph.objects[one].kind == "sequence"
        }
        return {sequence: owner for sequence, owner in sequences.items() if owner}

    def _owned_by(self, sequences: Mapping[Address, Address]) -> list[Statement]:
        found = []
        for sequence, owner in sequences.items():
            name = self.choice.graph.objects[sequence].identity
            table = self.source.relations.by_oid[owner.oid].quoted
            column = self.source.relations.column(owner)
            if column:
                found.append(Statement(f"ALTER SEQUENCE {name} OWNED BY {table}.{column.quoted}"))
        return sorted(found, key=lambda statement: statement.create)

    def _public(self) -> list[Statement]:
        """The schema public, which somebody may have dropped; it is never dropped by us."""
        relations = self.source.relations.by_oid
        used = {relations[a.oid].schema for a in self.choice.chosen if a.oid in relations}
        return [Statement("CREATE SCHEMA IF NOT EXISTS public")] if "public" in used else []

    def _annotations(self, cursor: Cursor) -> Sequence[Statement]:
        return (
            *read_comments(cursor, self.choice.is_chosen),
            *read_grants(
                cursor, self.target.roles, self.target.major, self._is_granted, self._allowed
            ),
        )

    def _is_granted(self, address: Address) -> bool:
        if address == _PUBLIC_SCHEMA:
            return True
        identity = self.source.dependencies.identity_sequences
        if address.catalog == "pg_class" and address.oid in identity:
            return self.choice.owner_here(address) is not None
        return self.choice.is_chosen(address)

    def _allowed(self, address: Address) -> frozenset[str] | None:
        if address.catalog == "pg_class" and is_here(self.source, address.oid):
            part = self.source.scope.parts[self.source.relations.root(address.oid).table]
            return None if part.owned else _READ_ONLY
        return None


def _apart(graph: Graph, after: Iterable[Object]) -> set[Address]:
    """What needs nothing of what comes after the data but others that can be built apart."""
    after = list(after)
    coming = {one.address for one in after}
    apart: set[Address] = set()
    for one in after:
        needs = {need.of.whole for need in graph.needs[one.address]} & coming
        if one.build is not None and needs <= apart:
            apart.add(one.address)
    return apart


def _statements(objects: Iterable[Object], apart: Collection[Address] = ()) -> list[Statement]:
    """One statement for each command of an object; its first is what undoing drops."""
    return [
        Statement(
            create,
            one.drop if number == 0 else "",
            one.build if one.address in apart else None,
        )
        for one in objects
        for number, create in enumerate(one.create)
    ]
