"""The gate in front of appliers: who stands, who passes, and that it opens by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from cdc.gate import Gate
from cdc.lsn import LSN

LONG_S = 30.0
SOON_S = 5.0


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def stands(gate: Gate, stream: str = "a") -> bool:
    deadline = time.monotonic() + SOON_S
    while not gate.stand_all([stream]) and time.monotonic() < deadline:
        time.sleep(0.005)
    return gate.stand_all([stream])


def test_what_was_committed_before_passes_and_nothing_else() -> None:
    gate = Gate()
    assert not gate.stops(LSN(10))
    gate.close(LSN(10), LONG_S)
    assert [gate.stops(LSN(n)) for n in (9, 10, 11)] == [False, True, True]
    gate.open()
    assert not gate.stops(LSN(10))


def test_who_stands_is_asked_anew_when_the_gate_is_moved() -> None:
    gate = Gate()
    gate.close(LSN(0), LONG_S)
    waiting = in_thread(lambda: gate.wait("a", LSN(10), threading.Event()))
    assert stands(gate)
    assert not gate.stand_all(["a", "b"])
    gate.close(LSN(20), LONG_S)  # what stood may pass now
    waiting.join(SOON_S)
    assert not waiting.is_alive()
    assert not gate.stand_all(["a"])


def test_it_opens_when_its_time_is_over_whoever_closed_it() -> None:
    gate = Gate()
    gate.close(LSN(0), 0.1)
    waiting = in_thread(lambda: gate.wait("a", LSN(1), threading.Event()))
    waiting.join(SOON_S)
    assert not waiting.is_alive()
    assert not gate.stops(LSN(1))


def test_a_stream_that_ends_does_not_stand_any_longer() -> None:
    gate, stop = Gate(), threading.Event()
    gate.close(LSN(0), LONG_S)
    stop.set()
    with pytest.raises(psycopg.OperationalError, match="ending"):
        gate.wait("a", LSN(1), stop)
