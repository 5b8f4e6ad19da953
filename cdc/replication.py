"""The streaming replication protocol, as far as a consumer of changes needs it.

PostgreSQL manual, chapter 54.4 "Streaming Replication Protocol".  psycopg has
no interface to it, but its libpq wrapper has all that is needed.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Self

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq.abc import PGconn, PGresult

from cdc.connect import (
    CONNECT_TIMEOUT_S,
    PINNED_SETTINGS,
    UNLIMITED,
    connect,
    describe,
    session_conninfo,
)
from cdc.lsn import LSN
from plans.errors import NotReady, StreamBroken, Unreachable
from plans.holders import advice, in_progress

if TYPE_CHECKING:
    from cdc.messages import Messages

_DATA, _ALIVE = b"wk"
_DATA_HEAD = 25  # kind, two positions, a time
_KEEPALIVE = Struct("!xQqB")
_STATUS = Struct("!cQQQqB")
_EPOCH_2000_S = 946_684_800

_REFUSED = (
    "if other connections are let in: the role needs REPLICATION, pg_hba.conf must let it in, and "
    "max_wal_senders must leave a place free"
)
_SILENT = (
    "the server did not answer: check that it runs, host and port, and what lies between, such as "
    "a firewall or a pooler, which must pass replication connections on"
)

_LIMITED_SINCE = 170000  # transaction_timeout
_NOT_UTF8 = b"22021"  # character_not_in_repertoire
_PASSING = (b"08", b"53", b"55006", b"57")
"""Of the connection, of resources, a slot in use, operator intervention: not for ever."""

MESSAGES_MAX = 8_000
BYTES_MAX = 1 << 20

ANSWER_S_MAX = 60.0
"""How long a server may take until a stream begins."""

NAP_S = 0.004
"""How long a busy reader rests between reads.

The server sends one small message per change, and a reader that wakes for each
of them slows it down; after a nap it finds a buffer full of them.
"""


class ConnectionLost(Exception):
    """The server ended the connection; connecting again may help."""


def unreadable(said: str) -> StreamBroken:
    """The error for a log with text that the server cannot tell as UTF8."""
    return StreamBroken(
        f"a row in the log has text that is not valid UTF8: {said}",
        hint="nothing of its transaction was written; `dbsplit plan check` names the rows of such "
        "tables. Convert them, and see that applications write UTF8; what is in the log stays "
        "there: `dbsplit abort`, and start the split again",
    )


class Keepalive(NamedTuple):
    """Everything before `wal_end` that concerns us has been sent."""

    wal_end: LSN
    reply_requested: bool


class Received(NamedTuple):
    """What a read has brought."""

    messages: Messages  # of the output plugin
    alive: Keepalive | None = None
    """What the keepalives among them say together; it holds after the messages, too."""

    def __bool__(self) -> bool:
        return bool(len(self.messages)) or self.alive is not None


def plugin_options(publication: str, *, binary: bool) -> dict[str, sql.Literal]:
    """What pgoutput is told, by the name of the option."""
    options = {
        "proto_version": "1",
        "publication_names": sql.Identifier(publication).as_string(None),
        "messages": "true",
    }
    if binary:
        options["binary"] = "true"
    return {name: sql.Literal(value) for name, value in options.items()}


def _connected(conninfo: str) -> PGconn:
    """As PQconnectdb does, which would let no other thread run until the server answers."""
    given = conninfo_to_dict(conninfo)
    if "," in str(given.get("host")):  # only PQconnectdb gives each host a time of its own
        return pq.PGconn.connect(conninfo.encode())
    connection = pq.PGconn.connect_start(conninfo.encode())
    limit_s = float(given.get("connect_timeout") or 0) or CONNECT_TIMEOUT_S
    deadline = time.monotonic() + limit_s
    while connection.status != pq.ConnStatus.BAD:
        polled = connection.connect_poll()
        if polled in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
            return connection
        left, at = deadline - time.monotonic(), [connection.socket]
        reads = polled == pq.PollingStatus.READING
        if left <= 0 or not any(select.select(at * reads, at * (not reads), [], left)):
            return connection  # which is not OK
    return connection


def _options(dsn: str) -> str:
    """A walsender formats values by its own session's settings, and has limits like others."""
    given = conninfo_to_dict(dsn).get("options") or ""
    limits = dict.fromkeys(UNLIMITED, "0")
    limits.pop("transaction_timeout")  # no server before 17 would let in who names it
    ours = [
        f"-c {setting}={value.replace(' ', chr(92) + ' ')}"
        for setting, value in (PINNED_SETTINGS | limits).items()
    ]
    return " ".join([str(given), *ours]).strip()


class ReplicationConnection:
    """A connection in replication mode; not for use by several threads at once."""

    def __init__(self, dsn: str, *, name: str) -> None:
        conninfo = session_conninfo(dsn, name=name, replication="database", options=_options(dsn))
        self._dsn = dsn
        self._connection = _connected(conninfo)
        if self._connection.status != pq.ConnStatus.OK:
            reason = self._connection.get_error_message().strip()
            if self._connection.status != pq.ConnStatus.BAD:  # libpq would go on waiting
                reason = "timeout expired"
            raise self._not_open(reason)
        try:
            self._unlimited()
        except ConnectionLost as error:
            raise self._not_open(str(error)) from None
        self._busy = False
        self._alive: Keepalive | None = None
        self.exhausted = False
        """A stream has no end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; a temporary slot of its goes with it."""
        with contextlib.suppress(Exception):
            self._connection.finish()

    def _not_open(self, reason: str) -> Unreachable:
        self._connection.finish()
        return Unreachable(
            f"cannot open a replication connection to {describe(self._dsn)}: {reason}",
            hint=_REFUSED if "FATAL" in reason else _SILENT,
        )

    def _unlimited(self) -> None:
        """No limit to transactions: a snapshot that is exported is one, and what is decoded."""
        if self._connection.server_version >= _LIMITED_SINCE:
            self._connection.send_query(b"SET transaction_timeout = 0")
            self._drain()

    def create_temporary_slot(
        self, slot: str, *, timeout_s: float, waiting: Callable[[float], None] | None = None
    ) -> tuple[LSN, str]:
        """Create a slot that lives as long as this connection, and export its snapshot.

        Returns the position from which on the slot sees commits, and the name of
        the snapshot that sees exactly the commits before it.  The snapshot can be
        used until the next command here.  Creation waits for all transactions in
        progress; NotReady after `timeout_s` seconds of that.
        """
        command = sql.SQL(
            "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
        ).format(sql.Identifier(slot))
        self._connection.send_query(command.as_string(None).encode())
        deadline = time.monotonic() + timeout_s
        while self._connection.is_busy():
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise NotReady(
                    f"creating a replication slot on {describe(self._dsn)} waited longer than "
                    f"{timeout_s:.0f} s for transactions in progress",
                    hint=advice(
                        self._awaited(),
                        "end the oldest transactions (pg_stat_activity, xact_start) and repeat",
                    ),
                )
            self._wait_readable(min(left, 1.0))
            self._connection.consume_input()
            if waiting:
                waiting(left)
        result = self._connection.get_result()
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise NotReady(
                f"cannot create a replication slot on {describe(self._dsn)}: {self._error(result)}",
                hint="see max_replication_slots and max_wal_senders",
            )
        point, snapshot = result.get_value(0, 1), result.get_value(0, 2)
        self._drain()
        return LSN.parse((point or b"").decode()), (snapshot or b"").decode()

    def _awaited(self) -> str:
        """Whom a slot that is being created waits for."""
        try:
            with connect(self._dsn) as connection:
                return in_progress(connection)
        except NotReady:
            return ""

    def start(self, slot: str, publication: str, *, binary: bool) -> None:
        """Begin to stream from where the slot was last confirmed, values in binary form or not."""
        options = plugin_options(publication, binary=binary)
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 ({})").format(
            sql.Identifier(slot),
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.SQL(name), value) for name, value in options.items()
            ),
        )
        self._connection.send_query(command.as_string(None).encode())
        self._await_answer()
        result = self._connection.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            reason = self._error(result)
            state = result.error_field(pq.DiagnosticField.SQLSTATE) if result else None
            if state is None or state.startswith(_PASSING):
                raise ConnectionLost(reason)
            raise StreamBroken(
                f"cannot stream from slot {slot} on {describe(self._dsn)}: {reason}",
                hint="if the slot is lost, what it had retained is gone: `dbsplit abort` and "
                "start again",
            )

    def _drain(self) -> None:
        """Take what is left of an answer."""
        while True:
            self._await_answer()
            if self._connection.get_result() is None:
                return

    def _await_answer(self) -> None:
        """Wait until `get_result` will not: it would let no other thread run meanwhile."""
        deadline = time.monotonic() + ANSWER_S_MAX
        try:
            while self._connection.is_busy():
                if time.monotonic() > deadline:
                    raise ConnectionLost(f"{describe(self._dsn)} did not answer")
                self._wait_readable(1.0)
                self._connection.consume_input()
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error)) from None

    def read(self, timeout_s: float) -> Received:
        """What has arrived, something at least unless nothing came within `timeout_s`.

        At most about `MESSAGES_MAX`, and about `BYTES_MAX` bytes.
        """
        from cdc.messages import NONE, Messages  # numpy: not for who only makes slots

        frames: list[memoryview] = []
        self._alive = None
        size = self._take(frames)
        if not frames and self._alive is None:
            if self._busy:
                time.sleep(NAP_S)
            self._busy = self._wait_readable(timeout_s)
        # libpq reads some kilobytes at a time; the nap is worth all that has arrived.
        while self._wait_readable(0) and len(frames) < MESSAGES_MAX and size < BYTES_MAX:
            try:
                self._connection.consume_input()
            except psycopg.OperationalError as error:
                raise ConnectionLost(str(error)) from None
            size += self._take(frames)
        return Received(Messages.of(frames, _DATA_HEAD) if frames else NONE, self._alive)

    def _take(self, frames: list[memoryview]) -> int:
        """Add the messages that libpq has, each behind its head; returns their size."""
        get, size = self._connection.get_copy_data, 0
        while True:
            length, data = get(1)
            if length <= 0:
                break
            if data[0] == _DATA:
                frames.append(data)
                size += length
            else:
                self._alive = _together(self._alive, _keepalive(data))
        if length < 0:
            result = self._connection.get_result()
            state = result.error_field(pq.DiagnosticField.SQLSTATE) if result else None
            if state == _NOT_UTF8:
                raise unreadable(self._error(result).partition("\n")[0])
            raise ConnectionLost(self._error(result))
        return size

    def confirm(self, flushed: LSN, received: LSN) -> None:
        """Tell the server what it need not keep any more."""
        now = int((time.time() - _EPOCH_2000_S) * 1_000_000)
        message = _STATUS.pack(b"r", received.value, flushed.value, flushed.value, now, 0)
        try:
            self._connection.put_copy_data(message)
            self._connection.flush()
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error)) from None

    def _wait_readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._connection.socket], [], [], timeout_s)[0])

    def _error(self, result: PGresult | None) -> str:
        if result is not None and (text := result.get_error_message()):
            return text.strip()
        return self._connection.get_error_message().strip()


def _together(one: Keepalive | None, other: Keepalive) -> Keepalive:
    if one is None:
        return other
    return Keepalive(max(one.wal_end, other.wal_end), one.reply_requested or other.reply_requested)


def _keepalive(data: memoryview) -> Keepalive:
    if data[0] != _ALIVE:
        raise ConnectionLost(f"unexpected replication message {bytes(data[:1])!r}")
    wal_end, _, reply = _KEEPALIVE.unpack(data)
    return Keepalive(LSN(wal_end), bool(reply))
