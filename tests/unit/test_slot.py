"""Whether a stream may go on from a slot, in every state that a server can show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.lsn import LSN
from cdc.slot import Server, SlotState, judge, left_at
from plans.model import Limits
from toolkit.slot_health import Gauge, alerts, duration, health

SERVER = Server("77", 1)
FINE = SlotState(
    name="dbsplit_x",
    there=True,
    wal_status="reserved",
    confirmed=LSN(100),
    retained_bytes=600,
    safe_bytes=None,
    active=False,
    log_end=LSN(500),
    server=SERVER,
)
ENDS = {"service a": LSN(100), "service b": LSN(300)}
LIMITS = Limits(wal_retained_bytes_max=1000, wal_full_in_s_min=60)


def test_a_slot_that_goes_on_where_its_followers_end_is_fine() -> None:
    assert judge(FINE, SERVER, ENDS, None) is None
    assert judge(FINE, None, {}, None) is None


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (replace(FINE, there=False), "does not exist"),
        (replace(FINE, wal_status="lost"), "was invalidated"),
        (replace(FINE, confirmed=LSN(101)), "ahead of service a"),
        (replace(FINE, log_end=LSN(299)), "before 0/12C, which service b has already"),
        (replace(FINE, server=Server("78", 1)), "another server"),
        (replace(FINE, server=Server("77", 2)), "was restored"),
    ],
)
def test_what_was_lost_is_never_passed_over(state: SlotState, says: str) -> None:
    error = judge(state, SERVER, ENDS, None)
    assert error is not None
    assert says in str(error)
    assert error.exit_code == 7
    assert "dbsplit abort" in error.hint


def test_a_promotion_is_passed_over_only_if_no_follower_has_more() -> None:
    promoted = replace(FINE, server=Server("77", 3))
    assert judge(promoted, SERVER, ENDS, LSN(300)) is None
    error = judge(promoted, SERVER, ENDS, LSN(299))
    assert error is not None
    assert "promoted or restored at 0/12B" in str(error)


def test_a_history_tells_where_a_timeline_was_left() -> None:
    history = "1\t0/3000110\tno recovery target specified\n\n2\t0/5000000\tbefore 2024\n"
    assert left_at(history, 1) == LSN.parse("0/3000110")
    assert left_at(history, 2) == LSN.parse("0/5000000")
    assert left_at(history, 3) is None


def test_the_time_until_the_limit_is_told() -> None:
    gauge = Gauge()
    assert gauge.growth_bytes_s is None
    gauge.add(0.0, 500)
    gauge.add(10.0, 600)
    one = health("source", FINE, LIMITS, gauge.growth_bytes_s)
    assert one.growth_bytes_s == 10
    assert one.full_in_s == 40
    assert one.forecast == "full in 40 s"
    assert alerts([one], LIMITS) == (
        "slot dbsplit_x (source) is full in 40 s (limits.wal_retained_bytes_max)",
    )
    assert alerts([replace(one, full_in_s=60.0)], LIMITS) == ()


def test_the_servers_own_limit_counts_where_it_is_nearer() -> None:
    one = health("source", replace(FINE, safe_bytes=100), LIMITS, None)
    assert (one.limit_bytes, one.limit) == (700, "max_slot_wal_keep_size")
    assert alerts([one], LIMITS) == (
        "slot dbsplit_x (source) retains 600 of 700 bytes (max_slot_wal_keep_size)",
    )


def test_a_slot_in_danger_is_an_alert() -> None:
    one = health("source", replace(FINE, wal_status="unreserved"), LIMITS, None)
    assert alerts([one], LIMITS) == ("slot dbsplit_x (source) is unreserved",)


def test_what_shrinks_never_fills() -> None:
    one = health("source", FINE, LIMITS, -5.0)
    assert one.full_in_s is None
    assert one.forecast == "not growing"


def test_times_are_written_for_people() -> None:
    assert [duration(s) for s in (12, 75, 12_000, 200_000)] == [
        "12 s",
        "1 min 15 s",
        "3 h 20 min",
        "2 d 7 h",
    ]
