"""A flow's statements as they are sent, each composed when it is first wanted.

Composing all that a table may need takes some milliseconds, and of many tables few change
in ways that need more than two or three statements.
"""

from __future__ import annotations

from functools import cached_property

from psycopg import sql

from cdc.flow import Flow
from cdc.flow_sql import FlowSQL
from cdc.inflow import into
from cdc.rows import Unchanged
from plans.catalog import TableName
from plans.routes import Kind

_HASHED, _BACK = b"SET LOCAL enable_hashjoin = on", b"SET LOCAL enable_hashjoin = off"

Statements = tuple[bytes, ...]


class Direct:
    """How a plain flow's rows are written without a detour."""

    def __init__(self, flow: Flow, composed: FlowSQL) -> None:
        self._flow = flow
        self._composed = composed
        self._sent = [column.name for column in flow.leader.columns if column.generated is None]
        self._updates: dict[Unchanged, Statements] = {}

    @cached_property
    def into(self) -> bytes:
        """The statement that takes rows with the leader's columns, in their order."""
        names = {column.plain: sql.Identifier(column.name) for column in self._flow.columns}
        return into(self._flow.follower.identifier, [names[one] for one in self._sent])

    @cached_property
    def insert(self) -> Statements:
        """For what came as text, which can't be copied."""
        return _texts(self._composed.insert_new)

    def update(self, unchanged: Unchanged, number: int) -> Statements:
        """The statement for rows that exist and lack these values, which have this number."""
        if unchanged not in self._updates:
            given = {name for place, name in enumerate(self._sent) if place not in unchanged}
            self._updates[unchanged] = _texts(
                self._composed.update_some(given, number)
                if unchanged
                else self._composed.update_whole
            )
        return self._updates[unchanged]


class Part:
    """How a part of a row is written where another service has changed the rest of it.

    The row as a whole comes and goes with either part, so a part that has changed never
    adds it, and one that has another key leaves the rest where it is.
    """

    def __init__(self, flow: Flow, composed: FlowSQL) -> None:
        self._flow = flow
        self._composed = composed

    @cached_property
    def remove(self) -> Statements:
        """For rows that are gone."""
        return _texts(self._composed.delete_only_gone)

    @cached_property
    def add_new(self) -> Statements:
        """For rows that have come."""
        return _texts(self._composed.add_new)

    @cached_property
    def rewrite(self) -> Statements:
        """For rows that are written anew."""
        return _texts(*self._composed.rewrite(part=True))

    @cached_property
    def write(self) -> Statements:
        """For rows that are there."""
        if not self._flow.takes_updates:
            return self.rewrite
        return _texts(self._composed.update, self._composed.add_new)

    def renames(self, count: int, *, by_turns: bool) -> Statements:
        """The statements that give so many rows their new keys; rare, so composed anew.

        By turns each new key must be free.  No UPDATE sets a GENERATED ALWAYS AS IDENTITY.
        """
        if by_turns and self._flow.follower_identity.isdisjoint(self._flow.key):
            return _texts(*map(self._composed.rename, range(count)))
        return _texts(*self._composed.exchange) if count else ()


class CompiledFlow:
    """The statements of one flow whose rows lie in a stage."""

    def __init__(self, flow: Flow, stage: sql.Identifier, *, binary: bool = True) -> None:
        self._composed = FlowSQL(flow, stage)
        self.flow = flow
        as_it_came = flow.is_plain and (flow.is_binary or not binary)
        self.direct = Direct(flow, self._composed) if as_it_came else None
        self.part = Part(flow, self._composed) if flow.kind is Kind.COLUMNS else None

    @cached_property
    def dirty(self) -> Statements:
        """Note the keys that changed."""
        return _texts(self._composed.remember_dirty) if self.flow.kind.owned else ()

    @cached_property
    def empty(self) -> Statements:
        """For a TRUNCATE."""
        return _texts(self._composed.empty)

    def empty_leaf(self, leaf: TableName) -> Statements:
        """For a TRUNCATE of one partition, which has to be among the follower's."""
        return _texts(self._composed.empty_of(leaf))

    @cached_property
    def incomplete(self) -> bytes:
        """Tells how many rows that came in part do not exist; of a flow with a key."""
        return _text(self._composed.incomplete)

    @cached_property
    def remove(self) -> Statements:
        """For rows that are gone."""
        if not self.flow.key:
            return _HASHED, *_texts(self._composed.remove_rows), _BACK
        return _texts(self._composed.delete_gone)

    @cached_property
    def drop_left(self) -> Statements:
        """For rows that flow no more."""
        return _texts(self._composed.delete_left) if self.flow.key else ()

    @cached_property
    def rewrite(self) -> Statements:
        """For rows that are there, without regard to what they were."""
        if not self.flow.key:
            return _texts(self._composed.add_rows)
        return _texts(*self._composed.rewrite())

    @cached_property
    def add(self) -> Statements:
        """For rows that are there, all complete."""
        if not (self.flow.key and self.flow.takes_updates):
            return self.rewrite
        if self._upserts:
            return _texts(self._composed.upsert)
        return _texts(self._composed.update, self._composed.add_missing)

    @cached_property
    def add_partial(self) -> Statements:
        """For rows that are there, some of which came in part."""
        if self.flow.key and self.flow.takes_updates and self._upserts:
            return _texts(self._composed.update_partial, self._composed.upsert)
        return self.add

    @property
    def _upserts(self) -> bool:
        # INSERT checks NOT NULL before it looks for the row: all columns have to be given.
        return self.flow.whole_rows and self.flow.key_arbitrates


def _text(statement: sql.Composable) -> bytes:
    return statement.as_string(None).encode()


def _texts(*statements: sql.Composable | None) -> Statements:
    return tuple(_text(statement) for statement in statements if statement is not None)
