"""All followers of one leader, and the leader, as they were at one position of its log.

A temporary slot on the leader gives the position and a snapshot that shows exactly what
was committed before it.  The stream applies that, stands still while the followers'
snapshots are taken, and goes on (`toolkit.stopping`).  A follower's snapshot is believed
only by the progress row that it shows itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cdc.connect import Connection, connect
from cdc.crash import crash_point
from cdc.lsn import LSN
from cdc.replication import ReplicationConnection
from plans.errors import NotReady
from plans.routes import Kind, Route
from toolkit import locks, markers
from toolkit.opened import Split
from toolkit.say import Say
from toolkit.state import Direction, Phase
from toolkit.stopping import SOURCE
from validators.moment import Moment
from validators.session import join

STAND_S_MAX = 10.0
"""How long the stream stands still at the very most; mostly some hundredths of a second."""
TRANSACTIONS_S_MAX = 60.0
LAG_S_MAX = 30.0
POLL_S = 0.005


def has_one(split: Split, route: Route, direction: Direction, now: Mapping[str, Phase]) -> bool:
    """Whether there is a position at which both sides of the route are equal.

    There is none for a part, split off by column, whose service has moved while the other
    part is still written in the source: rows then come and go on both sides.
    """
    if direction is Direction.CUTOVER or route.kind is not Kind.COLUMNS:
        return True
    return all(now.get(s) is Phase.MOVED for s in split.owners(route.source.name))


@contextmanager
def moment_of(
    split: Split,
    direction: Direction,
    services: Sequence[str],
    source: Connection,
    say: Say,
    seconds: float,
) -> Iterator[Moment]:
    """Hold the moment until the end of the block, or for so many seconds.

    For a cutover's direction the source leads, and all the services follow; else the one
    service leads.  Raises NotReady if there is no stream process, if it lags, or if it did
    not stand still in time; it goes on in any case.
    """
    with ExitStack() as stack:
        taking = _Taking(split, direction, tuple(services), source, stack)
        yield taking.take(say, seconds)


@dataclass(frozen=True, slots=True)
class _Taking:
    """How a moment is taken."""

    split: Split
    direction: Direction
    services: tuple[str, ...]
    source: Connection
    stack: ExitStack

    def take(self, say: Say, seconds: float) -> Moment:
        followers = {self._stream(s): self._session(self._follower(s)) for s in self.services}
        leader = self._session(self._leader)
        self._require_no_lag(leader, followers)
        holder = self._session(self._leader)
        # Whoever writes for long is waited for while the stream goes on.
        with ReplicationConnection(self._leader, name="dbsplit validate") as first:
            first.create_temporary_slot(_slot(), timeout_s=TRANSACTIONS_S_MAX)
        began = time.monotonic()
        with self._held() as deadline:
            crash_point("position.held")
            with ReplicationConnection(self._leader, name="dbsplit validate") as exporter:
                left_s = max(0.1, deadline - time.monotonic())
                position, snapshot = exporter.create_temporary_slot(_slot(), timeout_s=left_s)
                join(holder, snapshot)
            snapshots = {self._leader: _exported(holder)}
            self._stand(leader, position, deadline)
            crash_point("position.halted")
            for stream, follower in followers.items():
                follower.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                _require_not_beyond(follower, stream, position)
            snapshots |= {
                self._follower(service): _exported(followers[self._stream(service)])
                for service in self.services
            }
        stood_ms = round((time.monotonic() - began) * 1000, 1)
        say("position", {"leads": self._name or "source", "at": str(position), "ms": stood_ms})
        return Moment(
            position=str(position), snapshots=snapshots, ends_at=time.monotonic() + seconds
        )

    @property
    def _name(self) -> str:
        return SOURCE if self.direction is Direction.CUTOVER else self.services[0]

    @property
    def _leader(self) -> str:
        split = self.split
        return split.plan.source.dsn if self._name == SOURCE else split.dsn(self._name)

    def _follower(self, service: str) -> str:
        split = self.split
        return split.dsn(service) if self._name == SOURCE else split.plan.source.dsn

    def _stream(self, service: str) -> str:
        return self.direction.stream(self.split.name, service)

    def _session(self, dsn: str) -> Connection:
        return self.stack.enter_context(connect(dsn, name="dbsplit validate"))

    def _require_no_lag(self, leader: Connection, followers: Mapping[str, Connection]) -> None:
        self._require_stream()
        for stream, follower in followers.items():
            if not markers.passes(leader, follower, stream, LAG_S_MAX):
                self._require_stream()
                raise NotReady(
                    f"stream {stream} lags more than {LAG_S_MAX:.0f} s: a comparison at one"
                    " position would keep it from catching up",
                    hint="wait until `dbsplit status` shows no lag, or leave --snapshot out",
                )

    def _require_stream(self) -> None:
        if not locks.is_held(self.source, self.split.name, locks.STREAM):
            raise NotReady(
                "no stream process is running that could stop at a position",
                hint=f"start `dbsplit stream {self.split.plan.path}`, or leave --snapshot out",
            )

    @contextmanager
    def _held(self) -> Iterator[float]:
        """Nothing more is applied from here on; yields the deadline, and lets go afterwards."""
        of = [self.split.name, self._name]
        self.source.execute(
            "INSERT INTO dbsplit.stop (split, leader, state, until) VALUES (%s, %s, 'asked',"
            " clock_timestamp() + make_interval(secs => %s)) ON CONFLICT (split, leader)"
            " DO UPDATE SET state = excluded.state, before = NULL, until = excluded.until",
            [*of, STAND_S_MAX],
        )
        deadline = time.monotonic() + STAND_S_MAX
        try:
            self._await("held", deadline)
            yield deadline
        finally:
            if not self.source.closed:
                self.source.execute(
                    "UPDATE dbsplit.stop SET state = 'done' WHERE split = %s AND leader = %s", of
                )

    def _stand(self, leader: Connection, position: LSN, deadline: float) -> None:
        self.source.execute(
            "UPDATE dbsplit.stop SET state = 'wanted', before = %s WHERE split = %s"
            " AND leader = %s",
            [str(position), self.split.name, self._name],
        )
        markers.emit(leader)  # something that may not pass, for the stream to stand before
        self._await("standing", deadline)

    def _await(self, state: str, deadline: float) -> None:
        while True:
            row = self.source.execute(
                "SELECT state FROM dbsplit.stop WHERE split = %s AND leader = %s",
                [self.split.name, self._name],
            ).fetchone()
            if row == (state,):
                return
            self._require_stream()
            if row is None or time.monotonic() > deadline:
                raise NotReady(
                    f"the stream did not stand still at a position within {STAND_S_MAX:.0f} s;"
                    " it goes on, and nothing was compared",
                    hint="is a target away, or very slow? see `dbsplit status`; repeat it at a"
                    " quieter time, or leave --snapshot out",
                )
            time.sleep(POLL_S)


def _slot() -> str:
    return f"dbsplit_validate_{uuid.uuid4().hex[:12]}"


def _exported(session: Connection) -> str:
    row = session.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None  # noqa: S101 -- a SELECT without FROM has one row
    return str(row[0])


def _require_not_beyond(follower: Connection, stream: str, position: LSN) -> None:
    """Check, by what a follower's snapshot shows itself, that nothing later is in it."""
    row = follower.execute(
        "SELECT lsn::text FROM dbsplit.progress WHERE stream = %s", [stream]
    ).fetchone()
    if row is None or LSN.parse(row[0]) > position:
        raise NotReady(
            f"stream {stream} went on before the snapshots were taken; nothing was compared",
            hint="repeat it at a quieter time, or leave --snapshot out",
        )
