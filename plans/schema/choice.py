"""Which of the source's objects come along, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

from plans.errors import PlanInvalid
from plans.schema.ddl import LeftOut, Target
from plans.schema.dependencies import read_names
from plans.schema.objects import Address, Need, Object
from plans.schema.reading import Cursor
from plans.schema.selection import Graph, refusals, wanted
from plans.schema.source import Source, is_here


@dataclass(slots=True)
class Choice:
    """What comes along, and why the rest does not."""

    source: Source
    target: Target
    graph: Graph
    names: dict[Address, tuple[str, str]]
    refused: dict[Address, str]
    chosen: set[Address]

    @classmethod
    def of(cls, cursor: Cursor, source: Source, target: Target) -> Choice:
        """Decide; PlanInvalid if a table itself cannot come along."""
        graph = Graph.of(source.objects, _of_columns_here(source))
        unknown = {need.of for needs in graph.needs.values() for need in needs}
        quoting = cursor.execute("SHOW quote_all_identifiers").fetchall()
        choice = cls(source, target, graph, {}, {}, set())
        choice.names = read_names(cursor, unknown | set(graph.objects))
        cursor.execute("SELECT set_config('quote_all_identifiers', %s, true)", quoting[0])
        choice.refused = refusals(graph, choice.outside, choice.name)
        tables = {relation.address for relation in source.tables()}
        choice.refuse_tables(tables)
        choice.chosen = wanted(graph, tables, choice.refused, source.alone())
        return choice

    def refuse_tables(self, tables: set[Address]) -> None:
        """A table without its type or partition key cannot be made at all."""
        lost = [f"{self.name(one)} {self.refused[one]}" for one in tables if one in self.refused]
        if lost:
            raise PlanInvalid(
                f"{self.target.service} cannot have {'; '.join(sorted(lost))}",
                hint="give the service what is needed, or leave the column behind by drop",
            )

    def name(self, address: Address) -> str:
        """The thing for a person; what a table or function is needs no saying."""
        kind, identity = self.names.get(address.whole, ("", ""))
        return identity if kind in ("table", "function", "") else f"{kind} {identity}"

    def outside(self, need: Need) -> str | None:
        """What `need` crosses the service's boundary for."""
        of = need.of
        if of.catalog == "pg_class" and of.oid in self.source.relations.by_oid:
            return self._relation_outside(need)
        known = of.whole in self.graph.objects or of.whole in self.source.dependencies.extension
        if known or of.catalog in ("pg_namespace", "pg_extension"):
            return None
        return f"{self.name(of)}, which dbsplit does not bring" if self.name(of) else None

    def _relation_outside(self, need: Need) -> str | None:
        source, of = self.source, need.of
        relation = source.relations.by_oid[of.oid]
        root = source.relations.root(of.oid).table
        if relation.kind == "S":
            owner = source.dependencies.sequence_owner.get(of.oid)
            # A default may share a sequence: each database has one of its own then.
            if need.hard or owner is None or is_here(source, owner.oid):
                return None
            table = source.relations.root(owner.oid).table
            return f"sequence {relation.table} of {table} {source.scope.whose(table)}"
        if relation.kind in ("v", "m"):
            return None
        if not is_here(source, of.oid):
            return f"{relation.table} {source.scope.whose(root)}"
        column = source.relations.column(of) if of.column > 0 else None
        if column is None or column.name in source.scope.parts[root].columns:
            return None
        whose = source.scope.whose(root, column.name)
        return f"column {relation.table}.{column.name} {whose}"

    def is_chosen(self, address: Address) -> bool:
        """Whether a thing comes along, and the column if it is one."""
        if address.whole not in self.chosen:
            return False
        if address.column == 0 or not is_here(self.source, address.oid):
            return True
        column = self.source.relations.column(address)
        part = self.source.scope.parts[self.source.relations.root(address.oid).table]
        lost = column is not None and column.generated and column.default in self.refused
        return column is not None and column.name in part.columns and not lost

    def owner_here(self, sequence: Address) -> Address | None:
        """The column of the service that owns the sequence, if it comes along."""
        owner = self.source.dependencies.sequence_owner.get(sequence.oid)
        if owner is None or not is_here(self.source, owner.oid):
            return None
        part = self.source.scope.parts[self.source.relations.root(owner.oid).table]
        column = self.source.relations.column(owner)
        return owner if part.owned and column and column.name in part.columns else None

    def left_out(self) -> list[LeftOut]:
        """What somebody of this service would miss."""
        found = []
        for address, reason in self.refused.items():
            one = self.graph.objects[address]
            if self._concerns(one):
                found.append(LeftOut(self._title(one), reason))
        return sorted(found, key=lambda left: (left.object, left.reason))

    def _title(self, one: Object) -> str:
        kind, identity = self.names.get(one.address, (one.kind, one.identity))
        if self._is_generated(one):
            return f"generated column {identity.removeprefix('for ')}"
        kind = {"table constraint": one.kind, "default value": "default"}.get(kind, kind)
        return f"{'constraint' if kind == 'primary key' else kind} {identity}"

    def _concerns(self, one: Object) -> bool:
        """Whether somebody would miss it here: not if all that it is about is elsewhere."""
        needs = self.graph.needs[one.address]
        if one.kind == "default value" and not self._has_column(one):
            return False
        if self._is_generated(one):
            return True  # on a read-only copy too: nobody writes the column, and everybody reads it
        if one.relation is not None:
            if not is_here(self.source, one.relation.oid):
                return False
            # A word in a trigger's function is no column that the trigger is about.
            own = [
                n.of for n in needs if n.hard and n.of.column and n.of.whole == one.relation.whole
            ]
            return not own or any(self._is_told(of) for of in own)
        alone = one.address in self.source.alone()
        return alone and any(self._is_told(need.of) for need in needs)

    def _is_generated(self, one: Object) -> bool:
        """Whether it is no default, but what a generated column is computed by."""
        columns = self.source.relations.columns.get(one.relation.oid, ()) if one.relation else ()
        return any(column.generated and column.default == one.address for column in columns)

    def _has_column(self, default: Object) -> bool:
        relation = default.relation
        columns = self.source.relations.columns.get(relation.oid, ()) if relation else ()
        names = {column.name for column in columns if column.default == default.address}
        part = relation and self.source.scope.parts.get(
            self.source.relations.root(relation.oid).table
        )
        return bool(part and names & part.columns)

    def _is_told(self, of: Address) -> bool:
        """Whether it is, or may be, an owned column that other parts of the table lack."""
        if of.catalog != "pg_class" or not is_here(self.source, of.oid):
            return False
        part = self.source.scope.parts[self.source.relations.root(of.oid).table]
        names = {column.name for column in self.source.relations.columns.get(of.oid, ())}
        column = self.source.relations.column(of)
        if not part.owned or column is None or names <= part.columns:
            return part.owned
        return column.name in part.columns - part.key


def _of_columns_here(source: Source) -> list[Need]:
    """All needs but those of columns that do not come along."""
    found = []
    for need in source.needs:
        column = source.relations.column(need.by) if need.by.column > 0 else None
        if column is not None and is_here(source, need.by.oid):
            table = source.relations.root(need.by.oid).table
            if column.name not in source.scope.parts[table].columns:
                continue
        found.append(need)
    return found
