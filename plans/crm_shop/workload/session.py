"""A writer's one connection, and what the end of a transaction on it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

CONNECT_S_MAX = 5
# A server that vanished without a word is given up after this; a lock may be waited for longer.
SILENCE_MS_MAX = 10_000

# With an error of these classes the server says that COMMIT failed: violations of deferred
# constraints, serialization, locks, errors raised by triggers.  Any other error during COMMIT,
# a lost connection or a shutdown above all, may come after the commit took place.
_DEFINITE_CLASSES = ("22", "23", "25", "40", "42", "44", "55", "P0")
_STATEMENT_COMPLETION_UNKNOWN = "40003"


class OutcomeUnknown(Exception):
    """COMMIT was sent, and no answer to it came that says what became of it."""


class Session:
    """A connection that follows its service from place to place; used by one thread."""

    def __init__(self, place: Callable[[], str], *, name: str) -> None:
        self._place = place
        self._name = name
        self._connected_to = ""
        self._connection: psycopg.Connection[Any] | None = None

    def begin(self, *, repeatable_read: bool) -> psycopg.Connection[Any]:
        """Begin a transaction where the service is now."""
        place = self._place()
        if place != self._connected_to:
            self.close()
        if self._connection is None:
            self._connection = self._connect(place)
            self._connected_to = place
        isolation = b" ISOLATION LEVEL REPEATABLE READ" if repeatable_read else b""
        self._connection.execute(b"BEGIN" + isolation)
        return self._connection

    def commit(self) -> None:
        """Commit; raise OutcomeUnknown, or the psycopg.Error of a commit that failed."""
        if self._connection is None:
            raise psycopg.OperationalError("not connected")
        try:
            answer = self._connection.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            if is_definite(error):
                raise
            raise OutcomeUnknown(describe(error)) from None
        if answer != "COMMIT":
            raise psycopg.errors.InFailedSqlTransaction(f"the server answered {answer} to COMMIT")

    def roll_back(self) -> None:
        """Leave the transaction, and the connection if that is what it takes."""
        try:
            if self._connection is not None:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._connected_to = self._connection, None, ""
        if connection is not None:
            connection.close()

    def _connect(self, place: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            place,
            autocommit=True,  # BEGIN and COMMIT are sent by hand, to tell COMMIT's errors apart
            connect_timeout=CONNECT_S_MAX,
            tcp_user_timeout=SILENCE_MS_MAX,
            application_name=self._name,
            prepare_threshold=None,  # a pooler may hand out another server connection each time
        )


def describe(error: Exception) -> str:
    """An error as one line for a person, with its SQLSTATE if it has one."""
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    message = str(error).strip().split("\n")[0]
    return f"{code}: {message}" if code else f"{type(error).__name__}: {message}"


def is_definite(error: psycopg.Error) -> bool:
    """Whether an error during COMMIT says that the transaction did not take place."""
    code = error.sqlstate or ""
    return code[:2] in _DEFINITE_CLASSES and code != _STATEMENT_COMPLETION_UNKNOWN
