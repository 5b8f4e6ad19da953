"""Copying tables anew while the stream goes on for all others.

As a native subscription does for a table that is new: the table gets a slot of its own,
made before the copy's snapshot.  When it is copied, an applier of its own brings it what
was written since, under a progress row of its own.  When that is near the stream, both
stand for a moment: the table goes on until it is not behind the stream, and where it is
then becomes its horizon.  From there on the stream brings its changes, and leaves out
those before: none is lost, and none comes twice.

Where little is to be copied, or no slot or origin is free, the stream stands meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import psycopg

from cdc.connect import Connection, connect
from cdc.copy_record import copied
from cdc.crash import crash_point
from cdc.follow import Follower
from cdc.lsn import LSN
from cdc.progress import write_as_applier
from cdc.slot import read_slot
from plans import names
from plans.errors import NotReady
from toolkit.links import refresh_feed
from toolkit.opened import Split
from toolkit.removal import drop_origin, drop_slot
from toolkit.room import has_origin_free, has_slots_free
from toolkit.source_log import make_slot
from toolkit.streaming import supervise

SMALL_BYTES = 1 << 24
"""Copied within a moment, less than it takes to have two streams meet."""

POLL_S = 0.1
NEAR_BYTES = 1 << 20
"""So near to the log's end, what is left is a moment's work."""

BRING_UP_S_MAX = 24 * 3600.0
END_S_MAX = 120.0


class Manner(Enum):
    """How tables come in."""

    BESIDE = "beside"  # there is a slot that keeps what is written to them
    NEW = "new"  # nothing of them is copied yet
    STANDING = "standing"  # they are small, or were begun while the stream stood


@dataclass(frozen=True, slots=True)
class Standing:
    """What a target has of routes that are not part of the stream yet."""

    stream: LSN  # where the stream is
    horizons: tuple[LSN, ...]  # of the routes that are copied
    is_followed: bool  # whether something was brought to them since

    @property
    def waits(self) -> bool:
        """Whether the stream has everything before it that the copies lack."""
        return not self.is_followed and all(self.stream <= one for one in self.horizons)


def not_joined(split: Split, routes: Collection[str], work_id: str) -> frozenset[str]:
    """Of these routes those that are not part of the stream yet."""
    services = {route.service for route in split.routes if route.id in routes}
    joined = set()
    for service in services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            row = target.execute(
                "SELECT settings ->> 'joined' = %s FROM dbsplit.split WHERE split = %s",
                [work_id, split.name],
            ).fetchone()
            if row and row[0]:
                joined.add(service)
    return frozenset(
        route.id for route in split.routes if route.id in routes and route.service not in joined
    )


def manner_of(split: Split, source: Connection, aside: Collection[str]) -> Manner:
    """How to go on with these routes; the stream stands.

    If their slot was lost with what it kept, their copies are forgotten.
    """
    if keeps_slot(split, source):
        return Manner.BESIDE
    drop_slot(source, names.refresh_slot(split.name))
    there = {service: _standing(split, service, aside) for service in _services(split, aside)}
    if not any(one.horizons or one.is_followed for one in there.values()):
        return Manner.STANDING if _is_small(split, aside) else Manner.NEW
    if all(one.waits for one in there.values()):
        return Manner.STANDING
    for service in there:
        _forget(split, service, aside)
    return Manner.NEW


def keeps_slot(split: Split, source: Connection) -> bool:
    """Whether there is a slot that has kept what was written to the tables."""
    slot = read_slot(source, names.refresh_slot(split.name))
    return slot.there and slot.wal_status != "lost"


def _is_small(split: Split, aside: Collection[str]) -> bool:
    sizes = [route.source.size_bytes for route in split.routes if route.id in aside]
    return sum(sizes) < SMALL_BYTES


def made_slot(split: Split, source: Connection) -> bool:
    """Make the slot, unless it is there; False if there is no room for it, or for another origin.

    Raises NotReady if it waits too long for transactions in progress.
    """
    if read_slot(source, names.refresh_slot(split.name)).there:
        return True
    if not has_slots_free(source, 2):  # the copy needs one for its snapshot
        return False
    for service in split.plan.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            if not has_origin_free(target):
                return False
    try:
        make_slot(split, source, names.refresh_slot(split.name))
    except psycopg.errors.ConfigurationLimitExceeded:
        return False
    crash_point("refresh.slot")
    return True


class Others(threading.Thread):
    """The stream of all other routes, as a stream process would run it."""

    def __init__(self, split: Split, aside: Collection[str]) -> None:
        super().__init__(name="stream of others", daemon=True)
        self._split = split
        self._aside = aside
        self._halt = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Follow until ended."""
        try:
            with connect(self._split.plan.source.dsn, name="dbsplit stream") as source:
                supervise(
                    self._split,
                    source,
                    stop=self._halt,
                    goal=None,
                    report=lambda _progress: None,
                    aside=self._aside,
                )
        except BaseException as error:  # noqa: BLE001  (raised by whoever checks)
            self._failure = error

    def check(self) -> None:
        """Raise what has ended it."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Have it end, and wait."""
        self._halt.set()
        self.join(END_S_MAX)


@contextmanager
def others_following(split: Split, aside: Collection[str]) -> Iterator[Others]:
    """The stream of all other routes, until the end of the block."""
    others = Others(split, aside)
    others.start()
    try:
        yield others
    finally:
        others.end()


def bring_up(split: Split, aside: Collection[str], goal: LSN, others: Others) -> None:
    """Bring these routes what was written since they were copied, until little is left.

    They pass `goal`.  Raises what ends this stream, or the others'.
    """
    with (
        connect(split.plan.source.dsn, name="dbsplit refresh") as source,
        _following(split, aside) as follower,
    ):
        _await(follower, source, goal, others, NEAR_BYTES)


def join(split: Split, aside: Collection[str], work_id: str) -> None:
    """Make these routes part of the stream, which stands.

    Raises NotReady if a session that writes as one of our appliers does not end.
    """
    services = _services(split, aside)
    reached = {service: _position(split, service, names.stream) for service in services}
    if any(_position(split, s, names.refresh_stream) < at for s, at in reached.items()):
        with (
            connect(split.plan.source.dsn, name="dbsplit refresh") as source,
            _following(split, aside) as follower,
        ):
            _await(follower, source, max(reached.values()), None, None)
    for service in services:
        try:
            mine = [route.id for route in split.routes_of([service]) if route.id in aside]
            _join(split, service, mine, work_id)
        except psycopg.errors.ObjectInUse as error:
            raise NotReady(
                f"service {service} is still written to under our name: {error}",
                hint="run the same command again: it goes on where it stopped",
            ) from None
        crash_point("refresh.joined")


def clear(split: Split, source: Connection, services: Collection[str]) -> None:
    """Remove what only served to bring tables up."""
    drop_slot(source, names.refresh_slot(split.name))
    for service in services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            for step in drop_origin(target, names.refresh_origin(split.name, service), service):
                step.run()


@contextmanager
def _following(split: Split, aside: Collection[str]) -> Iterator[Follower]:
    follower = Follower(refresh_feed(split, aside))
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()
        follower.join(timeout=END_S_MAX)


def _await(
    follower: Follower,
    source: Connection,
    goal: LSN,
    others: Others | None,
    near_bytes: int | None,
) -> None:
    deadline = time.monotonic() + BRING_UP_S_MAX
    while time.monotonic() < deadline:
        if follower.failure is not None:
            raise follower.failure
        if others is not None:
            others.check()
        # An idle source would not tell for a while that there is nothing more.
        row = source.execute(
            "SELECT pg_logical_emit_message(true, 'dbsplit refresh', '')::text"
        ).fetchone()
        assert row is not None  # noqa: S101
        is_near = near_bytes is None or LSN.parse(row[0]) - follower.position < near_bytes
        if follower.position >= goal and is_near:
            return
        time.sleep(POLL_S)
    raise NotReady(
        f"tables that were copied anew did not come to where the stream is within "
        f"{BRING_UP_S_MAX / 3600:.0f} h",
        hint="run the same command again: it goes on where it stopped",
    )


def _join(split: Split, service: str, routes: list[str], work_id: str) -> None:
    """One transaction; the sessions of both appliers have ended, or this waits for them.

    Nobody else can write under their origins while we have them, so that no batch of one
    that was taken for dead is committed behind our back.
    """
    main, apart = (of(split.name, service) for of in (names.stream, names.refresh_stream))
    dsn = split.dsn(service)
    with (
        connect(dsn, name="dbsplit refresh") as keeper,
        connect(dsn, name="dbsplit refresh") as target,
    ):
        write_as_applier(keeper, split.name, names.origin(split.name, service))
        write_as_applier(target, split.name, names.refresh_origin(split.name, service))
        with target.transaction():
            found: dict[str, str] = dict(
                target.execute(
                    "SELECT stream, lsn::text FROM dbsplit.progress WHERE stream = ANY (%s)",
                    [[main, apart]],
                ).fetchall()
            )
            if main not in found or apart not in found or _is_before(found[apart], found[main]):
                raise NotReady(
                    f"what was copied anew for service {service} is at {found.get(apart)}, and "
                    f"the stream at {found.get(main)}",
                    hint="run the same command again: it goes on where it stopped",
                )
            target.execute(
                "UPDATE dbsplit.copied SET horizon = %s WHERE route = ANY (%s)",
                [found[apart], routes],
            )
            target.execute("DELETE FROM dbsplit.copied_chunk WHERE route = ANY (%s)", [routes])
            target.execute("DELETE FROM dbsplit.progress WHERE stream = %s", [apart])
            _note_joined(target, split, work_id)


def note_joined(split: Split, aside: Collection[str], work_id: str) -> None:
    """Note that these routes are part of the stream, which has stood since they were begun."""
    for service in _services(split, aside):
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            _note_joined(target, split, work_id)


def _note_joined(target: Connection, split: Split, work_id: str) -> None:
    target.execute(
        "UPDATE dbsplit.split SET settings = settings || jsonb_build_object('joined', %s::text)"
        " WHERE split = %s",
        [work_id, split.name],
    )


def _is_before(one: str, other: str) -> bool:
    return LSN.parse(one) < LSN.parse(other)


def _services(split: Split, routes: Collection[str]) -> list[str]:
    return sorted({route.service for route in split.routes if route.id in routes})


def _standing(split: Split, service: str, aside: Collection[str]) -> Standing:
    with connect(split.dsn(service), name="dbsplit refresh") as target:
        horizons = [at for route, at in copied(target).items() if route in aside]
        horizons += [
            LSN.parse(at)
            for (at,) in target.execute(
                "SELECT horizon::text FROM dbsplit.copied_chunk"
                " WHERE route = ANY (%s) AND horizon IS NOT NULL",
                [list(aside)],
            ).fetchall()
        ]
    return Standing(
        stream=_position(split, service, names.stream),
        horizons=tuple(horizons),
        is_followed=_position(split, service, names.refresh_stream) > LSN(0),
    )


def _position(split: Split, service: str, stream: names.OfService) -> LSN:
    with connect(split.dsn(service), name="dbsplit refresh") as target:
        row = target.execute(
            "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s",
            [stream(split.name, service)],
        ).fetchone()
    return LSN.parse(row[0]) if row else LSN(0)


def _forget(split: Split, service: str, aside: Collection[str]) -> None:
    """Forget what was copied: the copy empties the tables."""
    with (
        connect(split.dsn(service), name="dbsplit refresh") as target,
        target.transaction(),
    ):
        for table in ("copied", "copied_chunk"):
            target.execute(
                f"DELETE FROM dbsplit.{table} WHERE route = ANY (%s)".encode(),  # noqa: S608
                [list(aside)],
            )
        target.execute(
            "DELETE FROM dbsplit.progress WHERE stream = %s",
            [names.refresh_stream(split.name, service)],
        )
