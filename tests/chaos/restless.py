"""A writer of what makes following hard: keys that move, values that change hands, truncation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from random import Random

import psycopg

REST_S = 0.03
ROWS = 6000

STATEMENTS = (
    "UPDATE wide SET body = body || 'z' WHERE id BETWEEN {a} AND {a} + 20",
    "UPDATE wide SET id = id + 100000, code = -id - 100000 WHERE id = {a} AND next IS NULL"
    " AND NOT EXISTS (SELECT FROM wide AS w WHERE w.next = {a})",
    "UPDATE wide SET code = code + 5000000 WHERE id = {a};"
    " UPDATE wide SET code = -{a} WHERE id = {b} AND NOT EXISTS"
    " (SELECT FROM wide AS w WHERE w.code = -{a})",
    "BEGIN; UPDATE wide SET code = 3000000 WHERE id = {a};"
    " UPDATE wide SET code = (SELECT 3000000 - 3000000 - {a}) WHERE id = {b}"
    " AND NOT EXISTS (SELECT FROM wide AS w WHERE w.code = -{a});"
    " UPDATE wide SET code = 4000000 + {a} WHERE code = 3000000; COMMIT",
    "DELETE FROM wide WHERE id = {a} AND NOT EXISTS (SELECT FROM wide AS w WHERE w.next = {a})",
    "INSERT INTO wide VALUES ({a} + 20000, -{a} - 20000, {b}, 'new') ON CONFLICT DO NOTHING",
    "UPDATE parted SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END"
    " WHERE id BETWEEN {a} % 400 AND {a} % 400 + 5",
    "UPDATE parted SET n = n + 1 WHERE id % 50 = {a} % 50",
    "INSERT INTO sheet SELECT gen_random_uuid(), {a}, repeat('s', {b} % 50)"
    " FROM generate_series(1, 9)",
    "DELETE FROM sheet WHERE n % 40 = {a} % 40",
    "UPDATE sheet SET n = n + 1 WHERE n % 30 = {a} % 30",
    "BEGIN; INSERT INTO sheet SELECT gen_random_uuid(), {a}, 'never' FROM generate_series(1, 50);"
    " SAVEPOINT s; DELETE FROM sheet; UPDATE wide SET next = NULL WHERE id < 40; ROLLBACK TO s;"
    " UPDATE parted SET n = -n; ROLLBACK",
)


TRUNCATE = (
    "BEGIN; TRUNCATE sheet; INSERT INTO sheet VALUES (gen_random_uuid(), {a}, 'after'); COMMIT"
)
TRUNCATE_SHARE = 0.005
"""Rare: a copy that meets it every time gives up, with the remedy to stop whoever does it."""


class Restless(threading.Thread):
    """Writes until stopped, wherever the application is to write; what fails is not repeated."""

    def __init__(self, where: Callable[[], str], seed: str) -> None:
        super().__init__(daemon=True)
        self._where = where
        self._chance = Random(seed)  # noqa: S311 - not a secret
        self._halt = threading.Event()
        self._may = threading.Event()
        self._may.set()
        self._rests = threading.Event()

    def pause(self) -> None:
        """Return when nothing is being written."""
        self._may.clear()
        assert self._rests.wait(30)

    def resume(self) -> None:
        self._may.set()

    def stop(self) -> None:
        self._halt.set()
        self._may.set()
        if self.is_alive():
            self.join(30)

    def run(self) -> None:
        while not self._halt.is_set():
            with contextlib.suppress(psycopg.Error):
                self._session(self._where())
            time.sleep(REST_S)

    def _session(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SET lock_timeout = '2s'; SET statement_timeout = '8s'")
            while not self._halt.is_set():
                if not self._may.is_set():
                    self._rests.set()
                    self._may.wait()
                    self._rests.clear()
                if self._where() != dsn:
                    return
                self._write(connection)
                time.sleep(REST_S)

    def _write(self, connection: psycopg.Connection) -> None:
        is_rare = self._chance.random() < TRUNCATE_SHARE
        text = TRUNCATE if is_rare else self._chance.choice(STATEMENTS)
        text = text.format(a=self._chance.randint(1, ROWS), b=self._chance.randint(1, ROWS))
        try:
            connection.execute(text.encode())
        except psycopg.Error:
            if connection.closed:
                raise
            connection.execute("ROLLBACK")
