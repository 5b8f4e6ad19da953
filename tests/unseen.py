"""Commits that are in the log, and that nobody sees yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


def execute(dsn: str, statement: str) -> None:
    """Run a statement, which waits for a synchronous standby if the server has one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute(statement.encode())


@contextmanager
def a_commit_that_waits(dsn: str, statement: str) -> Iterator[None]:
    """A transaction that is committed in the log, and that nobody sees.

    It waits for a synchronous standby that does not exist; on a busy machine every commit
    is like that for a moment.
    """
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("SET synchronous_commit = local")
        waiting = threading.Thread(target=execute, args=[dsn, statement])
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            admin.execute("SELECT pg_reload_conf()")
            while admin.execute("SHOW synchronous_standby_names").fetchone() != ("nobody",):
                time.sleep(0.01)
            waiting.start()
            query = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            while admin.execute(query).fetchone() is None:
                time.sleep(0.01)
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
            waiting.join(timeout=20)
