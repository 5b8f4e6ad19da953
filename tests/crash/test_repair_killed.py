"""kill -9 of a repair, at its crash points and anywhere: repeated, it goes on and ends well."""

from __future__ import annotations

import random

import psycopg
import pytest

from tests.crash.line import Line
from tests.crash.points import REPAIR
from tests.crash.traffic import BOOKS, DESK

RANDOM_KILLS = 3
PLANTED = {
    BOOKS: (
        "UPDATE ledger SET amount = amount + 1 WHERE writer = 'old' AND id % 7 = 0",
        "DELETE FROM ledger WHERE writer = 'old' AND id % 11 = 0",
        "UPDATE profile SET books_note = NULL WHERE books_note = 'old' AND id % 5 = 0",
        "DELETE FROM message WHERE id IN (SELECT id FROM message ORDER BY id LIMIT 20)",
    ),
    DESK: (
        "UPDATE profile SET desk_note = 'wrong' WHERE desk_note = 'old' AND id % 3 = 0",
        "DELETE FROM account WHERE ctid IN (SELECT ctid FROM account LIMIT 1)",
    ),
}


def plant(line: Line) -> None:
    """Damage both targets behind the stream's back; the writers go on."""
    for service, statements in PLANTED.items():
        with psycopg.connect(line.targets[service]) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())


@pytest.mark.parametrize("point", REPAIR)
def test_a_repair_killed_and_called_again(following: Line, point: str) -> None:
    line = following
    plant(line)
    line.killed_at(point, "validate", "--repair", "--yes", nth=2)
    ended = line.done("validate", "--repair", "--yes")
    assert ended.result["consistent"] is True
    assert ended.result["repair"]["left"] == 0
    line.prove()


def test_a_repair_killed_anywhere_and_called_again(following: Line) -> None:
    line = following
    plant(line)
    choice = random.Random(5)  # noqa: S311
    for _ in range(RANDOM_KILLS):
        line.killed_after(choice.uniform(0.5, 5), "validate", "--repair", "--yes")
    ended = line.done("validate", "--repair", "--yes")
    assert ended.result["consistent"] is True
    line.prove()
