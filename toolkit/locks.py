"""One runner per plan and role, held by an advisory lock on the source."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cdc.connect import Connection, connect
from plans.errors import NotReady

Role = str
SETUP, STREAM, CUTOVER, VALIDATE = "setup", "stream", "cutover", "validate"
_VERBS = {
    SETUP: "a `dbsplit prepare`, `copy`, `complete` or `abort`",
    STREAM: "a `dbsplit stream`",
    CUTOVER: "a `dbsplit cutover`, `rollback` or repair",
    VALIDATE: "a `dbsplit validate`",
}
_HINTS = {
    VALIDATE: "`dbsplit status` shows what it has proven; wait until it has ended, or stop it: "
    "SIGTERM is clean, and it goes on later with what it had not proven",
}
RECOVERY = "recovery"
"""How the stream process names itself while it ends what a dead cutover left."""

CONTINUOUS = "validate --continuous"
"""How a validation that goes round and round names itself."""

RECOVERY_S_MAX = 30.0
POLL_S = 0.1


class Held(NotReady):
    """Another session has the role; `ours` if it is one of this process, which may live on."""

    def __init__(self, message: str, *, hint: str, ours: bool) -> None:
        super().__init__(message, hint=hint)
        self.ours = ours


def lock_key(split: str, role: Role) -> int:
    """The advisory lock's key: 64 bits of a hash, signed, as PostgreSQL wants it."""
    digest = hashlib.sha256(f"dbsplit:{split}:{role}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def sole_runner(
    dsn: str, split: str, role: Role, *, name: str | None = None
) -> Iterator[Connection]:
    """Hold the role until the end of the block; the lock goes with the connection.

    What has to end with the role is to be done on this very connection.  Raises
    Held if another process has the role, with what is known of that one; a
    recovery, which is over in a moment, is waited for.
    """
    # The server keeps 63 bytes of the name; it tells others who we are.
    with connect(dsn, name=f"dbsplit {name or role} of {myself()}"[:63]) as connection:
        deadline = time.monotonic() + RECOVERY_S_MAX
        while not (mine := _try(connection, split, role)):
            if name or not _recovers(connection, split, role) or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if not mine:
            raise _held(connection, split, role)
        yield connection


def at_work(connection: Connection, split: str, role: Role) -> Held | None:
    """The error that names who has the role now; None if nobody has it."""
    return _held(connection, split, role) if is_held(connection, split, role) else None


def is_held(connection: Connection, split: str, role: Role) -> bool:
    """Whether some process has the role now."""
    return _holder(connection, split, role) is not None


def holder_name(connection: Connection, split: str, role: Role) -> str | None:
    """How the process that has the role names itself; None if nobody has it."""
    row = connection.execute(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s",
        [_holder(connection, split, role)],
    ).fetchone()
    return row[0] if row else None


def myself() -> str:
    """This process, as it is written to the control schema."""
    return f"{os.environ.get('USER') or os.getuid()}@{socket.gethostname()}:{os.getpid()}"


def _try(connection: Connection, split: str, role: Role) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(split, role)]).fetchone()
    return bool(row and row[0])


def _holder(connection: Connection, split: str, role: Role) -> int | None:
    key = lock_key(split, role) % (1 << 64)
    row = connection.execute(
        "SELECT l.pid FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.objsubid = 1",
        [key >> 32, key & 0xFFFFFFFF],
    ).fetchone()
    return None if row is None else int(row[0])


def _held(connection: Connection, split: str, role: Role) -> Held:
    who = _who(connection, split, role)
    holder = holder_name(connection, split, role)
    return Held(
        f"{_VERBS[role]} of split {split} is running already{who}",
        hint=_HINTS.get(role, "one at a time: stop it, or wait until it has ended"),
        ours=holder == connection.info.parameter_status("application_name"),
    )


def _recovers(connection: Connection, split: str, role: Role) -> bool:
    """Whether the role is held on behalf of a dead process, or not any more."""
    holder = _holder(connection, split, role)
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND application_name NOT LIKE %s",
        [holder, f"dbsplit {RECOVERY} of %"],
    ).fetchone()
    return not (row and row[0])


def _who(connection: Connection, split: str, role: Role) -> str:
    row = connection.execute(
        "SELECT backend_start, client_addr, application_name FROM pg_stat_activity WHERE pid = %s",
        [_holder(connection, split, role)],
    ).fetchone()
    if row is None:
        return ""
    since, address, name = row
    where = f"connected since {since:%Y-%m-%d %H:%M:%S} UTC from {address or 'the server itself'}"
    return f", by {name.partition(' of ')[2] or name}, {where}"
