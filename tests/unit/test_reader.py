"""How much a reader gathers before it hands it over."""

from __future__ import annotations

import threading
from struct import pack
from typing import cast

from cdc.lsn import LSN
from cdc.messages import NONE, Messages
from cdc.pgoutput import Relation
from cdc.reader import BLOCK_BYTES_MIN, Reader
from cdc.replication import Received
from cdc.sink import Sink
from cdc.spool import Block, size_of
from cdc.watch import Place, Watch
from plans.catalog import TableName

OID = 5
TABLE = TableName("public", "t")
COLUMN = b"\1id\0" + pack("!Ii", 23, -1)
RELATION = pack("!cI", b"R", OID) + b"public\0t\0d" + pack("!h", 1) + COLUMN
ROW = pack("!cIchci", b"I", OID, b"N", 1, b"t", BLOCK_BYTES_MIN) + bytes(BLOCK_BYTES_MIN)


class Arrived:
    """A stream of which more has always arrived, until it is at its end."""

    def __init__(self, *some: bytes) -> None:
        self._left = list(some)

    @property
    def exhausted(self) -> bool:
        return not self._left

    def read(self, _timeout_s: float) -> Received:
        return Received(Messages.of([self._left.pop(0)]) if self._left else NONE)

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """Nothing is kept."""


class Taking:
    """Notes how large the blocks are that it is handed."""

    failure = None
    away = False
    committed = LSN(0)
    tables = frozenset({TABLE})

    def __init__(self) -> None:
        self.returned = threading.Event()
        self.block: Block = []
        self.sizes: list[int] = []

    def hand_over(self, _timeout_s: float) -> bool:
        if self.block:
            self.sizes.append(size_of(self.block))
        self.block = []
        return True


class Watching:
    """Knows the one table."""

    def place_of(self, _relation: Relation, _at: LSN) -> Place:
        return Place(TABLE, TABLE)

    def look(self) -> None:
        """Nothing changes."""


def test_large_rows_are_handed_over_before_they_are_many() -> None:
    """Or a backlog of them would be in memory as a whole."""
    sink = Taking()
    reader = Reader(
        Arrived(RELATION, *[ROW] * 20),
        cast(Watch, Watching()),
        [cast(Sink, sink)],
        lambda _position: None,
    )
    reader.run(threading.Event())
    assert sum(sink.sizes) >= 20 * len(ROW)
    assert max(sink.sizes) < 2 * len(ROW)
