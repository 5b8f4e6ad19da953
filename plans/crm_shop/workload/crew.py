"""Writers at work in the threads of this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Thread
from types import TracebackType

from plans.crm_shop.workload.writer import Signals, Tally, Writer

STOP_S_MAX = 40.0  # more than a writer keeps trying to connect


class WritersStuck(Exception):
    """A writer did not come to rest in time."""


class Crew:
    """Some writers, one thread each."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        self._signals = Signals()
        self._threads = [
            Thread(target=writer.run, args=(self._signals,), name=writer.name, daemon=True)
            for writer in writers
        ]

    def start(self) -> None:
        """Set all to work."""
        self._signals.go.set()
        for thread in self._threads:
            thread.start()

    def pause(self, *, timeout_s: float = STOP_S_MAX) -> None:
        """Return when no transaction is open; raise WritersStuck if one stays so."""
        self._signals.go.clear()
        deadline = time.monotonic() + timeout_s
        for writer in self._writers:
            if not writer.idle.wait(max(0.0, deadline - time.monotonic())):
                raise WritersStuck(f"{writer.name} is busy: {writer.tally.last_error}")

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signals.go.set()

    def stop(self, *, timeout_s: float = STOP_S_MAX) -> Tally:
        """End all; an operation that is being retried is dropped."""
        self._signals.stop.set()
        self._signals.go.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise WritersStuck(f"{thread.name} did not end within {timeout_s:.0f} s")
        return self.tally()

    def tally(self) -> Tally:
        """What all of them have done so far."""
        total = Tally()
        for writer in self._writers:
            total += writer.tally
        return total

    @property
    def alive(self) -> int:
        """How many are still at work; fewer than began means a bug in an operation."""
        return sum(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Crew:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()
