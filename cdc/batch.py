"""What an applier has gathered of one leader table, and the flows that it goes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from cdc.compaction import NetChanges, NetRows
from cdc.flow import Flow
from cdc.flow_sql import FlowSQL
from cdc.inflow import into
from cdc.lsn import LSN
from cdc.messages import Messages
from cdc.net import Net, net
from cdc.row_messages import read_rows, walk
from cdc.rows import NULL, Key, Row, Unchanged, values
from cdc.stage import Stage
from plans.catalog import Table, TableName
from plans.errors import NotReady
from plans.routes import Kind

PARTS_MAX = 20
"""So many sets of values that rows lack are told apart; what else comes in part is merged."""


class Direct:
    """How a plain flow's rows are written without a detour."""

    def __init__(self, flow: Flow, composed: FlowSQL) -> None:
        names = {column.plain: sql.Identifier(column.name) for column in flow.columns}
        self._sent = [column.name for column in flow.leader.columns if column.generated is None]
        self._composed = composed
        self._updates: dict[Unchanged, tuple[bytes, ...]] = {}
        self.into = into(flow.follower.identifier, [names[one] for one in self._sent])
        """The statement that takes rows with the leader's columns, in their order."""
        self.insert = _texts(composed.insert_new)
        """What came as text can't be copied."""

    def update(self, unchanged: Unchanged, number: int) -> tuple[bytes, ...]:
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
        self.remove = _texts(composed.delete_only_gone)
        self.add_new = _texts(composed.add_new)
        self._exchange = _texts(*composed.exchange)
        self._takes_renames = flow.follower_identity.isdisjoint(flow.key)
        self.rewrite = _texts(*composed.rewrite(part=True))
        self.write = (
            _texts(composed.update, composed.add_new) if flow.takes_updates else self.rewrite
        )
        self._composed = composed

    def renames(self, count: int, *, by_turns: bool) -> tuple[bytes, ...]:
        """The statements that give so many rows their new keys; rare, so composed anew.

        By turns each new key must be free.  No UPDATE sets a GENERATED ALWAYS AS IDENTITY.
        """
        if by_turns and self._takes_renames:
            return _texts(*map(self._composed.rename, range(count)))
        return self._exchange if count else ()


class CompiledFlow:
    """A flow's statements as they are sent, composed once."""

    def __init__(self, flow: Flow, stage: sql.Identifier, *, binary: bool = True) -> None:
        composed = FlowSQL(flow, stage)
        self.flow = flow
        self.dirty = _texts(composed.remember_dirty) if flow.kind.owned else ()
        self.empty = _texts(composed.empty)
        self.empty_leaves = {leaf: _texts(composed.empty_of(leaf)) for leaf in flow.follower_leaves}
        self.incomplete = b""
        as_it_came = flow.is_plain and (flow.is_binary or not binary)
        self.direct = Direct(flow, composed) if as_it_came else None
        self.part = Part(flow, composed) if flow.kind is Kind.COLUMNS else None
        if not flow.key:
            hashed, back = b"SET LOCAL enable_hashjoin = on", b"SET LOCAL enable_hashjoin = off"
            self.remove = (hashed, *_texts(composed.remove_rows), back)
            self.drop_left: tuple[bytes, ...] = ()
            self.add = self.add_partial = self.rewrite = _texts(composed.add_rows)
            return
        self.incomplete = _text(composed.incomplete)
        self.remove = _texts(composed.delete_gone)
        self.drop_left = _texts(composed.delete_left)
        self.rewrite = _texts(*composed.rewrite())
        if not flow.takes_updates:
            self.add = self.add_partial = self.rewrite
        elif flow.whole_rows:
            self.add = _texts(composed.upsert)
            self.add_partial = _texts(composed.update_partial, composed.upsert)
        else:
            self.add = self.add_partial = _texts(composed.update, composed.add_missing)


@dataclass(slots=True, eq=False)
class Destination:
    """Where the changes of one leader table go."""

    leader: Table
    stage: Stage
    key: tuple[int, ...]  # its places among the stage's columns; () is a multiset of rows
    flows: tuple[CompiledFlow, ...]
    complete: frozenset[int]  # positions of values that must not stay UNCHANGED
    horizon: LSN  # changes before it are in the copy
    of_several_moments: bool = False  # some of the followers' rows may be of later changes
    staged: int = 0  # rows since the stage was truncated
    parts: dict[Unchanged, int] = field(default_factory=dict)  # numbers of what rows lack

    def number(self, lacking: Iterable[Unchanged]) -> bool:
        """Give numbers to sets of values that rows lack; False if there are too many."""
        for one in set(lacking) - self.parts.keys():
            if len(self.parts) >= PARTS_MAX:
                return False
            self.parts[one] = len(self.parts)
        return True

    @property
    def is_part(self) -> bool:
        """Whether the followers' rows hold columns that come from elsewhere."""
        return any(flow.part is not None for flow in self.flows)

    @property
    def is_direct(self) -> bool:
        """Whether rows can be written as they came."""
        return all(flow.direct is not None for flow in self.flows)

    @property
    def whole_transactions_only(self) -> bool:
        """Whether a part of a transaction means nothing: keys may be double until its end."""
        return self.leader.has_deferrable_key

    @property
    def needs_full_rows(self) -> bool:
        """Whether the log must tell old rows in full."""
        return not self.key or not all(flow.flow.identifies for flow in self.flows)


class TableBatch:
    """What changed in one leader table."""

    def __init__(self, to: Destination) -> None:
        self.to = to
        self.messages: list[Messages] = []  # that are not among the changes yet
        self.net: Net | None = None  # all of the changes, if they could be netted side by side
        self._changes: NetChanges | NetRows = NetChanges() if to.key else NetRows()
        self.emptied = False  # by TRUNCATE, before the changes

    @property
    def changes(self) -> NetChanges | NetRows:
        """The changes, netted one by one."""
        if self.net is not None:
            walked, self.net = self.net.walked, None
            self._changes.take_in(read_rows(walked, self.to.key))
        return self._changes

    def gone(self) -> Iterator[Row]:
        """Rows, with the key at least, that the followers may have and that are not there now."""
        if self.net is not None:
            yield from self.net.rows(self.net.gone)
            if self.to.of_several_moments:
                yield from self.net.rows(self.net.passed)
            return
        assert isinstance(self.changes, NetChanges)  # noqa: S101
        yield from self.changes.gone()
        if self.to.of_several_moments:
            yield from map(self._with_key, self.changes.passed())

    def _with_key(self, key: Key) -> Row:
        row = [NULL] * len(self.to.stage.columns)
        for place, one in zip(self.to.key, values(key), strict=True):
            row[place] = one
        return b"".join(row)

    @property
    def touched(self) -> bool:
        """Whether there is anything to write."""
        return (
            self.emptied or bool(self.messages) or self.net is not None or bool(len(self._changes))
        )

    def numbered(self) -> bool:
        """Whether its rows can be written to the followers as they came.

        Then what those that came in part lack has a number.
        """
        return (
            isinstance(self.changes, NetChanges)
            and self.to.is_direct
            and self.to.number(self.changes.partial().values())
        )

    def take_in(self) -> None:
        """Read the row messages."""
        if not self.messages:
            return
        walked = walk(Messages.joined(self.messages), len(self.to.stage.columns))
        self.messages.clear()
        if self.to.is_direct and self.net is None and not len(self._changes):
            self.net = net(walked, self.to.key)
            if self.net is not None:
                return
        self.changes.take_in(read_rows(walked, self.to.key))

    def empty(self) -> None:
        """Take in a TRUNCATE: whatever came before it does not matter any more."""
        self.messages.clear()
        self.net = None
        self._changes.clear()
        self.emptied = True


def destinations(
    flows: Sequence[Flow],
    horizons: Mapping[str, LSN],
    types: Mapping[str, str],
    *,
    binary: bool,
    of_several_moments: bool = False,
) -> Iterator[Destination]:
    """Where some flows go, whose rows come in binary or in text form.

    Flows of one table that were copied at different times start at different
    changes, and so need destinations of their own.  So do parts of a row, which
    need not be complete where others must.
    """
    together: dict[tuple[TableName, LSN, bool], list[Flow]] = {}
    for flow in flows:
        horizon = horizons.get(flow.route, LSN(0))
        is_part = flow.kind is Kind.COLUMNS
        together.setdefault((flow.leader.name, horizon, is_part), []).append(flow)
    for number, ((_, horizon, _), group) in enumerate(together.items()):
        leader = group[0].leader
        # What divides rows is decided as the source does; keys are compared as the follower does.
        dividing = (flow.where_reads for flow in group if flow.kind is Kind.ROWS)
        stage = Stage(number, leader, types, binary, frozenset[str]().union(*dividing))
        needed = frozenset[str]().union(*(flow.needs_complete_rows for flow in group))
        yield Destination(
            leader=leader,
            stage=stage,
            key=_key(leader, stage.columns),
            flows=tuple(CompiledFlow(flow, stage.name, binary=binary) for flow in group),
            complete=frozenset(n for n, name in enumerate(stage.columns) if name in needed),
            horizon=horizon,
            of_several_moments=of_several_moments,
        )


def _key(leader: Table, columns: tuple[str, ...]) -> tuple[int, ...]:
    """Where the key is among the columns; () if rows cannot be told apart by it."""
    if not leader.key or leader.has_deferrable_key:
        return ()
    absent = [name for name in leader.key if name not in columns]
    if absent:
        raise NotReady(
            f"the key of {leader.name} has the generated column {absent[0]}, which the stream"
            " does not carry",
            hint="choose another replica identity for it: REPLICA IDENTITY USING INDEX …",
        )
    return tuple(columns.index(name) for name in leader.key)


def _text(statement: sql.Composable) -> bytes:
    return statement.as_string(None).encode()


def _texts(*statements: sql.Composable | None) -> tuple[bytes, ...]:
    return tuple(_text(statement) for statement in statements if statement is not None)
