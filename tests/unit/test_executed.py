from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from toolkit.executed import Clean, Counts, advance

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def at(days: float, *, reset: float = 0, evicted: int = 0, **calls: int) -> Counts:
    return Counts(START + days * DAY, START + reset * DAY, evicted, calls)


def test_statistics_without_a_crossing_statement_count_from_their_reset() -> None:
    assert advance(None, at(30)).since == START


def test_a_crossing_statement_may_have_run_just_before_the_first_look() -> None:
    assert advance(None, at(30, join=1)).since == START + 30 * DAY


def test_what_was_evicted_before_the_first_look_is_not_known_to_be_clean() -> None:
    assert advance(None, at(30, evicted=1)).since == START + 30 * DAY


def test_time_passes_while_no_count_grows() -> None:
    first = advance(None, at(1, join=5))
    later = advance(first, at(9, join=5))
    assert later.since == first.since
    assert later.days(later.counts.at) == 8


def test_a_count_that_grew_begins_anew() -> None:
    first = advance(None, at(1, join=5))
    again = advance(first, at(9, join=6))
    assert again.since == START + 9 * DAY
    assert again.last == "join"


def test_what_was_executed_since_a_reset_is_seen() -> None:
    first = advance(None, at(1, join=5))
    assert advance(first, at(9, reset=8, join=5)).since == START + 9 * DAY


def test_what_a_reset_took_away_is_not_known_to_be_clean() -> None:
    first = advance(None, at(1))
    assert advance(first, at(9, reset=8)).since == START + 8 * DAY


def test_statements_that_were_evicted_since_may_have_crossed() -> None:
    first = advance(None, at(1, evicted=3))
    again = advance(first, at(9, evicted=4))
    assert again.since == START + 9 * DAY
    assert "evicted" in again.last


def test_evictions_are_counted_anew_after_a_reset() -> None:
    first = advance(None, at(1, evicted=3))
    assert advance(first, at(9, reset=8)).since == START + 8 * DAY


steps = st.lists(st.sampled_from(["look", "crossing", "reset", "other"]), min_size=1, max_size=30)


@given(steps)
def test_it_is_never_clean_longer_than_since_the_last_crossing(happened: list[str]) -> None:
    clean: Clean | None = None
    calls, reset, crossed = 0, 0.0, 0.0
    for day, step in enumerate(happened, start=1):
        if step == "crossing":
            calls, crossed = calls + 1, float(day)
        elif step == "reset":
            calls, reset = 0, float(day)
        elif step == "look":
            now = at(day + 0.5, reset=reset, **({"join": calls} if calls else {}))
            clean = advance(clean, now)
            assert clean.since >= START + crossed * DAY
