"""What is compared: two sets of rows that a route says are the same.

The source's rows are what the route's expressions make of them, the target's
are its columns.  Apart from that both sides are alike, so the comparison does
not care which of them leads, before or after a cutover.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from psycopg import sql

from plans.catalog import TableName, name_parts
from plans.routes import Route, RouteColumn
from validators.canonical import Hashing, bucket_of, is_builtin, text_of, trusted, unlimited, value
from validators.typed import Value

Key = tuple[str | None, ...]
"""A row's key as text, in the order of the route's key."""

_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_ALIKE = (
    (_INTEGERS, "bigint"),
    (frozenset({"text", "character varying"}), "text"),
)
"""Types that an index on the one finds values of the other in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A column of the key, and how to find rows by a value that comes as text."""

    value: sql.Composable  # canonical
    searched: sql.Composable  # what an index is likely to be on
    type: str  # to cast the text to, so that it can be compared with `searched`
    hashed_as: str  # the type of `value`, '' goes by text
    plain: str = ""  # the column's name, where `searched` is the bare column

    @property
    def is_integer(self) -> bool:
        """Whether an index on it gives ranges of integers, in one order on all servers."""
        return self.type in _INTEGERS and bool(self.plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The rows of one side, as SQL over one table."""

    dsn: str = field(repr=False)  # holds secrets
    table: TableName
    columns: tuple[sql.Composable, ...]  # canonical values
    types: tuple[str, ...] = ()  # of these, as both sides know them; '' goes by text
    never_null: tuple[bool, ...] = ()  # hints, the same for both sides
    key: tuple[KeyColumn, ...]  # () for a multiset
    where: sql.Composable
    schemas: tuple[str, ...]  # where the expressions' functions and types are found
    within: sql.Composable | None = None  # what the scans are restricted to, all if None
    _hashes: dict[Hashing, sql.SQL] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def row_hash(self, hashing: Hashing) -> sql.SQL:
        """The hash of a whole row."""
        # As text: of a hundred columns it is a thousand pieces, and every statement has it.
        if hashing not in self._hashes:
            self._hashes[hashing] = trusted(hashing.row(self.values).as_string())
        return self._hashes[hashing]

    def bucket(self, hashing: Hashing, buckets: int) -> sql.Composed:
        """The bucket of a row: by its key if it has one, else by all of it."""
        if not self.key:
            return bucket_of(self.row_hash(hashing), buckets)
        return hashing.bucket([Value(c.value, c.hashed_as) for c in self.key], buckets)

    @property
    def scanned(self) -> sql.Composable:
        """The condition of scans; rows that are looked up by key need only be the route's."""
        if self.within is None:
            return self.where
        return sql.SQL("{} AND {}").format(self.where, self.within)

    @property
    def values(self) -> tuple[Value, ...]:
        """The columns, with what is known of them."""
        return tuple(map(Value, self.columns, self.types, self.never_null))

    @property
    def key_texts(self) -> tuple[sql.Composed, ...]:
        """The key's values as text."""
        return tuple(text_of(column.value) for column in self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two sides that have to be equal once the follower has caught up."""

    route: str
    service: str
    table: TableName  # the target's
    columns: tuple[str, ...]  # names, in the target
    key: tuple[str, ...]  # names, in the target; () for a multiset
    leader: Side
    follower: Side
    scope: str = ""  # which rows are compared, in words; "" is all of them

    def hinted(self, never_null: Collection[str]) -> Pair:
        """The same, hashed fastest where none of these columns is NULL, too."""
        hints = tuple(
            known or name in never_null
            for known, name in zip(self.leader.never_null, self.columns, strict=True)
        )
        leader, follower = (replace(s, never_null=hints) for s in (self.leader, self.follower))
        return replace(self, leader=leader, follower=follower)


def pair_of(
    route: Route,
    *,
    source_dsn: str,
    target_dsn: str,
    leader: Literal["source", "target"] = "source",
    schemas: tuple[str, ...] = (),
) -> Pair:
    """The route's rows on both sides; `leader` is where applications write.

    `schemas` are searched, after the table's own, for what the plan's
    expressions name.
    """
    source, target = source_side(route, source_dsn, schemas), target_side(route, target_dsn)
    leading, following = (source, target) if leader == "source" else (target, source)
    return Pair(
        route=route.id,
        service=route.service,
        table=route.target,
        columns=tuple(column.name for column in route.columns),
        key=route.key,
        leader=leading,
        follower=following,
    )


def source_side(route: Route, dsn: str, schemas: tuple[str, ...] = ()) -> Side:
    """The rows that the route makes of the source's rows."""
    key = tuple(_source_key(route, route.column(name)) for name in route.key)
    return Side(
        dsn=dsn,
        table=route.source.name,
        columns=tuple(value(_source(column), column.type) for column in route.columns),
        types=_types(route),
        never_null=_never_null(route),
        key=key,
        where=_condition([sql.SQL("({})").format(trusted(route.where))] if route.where else []),
        schemas=schemas_of(route.source.name.schema, key, schemas),
    )


def target_side(route: Route, dsn: str) -> Side:
    """The route's rows in the target, apart from those of other routes."""
    key = tuple(_target_key(route.column(name)) for name in route.key)
    return Side(
        dsn=dsn,
        table=route.target,
        columns=tuple(value(sql.Identifier(column.name), column.type) for column in route.columns),
        types=_types(route),
        never_null=_never_null(route),
        key=key,
        where=_condition(
            [
                sql.SQL("{} = ({})").format(sql.Identifier(name), trusted(constant))
                for name, constant in route.fixed
            ]
        ),
        schemas=schemas_of(route.target.schema, key),
    )


def schemas_of(own: str, key: Iterable[KeyColumn], others: Iterable[str] = ()) -> tuple[str, ...]:
    """Where names are looked up: a type of an extension has its ``=`` in the schema of its own."""
    typed = [name_parts(column.type)[0] for column in key if not is_builtin(column.type)]
    return tuple(dict.fromkeys((own, *others, *typed)))


def _types(route: Route) -> tuple[str, ...]:
    return tuple(_hashed_as(column) for column in route.columns)


def _hashed_as(column: RouteColumn) -> str:
    return unlimited(column.type) if is_builtin(column.type) else ""


def _never_null(route: Route) -> tuple[bool, ...]:
    return tuple(
        column.name in route.key
        or (column.plain is not None and route.source.column(column.plain).not_null)
        for column in route.columns
    )


def _source(column: RouteColumn) -> sql.Composable:
    if column.plain is not None:
        return sql.Identifier(column.plain)
    return trusted(column.expression)


def _source_key(route: Route, column: RouteColumn) -> KeyColumn:
    """A key column of the source, searched bare where an index on it can be used."""
    canonical = value(_source(column), column.type)
    hashed_as = _hashed_as(column)
    wanted = unlimited(column.type)
    if column.plain is not None:
        own = unlimited(route.source.column(column.plain).type)
        common = next((c for alike, c in _ALIKE if {own, wanted} <= alike), None)
        if own == wanted or common:
            return KeyColumn(
                value=canonical,
                searched=_source(column),
                type=own if own == wanted else common or own,
                hashed_as=hashed_as,
                plain=column.plain,
            )
    if is_builtin(wanted):
        return KeyColumn(value=canonical, searched=canonical, type=wanted, hashed_as=hashed_as)
    text = text_of(canonical)
    return KeyColumn(value=canonical, searched=text, type="text", hashed_as=hashed_as)


def _target_key(column: RouteColumn) -> KeyColumn:
    name = sql.Identifier(column.name)
    canonical = value(name, column.type)
    hashed_as = _hashed_as(column)
    if column.type:
        return KeyColumn(
            value=canonical,
            searched=name,
            type=unlimited(column.type),
            hashed_as=hashed_as,
            plain=column.name,
        )
    text = text_of(canonical)
    return KeyColumn(value=canonical, searched=text, type="text", hashed_as=hashed_as)


def _condition(terms: list[sql.Composed]) -> sql.Composable:
    return sql.SQL(" AND ").join(terms) if terms else sql.SQL("true")
