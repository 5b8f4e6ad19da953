"""Comparing chosen keys once, while neither side is written to.

This is what runs inside a cutover's pause, on the keys that changed since they
were last proven equal: one statement on each side at the same time, by index.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from cdc.connect import Connection
from validators.compare import UNREADABLE
from validators.evidence import ABSENT, Reading
from validators.fingerprint import Extents, read_extent
from validators.lookup import Lookup, read_keys
from validators.results import KeysResult
from validators.session import Ends
from validators.sides import Key, Pair, Side

KEYS_PER_STATEMENT = 20_000


def compare_keys(ends: Ends, pair: Pair, keys: Iterable[Key], *, timeout_s: float) -> KeysResult:
    """Compare the rows of these keys; "unverified", with the reason, if that takes longer.

    A key finds all rows that are equal to it by the column's own equality, so
    it need not be spelled as the comparison would spell it.

    Raises ValueError for a table without a key: see `compare_whole`.
    """
    if not pair.key:
        raise ValueError(f"{pair.table} has no key to compare by")
    deadline = time.monotonic() + timeout_s
    compared, differing = 0, list[Key]()
    try:
        extents = Extents(*ends.both(read_extent, pair))
        for batch in _batches(keys):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return KeysResult(
                    route=pair.route,
                    state="unverified",
                    compared=compared,
                    differing=tuple(differing),
                    reason=f"only {compared} keys were compared in {timeout_s:g} s",
                )
            differing += _differing(ends, pair, extents, batch, left_s)
            compared += len(batch)
    except UNREADABLE as error:
        return KeysResult(
            route=pair.route,
            state="unverified",
            compared=compared,
            differing=tuple(differing),
            reason=str(error).strip() or type(error).__name__,
        )
    return KeysResult(
        route=pair.route,
        state="different" if differing else "equal",
        compared=compared,
        differing=tuple(differing),
    )


def _differing(
    ends: Ends, pair: Pair, extents: Extents, keys: Sequence[Key], timeout_s: float
) -> Iterator[Key]:
    how = Lookup(hashing=ends.hashing, same_text=False, timeout_s=timeout_s)

    def read(connection: Connection, side: Side) -> dict[Key, Reading]:
        return read_keys(connection, side, extent=extents.of(pair, side), keys=keys, how=how)

    leader, follower = ends.both(read, pair)
    for key in keys:
        if leader.get(key, ABSENT).rows != follower.get(key, ABSENT).rows:
            yield key


def _batches(keys: Iterable[Key]) -> Iterator[Sequence[Key]]:
    remaining = iter(dict.fromkeys(keys))
    while batch := tuple(islice(remaining, KEYS_PER_STATEMENT)):
        yield batch
