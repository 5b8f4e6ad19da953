"""A crew: jobs that wait for each other, done by a few workers, none of whom waits for long.

A job is taken as soon as what it needs is done and nothing is at work on what it must
have alone.  Of those that can be taken, the lowest rank goes first, and within a rank
the one from which the longest way leads to the end, by the weight of what has to be
done on it one after the other: the critical path.

A job that fails ends the crew.  One that is postponed does not: it is left undone with
all that needs it, and the others go on.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

W = TypeVar("W")

STOP_S_MAX = 30.0
"""How long the others are waited for when one has failed; their connections go with them."""


class Postponed(Exception):
    """Raised by a job that can be done later, but not in this crew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[W]):
    """Something to be done by one worker."""

    name: str  # unique in its crew
    run: Callable[[W], None]
    rank: int = 0
    weight: float = 0.0
    needs: Collection[str] = ()
    shares: str = ""
    """What it works on beside others; "" is nothing."""
    claims: Collection[str] = ()
    """What it must have alone, also against those that share it."""


class Crew(Generic[W]):
    """Does jobs; for one use."""

    def __init__(self, jobs: Iterable[Job[W]]) -> None:
        every = list(jobs)
        self._unfinished = {job.name for job in every}
        self._blockers = {job.name: set(job.needs) & self._unfinished for job in every}
        self._needed_by: dict[str, list[Job[W]]] = defaultdict(list)
        for job in every:
            for name in self._blockers[job.name]:
                self._needed_by[name].append(job)
        self._waiting = len(every)
        self._ways = _ways(every, self._needed_by)
        self._ready = sorted((j for j in every if not self._blockers[j.name]), key=self._order)
        self._shared: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._in_hand = 0
        self._postponed = False
        self._changed = threading.Condition()
        self._failures: list[BaseException] = []

    @property
    def failed(self) -> bool:
        """Whether a job failed, so that the others need not go on."""
        return bool(self._failures)

    def work(self, workers: int, equip: Callable[[], AbstractContextManager[W]]) -> None:
        """Do all jobs; each worker has what `equip` gives.  Raises what failed first.

        Then the other jobs in hand are left to end, for half a minute at most.
        Raises ValueError if jobs wait for each other in a circle.
        """
        threads = [
            threading.Thread(target=self._work, args=[equip], name=f"crew {n}", daemon=True)
            for n in range(workers if self._waiting else 0)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(STOP_S_MAX)
                if self.failed and thread.is_alive():
                    break
        if self._failures:
            raise self._failures[0]
        if self._waiting and not self._postponed:
            raise ValueError(f"these wait for each other: {', '.join(self.left)}")

    @property
    def left(self) -> list[str]:
        """What was postponed, and what needs that."""
        return sorted(self._unfinished)

    def _work(self, equip: Callable[[], AbstractContextManager[W]]) -> None:
        try:
            with equip() as equipment:
                while job := self._take():
                    self._do(job, equipment)
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
            with self._changed:
                self._failures.append(error)
                self._changed.notify_all()

    def _do(self, job: Job[W], equipment: W) -> None:
        try:
            job.run(equipment)
        except Postponed:
            self._postponed = True
            self._lay_down(job)
        else:
            self._lay_down(job, done=True)

    def _take(self) -> Job[W] | None:
        """The next job that can be done; None if none can be any more, or one failed."""
        with self._changed:
            while self._waiting and not self._failures:
                for place, job in enumerate(self._ready):
                    if self._is_free(job):
                        del self._ready[place]
                        self._waiting -= 1
                        self._hold(job, 1)
                        return job
                if not self._in_hand:
                    return None
                self._changed.wait()  # for whoever has a job in hand, each with limits of its own
            return None

    def _is_free(self, job: Job[W]) -> bool:
        return self._claimed.isdisjoint((job.shares, *job.claims)) and not any(
            self._shared[claim] for claim in job.claims
        )

    def _hold(self, job: Job[W], by: int) -> None:
        self._in_hand += by
        if job.shares:
            self._shared[job.shares] += by
        (self._claimed.update if by > 0 else self._claimed.difference_update)(job.claims)

    def _lay_down(self, job: Job[W], *, done: bool = False) -> None:
        with self._changed:
            self._hold(job, -1)
            if done:
                self._unfinished.discard(job.name)
                for other in self._needed_by.pop(job.name, ()):
                    self._blockers[other.name].discard(job.name)
                    if not self._blockers[other.name]:
                        bisect.insort(self._ready, other, key=self._order)
            self._changed.notify_all()

    def _order(self, job: Job[W]) -> tuple[int, float]:
        return job.rank, -self._ways[job.name]


def _ways(jobs: Sequence[Job[W]], needed_by: Mapping[str, Sequence[Job[W]]]) -> dict[str, float]:
    """How much lies on the longest way from each job's beginning to the end of all."""
    ways = {job.name: job.weight for job in jobs}
    left = {job.name: len(needed_by.get(job.name, ())) for job in jobs}
    by_name = {job.name: job for job in jobs}
    ends = [name for name, count in left.items() if not count]
    while ends:
        name = ends.pop()
        for need in by_name[name].needs:
            if need in by_name:
                ways[need] = max(ways[need], by_name[need].weight + ways[name])
                left[need] -= 1
                if not left[need]:
                    ends.append(need)
    return ways
