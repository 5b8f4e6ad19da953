"""What a stream tries again after, and for how long."""

from __future__ import annotations

import time

import psycopg
import pytest

import toolkit.patience
from plans.errors import NotReady, StreamBroken, Unreachable
from toolkit.locks import Held
from toolkit.patience import PAUSE_S_MAX, PAUSE_S_MIN, Patience, may_pass


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (psycopg.errors.AdminShutdown("terminating connection"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (Unreachable("cannot connect"), True),
        (Held("is running already", hint="", ours=True), True),
        (Held("is running already", hint="", ours=False), False),
        (NotReady("is not prepared"), False),
        (psycopg.errors.UndefinedTable("no such table"), False),
    ],
)
def test_what_may_pass(error: Exception, passes: bool) -> None:  # noqa: FBT001
    assert may_pass(error) is passes


def test_who_starts_a_stream_is_told_at_once() -> None:
    patience = Patience()
    patience.begin()
    with pytest.raises(Unreachable):
        patience.pause_s(Unreachable("cannot connect"))


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience()
    patience.begin()
    patience.follows()
    pauses = [patience.pause_s(Unreachable("cannot connect")) for _ in range(6)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (PAUSE_S_MIN, PAUSE_S_MAX)
    patience.begin()
    monkeypatch.setattr(toolkit.patience, "PATIENT_S_MAX", -1.0)
    with pytest.raises(StreamBroken, match="could not be continued"):
        patience.pause_s(Unreachable("cannot connect"))


def test_tries_that_take_long_and_follow_nothing_are_as_many_as_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several servers that do not answer make each try take longer than half of the patience."""
    monkeypatch.setattr(toolkit.patience, "PATIENT_S_MAX", 0.2)
    patience = Patience()
    patience.begin()
    patience.follows()
    time.sleep(0.15)
    assert patience.pause_s(Unreachable("cannot connect")) == PAUSE_S_MIN
    patience.begin()
    time.sleep(0.15)
    assert patience.pause_s(Unreachable("cannot connect")) > PAUSE_S_MIN
    patience.begin()
    time.sleep(0.15)
    with pytest.raises(StreamBroken, match="could not be continued"):
        patience.pause_s(Unreachable("cannot connect"))
    patience.begin()
    patience.follows()
    time.sleep(0.15)
    assert patience.pause_s(Unreachable("cannot connect")) == PAUSE_S_MIN
