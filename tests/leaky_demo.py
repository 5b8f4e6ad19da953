"""`dbsplit demo` with a stream that loses every fiftieth row, for the test that this is found.

This file is both programs: the demo is told to stream with it.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import count

import toolkit.cli.demo_screen
from cdc.compaction import NetChanges
from cdc.rows import Key, Row
from toolkit.cli.main import main
from toolkit.demo.run import run_demo

LOST_EVERY = 50

_insert = NetChanges.insert
_number = count(1)


def _insert_most(self: NetChanges, key: Key, row: Row) -> None:
    if next(_number) % LOST_EVERY:
        _insert(self, key, row)


if __name__ == "__main__":
    NetChanges.insert = _insert_most  # type: ignore[method-assign]
    leaky = partial(run_demo, follower=(sys.executable, __file__))
    setattr(toolkit.cli.demo_screen, "run_demo", leaky)  # noqa: B010 - it is not exported from there
    main()
