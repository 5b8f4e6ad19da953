# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Somebody who writes while a schema is changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.following import Following


@contextmanager
def busy(
    databases: Following, *statements: str, after: int = 100_000, pause_s: float = 0.005
) -> Iterator[None]:
    """Run the statements as one, again and again; `{row}` is a new number each time."""
    text = ";".join(statements)
    stop = threading.Event()

    def write() -> None:
        row = after
        with psycopg.connect(databases.source, autocommit=True) as source:
            while not stop.is_set():
                row += 1
                source.execute(text.replace("{row}", str(row)).encode())
                time.sleep(pause_s)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join(30)


def family(number: int) -> tuple[str, ...]:
    """Statements for `busy`, on the tables parents_N and children_N, of 2,000 rows each."""
    return (
        f"INSERT INTO parents_{number} VALUES ({{row}}, 1)",
        f"INSERT INTO children_{number} VALUES ({{row}}, {{row}}, 0)",
        f"UPDATE children_{number} SET n = n + 1 WHERE id = {{row}} % 2000 + 1",
        f"DELETE FROM children_{number} WHERE id = {{row}} - 5",
        f"DELETE FROM parents_{number} WHERE id = {{row}} - 5",
    )
