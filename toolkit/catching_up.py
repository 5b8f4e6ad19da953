"""Whether a follower has what its leader had committed, with a stream process or without one."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from cdc.connect import Connection
from plans import names
from toolkit import locks, markers
from toolkit.opened import Split
from toolkit.state import Direction

PEEKED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Whether the follower has applied what the leader had committed a moment ago."""

    split: Split
    service: str
    direction: Direction
    control: Connection
    leader: Connection
    follower: Connection

    def __call__(self, timeout_s: float) -> bool:
        """Wait at most so long; False if it was not in time, or cannot be told."""
        if not locks.is_held(self.control, self.split.name, locks.STREAM):
            return self._nothing_pending()
        stream = self.direction.stream(self.split.name, self.service)
        return markers.passes(self.leader, self.follower, stream, timeout_s)

    def _nothing_pending(self) -> bool:
        """Whether, without a stream process, its slot holds nothing that is not applied."""
        split, service = self.split.name, self.service
        if self.direction is Direction.CUTOVER:
            slot, publication = names.slot(split), names.publication(split)
        else:
            slot = names.back_slot(split, service)
            publication = names.back_publication(split, service)
        reached = self.follower.execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s",
            [self.direction.stream(split, service)],
        ).fetchone()
        try:
            row = self.leader.execute(
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s,"
                " 'proto_version', '1', 'publication_names', %s) WHERE lsn > %s::pg_lsn",
                [slot, PEEKED_MAX, publication, reached[0] if reached else "0/0"],
            ).fetchone()
        except psycopg.Error:
            return False
        return row == (0,)
