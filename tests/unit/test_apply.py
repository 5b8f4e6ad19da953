"""What an applier hands over to be written, and as what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from struct import pack
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from cdc.apply import Applier
from cdc.flow import Flow
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN
from cdc.messages import Messages
from cdc.parts import Announcement, Item, Part
from cdc.pgoutput import Relation, RelationColumn
from cdc.writer import Batch
from plans.catalog import TableName
from plans.names import MARKER_PREFIX
from plans.routes import Kind
from tests.unit.test_batch import NAMES, TABLE, flow

OID = 5
OTHERS = "dbsplit_s_other"
RELATION = Relation(
    OID,
    "public",
    "t",
    "d",
    tuple(RelationColumn(name, 23, -1, name == "id") for name in NAMES),
)


class Transaction(NamedTuple):
    """What comes before its rows, they, and what comes behind them."""

    before: list[Item]
    rows: list[bytes]
    commit: Item


class Writing:
    """Takes batches, and is done with them at once."""

    busy = False

    def __init__(self, _link: Link, _stop: threading.Event) -> None:
        self.batches: list[Batch] = []
        self.executed: list[bytes] = []
        self.session = SimpleNamespace(committed=LSN(0), committed_at=0.0)

    def start(self) -> None:
        """There is no thread."""

    def wait(self) -> None:
        """Everything is written."""

    check = wait

    def execute(self, statement: bytes) -> None:
        """Run it at once."""
        self.executed.append(statement)

    def submit(self, batch: Batch) -> None:
        """Take it, with its transactions as they are now."""
        self.batches.append(replace(batch, xids=tuple(batch.xids)))


Opened = Callable[[Flow], tuple[Applier, Writing]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.setattr("cdc.apply.Writer", Writing)
    monkeypatch.setattr("cdc.apply.LINGER_S", 0.0)

    def open_one(one: Flow) -> tuple[Applier, Writing]:
        link = Link(
            split="s",
            service="a",
            stream="s/a",
            origin="dbsplit_s_a",
            echoes=frozenset(),
            foreign=frozenset({OTHERS}),
            leader_dsn="",
            follower_dsn="",
            flows=(one,),
        )
        applier = Applier(link, threading.Event(), Gate(), binary=True)
        applier.open()
        return applier, applier._opened()  # type: ignore[return-value]

    return open_one


def transaction(xid: int, row: int | None, origin: str = "", more: bytes = b"") -> Transaction:
    at = xid * 100
    before: list[Item] = [pack("!cQQI", b"B", at, 0, xid)]
    if origin:
        before.append(pack("!cQ", b"O", at) + origin.encode() + b"\0")
    if more:
        before.append(more)
    values = b"".join(b"b" + pack("!ii", 4, row or 0) for _ in NAMES)
    insert = pack("!cIch", b"I", OID, b"N", len(NAMES)) + values
    commit = pack("!ccQQq", b"C", b"\0", at, at + 10, 0)
    return Transaction(before, [insert] if row is not None else [], commit)


def message(content: bytes) -> bytes:
    head = pack("!cbQ", b"M", 1, 4711) + MARKER_PREFIX.encode() + b"\0"
    return head + pack("!i", len(content)) + content


def part_of(transactions: Sequence[Transaction], *relations: Relation) -> Part:
    rows: list[bytes] = []
    others: list[tuple[int, Item]] = [
        (0, Announcement(one, TABLE.name, TableName(one.schema, one.name))) for one in relations
    ]
    for one in transactions:
        others += [(len(rows), item) for item in one.before]
        rows += one.rows
        others.append((len(rows), one.commit))
    return Part(Messages.of(rows), np.full(len(rows), OID, np.uint32), others)


def test_a_batch_knows_all_of_its_transactions_whoever_wrote_them(opened: Opened) -> None:
    """A row that is read back must not be read before all of them can be seen."""
    applier, writing = opened(replace(flow(), kind=Kind.COLUMNS))
    those = [transaction(7, 1), transaction(8, 2, OTHERS), transaction(9, 3)]
    applier.feed([part_of(those, RELATION)])
    applier.settle()
    told = [(batch.members_only, set(batch.xids)) for batch in writing.batches]
    assert told == [(False, {7, 8}), (True, {8, 9}), (False, {9})]


@pytest.mark.parametrize("content", [b"not-a-marker", b"", b"\xff", b"0" * 31])
def test_what_others_write_under_our_prefix_is_no_marker(opened: Opened, content: bytes) -> None:
    applier, writing = opened(flow())
    ours = b"0b760755-6ce9-4d71-b86a-b5548a30999b"
    those = [transaction(7 + n, n, more=message(text)) for n, text in enumerate((content, ours))]
    applier.feed([part_of(those, RELATION)])
    applier.settle()
    reached = [batch.reached for batch in writing.batches if batch.reached]
    assert [marker for one in reached for marker, _ in one.markers] == [ours.decode()]
    assert sum(batch.counters.changes for batch in writing.batches) == len(those)


def test_a_partition_may_be_truncated_behind_a_transaction_that_must_stay_whole(
    opened: Opened,
) -> None:
    """Where keys may be double until its end; the next one is of a batch of its own."""
    leaf, other = TableName("public", "leaf"), TableName("public", "other")
    leaves = (leaf, other)
    parted = replace(TABLE, kind="p", key_deferrable=True, leaves=leaves, replica_identity="f")
    applier, writing = opened(replace(flow(), leader=parted, follower_leaves=frozenset(leaves)))
    full = RELATION._replace(replica_identity="f")
    truncate = pack("!cIbI", b"T", 1, 0, OID + 1)
    those = [transaction(7, 1), transaction(8, None, more=truncate), transaction(9, 2)]
    applier.feed([part_of(those, full, full._replace(oid=OID + 1, name="leaf"))])
    applier.settle()
    assert [batch.xids for batch in writing.batches] == [(7,), (8,), (9,)]
    assert len(writing.executed) == 1
