"""The stream process: follows the source and the moved targets until it is stopped.

It is also the watchman: an attempt whose process died leaves writers shut out,
and whoever notices first, the next call or this process, ends it by the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from cdc.connect import Connection
from cdc.follow import Follower
from cdc.lsn import LSN
from cdc.sink import Behind
from cdc.watch import CHECK_S
from plans import names
from plans.catalog_read import read_catalog
from plans.errors import NotReady, SplitError, StreamBroken
from toolkit import locks, state
from toolkit.giving_up import give_up, require_not_given_up
from toolkit.identities import NewPartitions
from toolkit.links import back_feed, forward_feed
from toolkit.observe import unpublished
from toolkit.opened import Split
from toolkit.prepared import require_owned, require_prepared
from toolkit.recovery import recover
from toolkit.slot_health import duration
from toolkit.slot_server import require_back_slot, require_source_slot
from toolkit.slot_watch import SlotWatch
from toolkit.stopping import SOURCE, Stopper

if TYPE_CHECKING:
    from toolkit.executed import Watcher

BEAT_S = 0.5
THOROUGH_ROUNDS = 10
LOOK_S = 60.0
"""Between two looks at the statements; what was evicted in between counts as crossing."""


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """What the stream has to tell."""

    lag_bytes: int
    position: str
    connected: bool
    back: tuple[str, ...]
    alerts: tuple[str, ...] = ()
    """What somebody should be woken for."""
    behind: tuple[Behind, ...] = ()
    """Targets that are away, or for which changes wait on disk."""


NOTHING_YET = StreamProgress(lag_bytes=0, position="0/0", connected=False, back=())


def stream(
    split: Split,
    *,
    stop: threading.Event,
    until_caught_up: bool,
    report: Callable[[StreamProgress], None],
) -> StreamProgress:
    """Follow until `stop` is set, or until what the source had at the start is applied.

    Raises StreamBroken when following cannot go on, NotReady if another process
    follows already.
    """
    with locks.sole_runner(split.plan.source.dsn, split.name, locks.STREAM) as source:
        require_prepared(split.plan, split.catalog, source)
        require_not_given_up(split.name, source)
        _require_copied(split, source)
        require_source_slot(split, source)
        _require_publication(split, source)
        goal = _log_end(source) if until_caught_up else None
        return supervise(split, source, stop=stop, goal=goal, report=report)


def supervise(
    split: Split,
    source: Connection,
    *,
    stop: threading.Event,
    goal: LSN | None,
    report: Callable[[StreamProgress], None],
    aside: Collection[str] = (),
) -> StreamProgress:
    """Follow until `stop` is set or `goal` is reached, without the routes that are `aside`.

    Whoever calls has the role of the stream.
    """
    return _Supervisor(split, source, stop, report, aside).run(goal)


class _Supervisor:
    def __init__(
        self,
        split: Split,
        source: Connection,
        stop: threading.Event,
        report: Callable[[StreamProgress], None],
        aside: Collection[str],
    ) -> None:
        self._split = split
        self._source = source
        self._stop = stop
        self._report = report
        self._forward = Follower(forward_feed(split, aside=aside))
        self._back: dict[str, Follower] = {}
        self._trouble = ""
        self._rounds = 0
        self._watcher: Watcher | None = None
        self._looked_at = 0.0
        self._owned_at = 0.0
        self._slots = SlotWatch(split, source)
        self._stopper = Stopper(split.plan.source.dsn, split.name, self._followers)
        self._partitions = NewPartitions(split, lambda: tuple(self._back))

    def run(self, goal: LSN | None) -> StreamProgress:
        self._forward.start()
        self._stopper.start()
        self._partitions.start()
        try:
            while True:
                progress = self._round()
                if goal is not None and self._forward.position >= goal:
                    return progress
                if self._is_complete():
                    return progress
                if self._stop.wait(0.05 if goal is not None else BEAT_S):
                    return progress
        finally:
            self._partitions.end()
            self._stopper.end()
            for follower in (self._forward, *self._back.values()):
                follower.stop()
            for follower in (self._forward, *self._back.values()):
                follower.join(timeout=30)

    def _followers(self) -> Mapping[str, Follower]:
        """By the leader that each follows."""
        return {SOURCE: self._forward, **self._back}

    def _round(self) -> StreamProgress:
        self._check()
        self._require_owned()
        self._start_back()
        self._look_after_slots()
        behind, position = self._forward.behind, self._forward.position
        progress = StreamProgress(
            lag_bytes=max(0, _log_end(self._source) - position),
            position=str(position),
            connected=self._forward.connected.is_set(),
            back=tuple(sorted(s for s, f in self._back.items() if f.connected.is_set())),
            alerts=(
                *self._slots.alerts,
                *(_away(one) for one in behind if one.away_s),
                *self._partitions.alerts,
            ),
            behind=behind,
        )
        state.beat(
            self._source,
            self._split.name,
            locks.STREAM,
            {
                "position": progress.position,
                "connected": progress.connected,
                "back": progress.back,
                "alerts": progress.alerts,
                "behind": [one.as_dict() for one in behind],
                "slots": [one.as_dict() for one in self._slots.health],
            },
        )
        self._watch()
        self._look_at_statements()
        if progress.connected or position > LSN(0):
            self._report(progress)  # before that the whole log would seem to be behind
        return progress

    def _watch(self) -> None:
        """End what a dead cutover left; if that fails now, the stream goes on and tries again."""
        try:
            self._rounds += 1
            thorough = self._rounds % THOROUGH_ROUNDS == 0
            recover(self._split, self._source, thorough=thorough)
        except (SplitError, psycopg.Error) as error:
            if self._source.closed:
                raise
            if str(error) != self._trouble:
                state.note(self._source, self._split.name, "recovery", {"failed": str(error)})
            self._trouble = str(error)

    def _look_at_statements(self) -> None:
        """Note which statements cross the boundary, if the plan has a gate for them."""
        wanted = self._split.plan.limits.crossing_free_days_min is not None
        if not wanted or time.monotonic() - self._looked_at < LOOK_S:
            return
        # Few plans ask, and what reads statements takes long to import.
        from toolkit.executed import Unreadable, Watcher

        split = self._split
        self._watcher = self._watcher or Watcher(split.plan, split.catalog, split.routes)
        self._looked_at = time.monotonic()
        try:
            self._watcher.look(self._source)
        except Unreadable:
            return  # the gate tells
        except (SplitError, psycopg.Error):
            if self._source.closed:
                raise  # else the next look tries again

    def _is_complete(self) -> bool:
        """Whether `complete` has ended the split; then nothing is left to follow."""
        now = state.phases(self._source, self._split.name)
        return bool(now) and set(now.values()) == {state.Phase.COMPLETED}

    def _require_owned(self) -> None:
        """Notice tables that are new, if the plan wants the stream to stop at them."""
        if self._split.plan.ddl.new_tables != "stop" or time.monotonic() < self._owned_at:
            return
        self._owned_at = time.monotonic() + CHECK_S
        require_owned(
            self._split.plan,
            read_catalog(self._source, self._split.plan.source.schemas),
            self._source,
        )

    def _check(self) -> None:
        for follower in (self._forward, *self._back.values()):
            if follower.failure is not None:
                raise follower.failure

    def _look_after_slots(self) -> None:
        """Measure what the slots retain; end the split's slot if the plan wants it so."""
        over_budget = self._slots.look(self._back)
        if over_budget is not None:
            self._forward.stop()
            self._forward.join(timeout=5)  # the drop waits for the reader alone
            raise give_up(self._split, self._source, over_budget)

    def _start_back(self) -> None:
        for service in state.wanted_back(self._source, self._split.name) - set(self._back):
            require_back_slot(self._split, self._source, service)
            follower = self._back[service] = Follower(back_feed(self._split, service))
            follower.start()


def _away(one: Behind) -> str:
    return f"service {one.service} is away for {duration(one.away_s or 0)}: {one.why}"


def _require_copied(split: Split, source: Connection) -> None:
    """Check that no copy has yet to bring its rows to one moment, and to make their keys."""
    now = state.phases(source, split.name)
    copying = sorted(service for service, phase in now.items() if phase is state.Phase.COPYING)
    if copying:
        raise NotReady(
            f"service {copying[0]} is not copied yet: its copy was begun and has not ended",
            hint=f"run `dbsplit copy {split.plan.path}`: it goes on where it stopped",
        )


def _require_publication(split: Split, source: Connection) -> None:
    publication = names.publication(split.name)
    missing = unpublished(source, publication, (route.source.name for route in split.routes))
    if missing:
        raise StreamBroken(
            f"publication {publication} lacks {', '.join(missing[:5])}, or filters rows or columns",
            hint="what was written meanwhile is not in the stream: `dbsplit abort` and start again",
        )


def _log_end(connection: Connection) -> LSN:
    row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    if row is None:
        raise NotReady("the server did not tell its position")
    return LSN.parse(row[0])
