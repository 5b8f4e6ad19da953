"""What befalls a split: each fault is done, lasts a moment, and is healed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import psycopg

from tests.chaos.disk import Disk
from tests.chaos.proxy import Proxy
from tests.conftest import fresh_database
from toolkit.servers import Server, running_server

LASTS_S = (0.2, 1.2)
LOCKED = ("ledger", "account", "sheet", "parted")
LOCK_S_MAX = "2s"  # a lock that is in our way must not be in the way of the test
TIMEOUT_MS = "20ms"


@dataclass(frozen=True, slots=True)
class Side:
    """A server, its database, and the way there."""

    name: str
    server: Server
    disk: Disk
    proxy: Proxy
    dsn: str  # straight, for the test itself
    seen: str  # by way of the proxy, for the verbs

    def up(self) -> None:
        """Run, with nothing in the way."""
        self.proxy.heal()
        self.disk.empty()
        self.server.start()
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            name = psycopg.conninfo.conninfo_to_dict(self.dsn)["dbname"]
            connection.execute(f'ALTER DATABASE "{name}" RESET ALL')


@dataclass(frozen=True, slots=True)
class Place:
    """Both sides."""

    source: Side
    target: Side

    def heal(self) -> None:
        """End all faults."""
        self.source.up()
        self.target.up()


@dataclass(frozen=True, slots=True)
class Servers:
    """The two servers of a version, kept from run to run."""

    source: Server
    target: Server
    disk: Disk  # of the target
    anywhere: Disk


@contextmanager
def servers(version: str, small: Disk, anywhere: Disk) -> Iterator[Servers]:
    settings = {"max_wal_size": "200MB", "min_wal_size": "32MB"}
    with (
        running_server(version=version) as source,
        running_server(version=version, base_dir=small.place, settings=settings) as target,
    ):
        yield Servers(source, target, small, anywhere)


@contextmanager
def place(both: Servers) -> Iterator[Place]:
    """Fresh databases, each behind a proxy."""
    with ExitStack() as stack:
        sides = []
        for name, server, its_disk in (
            ("source", both.source, both.anywhere),
            ("target", both.target, both.disk),
        ):
            stack.callback(_drop_origins, server)
            dsn = stack.enter_context(fresh_database(server))
            proxy = stack.enter_context(Proxy(server.port))
            sides.append(Side(name, server, its_disk, proxy, dsn, proxy.dsn(dsn)))
        yield Place(*sides)


def _drop_origins(server: Server) -> None:
    """They are the server's, and outlive the database that a run has left as it was."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")


Fault = Callable[[Place, Random], str]
"""Does it, and returns what it was."""


def immediate_shutdown(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    side.server.stop("immediate")
    _last(chance)
    side.server.start()
    return f"{side.name} shut down at once"


def killed_server(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    side.server.kill()
    _last(chance)
    side.server.start()
    return f"{side.name} killed"


def cut(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    count = side.proxy.cut()
    return f"{count} connections to the {side.name} cut"


def refused(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    side.proxy.refuse()
    _last(chance)
    side.proxy.heal()
    return f"{side.name} unreachable"


def stalled(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    side.proxy.stall()
    _last(chance)
    if chance.random() < 0.5:
        side.proxy.cut()
    side.proxy.heal()
    return f"connections to the {side.name} stalled"


def truncated(place: Place, chance: Random) -> str:
    side = _either(place, chance)
    after = chance.choice((1, 40, 700, 9_000, 120_000))
    side.proxy.truncate(after)
    _last(chance)
    side.proxy.heal()
    return f"a connection to the {side.name} truncated after {after} bytes"


def full_disk(place: Place, chance: Random) -> str:
    """The target's disk is full: no table grows, and when the log cannot, the server goes down."""
    side = place.target
    if not side.disk.is_small:
        return cut(place, chance)
    free = chance.choice((0, 1 << 16, 1 << 20))
    side.disk.fill(free_bytes=free)
    _last(chance)
    _last(chance)
    side.disk.empty()
    side.server.start()
    return f"target's disk full but for {free} bytes"


def locked(place: Place, chance: Random) -> str:
    """Somebody holds a lock on a table, if it is there."""
    side = _either(place, chance)
    table = chance.choice(LOCKED)
    mode = chance.choice(("ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE", "ROW EXCLUSIVE"))
    with psycopg.connect(side.dsn) as connection:
        try:
            connection.execute(f"SET lock_timeout = '{LOCK_S_MAX}'")
            connection.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        except (psycopg.errors.UndefinedTable, psycopg.errors.LockNotAvailable) as error:
            return f"no lock on {side.name}: {type(error).__name__}"
        _last(chance)
    return f"{side.name}'s {table} locked, {mode}"


def timeouts(place: Place, chance: Random) -> str:
    """An administrator's limits, for a moment so low that hardly anything is done in time."""
    side = _either(place, chance)
    name = psycopg.conninfo.conninfo_to_dict(side.dsn)["dbname"]
    setting = chance.choice(
        ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    )
    with psycopg.connect(side.server.dsn(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{TIMEOUT_MS}'")
    side.proxy.cut()  # sessions that begin now have it
    _last(chance)
    with psycopg.connect(side.server.dsn(), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" RESET ALL')
    side.proxy.cut()
    return f"{side.name}: {setting} = {TIMEOUT_MS}"


def terminated(place: Place, chance: Random) -> str:
    """An administrator ends our sessions, some or all."""
    side = _either(place, chance)
    share = chance.choice((0.3, 1.0))
    with psycopg.connect(side.dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE"
            " datname = current_database() AND application_name LIKE 'dbsplit%%'"
            " AND random() < %s",
            [share],
        ).fetchone()
    return f"{row and row[0]} sessions of the {side.name} terminated"


FAULTS: tuple[Fault, ...] = (
    immediate_shutdown,
    killed_server,
    cut,
    refused,
    stalled,
    truncated,
    full_disk,
    locked,
    timeouts,
    terminated,
)


def _either(place: Place, chance: Random) -> Side:
    return chance.choice((place.source, place.target))


def _last(chance: Random) -> None:
    time.sleep(chance.uniform(*LASTS_S))


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """Rows, by a connection of the test's own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()
