"""CREATE TABLE, for exactly the columns that a service gets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from plans.schema.ddl import LeftOut
from plans.schema.objects import Address, Object
from plans.schema.relations import COMPRESSION, STORAGE, ColumnText, Relation, Relations
from plans.schema.scope import Part, Scope

_VIRTUAL_SINCE = 18
# Storage parameters that older servers refuse, by the major version that brought them.
_OPTIONS_SINCE = {
    "vacuum_max_eager_freeze_failure_rate": 18,
    "autovacuum_vacuum_max_threshold": 18,
    "toast.vacuum_max_eager_freeze_failure_rate": 18,
    "toast.autovacuum_vacuum_max_threshold": 18,
    "vacuum_truncate": 12,
}


@dataclass(slots=True)
class TableWriter:
    """Writes the tables of one service's database."""

    relations: Relations
    scope: Scope
    major: int
    identity_options: Mapping[Address, str]  # column -> SEQUENCE NAME ... START WITH ...
    without_default: Collection[Address]  # pg_attrdef: refused, or set after the data
    left_out: list[LeftOut] = field(default_factory=list)

    def part(self, relation: Relation) -> Part:
        """What the service has of the table, or of the table it is a partition of."""
        return self.scope.parts[self.relations.root(relation.oid).table]

    def columns(self, relation: Relation) -> list[ColumnText]:
        """The columns that come along, in the table's order."""
        part = self.part(relation)
        return [
            column
            for column in self.relations.columns.get(relation.oid, ())
            if column.name in part.columns and not self._lost(column)
        ]

    def _lost(self, column: ColumnText) -> bool:
        """Whether a generated column's expression can't come along, so it can't either."""
        return bool(column.generated) and column.default in self.without_default

    def table(self, relation: Relation) -> Object:
        """The table with everything that has to be there before its rows."""
        columns = self.columns(relation)
        create = self._partition(relation) if self._below(relation) else self._table(relation)
        extras = [extra for column in columns for extra in self._extras(relation, column)]
        return Object(
            address=relation.address,
            kind="table",
            identity=relation.quoted,
            create=(create, *extras),
            drop=f"DROP TABLE IF EXISTS {relation.quoted}",
        )

    def _below(self, relation: Relation) -> bool:
        """Whether it is a partition of a table that is partitioned in the target, too."""
        return relation.is_partition and self.partitioned(
            self.relations.by_oid[relation.parents[0]]
        )

    def partitioned(self, relation: Relation) -> bool:
        """Whether it can be partitioned with the columns that come along."""
        names = {column.number for column in self.columns(relation)}
        return relation.partition_key is not None and (set(relation.partition_columns) - {0}) <= (
            names
        )

    def _table(self, relation: Relation) -> str:
        parents = [
            self.relations.by_oid[oid]
            for oid in relation.parents
            if not relation.is_partition and self.relations.by_oid[oid].table in self.scope.parts
        ]
        lines = [
            self._column(relation, column)
            for column in self.columns(relation)
            if column.is_local or not parents
        ]
        body = "(\n    " + ",\n    ".join(lines) + "\n)" if lines else "()"
        inherits = ", ".join(parent.quoted for parent in parents)
        return self._head(relation, "") + " ".join(
            filter(None, [body, inherits and f"INHERITS ({inherits})", *self._tail(relation)])
        )

    def _partition(self, relation: Relation) -> str:
        parent = self.relations.by_oid[relation.parents[0]]
        return self._head(relation, f"PARTITION OF {parent.quoted} ") + " ".join(
            [str(relation.bound), *self._tail(relation)]
        )

    def _head(self, relation: Relation, of: str) -> str:
        # An unlogged partitioned table means nothing, and PostgreSQL 18 refuses it.
        unlogged = relation.persistence == "u" and relation.partition_key is None
        return f"CREATE {'UNLOGGED ' if unlogged else ''}TABLE {relation.quoted} {of}"

    def _tail(self, relation: Relation) -> list[str]:
        words = []
        if self.partitioned(relation):
            return [f"PARTITION BY {relation.partition_key}"]
        if relation.access_method:
            words.append(f"USING {relation.access_method}")
        if options := self._options(relation):
            words.append(f"WITH ({options})")
        return words

    def _options(self, relation: Relation) -> str:
        kept = []
        for option in filter(None, relation.options.split(", ")):
            name = option.partition("=")[0].replace('"', "")
            if _OPTIONS_SINCE.get(name, 0) <= self.major:
                kept.append(option)
            else:
                self._leave(f"option {name} of {relation.table}", f"PostgreSQL {self.major} has no")
        return ", ".join(kept)

    def _column(self, relation: Relation, column: ColumnText) -> str:
        words = [column.quoted, column.type]
        if column.collation:
            words.append(f"COLLATE {column.collation}")
        words += self._value(relation, column)
        if column.not_null and column.not_null_valid:
            named = column.not_null_name is not None and self.major >= _VIRTUAL_SINCE
            words.append(f"CONSTRAINT {column.not_null_name} NOT NULL" if named else "NOT NULL")
        return " ".join(words)

    def _value(self, relation: Relation, column: ColumnText) -> list[str]:
        """Where the column's value comes from if nobody gives one."""
        if column.generated:
            stored = column.generated == "s" or self.major < _VIRTUAL_SINCE
            if stored and column.generated == "v":
                self._leave(
                    f"VIRTUAL of column {relation.table}.{column.name}",
                    f"PostgreSQL {self.major} has stored generated columns only, so it is stored",
                )
            kind = "STORED" if stored else "VIRTUAL"
            return [f"GENERATED ALWAYS AS ({column.expression}) {kind}"]
        if not self.part(relation).owned:
            return []  # nobody inserts into a read-only copy but the stream, which gives all
        if column.identity:
            when = "ALWAYS" if column.identity == "a" else "BY DEFAULT"
            options = self.identity_options.get(column.address, "")
            return [f"GENERATED {when} AS IDENTITY ({options})"]
        if column.expression and column.default not in self.without_default:
            return [f"DEFAULT {column.expression}"]
        return []

    def _extras(self, relation: Relation, column: ColumnText) -> list[str]:
        """What CREATE TABLE has no words for on every version, or a partition has of its own."""
        above = self._above(relation, column)
        alter = f"ALTER TABLE {'' if relation.partition_key else 'ONLY '}{relation.quoted} "
        alter += f"ALTER COLUMN {column.quoted} "
        found: list[str] = []
        if column.storage and column.storage != (above and above.storage):
            found.append(f"SET STORAGE {STORAGE[column.storage]}")
        if column.compression and column.compression != (above and above.compression):
            found.append(f"SET COMPRESSION {COMPRESSION[column.compression]}")
        if column.statistics is not None:
            found.append(f"SET STATISTICS {column.statistics}")
        if column.options:
            found.append(f"SET ({column.options})")
        if above:
            found += self._of_its_own(relation, column, above)
        return [alter + action for action in found]

    def _above(self, relation: Relation, column: ColumnText) -> ColumnText | None:
        if not self._below(relation):
            return None
        above = self.relations.columns[relation.parents[0]]
        return next((other for other in above if other.name == column.name), None)

    def _of_its_own(self, relation: Relation, column: ColumnText, above: ColumnText) -> list[str]:
        found = []
        if column.not_null and column.not_null_valid and not above.not_null:
            found.append("SET NOT NULL")
        if not column.generated and self.part(relation).owned:
            own, inherited = (
                c.expression if c.default not in self.without_default else None
                for c in (column, above)
            )
            if own != inherited:
                found.append(f"SET DEFAULT {own}" if own else "DROP DEFAULT")
        return found

    def _leave(self, what: str, why: str) -> None:
        self.left_out.append(LeftOut(what, why))
