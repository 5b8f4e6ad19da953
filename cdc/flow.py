"""Flows: a route in one of its two directions.

Forward, the source leads and a target follows; back, a target leads and the
source follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from plans.catalog import Table, TableName
from plans.routes import Kind, Route, RouteColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What one leader table gives to one follower table."""

    route: str
    kind: Kind
    leader: Table
    follower: TableName
    columns: tuple[RouteColumn, ...]  # of the follower
    key: tuple[str, ...]  # of the follower
    where: str | None
    where_reads: frozenset[str]
    follower_columns: tuple[str, ...]  # all that can be written
    follower_identity: frozenset[str] = frozenset()  # those that only an INSERT can give
    follower_leaves: frozenset[TableName] = frozenset()  # its partitions, named as the leader's
    extent: tuple[str, ...] = ()  # conditions on the follower's rows that flow; () is all
    key_arbitrates: bool = True  # ON CONFLICT knows it: not one WITHOUT OVERLAPS

    @property
    def whole_rows(self) -> bool:
        """Whether the follower's rows hold nothing else than what flows."""
        return {column.name for column in self.columns} == set(self.follower_columns)

    @property
    def identifies(self) -> bool:
        """Whether one leader key is one follower key, so that no other row can have had it.

        Otherwise only the old row tells what to delete.  A deferrable key may be
        two rows' within a transaction.
        """
        reads = frozenset[str]().union(*(self.column(name).reads for name in self.key))
        return (
            bool(self.leader.key)
            and not self.leader.has_deferrable_key
            and reads == set(self.leader.key)
        )

    @property
    def takes_updates(self) -> bool:
        """Whether the follower's rows can be updated; else they are written anew.

        ON CONFLICT knows no deferrable keys, and UPDATE no GENERATED ALWAYS AS IDENTITY.
        """
        updated = {column.name for column in self.columns} - set(self.key)
        return not self.leader.has_deferrable_key and not updated & self.follower_identity

    @property
    def is_plain(self) -> bool:
        """Whether the leader's rows are the follower's, value for value."""
        sent = [column.name for column in self.leader.columns if column.generated is None]
        return (
            bool(self.key)
            and self.where is None
            and self.whole_rows
            and self.identifies
            and self.takes_updates
            and all(column.plain is not None for column in self.columns)
            and sorted(column.plain or "" for column in self.columns) == sorted(sent)
        )

    @property
    def is_binary(self) -> bool:
        """Whether the follower takes the leader's values in binary form."""
        return all(column.binary for column in self.columns)

    @property
    def needs_complete_rows(self) -> frozenset[str]:
        """Leader columns without whose value an update cannot be carried over."""
        computed = [column.reads for column in self.columns if column.plain is None]
        keys = [self.column(name).reads for name in self.key]
        reads = frozenset[str]().union(self.where_reads, *computed, *keys)
        return frozenset(c.name for c in self.leader.columns if c.toastable and c.name in reads)

    def column(self, name: str) -> RouteColumn:
        """The follower's column called `name`."""
        return next(column for column in self.columns if column.name == name)


def forward(route: Route, target: Table) -> Flow:
    """The route as the source's changes take it; `target` is its table there."""
    return Flow(
        route=route.id,
        kind=route.kind,
        leader=route.source,
        follower=route.target,
        columns=route.columns,
        key=route.key,
        where=route.where,
        where_reads=route.where_reads,
        follower_columns=writable(target),
        follower_identity=_always(target),
        follower_leaves=frozenset(target.leaves if route.kind is not Kind.DERIVED else ()),
        extent=tuple(f"{quoted(name)} = ({value})" for name, value in route.fixed),
        key_arbitrates=_arbitrates(route, target),
    )


def back(route: Route, target: Table) -> Flow:
    """The route as the target's changes take it; for owned routes, which are reversible."""
    if not route.kind.owned:
        raise ValueError(f"route {route.id} is {route.kind.value}: nothing flows back")
    columns = []
    for column in route.columns:
        if column.plain is None:
            raise ValueError(f"column {column.name} of route {route.id} has no inverse")
        source = route.source.column(column.plain)
        columns.append(
            RouteColumn(
                name=column.plain,
                expression=quoted(column.name),
                reads=frozenset({column.name}),
                type=source.type,
                plain=column.name,
                binary=column.binary,
            )
        )
    plain = {column.name: column.plain or "" for column in route.columns}
    return Flow(
        route=route.id,
        kind=route.kind,
        leader=target,
        follower=route.source.name,
        columns=tuple(columns),
        key=tuple(plain[name] for name in route.key),
        where=None,
        where_reads=frozenset(),
        follower_columns=writable(route.source),
        follower_identity=_always(route.source),
        follower_leaves=frozenset(route.source.leaves),
        extent=(f"({route.where})",) if route.where is not None else (),
        key_arbitrates=_arbitrates(route, target),
    )


def writable(table: Table) -> tuple[str, ...]:
    """The columns of a table that an INSERT may give."""
    return tuple(column.name for column in table.columns if column.generated is None)


def quoted(name: str) -> str:
    """A column's name as an expression."""
    return sql.Identifier(name).as_string(None)


def _arbitrates(route: Route, target: Table) -> bool:
    # A target's key may be made after its rows, and is the source's until then.
    return not (route.source.has_temporal_key or target.has_temporal_key)


def _always(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.columns if column.identity == "a")
