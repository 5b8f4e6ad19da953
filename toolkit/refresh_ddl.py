"""What a target's schema needs so that it follows its source's changes.

What can be said beforehand is said by `toolkit.refresh_in_place`.  Everything else is
taken from the schema as it would be made anew, and tried: DDL is transactional, so all of
it is run in the target and rolled back, and what is there already says so.  What remains
is the refresh's revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from cdc.connect import Connection, connect
from plans.catalog import TableName
from plans.errors import NotReady
from plans.evolution import Kind
from plans.schema.ddl import Statement
from toolkit.migrations import LOCK_TIMEOUT_MS
from toolkit.refresh_attached import (
    Attached,
    attached,
    default_statement,
    defaults,
)
from toolkit.refresh_in_place import Turn, Uncopied, Wanted, in_place
from toolkit.service_schema import digest_of

_THERE = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateColumn,
    psycopg.errors.InvalidTableDefinition,  # a second primary key
)
_GONE = (psycopg.errors.UndefinedTable,)
"""What is to be dropped went with its table: a refresh that was overtaken has dropped that."""

_OF_ROWS = (
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.NotNullViolation,
    psycopg.errors.UniqueViolation,
    psycopg.errors.CheckViolation,
    psycopg.errors.ExclusionViolation,
)
"""Rows will be other ones when it is their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What is run in one target: before its tables are copied anew, and after the stream caught up.

    `keys` come between: the stream finds rows by them.  So do `indexes`, which are of no
    tables but those.
    """

    first: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # what is there, and no more on the source: how to drop it

    @property
    def statements(self) -> tuple[str, ...]:
        """All that is run, in its order."""
        return (*self.first, *self.keys, *self.indexes, *self.rest)


def revision(dsn: str, wanted: Wanted) -> Revision:
    """What is missing in a target.

    Raises NotReady with the statement that the target refuses.
    """
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
    apart = [
        s
        for s in after
        if s.build and not s.build.references and s.build.root in wanted.anew
        if s not in first_keys
    ]
    left = [s for s in after if s not in (*first_keys, *apart)]
    with connect(dsn, name="dbsplit refresh", autocommit=False) as target:
        target.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT_MS))
        gone = _attached(target, wanted)
        # A partition's constraint goes with its parent's, and is refused by itself.
        loosened_first = [one for one in gone.drops if _try(target, one, done=_GONE)]
        known = [*_drops(wanted), *turns[Turn.RENAME]]
        for statement in known:
            _run(target, statement)
        known = [*loosened_first, *known]
        before = list(_missing(target, wanted, wanted.schema.before_data))
        for statement in alters:
            _run(target, statement)
        # ALTER DOMAIN … DROP CONSTRAINT leaves behind what no savepoint may be set after, until
        # something else is written ("unprocessed inval messages", up to PostgreSQL 18 at least).
        _run(target, "CREATE TEMPORARY TABLE dbsplit_written () ON COMMIT DROP")
        alters += _defaults(target, wanted)
        if wanted.uncopied is Uncopied.LACKS_KEYS:
            first_keys, apart, left = [], [], []
        made_keys = list(_missing(target, wanted, first_keys))
        indexes = list(_missing(target, wanted, apart))
        rest = list(_missing(target, wanted, left))
        # Rows that are copied already may be of before, and there is nothing yet to pass it.
        later = turns[Turn.LATER] if wanted.uncopied is None else []
        tried = [statement for statement in later if _try(target, statement)]
        target.rollback()
    found = Revision(
        first=_meaningful([*known, *before, *alters]),
        keys=tuple(made_keys),
        indexes=tuple(indexes),
        rest=_meaningful([*rest, *tried]),
        kept=gone.kept,
    )
    return found if wanted.uncopied is None else _left_to_copy(found, after)


def _left_to_copy(found: Revision, after: Iterable[Statement]) -> Revision:
    """Without what the copy builds by itself."""
    built = {one.create for one in after if one.build is not None}
    rest = _meaningful([one for one in found.rest if one not in built])
    return replace(found, keys=(), indexes=(), rest=rest)


def _drops(wanted: Wanted) -> list[str]:
    dropped = [*wanted.gone, *sorted(wanted.anew & wanted.there.tables.keys())]
    return [
        sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(name.identifier).as_string(None)
        for name in dropped
    ]


def _attached(target: Connection, wanted: Wanted) -> Attached:
    if wanted.only is not None:
        return Attached((), ())  # the service leads, and decides itself
    both = (*wanted.schema.before_data, *wanted.schema.after_data)
    left = {c.table for c in wanted.changes if c.kind is Kind.RENAMED_COLUMN}
    left |= {
        TableName(*c.object.split(".", 1)) for c in wanted.changes if c.kind is Kind.LOST_PARTITION
    }
    return attached(
        target,
        wanted.noted,
        wanted.made,
        {one.drop: digest_of(one.create) for one in both if one.drop},
        frozenset(left | wanted.anew | set(wanted.gone)),
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


def _try(
    target: Connection, statement: str, *, done: tuple[type[psycopg.Error], ...] = _THERE
) -> bool:
    """Run a statement; False if it is `done`: what it makes is there already."""
    target.execute("SAVEPOINT one")
    try:
        target.execute(statement.encode())
    except done:
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
