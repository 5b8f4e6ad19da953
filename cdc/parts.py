"""Parts of the stream: what the reader hands to the appliers, and the spool keeps in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cdc.messages import Messages, Places
from cdc.past import PastShape
from cdc.pgoutput import Relation
from cdc.replication import Keepalive
from plans.catalog import TableName


class Announcement(NamedTuple):
    """What the rows of a table look like, and which table of the plan they belong to."""

    relation: Relation
    root: TableName  # itself, or the partitioned table
    name: TableName  # what the relation is called now, be it a partition
    past: PastShape | None = None  # the table looked so when the rows were written
    is_new: bool = False  # a partition that the follower does not have yet


Item = bytes | Keepalive | Announcement
"""A message of the output plugin that is no row's and announces none, and what else comes."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the stream: rows, and what else comes, each after so many of the rows."""

    rows: Messages
    relations: Places  # the OID of each row's
    others: Sequence[tuple[int, Item]]

    def __len__(self) -> int:
        return len(self.rows) + len(self.others)

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.rows.text)


NO_ROWS: Final = np.zeros(0, np.uint32)
