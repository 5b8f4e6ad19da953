"""The schema of a service's database, read from the source.

1. Everything that could come along is read, with what it needs (`source`).
2. What needs a table, a column or an object that the service does not have is
   refused, with the chain that leads there; the rest is chosen if it is used or
   hangs on a table of the service (`selection`).
3. What has to be there before rows can be copied comes before the data, the rest
   after it, each in an order in which nothing is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from plans.errors import PlanInvalid
from plans.routes import Route
from plans.schema.annotations import read_comments, read_grants
from plans.schema.ddl import LeftOut, Statement, Target, TargetSchema
from plans.schema.dependencies import read_names
from plans.schema.objects import Address, Need, Object
from plans.schema.reading import Cursor, reading
from plans.schema.scope import scope_of
from plans.schema.selection import Graph, in_order, refusals, wanted
from plans.schema.source import Source, is_here, read_source
from plans.schema.tables import TableWriter

# Bodies may speak of tables that are created after them.
_SETTINGS = Statement("SET LOCAL check_function_bodies = off")
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
    scope = scope_of(target.service, routes)
    other_version = source.info.server_version // 10_000 != target.major
    with reading(source, quote_all=other_version) as cursor:
        found = read_source(cursor, scope, schemas, target)
        return _Choice.of(cursor, found, target).schema(cursor)


@dataclass(slots=True)
class _Choice:
    """What comes along, and why the rest does not."""

    source: Source
    target: Target
    graph: Graph
    names: dict[Address, tuple[str, str]]
    refused: dict[Address, str]
    chosen: set[Address]

    def schema(self, cursor: Cursor) -> TargetSchema:
        """All of it as DDL."""
        deferred = self._deferred_defaults()
        inline = {
            address
            for address in self.chosen - deferred
            if self.graph.objects[address].kind == "default value"
        }
        graph = self._with_defaults_inside(inline)
        tables = {relation.address for relation in self.source.tables()}
        owned = self._owned_sequences()
        before = {
            address
            for address in graph.closure(tables | owned)
            if address in self.chosen and graph.objects[address].kind in _BEFORE
        }
        schemas = {a for a in self.chosen if a.catalog in ("pg_namespace", "pg_extension")}
        writer = TableWriter(
            self.source.relations,
            self.source.scope,
            self.target.major,
            self.source.sequences.identity_options,
            self._without_default(deferred),
        )
        written = {one.address: writer.table(one) for one in self.source.tables()}
        first = [written.get(one.address, one) for one in in_order(graph, before | schemas)]
        after = in_order(graph, self.chosen - before - schemas - inline)
        return TargetSchema(
            (_SETTINGS, *self._public(), *_statements(first), *self._sequence_owners(owned)),
            (_SETTINGS, *_statements(after), *self._annotations(cursor)),
            (*self._left_out(), *writer.left_out),
        )

    def _deferred_defaults(self) -> set[Address]:
        """Defaults that call a function which needs tables: they are set when these exist."""
        return {
            address
            for address in self.chosen
            if self.graph.objects[address].kind == "default value"
            and any(
                self.graph.objects[needed].kind == "table"
                for function in self.graph.needs[address]
                if function.of.catalog == "pg_proc"
                for needed in self.graph.closure([function.of.whole], hard_only=True)
            )
        }

    def _without_default(self, deferred: set[Address]) -> set[Address]:
        return deferred | {address for address in self.refused if address.catalog == "pg_attrdef"}

    def _with_defaults_inside(self, inline: set[Address]) -> Graph:
        """Defaults that are written with their tables: what they need the tables need."""
        moved = []
        for address in self.chosen:
            for need in self.graph.needs[address]:
                by, of = (self._table_of(end, inline) for end in (need.by, need.of))
                if by != of:
                    moved.append(Need(by, of, need.hard))
        return Graph.of((self.graph.objects[address] for address in self.chosen - inline), moved)

    def _table_of(self, address: Address, inline: set[Address]) -> Address:
        relation = self.graph.objects[address.whole].relation if address.whole in inline else None
        return relation or address.whole

    def _owned_sequences(self) -> set[Address]:
        """Sequences of the service's columns, used by a default or not."""
        return {
            address
            for address in self.chosen
            if self.graph.objects[address].kind == "sequence"
            and self._owner_here(address) is not None
        }

    def _sequence_owners(self, sequences: set[Address]) -> list[Statement]:
        found = []
        for sequence in sequences:
            owner = self._owner_here(sequence)
            column = owner and self.source.relations.column(owner)
            if owner and column:
                table = self.source.relations.by_oid[owner.oid].quoted
                name = self.graph.objects[sequence].identity
                found.append(Statement(f"ALTER SEQUENCE {name} OWNED BY {table}.{column.quoted}"))
        return sorted(found, key=lambda statement: statement.create)

    def _public(self) -> list[Statement]:
        """The schema public, which somebody may have dropped; it is never dropped by us."""
        relations = self.source.relations.by_oid
        used = {relations[a.oid].schema for a in self.chosen if a.oid in relations}
        return [Statement("CREATE SCHEMA IF NOT EXISTS public")] if "public" in used else []

    def _annotations(self, cursor: Cursor) -> Sequence[Statement]:
        return (
            *read_comments(cursor, self._is_here),
            *read_grants(
                cursor, self.target.roles, self.target.major, self._is_granted, self._allowed
            ),
        )

    def _is_granted(self, address: Address) -> bool:
        if address == _PUBLIC_SCHEMA:
            return True
        if address.oid in self.source.dependencies.identity_sequences:
            return self._owner_here(address) is not None
        return self._is_here(address)

    def _allowed(self, address: Address) -> frozenset[str] | None:
        if address.catalog == "pg_class" and is_here(self.source, address.oid):
            part = self.source.scope.parts[self.source.relations.root(address.oid).table]
            return None if part.owned else _READ_ONLY
        return None

_BEFORE = ("schema", "extension", "collation", "type", "sequence", "function", "table")
_PUBLIC_SCHEMA = Address("pg_namespace", 2200)


def _statements(objects: Iterable[Object]) -> list[Statement]:
    """One statement for each command; the first takes the drop."""
    found: list[Statement] = []
    for one in objects:
        drops = [*reversed(one.drop), *[""] * len(one.create)]
        statements = [
            Statement(create, drop) for create, drop in zip(one.create, drops, strict=False)
        ]
        if len(one.drop) > len(one.create):
            rest = one.drop[: len(one.drop) - len(one.create)]
            statements[-1] = replace(statements[-1], drop="; ".join((*rest, statements[-1].drop)))
        found += statements
    return found
