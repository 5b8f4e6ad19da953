"""What a target's schema needs so that it follows its source's changes.

What can be said beforehand is said by `in_place`.  Everything else is taken from the
schema as it would be made anew, and tried: DDL is transactional, so all of it is run
in the target and rolled back, and what is there already says so.  What remains is the
refresh's revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from plans.catalog import Catalog, Column, Table, TableName
from plans.errors import NotReady
from plans.evolution import Change, Kind
from plans.routes import Kind as Kinds
from plans.routes import Route
from plans.schema.ddl import Statement, TargetSchema
from toolkit.migrations import LOCK_TIMEOUT_MS
from toolkit.refresh_attached import (
    Attached,
    Domain,
    attached,
    default_statement,
    defaults,
    loosened,
    tightened,
)
from toolkit.service_schema import digest_of

_THERE = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateColumn,
    psycopg.errors.InvalidTableDefinition,  # a second primary key
)
_OF_ROWS = (
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.NotNullViolation,
    psycopg.errors.UniqueViolation,
    psycopg.errors.CheckViolation,
    psycopg.errors.ExclusionViolation,
)
"""Rows will be other ones when it is their turn."""

VIRTUAL_SINCE = 180_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What is run in one target: before its tables are copied anew, and after the stream caught up.

    `keys` come between: the stream finds rows by them.
    """

    first: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # what is there, and no more on the source: how to drop it


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
    only: frozenset[TableName] | None = None
    """What else the schema has is not ours to make: the service leads."""


def revision(dsn: str, wanted: Wanted) -> Revision:
    """What is missing in a target.

    Raises NotReady with the statement that the target refuses.
    """
    dropped = [*wanted.gone, *sorted(wanted.anew & wanted.there.tables.keys())]
    drops = [_text("DROP TABLE IF EXISTS {} CASCADE", name) for name in dropped]
    turns: dict[Turn, list[str]] = {turn: [] for turn in Turn}
    for turn, statement in in_place(wanted):
        turns[turn].append(statement)
    alters = turns[Turn.ALTER]
    keys = {
        (route.target, frozenset(route.key))
        for route in wanted.routes
        if route.key and route.target in wanted.anew
    }
    after = list(wanted.schema.after_data)
    first_keys = [s for s in after if s.build and (s.build.root, s.build.unique) in keys]
    with connect(dsn, name="dbsplit refresh", autocommit=False) as target:
        target.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT_MS))
        gone = _attached(target, wanted)
        known = [*gone.drops, *drops, *turns[Turn.RENAME]]
        for statement in known:
            _run(target, statement)
        before = list(_missing(target, wanted, wanted.schema.before_data))
        for statement in alters:
            _run(target, statement)
        alters += _defaults(target, wanted)
        made_keys = list(_missing(target, wanted, first_keys))
        rest = list(_missing(target, wanted, [s for s in after if s not in first_keys]))
        tried = [statement for statement in turns[Turn.LATER] if _try(target, statement)]
        target.rollback()
    return Revision(
        first=_meaningful([*known, *before, *alters]),
        keys=tuple(made_keys),
        rest=_meaningful([*rest, *tried]),
        kept=gone.kept,
    )


def _attached(target: Connection, wanted: Wanted) -> Attached:
    if wanted.only is not None:
        return Attached((), ())  # the service leads, and decides itself
    both = (*wanted.schema.before_data, *wanted.schema.after_data)
    renamed = {c.table for c in wanted.changes if c.kind is Kind.RENAMED_COLUMN}
    return attached(
        target,
        wanted.noted,
        wanted.made,
        {one.drop: digest_of(one.create) for one in both if one.drop},
        frozenset(renamed | wanted.anew | set(wanted.gone)),
    )


def _defaults(target: Connection, wanted: Wanted) -> list[str]:
    """Run what sets defaults; those that the server writes as before need not be set."""
    found = []
    for table, column, default in defaults(wanted.routes, wanted.there, wanted.anew):
        before = _default(target, table, column)
        statement = default_statement(table, column, default)
        _run(target, statement)
        if _default(target, table, column) != before:
            found.append(statement)
    return found


def _default(target: Connection, table: TableName, column: str) -> str | None:
    row = target.execute(
        "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d JOIN pg_attribute AS a"
        " ON a.attrelid = d.adrelid AND a.attnum = d.adnum"
        " WHERE d.adrelid = %s::regclass AND a.attname = %s",
        [table.identifier.as_string(None), column],
    ).fetchone()
    return str(row[0]) if row else None


class Turn(Enum):
    """When something is run in a target."""

    RENAME = 1  # before what is made anew
    ALTER = 2
    LATER = 3  # when the stream has passed the change


def in_place(wanted: Wanted) -> Iterator[tuple[Turn, str]]:
    """What changes tables that keep their rows."""
    for change in wanted.changes:
        if change.kind in (Kind.ENUM_LABEL, Kind.ENUM_RENAMED, Kind.DOMAIN):
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
            verb, turn = ("SET", Turn.LATER) if needed else ("DROP", Turn.ALTER)
            yield turn, _text(f"ALTER TABLE {{}} ALTER COLUMN {{}} {verb} NOT NULL", table, name)
        case _:
            pass


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


def _missing(target: Connection, wanted: Wanted, statements: Iterable[Statement]) -> Iterator[str]:
    for statement in statements:
        text = statement.create
        known = digest_of(text) in wanted.made and not text.startswith("SET LOCAL")
        if known and not any(name.name in text for name in wanted.anew):
            continue  # it was made once, and nothing that it speaks of is made anew
        if wanted.only is not None and not any(name.name in text for name in wanted.only):
            continue
        if _try(target, text):
            yield statement.create


def _try(target: Connection, statement: str) -> bool:
    """Run a statement; False if what it makes is there already."""
    target.execute("SAVEPOINT one")
    try:
        target.execute(statement.encode())
    except _THERE:
        target.execute("ROLLBACK TO SAVEPOINT one")
        return False
    except _OF_ROWS:
        target.execute("ROLLBACK TO SAVEPOINT one")
        return True
    except psycopg.Error as error:
        raise _refused(statement, error) from None
    target.execute("RELEASE SAVEPOINT one")
    return True


def _run(target: Connection, statement: str) -> None:
    try:
        target.execute(statement.encode())
    except psycopg.Error as error:
        raise _refused(statement, error) from None


def _refused(statement: str, error: psycopg.Error) -> NotReady:
    said = str(error).partition("\n")[0]
    return NotReady(
        f"the target refuses what the refresh needs: {said} (in: {' '.join(statement.split())})",
        hint="nothing was changed; remove the cause in the target, then repeat the command",
    )


def _meaningful(statements: list[str]) -> tuple[str, ...]:
    """Nothing, if all that is left are settings."""
    if all(one.startswith("SET LOCAL") for one in statements):
        return ()
    return tuple(statements)


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
