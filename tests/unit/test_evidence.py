"""What two rounds of readings prove."""

from __future__ import annotations

import time

import pytest

from validators.evidence import (
    ABSENT,
    Counts,
    Reading,
    Round,
    Verdict,
    count,
    judge,
    readings,
    share,
)
from validators.sides import Key

LINEAR_S_MAX = 2.0  # quadratic it takes some twenty

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


def test_rows_of_one_key_are_gathered() -> None:
    found = [(("a",), 2, 1, 5), (("b",), 9, 1, 6), (("a",), 1, 1, 7), (("a",), 2, 4, 1)]
    assert readings(found) == {
        ("a",): Reading(((1, 1), (2, 5)), version=13),
        ("b",): Reading(((9, 1),), version=6),
    }


def test_many_rows_of_one_key_are_gathered_in_a_moment() -> None:
    began = time.monotonic()
    (reading,) = readings((("a",), n % 10_000, 1, 1) for n in range(20_000, 0, -1)).values()
    assert time.monotonic() - began < LINEAR_S_MAX
    assert reading.version == 20_000
    assert reading.rows == tuple((n, 2) for n in range(10_000))


def test_what_is_as_it_was_is_held_once() -> None:
    known: dict[Key, Reading] = {("a",): OLD, ("b",): OLD}
    new: dict[Key, Reading] = {
        ("a",): Reading(OLD.rows, OLD.version), ("b",): NEW, ("c",): WRONG,
    }  # fmt: skip
    same = dict(new)
    share(new, known)
    assert new == same
    assert [new[key] is known.get(key) for key in new] == [True, False, False]
