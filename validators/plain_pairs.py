"""Two tables that are compared column by column, by the columns' names, without a route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from plans.catalog import Column, Table
from validators.canonical import text_of, unlimited
from validators.common_types import common_type
from validators.sides import KeyColumn, Pair, Side, schemas_of

_COMPARABLE: Final = frozenset(
    {
        *("smallint", "integer", "bigint", "numeric", "real", "double precision", "oid", "money"),
        *("text", "character varying", "bpchar", "name", '"char"', "bytea", "boolean", "uuid"),
        *("date", "time without time zone", "time with time zone", "interval"),
        *("timestamp without time zone", "timestamp with time zone"),
        *("inet", "cidr", "macaddr", "macaddr8", "jsonb", "bit varying", "pg_lsn"),
    }
)
"""Types whose ``=`` finds each value again; that of box compares areas, json has none."""

_BY_INDEX: Final = frozenset({"bigint", "text"})
"""What an index on a narrower type finds values of, too."""


def plain_pair(
    ours: Table,
    theirs: Table,
    columns: Sequence[str],
    key: Sequence[str],
    *,
    left_dsn: str,
    right_dsn: str,
) -> Pair:
    """These columns of two tables; rows are told apart by the key, () for multisets."""
    left, right = (
        _side(table, other, columns, key, dsn=dsn, is_primary=set(key) <= set(ours.primary_key))
        for table, other, dsn in ((ours, theirs, left_dsn), (theirs, ours, right_dsn))
    )
    return Pair(
        route=str(ours.name),
        service="",
        table=theirs.name,
        columns=tuple(columns),
        key=tuple(key),
        leader=left,
        follower=right,
    )


def _side(
    table: Table,
    other: Table,
    columns: Sequence[str],
    key: Sequence[str],
    *,
    dsn: str,
    is_primary: bool,
) -> Side:
    both = [(table.column(name), other.column(name)) for name in columns]
    commons = [common_type(one.type, another.type) for one, another in both]
    by_key = [
        _key_column(table.column(name), other.column(name), is_primary=is_primary) for name in key
    ]
    return Side(
        dsn=dsn,
        table=table.name,
        columns=tuple(
            common.of(sql.Identifier(one.name), one.type)
            for common, (one, _) in zip(commons, both, strict=True)
        ),
        types=tuple(common.hashed_as for common in commons),
        never_null=tuple(
            one.name in key or (one.not_null and another.not_null) for one, another in both
        ),
        key=tuple(by_key),
        where=sql.SQL("true"),
        schemas=schemas_of(table.name.schema, by_key),
    )


def _key_column(column: Column, other: Column, *, is_primary: bool) -> KeyColumn:
    """How rows are found by this column of the key."""
    name = sql.Identifier(column.name)
    common = common_type(column.type, other.type)
    canonical = common.of(name, column.type)
    searched: sql.Composable = canonical
    type_, plain = common.hashed_as, ""
    if column.type == other.type and (is_primary or unlimited(column.type) in _COMPARABLE):
        searched, type_, plain = name, unlimited(column.type), column.name
    elif common.form == "cast" and common.type in _BY_INDEX:
        searched, plain = name, column.name
    elif type_ not in _COMPARABLE:
        searched, type_ = text_of(canonical), "text"
    return KeyColumn(
        value=canonical,
        searched=searched,
        type=type_,
        hashed_as=common.hashed_as,
        plain=plain,
    )
