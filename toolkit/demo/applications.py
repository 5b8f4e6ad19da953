"""The bundled case's applications, which write all the time, wherever they are sent."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plans.crm_shop.workload.process import Workload, WorkloadStats
from plans.crm_shop.workload.routing import write_routing
from plans.errors import NotReady

PROGRESS_S_MAX: Final = 30.0  # as long as an application of theirs tries again
PROGRESS_WRITES: Final = 20  # so many more are no accident
_POLL_S: Final = 0.1


class Applications:
    """Writers in a process of their own; may be asked from several threads."""

    def __init__(self, workload: Workload, routing: Path, history: Path) -> None:
        self.history = history
        self.routing = routing
        self._workload = workload
        self._turn = threading.Lock()  # questions and answers share one pipe

    def stats(self) -> WorkloadStats:
        """What they have done so far."""
        with self._turn:
            return self._workload.stats()

    def rest(self) -> WorkloadStats:
        """End them, each after its transaction."""
        with self._turn:
            stats = self._workload.stop()
        if stats.crashed:
            raise RuntimeError(f"{stats.crashed} of the writers have failed; see {self.history}")
        return stats

    def work(self, seconds: float, check: Callable[[], None]) -> int:
        """Let them write for a while; returns how many more writes were acknowledged.

        Raises NotReady if they cannot write.
        """
        began = time.monotonic()
        before = self.stats().acknowledged
        while True:
            time.sleep(_POLL_S)
            check()
            stats = self.stats()
            done = stats.acknowledged - before
            passed = time.monotonic() - began
            if passed >= seconds and done >= PROGRESS_WRITES:
                return done
            if passed >= seconds + PROGRESS_S_MAX:
                raise NotReady(
                    f"only {done} writes were acknowledged in {passed:.0f} s; the last error was"
                    f" {stats.last_error!r}",
                    hint=f"see {self.history}",
                )


@contextmanager
def applications_at_work(
    directory: Path, places: Mapping[str, str], *, writers: int, rate: float
) -> Iterator[Applications]:
    """Applications that write to `places` until they are sent elsewhere."""
    routing, history = directory / "routing.json", directory / "history"
    write_routing(routing, places)
    workload = Workload(routing, history, writers=writers, rate=rate, as_roles=True)
    with workload:
        yield Applications(workload, routing, history)


def switch_command(directory: Path) -> list[str]:
    """What sends them elsewhere, for the plan."""
    module = "plans.crm_shop.workload.switch"
    return [sys.executable, "-P", "-m", module, str(directory / "routing.json")]
