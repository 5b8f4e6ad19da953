"""`dbsplit` with a stream that loses rows, for the test that this is found.

Run as a program in place of the real one: every fiftieth inserted row never arrives.
"""

from __future__ import annotations

from itertools import count

from cdc.compaction import NetChanges
from cdc.pgoutput import Tuple
from toolkit.cli.main import main

LOST_EVERY = 50

_insert = NetChanges.insert
_number = count(1)


def _insert_most(self: NetChanges, new: Tuple) -> None:
    if next(_number) % LOST_EVERY:
        _insert(self, new)


if __name__ == "__main__":
    NetChanges.insert = _insert_most  # type: ignore[method-assign]
    main()
