"""The frames of the protocol, on the socket of a connection that libpq does not encrypt.

libpq only lets us in there; what is sent and taken then are frames (the manual, 55.7
"Message Formats"), many at a time, where libpq would take a call for each.
"""

from __future__ import annotations

import os
import socket
from struct import Struct

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

SILENCE_S_MAX = 3600.0
"""How long neither server may say anything; a condition may let no row of a huge table through.

A peer that is gone is noticed by TCP's keepalives long before.
"""

LENGTH = Struct("!I")
HEAD = 5  # the kind, and the length of all but the kind
DATA, DONE, COMPLETE, READY, ERROR = b"dcCZE"


def without_gss(dsn: str) -> str:
    """`dsn` without GSSAPI encryption, unless it is wanted: frames can be passed on then."""
    if "gssencmode" in conninfo_to_dict(dsn) or "PGGSSENCMODE" in os.environ:
        return dsn
    return make_conninfo(dsn, gssencmode="disable")


def is_plain(connection: PGconn) -> bool:
    """Whether what goes over the socket is the protocol itself.

    libpq does not tell whether GSSAPI encrypts, so it must have been forbidden.
    """
    if connection.ssl_in_use:
        return False
    return any(one.keyword == b"gssencmode" and one.val == b"disable" for one in connection.info)


def duplicate(connection: PGconn) -> socket.socket:
    """The connection's socket, for us beside libpq, which must not be in the middle of anything."""
    duplicate = socket.socket(fileno=os.dup(connection.socket))
    duplicate.settimeout(SILENCE_S_MAX)
    return duplicate


def query_frame(text: bytes) -> bytes:
    """A statement as it is sent."""
    return b"Q" + LENGTH.pack(len(text) + HEAD) + text + b"\0"


def error_of(body: bytes) -> psycopg.Error:
    """An ErrorResponse as psycopg would raise it; the manual, 55.8 "Error and Notice"."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    said = fields.get(b"M", "the server refused the copy")
    if where := fields.get(b"W"):
        said += f" ({where.splitlines()[0]})"
    try:
        error = psycopg.errors.lookup(fields.get(b"C", ""))
    except KeyError:
        error = psycopg.OperationalError
    return error(said)


def silent() -> psycopg.OperationalError:
    """What is raised when `SILENCE_S_MAX` is over."""
    return psycopg.OperationalError(f"a server has said nothing for {SILENCE_S_MAX:.0f} s")
