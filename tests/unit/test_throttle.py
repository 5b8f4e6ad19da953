from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.throttle import Ceilings, Load, Throttle, Verdict, Wish, decide
from plans.errors import GateClosed, StreamBroken

CALM = Load(standby_lag_bytes=0, active_sessions=0, retained_bytes=0)
CEILINGS = Ceilings(standby_lag_bytes=1000, active_sessions=10, retained_bytes=100_000)


def test_a_calm_source_is_read_as_fast_as_it_goes() -> None:
    assert decide(CALM, Wish(), CEILINGS) == Verdict()
    assert decide(Load(500, 5, 79_999), Wish(), CEILINGS) == Verdict()


@pytest.mark.parametrize(
    ("load", "share"),
    [
        (Load(750, 0, 0), 0.5),
        (Load(0, 9, 0), 0.2),
        (Load(1000, 0, 0), 0.0),
        (Load(0, 10, 0), 0.0),
        (Load(600, 9, 0), 0.2),  # the tighter one
    ],
)
def test_it_goes_slower_from_half_of_a_limit_on_and_pauses_at_it(load: Load, share: float) -> None:
    verdict = decide(load, Wish(), CEILINGS)
    assert verdict.share == pytest.approx(share)
    assert verdict.reasons
    assert verdict.ends is None


def test_a_limit_that_is_not_set_is_none() -> None:
    assert decide(Load(10**12, 10**6, 0), Wish(), Ceilings(None, None, 10)) == Verdict()


def test_retained_log_does_not_make_it_slower_but_ends_it() -> None:
    near = decide(Load(0, 0, 90_000), Wish(), CEILINGS)
    assert (near.share, near.ends) == (1.0, None)
    assert "90,000 bytes of log" in near.warnings[0]
    over = decide(Load(0, 0, 100_000), Wish(), CEILINGS)
    throttle = Throttle()
    throttle.set(over)
    with pytest.raises(GateClosed, match="wal_retained_bytes_max is 100,000"):
        throttle.pause(1)


@given(
    lag=st.integers(0, 3000),
    sessions=st.integers(0, 30),
    paused=st.booleans(),
    rate=st.none() | st.floats(1, 1e9),
)
def test_whatever_makes_it_slower_is_told(
    *, lag: int, sessions: int, paused: bool, rate: float | None
) -> None:
    verdict = decide(Load(lag, sessions, 0), Wish(paused, rate), CEILINGS)
    assert bool(verdict.reasons) == (verdict.share < 1 or rate is not None)
    assert verdict.share == 0 or not paused


def test_an_operators_rate_holds_over_all_workers_together() -> None:
    throttle = Throttle()
    throttle.set(decide(CALM, Wish(bytes_per_s=1e6), CEILINGS))
    began = time.monotonic()

    def work() -> None:
        for _ in range(5):
            throttle.pause(50_000)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(10)
    assert time.monotonic() - began >= 0.45  # half a megabyte


def test_a_rate_holds_while_what_else_makes_it_slower_is_another_each_time() -> None:
    """It is looked at once a second, and the load is hardly ever the same."""
    throttle, wish = Throttle(), Wish(bytes_per_s=1e6)
    throttle.set(decide(Load(600, 0, 0), wish, CEILINGS))
    began = time.monotonic()
    stop = threading.Event()

    def look() -> None:
        for lag in range(600, 700):
            if stop.wait(0.02):
                return
            throttle.set(decide(Load(lag, 0, 0), wish, CEILINGS))

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(5):
        throttle.pause(100_000)
    stop.set()
    looking.join()
    assert time.monotonic() - began >= 0.45  # half a megabyte


def test_a_pause_is_left_as_soon_as_it_is_taken_back() -> None:
    throttle = Throttle()
    throttle.set(Verdict(share=0.0, reasons=("paused",)))
    through = threading.Event()

    def work() -> None:
        throttle.pause(0)
        through.set()

    threading.Thread(target=work, daemon=True).start()
    assert not through.wait(0.1)
    throttle.set(Verdict())
    assert through.wait(2)


def test_a_long_wait_for_a_rate_ends_when_the_rate_is_taken_back() -> None:
    throttle = Throttle()
    throttle.set(Verdict(bytes_per_s=1.0))
    through = threading.Event()

    def work() -> None:
        throttle.pause(1_000_000)
        through.set()

    threading.Thread(target=work, daemon=True).start()
    assert not through.wait(0.1)
    throttle.set(Verdict())
    assert through.wait(2)


def test_half_of_the_time_is_rested_if_half_may_be_worked() -> None:
    throttle = Throttle()
    throttle.set(Verdict(share=0.5, reasons=("busy",)))
    throttle.pause(0)
    began = time.monotonic()
    for _ in range(4):
        time.sleep(0.05)
        throttle.pause(1)
    assert time.monotonic() - began >= 0.38


def test_whoever_waits_hears_that_it_is_for_nothing() -> None:
    throttle = Throttle()
    throttle.set(Verdict(share=0.0, reasons=("paused",)))
    heard: list[Exception] = []

    def work() -> None:
        try:
            throttle.pause(0)
        except StreamBroken as error:
            heard.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    broken = StreamBroken("the slot is gone")
    throttle.fail(broken)
    worker.join(2)
    assert heard == [broken]
