"""What an applier hands over to be written, and as what."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from struct import pack
from types import SimpleNamespace

import numpy as np
import pytest

from cdc.apply import Applier
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN
from cdc.messages import Messages
from cdc.parts import Announcement, Item, Part
from cdc.pgoutput import BEGIN_FIELDS, COMMIT_FIELDS, Relation, RelationColumn
from cdc.writer import Batch
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


class Writing:
    """Takes batches, and is done with them at once."""

    busy = False

    def __init__(self, _link: Link, _stop: threading.Event) -> None:
        self.batches: list[Batch] = []
        self.session = SimpleNamespace(committed=LSN(0), committed_at=0.0)

    def start(self) -> None:
        """There is no thread."""

    def wait(self) -> None:
        """Everything is written."""

    check = wait

    def submit(self, batch: Batch) -> None:
        """Take it, with its transactions as they are now."""
        self.batches.append(replace(batch, xids=tuple(batch.xids)))


@pytest.fixture
def applier(monkeypatch: pytest.MonkeyPatch) -> Applier:
    monkeypatch.setattr("cdc.apply.Writer", Writing)
    monkeypatch.setattr("cdc.apply.LINGER_S", 0.0)
    part = flow()
    one = Applier(
        Link(
            split="s",
            service="a",
            stream="s/a",
            origin="dbsplit_s_a",
            echoes=frozenset(),
            foreign=frozenset({OTHERS}),
            leader_dsn="",
            follower_dsn="",
            flows=(replace(part, kind=Kind.COLUMNS),),
        ),
        threading.Event(),
        Gate(),
        binary=True,
    )
    one.open()
    return one


def transaction(xid: int, row: int, origin: str = "") -> tuple[list[Item], bytes, Item]:
    """One that inserts a row: what comes before it, it, and what comes behind it."""
    at = xid * 100
    before: list[Item] = [pack("!cQQI", b"B", at, 0, xid)]
    assert BEGIN_FIELDS.unpack_from(before[0]) == (at, xid)  # type: ignore[arg-type]
    if origin:
        before.append(pack("!cQ", b"O", at) + origin.encode() + b"\0")
    values = b"".join(b"b" + pack("!ii", 4, n) for n in (row, row, row))
    commit = pack("!ccQQq", b"C", b"\0", at, at + 10, 0)
    assert COMMIT_FIELDS.unpack_from(commit)[0] == at
    return before, pack("!cIch", b"I", OID, b"N", len(NAMES)) + values, commit


def part_of(transactions: Sequence[tuple[list[Item], bytes, Item]]) -> Part:
    others: list[tuple[int, Item]] = [(0, Announcement(RELATION, TABLE.name))]
    for number, (before, _, commit) in enumerate(transactions):
        others += [(number, one) for one in before] + [(number + 1, commit)]
    rows = [row for _, row, _ in transactions]
    return Part(Messages.of(rows), np.full(len(rows), OID, np.uint32), others)


def test_a_batch_knows_all_of_its_transactions_whoever_wrote_them(applier: Applier) -> None:
    """A row that is read back must not be read before all of them can be seen."""
    applier.feed([part_of([transaction(7, 1), transaction(8, 2, OTHERS), transaction(9, 3)])])
    applier.settle()
    writing: Writing = applier._opened()  # type: ignore[assignment]
    told = [(batch.members_only, set(batch.xids)) for batch in writing.batches]
    assert told == [(False, {7, 8}), (True, {8, 9}), (False, {9})]
