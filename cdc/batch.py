"""What an applier has gathered of one leader table, and the flows that it goes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc.compaction import NetChanges, NetRows
from cdc.compiled import CompiledFlow
from cdc.flow import Flow
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
            yield from self.net.gone
            if self.to.of_several_moments:
                yield from self.net.passed
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
