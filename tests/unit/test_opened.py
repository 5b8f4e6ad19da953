"""Rows of buckets that differ, in files, and what both sides have not in common."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators import opened
from validators.arrays import packed
from validators.differing import Sums
from validators.opened import ROW, Keys, OpenedRows, unlike
from validators.units import MODULUS, Chunks

# hash, block, offset, bucket: few of each, so that rows meet
rows = st.lists(
    st.tuples(st.sampled_from([-(2**63), -1, 5]), st.just(70_000), st.just(3), st.integers(0, 9))
)


def raw(some: list[tuple[int, int, int, int]]) -> bytes:
    return np.array(some, ROW).tobytes()


def counted(some: list[tuple[int, int, int, int]]) -> Counter[tuple[int, int]]:
    return Counter((bucket, hashed) for hashed, _, _, bucket in some)


@pytest.mark.parametrize("parts", [1, 4])
@given(st.data())
def test_exactly_the_rows_that_are_not_on_both_sides_are_named(
    parts: int, data: st.DataObject
) -> None:
    sides = [data.draw(st.lists(rows, max_size=3)) for _ in range(2)]
    named: list[set[tuple[int, int]]] = [set(), set()]
    with ExitStack() as stack:
        ours, theirs = (OpenedRows(stack, parts) for _ in range(2))
        for held, ranges in zip((ours, theirs), sides, strict=True):
            for some in ranges:
                held.add(raw(some))
        for part in range(parts):
            found = unlike(ours.part(part), theirs.part(part))
            for names, side in zip(named, found, strict=True):
                names |= {(int(row["bucket"]), int(row["hash"])) for row in side}
                assert {(int(row["block"]), int(row["offset"])) for row in side} <= {(70_000, 3)}
    leader, follower = (counted([row for some in side for row in some]) for side in sides)
    differing = {row for row in leader | follower if leader[row] != follower[row]}
    assert named[0] | named[1] == differing
    assert named[0] >= {row for row in differing if leader[row] > follower[row]}
    assert named[1] >= {row for row in differing if follower[row] > leader[row]}


@given(st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(-(2**63), 2**63 - 1)))))
def test_sums_of_ranges_are_the_sums_of_all(ranges: list[list[tuple[int, int]]]) -> None:
    total = Sums(8)
    wanted = [sum(h for some in ranges for b, h in some if b == n) % MODULUS for n in range(8)]
    for some in ranges:
        by_bucket: dict[int, list[int]] = {}
        for bucket, hashed in some:
            by_bucket.setdefault(bucket, []).append(hashed)
        numbers = sorted(by_bucket)
        # As mod() of the server has it: with the sign of what is divided.
        sums = [abs(sum(by_bucket[n])) % MODULUS for n in numbers]
        sums = [-s if sum(by_bucket[n]) < 0 else s for s, n in zip(sums, numbers, strict=True)]
        counts = [len(by_bucket[n]) for n in numbers]
        total.add(Chunks(packed(numbers), packed(counts), packed(sums)))
    assert total.sums.tolist() == wanted
    assert total.rows.tolist() == [
        sum(b == n for some in ranges for b, _ in some) for n in range(8)
    ]


def test_keys_come_back_as_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "HELD_BYTES", 10)
    keys = [("1", None), ("Ж\n", "''"), ("\u2028", '"')]
    with ExitStack() as stack:
        kept = Keys(stack)
        kept.add([("gone",)])
        kept.clear()
        kept.add(keys)
        assert [list(group) for group in kept.groups(2)] == [keys[:2], keys[2:]]
