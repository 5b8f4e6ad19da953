"""The thread of one applier, and what becomes of it when its follower cannot be reached."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from cdc.apply import Applier
from cdc.connect import connect
from cdc.crash import crash_point
from cdc.gate import Gate
from cdc.link import Link
from cdc.lsn import LSN
from cdc.replication import ConnectionLost
from cdc.spool import Block, Spool
from plans.errors import NotReady

END_S_MAX = 30.0
QUEUE_BYTES_MAX = 8 << 20
KNOCK_S = 2.0
"""How often a follower that is away is looked for."""

TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    ConnectionLost,
    NotReady,
)


@dataclass(frozen=True, slots=True)
class Behind:
    """A follower that is away, or whose changes wait on disk."""

    service: str
    away_s: float | None  # None: it is there, and slow
    why: str
    spilled_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Sink(threading.Thread):
    """The thread of one applier.

    `failure` is what ended it.  If that may pass, and others can go on meanwhile, it is
    `away`: takes nothing more in, and looks for its follower until it has `returned`.
    """

    def __init__(
        self, link: Link, gate: Gate, *, known: LSN, binary: bool, spill_bytes_max: int
    ) -> None:
        super().__init__(name=f"apply {link.stream}", daemon=True)
        self._halt = threading.Event()
        self.link = link
        self.applier = Applier(link, self._halt, gate, binary=binary)
        self.failure: BaseException | None = None
        self.away = False
        self.away_since = 0.0
        self.returned = threading.Event()
        self.tables = {flow.leader.name for flow in link.flows}
        self.block: Block = []
        self._known = known
        self._spool = Spool(bytes_max=link.share(QUEUE_BYTES_MAX), spill_bytes_max=spill_bytes_max)

    @property
    def committed(self) -> LSN:
        """The position up to which the follower has everything, as far as we know."""
        return self.applier.committed if self.applier.is_open else self._known

    @property
    def idle(self) -> bool:
        """Whether everything handed over was written, or nothing will be."""
        return self.away or (self._spool.idle and not self.block and self.applier.idle)

    @property
    def behind(self) -> Behind | None:
        """How it is behind; None if it keeps up, as far as others can tell."""
        if self.away:
            # What had been spilled was given up: it comes again from the slot.
            away_s = round(time.monotonic() - self.away_since, 1)
            return Behind(self.link.service, away_s, self.why, 0)
        spilled = self._spool.spilled_bytes
        return Behind(self.link.service, None, "", spilled) if spilled else None

    @property
    def why(self) -> str:
        """What has ended it, in one line."""
        return str(self.failure).strip().partition("\n")[0]

    def open(self) -> None:
        """Connect; a follower that cannot be reached now is away."""
        try:
            self.applier.open()
        except TRANSIENT as error:
            self._fail(error)
            self.away = True

    def hand_over(self, timeout_s: float) -> bool:
        """Queue the gathered block; False if there was no space for it."""
        if self.block and not self.away and not self._spool.put(self.block, timeout_s):
            return False
        self.block = []
        return True

    def stop(self) -> None:
        """Ask it to end."""
        self._halt.set()

    def end(self) -> None:
        """Wait until it has ended, after it was asked to."""
        if self.is_alive():
            self.join(timeout=END_S_MAX)
        else:
            self._close()

    def run(self) -> None:
        """Apply until told to stop, or until its follower is back."""
        try:
            if not self.away:
                self._apply()
        except BaseException as error:  # noqa: BLE001  (handed to the reader)
            self._fail(error)
        finally:
            self._close()
        if isinstance(self.failure, TRANSIENT):
            self._knock()

    def _fail(self, error: BaseException) -> None:
        self.away_since = time.monotonic()
        self.failure = error

    def _close(self) -> None:
        self.applier.close()
        self._spool.close()

    def _apply(self) -> None:
        rest_s = 0.0
        while not self._halt.is_set():
            items = self._spool.get(rest_s)
            crash_point("stream.received")
            self.applier.feed(items)
            rest_s = self.applier.settle() if self._spool.empty else 0.0

    def _knock(self) -> None:
        """Wait until the follower can be reached again."""
        while not self._halt.wait(KNOCK_S):
            try:
                connect(self.link.follower_dsn, name="dbsplit stream").close()
            except (NotReady, psycopg.Error):
                continue
            self.returned.set()
            return
