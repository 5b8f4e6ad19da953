"""Going slower, or not at all, so that the source's users do not notice.

Theory of operation.  Somebody looks at the source once in a while and decides; who
moves rows calls `Throttle.pause` after each piece, and waits there as long as it takes.
Slowing down is resting in proportion to the time worked, so it needs no idea of how
fast the machines are; an operator's rate is in bytes, over all workers together.

Log that our slot retains is no reason to go slower: it grows until the stream follows,
and a slower copy only makes that later.  When the plan's budget is used up, the copy
gives up, which loses nothing, and somebody has to decide.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from plans.errors import GateClosed, SplitError

WAL_WARN_SHARE = 0.8
"""From which part of the budget on it is told."""

REST_S_MAX = 2.0
"""How long a worker rests at a time; then it is decided anew."""

WAIT_S = 5.0
_SLOW_FROM = 0.5
"""From which part of a limit on it goes slower; at the limit it pauses."""

_SHARE_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator has asked for."""

    paused: bool = False
    bytes_per_s: float | None = None  # None: as fast as it goes


@dataclass(frozen=True, slots=True)
class Load:
    """How the source does, without us."""

    standby_lag_bytes: int
    active_sessions: int
    retained_bytes: int  # by our slot


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the plan allows; None is anything."""

    standby_lag_bytes: int | None
    active_sessions: int | None
    retained_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How fast it may go, and why not faster."""

    share: float = 1.0  # of the time; 0 is a pause
    bytes_per_s: float | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    ends: str | None = None  # why it has to be given up

    @property
    def kind(self) -> tuple[object, ...]:
        """What is worth telling when it changes; not each number."""
        return self.share == 0.0, self.bytes_per_s, len(self.reasons), bool(self.warnings)


def decide(load: Load, wish: Wish, ceilings: Ceilings) -> Verdict:
    """How fast it may go now."""
    lag = _allowed(load.standby_lag_bytes, ceilings.standby_lag_bytes)
    busy = _allowed(load.active_sessions, ceilings.active_sessions)
    reasons = []
    if lag < 1.0:
        reasons.append(
            f"a receiver of the source's log is {load.standby_lag_bytes:,} bytes behind"
            f" (limits.standby_lag_bytes_max is {ceilings.standby_lag_bytes:,})"
        )
    if busy < 1.0:
        reasons.append(
            f"{load.active_sessions:,} sessions are at work on the source"
            f" (limits.active_sessions_max is {ceilings.active_sessions:,})"
        )
    if wish.paused:
        reasons.append("an operator has paused it (`dbsplit throttle --resume`)")
    if wish.bytes_per_s is not None:
        reasons.append(f"an operator allows {wish.bytes_per_s / 1e6:g} MB/s")
    retained = (
        f"the slot retains {load.retained_bytes:,} bytes of log"
        f" (limits.wal_retained_bytes_max is {ceilings.retained_bytes:,})"
    )
    return Verdict(
        share=0.0 if wish.paused else min(lag, busy),
        bytes_per_s=wish.bytes_per_s,
        reasons=tuple(reasons),
        warnings=(retained,)
        if load.retained_bytes >= WAL_WARN_SHARE * ceilings.retained_bytes
        else (),
        ends=retained if load.retained_bytes >= ceilings.retained_bytes else None,
    )


def _allowed(observed: int, limit: int | None) -> float:
    """Which part of the time may be worked: all below half of a limit, none at it."""
    if limit is None or observed <= _SLOW_FROM * limit:
        return 1.0
    if observed >= limit:
        return 0.0
    return max(_SHARE_MIN, (limit - observed) / (limit * (1 - _SLOW_FROM)))


class Throttle:
    """Makes workers wait as the latest verdict says; for use by all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._verdict = Verdict()
        self._failure: SplitError | None = None
        self._changed = threading.Condition()
        self._due = clock()  # when the bytes that were moved may have been moved
        self._worker = threading.local()

    def set(self, verdict: Verdict) -> None:
        """From now on this holds, also for those who wait."""
        with self._changed:
            before, self._verdict = self._verdict, verdict
            if verdict.bytes_per_s != before.bytes_per_s:
                self._due = self._clock()
            if verdict != before:
                self._changed.notify_all()

    def fail(self, error: SplitError) -> None:
        """What is done is for nothing: from now on `check` raises this."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def check(self) -> None:
        """Raises GateClosed if it has to be given up, or what it failed with."""
        if self._failure is not None:
            raise self._failure
        if self._verdict.ends is not None:
            raise GateClosed(
                f"{self._verdict.ends}: the copy was stopped before the source's disk is full",
                hint="what is copied stays; either allow more in the plan and run the same "
                "command again, or `dbsplit abort`, which drops the slot and frees the disk",
            )

    def pause(self, moved: int) -> None:
        """Wait as long as it takes after so many bytes; raises what `check` does."""
        self.pause_within(moved, None)

    def pause_within(self, moved: int, wait_s: float | None) -> bool:
        """The same, but if nothing may be done at all, wait so long at most: False then."""
        self.check()
        began = getattr(self._worker, "began", None)
        now = self._clock()
        with self._changed:
            verdict = self._verdict
            if verdict.share < 1.0 and began is not None and verdict.share:
                rest_s = min(REST_S_MAX, (now - began) * (1 / verdict.share - 1))
                self._rest(rest_s, lambda now: now.share)
            if verdict.bytes_per_s is not None:
                self._due = max(self._due, now) + moved / verdict.bytes_per_s
                self._rest(self._due - now, lambda now: now.bytes_per_s)
            until = None if wait_s is None else self._clock() + wait_s
            while self._verdict.share == 0.0 and not self._ends:
                left_s = WAIT_S if until is None else min(WAIT_S, until - self._clock())
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        self.check()
        self._worker.began = self._clock()
        return True

    @property
    def _ends(self) -> bool:
        return self._failure is not None or self._verdict.ends is not None

    def _rest(self, seconds: float, of: Callable[[Verdict], object]) -> None:
        """Wait, but no longer than this of the verdict holds."""
        before = of(self._verdict)
        self._changed.wait_for(lambda: of(self._verdict) != before or self._ends, max(0.0, seconds))
