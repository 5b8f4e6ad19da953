"""What hangs on a target's tables and types, and has changed or gone on the source.

What was made there is known by the statements that would undo it, which were noted: what
is noted and would not be made any more, the source has lost.  A constraint or unique index
that is gone would refuse rows that the source takes, so it goes in the target too; any other
index stays, and is told.  What is made in another way than before is made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import Connection
from plans.catalog import Catalog, TableName
from plans.evolution import Change, Kind
from plans.routes import Kind as Kinds
from plans.routes import Route

_CONSTRAINT = re.compile(r"ALTER TABLE (?:ONLY )?.* DROP CONSTRAINT IF EXISTS ")
_INDEX = re.compile(r"DROP INDEX IF EXISTS (.*)")

_DOMAINS = """
SELECT n.nspname::text, t.typname::text, t.typnotnull, t.typdefault,
       coalesce((SELECT jsonb_object_agg(k.conname, pg_get_constraintdef(k.oid))
                   FROM pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'), '{}')
  FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
 WHERE t.typtype = 'd' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'dbsplit')
"""


@dataclass(frozen=True, slots=True)
class Domain:
    """What a domain asks of its values."""

    not_null: bool
    default: str | None
    checks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attached:
    """What is to be dropped because the source has it no more, or otherwise, and what stays."""

    drops: tuple[str, ...]
    kept: tuple[str, ...]  # statements that a person may run


def attached(
    target: Connection,
    noted: Iterable[str],
    made: frozenset[str],
    schema: Mapping[str, str],
    leave: frozenset[TableName],
) -> Attached:
    """`noted` undo what was made, `made` are digests of it; `schema` is what would be now.

    `schema` has the digest of what is made by what undoes it.  What speaks of a table to
    `leave` is left alone: that is made anew as a whole, or was renamed along.
    """
    drops, kept = [], []
    for drop in noted:
        index = _INDEX.fullmatch(drop)
        if not (index or _CONSTRAINT.match(drop)) or any(name.name in drop for name in leave):
            continue
        is_gone = drop not in schema
        if not is_gone and schema[drop] in made:
            continue
        if is_gone and index and not _is_unique(target, index[1]):
            if _exists(target, index[1]):
                kept.append(drop)
            continue
        drops.append(drop)
    return Attached(tuple(drops), tuple(kept))


def defaults(
    routes: Iterable[Route], there: Catalog, leave: frozenset[TableName]
) -> Iterator[tuple[TableName, str, str | None]]:
    """Columns of owned tables whose default is not the source's; those of sequences stay."""
    for route in routes:
        table = there.tables.get(route.target)
        if table is None or not route.kind.owned or route.target in leave:
            continue
        has = {column.name: column for column in table.columns}
        served = {column.name for column in route.columns if route.kind is not Kinds.DERIVED}
        for column in route.source.columns:
            other = has.get(column.name)
            if other is None or column.name not in served or column.generated is not None:
                continue
            if column.sequence or other.sequence or column.identity or other.identity:
                continue
            if column.default != other.default:
                yield route.target, column.name, column.default


def default_statement(table: TableName, column: str, default: str | None) -> str:
    """Sets or drops a default."""
    head = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(
        table.identifier, sql.Identifier(column)
    )
    # The expression is of the source server's own writing.
    return head.as_string(None) + ("DROP DEFAULT" if default is None else f"SET DEFAULT {default}")


def read_domains(connection: Connection) -> dict[TableName, Domain]:
    """All domains of a database."""
    return {
        TableName(schema, name): Domain(not_null, default, checks)
        for schema, name, not_null, default, checks in connection.execute(_DOMAINS.encode())
    }


def domain_changes(
    ours: Mapping[TableName, Domain], theirs: Mapping[TableName, Domain]
) -> Iterator[Change]:
    """Domains of a target that ask for something else than the source's."""
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            yield Change(Kind.DOMAIN, name)


def loosened(name: TableName, ours: Domain, theirs: Domain) -> Iterator[str]:
    """What a target's domain has to give up, so that every value of the source passes."""
    head = f"ALTER DOMAIN {name.identifier.as_string(None)} "
    for check, definition in theirs.checks.items():
        if ours.checks.get(check) != definition:
            yield f"{head}DROP CONSTRAINT {sql.Identifier(check).as_string(None)}"
    if theirs.not_null and not ours.not_null:
        yield f"{head}DROP NOT NULL"
    if ours.default != theirs.default:
        yield head + ("DROP DEFAULT" if ours.default is None else f"SET DEFAULT {ours.default}")


def tightened(name: TableName, ours: Domain, theirs: Domain) -> Iterator[str]:
    """What it asks for besides, once the rows of before have passed."""
    head = f"ALTER DOMAIN {name.identifier.as_string(None)} "
    for check, definition in ours.checks.items():
        if theirs.checks.get(check) != definition:
            yield f"{head}ADD CONSTRAINT {sql.Identifier(check).as_string(None)} {definition}"
    if ours.not_null and not theirs.not_null:
        yield f"{head}SET NOT NULL"


def _exists(target: Connection, index: str) -> bool:
    return target.execute("SELECT to_regclass(%s) IS NOT NULL", [index]).fetchone() == (True,)


def _is_unique(target: Connection, index: str) -> bool:
    row = target.execute(
        "SELECT indisunique FROM pg_index WHERE indexrelid = to_regclass(%s)", [index]
    ).fetchone()
    return row == (True,)
