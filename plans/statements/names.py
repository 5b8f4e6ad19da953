"""What a name in a statement means: the search_path, temporary tables, new objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from plans.catalog import TableName, name_parts
from plans.statements.parts import Routine, View
from plans.statements.scope import Scope

_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})
_TEMPORARY = "pg_temp"


class Kind(Enum):
    """What a relation's name was found to mean."""

    TABLE = auto()
    VIEW = auto()
    IGNORED = auto()  # temporary, of the system, of an extension
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Relation:
    """What a relation's name means."""

    kind: Kind
    name: TableName
    tables: tuple[TableName, ...] = ()  # a table and those that inherit from it
    columns: tuple[str, ...] | None = None  # None: not known
    reason: str = ""  # why it is unknown


@dataclass(slots=True)
class Names:
    """How names are resolved at one place of a text; statements before it change it."""

    scope: Scope
    path: tuple[str, ...]
    temporary: dict[str, None] = field(default_factory=dict)
    created: set[TableName] = field(default_factory=set)  # tables that no catalog has yet
    views: dict[TableName, View] = field(default_factory=dict)
    routines: dict[tuple[str, str], tuple[Routine, ...]] = field(default_factory=dict)

    def within(self, routine: Routine) -> Names:
        """The names of a function's body; what it creates is its own."""
        return Names(
            self.scope,
            routine.search_path if routine.search_path is not None else self.path,
            dict.fromkeys([*self.temporary, *routine.transitions]),
            set(self.created),
            dict(self.views),
            dict(self.routines),
        )

    @property
    def are_stored(self) -> bool:
        """Whether qualified names mean what they mean in the database."""
        return not (self.created or self.views or self.routines)

    def relation(self, node: Mapping[str, Any]) -> Relation:
        """What a RangeVar names."""
        name, schema = str(node.get("relname", "")), node.get("schemaname")
        if schema is None:
            if name in self.temporary or self._is_system(name):
                return Relation(Kind.IGNORED, TableName(_TEMPORARY, name))
            schemas: Sequence[str] = self.path
        elif schema in _SYSTEM_SCHEMAS or schema == _TEMPORARY:
            return Relation(Kind.IGNORED, TableName(schema, name))
        else:
            schemas = (schema,)
        for one in schemas:
            if found := self._found(TableName(one, name), has_children=bool(node.get("inh"))):
                return found
        return self._not_found(name, schema)

    def _is_system(self, name: str) -> bool:
        known = self.scope.system_relations
        return name in known if known is not None else name.startswith("pg_")

    def _found(self, name: TableName, *, has_children: bool) -> Relation | None:
        if view := self.views.get(name) or self.scope.views.get(name):
            return Relation(Kind.VIEW, name, columns=view.columns or None)
        root = self.scope.root(name)
        if table := self.scope.catalog.tables.get(root):
            below = self.scope.children.get(root, ()) if has_children else ()
            columns = tuple(column.name for column in table.columns)
            return Relation(Kind.TABLE, root, (root, *below), columns)
        match self.scope.others.get(name):
            case None:
                return Relation(Kind.IGNORED, name) if name in self.created else None
            case "sequence" | "ignored":
                return Relation(Kind.IGNORED, name)
            case "foreign table":
                reason = f"the rows of {name} are in another database"
            case _:
                reason = f"{name} is not in the plan's schemas"
        return Relation(Kind.UNKNOWN, name, reason=reason)

    def _not_found(self, name: str, schema: str | None) -> Relation:
        if self.scope.system_relations is None and name.startswith("pg_"):
            return Relation(Kind.IGNORED, TableName("pg_catalog", name))
        called = TableName(schema, name) if schema else TableName("", name)
        text = str(called) if schema else name
        return Relation(Kind.UNKNOWN, called, reason=f"there is no relation {text}")

    def drawing_from(self, sequence: str) -> tuple[tuple[TableName, str], ...]:
        """The table and column that draw from a sequence; () if several tables do, or none."""
        *schema, name = (
            part if f'"{part}"' in sequence else part.lower() for part in name_parts(sequence)
        )
        for one in schema or self.path:
            if users := self._drawn.get(TableName(one, name)):
                return users if len({table for table, _ in users}) == 1 else ()
        return ()

    @property
    def _drawn(self) -> Mapping[TableName, tuple[tuple[TableName, str], ...]]:
        if "drawn" not in self.scope.memo:
            found: dict[TableName, tuple[tuple[TableName, str], ...]] = {}
            for table in self.scope.catalog.tables.values():
                for column in table.columns:
                    if column.sequence is not None and not table.is_partition:
                        user = (table.name, column.name)
                        found[column.sequence] = (*found.get(column.sequence, ()), user)
            self.scope.memo["drawn"] = found
        known: Mapping[TableName, tuple[tuple[TableName, str], ...]] = self.scope.memo["drawn"]
        return known

    def view(self, name: TableName) -> View | None:
        """The view of this qualified name."""
        return self.views.get(name) or self.scope.views.get(name)

    def called(self, parts: Sequence[str], arguments: int) -> tuple[Routine, ...]:
        """The functions that a call with so many arguments can mean.

        Their types aren't told apart: of several with as many arguments all are given.
        """
        *schema, name = parts
        found: dict[str, Routine] = {}
        for one in schema[-1:] or self.path:
            for routine in self._named(one, name):
                if takes(routine, arguments):
                    # The earlier of two with the same argument types hides the later.
                    found.setdefault(routine.arguments, routine)
        return tuple(found.values())

    def behind_operator(self, parts: Sequence[str]) -> tuple[Routine, ...]:
        """The functions of own operators that are meant; their types aren't told apart."""
        return self._behind(self.scope.operators, parts)

    def behind_cast(self, parts: Sequence[str]) -> tuple[Routine, ...]:
        """The functions of own casts to a type, and of the CHECKs of a domain."""
        return self._behind(self.scope.casts, parts)

    def _behind(
        self, known: Mapping[tuple[str, str], tuple[Routine, ...]], parts: Sequence[str]
    ) -> tuple[Routine, ...]:
        if not known or not parts:
            return ()
        *schema, name = parts
        places = schema[-1:] or (*self.path, "pg_catalog")
        return tuple(one for place in places for one in known.get((place, name), ()))

    def _named(self, schema: str, name: str) -> Iterator[Routine]:
        yield from self.routines.get((schema, name), ())
        yield from self.scope.routines.get((schema, name), ())

    def is_builtin(self, parts: Sequence[str]) -> bool:
        """Whether a function of this name comes with the server, as far as is known."""
        *schema, name = parts
        if schema:
            return schema[-1] in _SYSTEM_SCHEMAS
        known = self.scope.system_functions
        return known is None or name in known

    def is_of_extension(self, parts: Sequence[str]) -> bool:
        """Whether an extension has a function of this name, in whatever schema it lies.

        That schema is often one of the database's path and none of the plan's.
        """
        *schema, name = parts
        return not schema and any(
            routine.of_extension
            for (_, called), routines in self.scope.routines.items()
            if called == name
            for routine in routines
        )

    def define_table(self, node: Mapping[str, Any]) -> None:
        """A table that the text creates; where it has a name of the catalog, it is that one."""
        name = str(node.get("relname", ""))
        if node.get("relpersistence") == "t" or node.get("schemaname") == _TEMPORARY:
            self.temporary[name] = None
        else:
            self.created.add(self.new(node))

    def new(self, node: Mapping[str, Any]) -> TableName:
        """The name that something new gets."""
        schema = node.get("schemaname") or next(iter(self.path), "public")
        return TableName(str(schema), str(node.get("relname", "")))

    def define_routine(self, routine: Routine) -> None:
        """A function that the text creates; it replaces one with the same arguments."""
        key = (routine.schema, routine.name)
        self.routines[key] = (routine, *self.routines.get(key, ()))


def takes(routine: Routine, arguments: int) -> bool:
    """Whether a function can be called with so many arguments."""
    if routine.args_max is None:
        return arguments >= routine.args_min - 1
    return routine.args_min <= arguments <= routine.args_max
