"""What two rounds of readings prove, and how buckets are merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators.evidence import (
    ABSENT,
    Counts,
    Found,
    Reading,
    Round,
    Verdict,
    by_key,
    count,
    judge,
    merge,
)
from validators.sides import Key

OLD = Reading(((1, 1),), version=10)
NEW = Reading(((2, 1),), version=11)
WRONG = Reading(((3, 1),), version=70)


def seen(before: Reading, follower: Reading, after: Reading) -> Round:
    return Round(before=before, follower=follower, after=after)


@pytest.mark.parametrize(
    "now",
    [
        seen(OLD, OLD, OLD),
        seen(OLD, OLD, NEW),  # the follower had caught up with the first reading
        seen(OLD, NEW, NEW),  # and here already with the second
        seen(ABSENT, ABSENT, NEW),
        seen(OLD, ABSENT, ABSENT),
        seen(OLD, Reading(OLD.rows, version=99), OLD),  # versions are each server's own
    ],
)
def test_follower_that_shows_either_reading_has_healed(now: Round) -> None:
    assert judge(None, now) is Verdict.HEALED
    assert judge(seen(OLD, WRONG, OLD), now) is Verdict.HEALED


def test_one_round_proves_no_difference() -> None:
    assert judge(None, seen(OLD, WRONG, OLD)) is Verdict.OPEN


def test_same_evidence_twice_is_a_difference() -> None:
    for now in (seen(OLD, WRONG, OLD), seen(OLD, ABSENT, OLD), seen(ABSENT, WRONG, ABSENT)):
        assert judge(now, now) is Verdict.REAL


@pytest.mark.parametrize(
    ("last", "now"),
    [
        (seen(OLD, WRONG, OLD), seen(OLD, WRONG, NEW)),  # the leader's row moves
        (seen(OLD, WRONG, NEW), seen(NEW, WRONG, NEW)),
        (seen(OLD, WRONG, OLD), seen(OLD, ABSENT, OLD)),  # the follower's row moves
        # Deleted and inserted again with the same content: another version each time.
        (seen(ABSENT, WRONG, ABSENT), seen(ABSENT, Reading(WRONG.rows, version=71), ABSENT)),
        (seen(OLD, WRONG, OLD), seen(Reading(OLD.rows, 12), WRONG, Reading(OLD.rows, 12))),
    ],
)
def test_evidence_that_changes_proves_nothing(last: Round, now: Round) -> None:
    assert judge(last, now) is Verdict.OPEN


def test_rows_of_a_key_are_counted_by_kind() -> None:
    assert count(((1, 1),), ()) == Counts(missing=1)
    assert count((), ((1, 1),)) == Counts(extra=1)
    assert count(((1, 1),), ((2, 1),)) == Counts(different=1)
    assert count(((1, 3),), ((1, 1),)) == Counts(missing=2)
    assert count(((1, 1), (2, 1)), ((1, 1), (3, 1), (4, 1))) == Counts(different=1, extra=1)
    assert not count(((1, 2), (2, 1)), ((1, 2), (2, 1)))


rows = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.tuples(st.one_of(st.none(), st.sampled_from("ab"))),
        st.integers(0, 2),
        st.integers(1, 2),
    )
)


def totals(rows: list[Found]) -> Counter[tuple[int, Key, int]]:
    total = Counter[tuple[int, Key, int]]()
    for bucket, key, hashed, number in rows:
        total[bucket, key, hashed] += number
    return total


@given(rows, rows)
def test_merge_names_exactly_the_keys_that_differ(
    leader: list[Found], follower: list[Found]
) -> None:
    # Within a bucket each side sends its rows in an order of its own.
    leader.sort(key=lambda row: row[0])
    follower.sort(key=lambda row: row[0])
    found = {(bucket, key) for bucket, keys in merge(leader, follower) for key in keys}

    ours, theirs = totals(leader), totals(follower)
    expected = {row[:2] for row in ours | theirs if ours[row] != theirs[row]}
    assert found == expected


def test_merge_reads_no_further_than_the_bucket_it_yields() -> None:
    def unending() -> Iterator[Found]:
        for bucket in range(1_000_000):
            assert bucket < 3
            yield bucket, ("k",), 1, 1

    merged = merge(unending(), iter([(0, ("k",), 2, 1)]))
    assert next(merged) == (0, [("k",)])


def test_rows_of_one_key_are_gathered() -> None:
    assert by_key([(("a",), 2, 1), (("b",), 9, 1), (("a",), 1, 1), (("a",), 2, 4)]) == {
        ("a",): ((1, 1), (2, 5)),
        ("b",): ((9, 1),),
    }
