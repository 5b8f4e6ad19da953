"""What a refresh alters in tables that keep their rows, as far as it can be said beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from psycopg import sql

from plans.catalog import Catalog, Column, Table, TableName
from plans.evolution import OF_TYPES, Change, Kind
from plans.routes import Kind as Kinds
from plans.routes import Route
from plans.schema.ddl import TargetSchema
from toolkit.refresh_attached import (
    Domain,
    loosened,
    tightened,
)
from toolkit.refresh_composites import Attributes, altered

VIRTUAL_SINCE = 180_000


class Uncopied(Enum):
    """How far a database is whose copy has not ended."""

    LACKS_KEYS = "lacks keys"  # and all else that comes after the data, or some of it
    HAS_ALL = "has all"  # others are not so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of one target."""

    routes: tuple[Route, ...]  # into it, of the source as it is now
    changes: tuple[Change, ...]
    anew: frozenset[TableName]  # tables that are made and copied anew
    gone: tuple[TableName, ...]
    schema: TargetSchema
    there: Catalog  # the target, as it is
    literals: Mapping[tuple[TableName, str], str] = field(default_factory=dict)
    """What the rows of before have in added columns, as SQL."""

    labels: Mapping[TableName, tuple[str, ...]] = field(default_factory=dict)
    """The values of the source's enums."""

    enums_there: frozenset[TableName] = frozenset()
    made: frozenset[str] = frozenset()  # digests of what was run there before
    noted: tuple[str, ...] = ()  # what undoes that
    domains: Mapping[TableName, Domain] = field(default_factory=dict)  # of the source
    domains_there: Mapping[TableName, Domain] = field(default_factory=dict)
    composites: Mapping[TableName, Attributes] = field(default_factory=dict)  # of the source
    composites_there: Mapping[TableName, Attributes] = field(default_factory=dict)
    only: frozenset[TableName] | None = None
    """What else the schema has is not ours to make: the service leads."""

    uncopied: Uncopied | None = None  # if the copy has not ended


class Turn(Enum):
    """When something is run in a target."""

    RENAME = 1  # before what is made anew
    ALTER = 2
    LATER = 3  # when the stream has passed the change


def in_place(wanted: Wanted) -> Iterator[tuple[Turn, str]]:
    """What changes tables that keep their rows."""
    for change in wanted.changes:
        if change.kind in OF_TYPES:
            yield from _of_type(change, wanted)
            continue
        if change.kind is Kind.LOST_PARTITION:
            leaf = TableName(*change.object.split(".", 1))
            yield Turn.RENAME, _text("DROP TABLE IF EXISTS {}", leaf)
            continue
        there = wanted.there.tables.get(change.table)
        routes = [
            route
            for route in wanted.routes
            if route.target == change.table and route.kind is not Kinds.DERIVED
        ]
        if there is not None and routes and change.table not in wanted.anew:
            yield from _alter(change, there, routes, wanted)


def _of_type(change: Change, wanted: Wanted) -> Iterator[tuple[Turn, str]]:
    name = change.table
    if change.kind is Kind.ENUM_LABEL and name in wanted.enums_there:
        yield Turn.ALTER, _label(change, wanted)
    if change.kind is Kind.ENUM_RENAMED and name in wanted.enums_there:
        names = f"{_quoted(change.was)} TO {_quoted(change.object)}"
        yield Turn.RENAME, _text(f"ALTER TYPE {{}} RENAME VALUE {_literally(names)}", name)
    if change.kind is Kind.ATTRIBUTES:
        has, wants = wanted.composites_there.get(name), wanted.composites.get(name)
        if has is not None and wants is not None:
            yield from ((Turn.RENAME, one) for one in altered(name, wants, has))
    if change.kind is not Kind.DOMAIN:
        return
    ours, theirs = wanted.domains.get(name), wanted.domains_there.get(name)
    if ours is not None and theirs is not None:
        yield from ((Turn.ALTER, one) for one in loosened(name, ours, theirs))
        yield from ((Turn.LATER, one) for one in tightened(name, ours, theirs))


def _alter(
    change: Change, there: Table, routes: list[Route], wanted: Wanted
) -> Iterator[tuple[Turn, str]]:
    has = {column.name for column in there.columns}
    served = frozenset[str]().union(*(_columns(route) for route in routes))
    table, name = change.table, change.object
    match change.kind:
        case Kind.RENAMED_COLUMN if change.was in has and name not in has:
            yield (
                Turn.RENAME,
                _text("ALTER TABLE {} RENAME COLUMN {} TO {}", table, change.was, name),
            )
        case Kind.ADDED_COLUMN if name in served - has:
            owned = any(route.kind.owned for route in routes)
            for statement in _added(change, routes[0].source.column(name), wanted, owned=owned):
                yield Turn.ALTER, statement
        case Kind.DROPPED_COLUMN if name in has:
            yield Turn.ALTER, _text("ALTER TABLE {} DROP COLUMN {} CASCADE", table, name)
        case Kind.WIDENED_COLUMN if name in served & has:
            type_ = _literally(change.now)
            yield (
                Turn.ALTER,
                _text(f"ALTER TABLE {{}} ALTER COLUMN {{}} TYPE {type_}", table, name),
            )
        case Kind.NULLABLE_COLUMN if name in served:
            needed = change.now == "NOT NULL"
            loosened_ = _text("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", table, name)
            tightened_ = not_null_statement(table, name)
            yield (Turn.LATER, tightened_) if needed else (Turn.ALTER, loosened_)
        case _:
            pass


def not_null_statement(table: TableName, column: str) -> str:
    """What holds when the stream has passed the change."""
    return _text("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL", table, column)


def _added(change: Change, column: Column, wanted: Wanted, *, owned: bool) -> Iterator[str]:
    table, name = change.table, column.name
    literal = wanted.literals.get((table, name))
    words = [column.type, *([f"COLLATE {column.collation}"] if column.collation else [])]
    if column.generated is not None:
        virtual = column.generated_kind == "v" and wanted.there.server_version >= VIRTUAL_SINCE
        kind = "VIRTUAL" if virtual else "STORED"
        words.append(f"GENERATED ALWAYS AS ({column.generated}) {kind}")
    elif literal is not None:
        words.append(f"DEFAULT {literal}")
    if column.not_null:
        words.append("NOT NULL")
    yield _text(f"ALTER TABLE {{}} ADD COLUMN {{}} {_literally(' '.join(words))}", table, name)
    default = column.default if owned else None
    if default is not None and default != literal:
        value = _literally(default)
        yield _text(f"ALTER TABLE {{}} ALTER COLUMN {{}} SET DEFAULT {value}", table, name)
    elif default is None and literal is not None:
        yield _text("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT", table, name)


def _label(change: Change, wanted: Wanted) -> str:
    """The value, at its place among those that the target has."""
    labels = wanted.labels.get(change.table, ())
    place = labels.index(change.object)
    beside = ""
    if place:
        beside = f" AFTER {_quoted(labels[place - 1])}"
    elif len(labels) > 1:
        beside = f" BEFORE {_quoted(labels[1])}"
    value = _literally(_quoted(change.object) + beside)
    return _text(f"ALTER TYPE {{}} ADD VALUE IF NOT EXISTS {value}", change.table)


def _columns(route: Route) -> frozenset[str]:
    return frozenset({*(column.name for column in route.columns), *route.generated})


def _quoted(value: str) -> str:
    return sql.Literal(value).as_string(None)


def _literally(text: str) -> str:
    """SQL of the source's own writing, for a template."""
    return text.replace("{", "{{").replace("}", "}}")


def _text(template: str, table: TableName, *names: str) -> str:
    # The templates are ours; what else is in them was written by the source server itself.
    composed = sql.SQL(template)
    return composed.format(table.identifier, *map(sql.Identifier, names)).as_string(None)
