"""How long the stream is patient with servers that have ended its sessions.

A session that was terminated, a server that restarts, a connection that a proxy has cut:
the stream begins anew where it was, with all that a beginning checks.  What it cannot go on
from, such as a slot that is lost, ends it as ever.
"""

from __future__ import annotations

import time

import psycopg

from plans.errors import SplitError, StreamBroken, Unreachable
from toolkit.locks import Held

PATIENT_S_MAX = 60.0
"""As long as a follower, which loses its own sessions, tries."""

PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 5.0


class Patience:
    """Of one stream process."""

    def __init__(self) -> None:
        self._has_followed = False
        self._follows_since: float | None = None
        self._broken_since: float | None = None
        self._pause_s = PAUSE_S_MIN

    def begin(self) -> None:
        """Another try begins."""
        self._follows_since = None

    def follows(self) -> None:
        """It has come so far that something is followed."""
        self._has_followed = True
        if self._follows_since is None:
            self._follows_since = time.monotonic()

    def pause_s(self, error: Exception) -> float:
        """How long to wait before the next try.

        Raises the error if it does not pass by itself, or nothing was followed yet:
        who starts a stream is told at once.  StreamBroken if it has not passed for too long.
        """
        if not (self._has_followed and may_pass(error)):
            raise error
        now = time.monotonic()
        # A try that waits in vain for one server after the other may take as long.
        since = self._follows_since
        if self._broken_since is None or (since is not None and now - since > PATIENT_S_MAX / 2):
            self._broken_since, self._pause_s = now, PAUSE_S_MIN
        if now - self._broken_since > PATIENT_S_MAX:
            hint = "see to the server named, then start `dbsplit stream` again; nothing is lost"
            said = str(error).strip().partition("\n")[0]
            raise StreamBroken(
                f"the stream could not be continued for {PATIENT_S_MAX:.0f} s: {said}", hint=hint
            ) from None
        pause_s, self._pause_s = self._pause_s, min(PAUSE_S_MAX, 2 * self._pause_s)
        return pause_s


def may_pass(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, SplitError):
        # Our own session may live a moment longer at the server than here.
        return isinstance(error, Unreachable) or (isinstance(error, Held) and error.ours)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
