"""A thread that writes at random until it is stopped; what it met is raised then."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg


class Restless(threading.Thread):
    """Writes by `write`, again and again, in a session of its own."""

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.failure: BaseException | None = None
        self.dice = random.Random(seed)  # noqa: S311
        self._dsn = dsn
        self._halt = threading.Event()

    def run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while not self._halt.is_set():
                    self.write(connection)
                    self.done += 1
        except BaseException as error:  # noqa: BLE001  (raised again by stop)
            self.failure = error

    def write(self, connection: psycopg.Connection[Any]) -> None:
        """One thing that an application might do."""
        raise NotImplementedError

    def stop(self) -> None:
        self._halt.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure
