"""Connections: how sessions are set up, and how failures to connect are told."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from plans.catalog_first import catalog_first
from plans.errors import Unreachable

CONNECT_TIMEOUT_S = 10

PINNED_SETTINGS: dict[str, str] = {
    # Whatever changes a value's text form; see the manual, chapter 20.11.
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",  # or text that is no document could not be written
    # And what a type's name looks like, or a NULL within an array's text is, and a
    # backslash within our own.
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    # And whether a row that another changes is waited for, or refused.
    "default_transaction_isolation": "read committed",
    # And whether we may write: it keeps applications from that, in a target not yet moved to.
    "default_transaction_read_only": "off",
}

# What an administrator sets for applications would end a session that rests while others
# work, or that holds a transaction open for what comes next, or a long statement of ours, or
# a slot's wait for all who write; what must not take long has limits of its own.
UNLIMITED = (
    "statement_timeout",
    "lock_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",  # since 17
)

Connection = psycopg.Connection[tuple[Any, ...]]

# An error within a pipeline is raised, and logged once more: without a handler, Python
# would print that on standard error, between what we say.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


def connect(
    dsn: str, *, name: str = "dbsplit", autocommit: bool = True, may_be_lent: bool = False
) -> Connection:
    """Open a connection with pinned text forms, which may rest as long as it likes.

    `may_be_lent` is for who pins settings in each transaction anyway: behind a pooler, which
    lends the server's session to others afterwards, nothing is set in it for good.

    Raises Unreachable, without the password, if the server does not let us in.
    """
    conninfo = session_conninfo(dsn, name=name)
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        raise not_reachable(dsn, error) from None
    pin_settings(connection, unlimited=UNLIMITED, may_be_lent=may_be_lent)
    connection.autocommit = autocommit
    return connection


def session_conninfo(dsn: str, *, name: str, **more: str) -> str:
    """`dsn` with our limits on connecting and dead peers, unless it has its own."""
    given = conninfo_to_dict(dsn)
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": name,
        "client_encoding": "UTF8",
    }
    return make_conninfo("", **{**defaults, **given, "client_encoding": "UTF8", **more})


def pin_settings(
    connection: Connection, *, unlimited: Iterable[str] = (), may_be_lent: bool = False
) -> None:
    """Make text forms the same on every server, and the server's own names its own.

    One round trip, in no transaction.  The order of other schemas stays as it is.

    The limits that are `unlimited`, as far as the server knows them, are lifted.  With
    `may_be_lent` all of it ends with the transaction if another process answers than the
    one that we connected to.
    """
    scope: sql.Composable = sql.SQL("false")
    if may_be_lent:
        own = sql.Literal(connection.info.backend_pid)
        scope = sql.SQL("pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) {}").format(own)
    pinned = [
        sql.SQL("pg_catalog.set_config({}, {}, {})").format(name, value, scope)
        for name, value in PINNED_SETTINGS.items()
    ]
    pins = sql.SQL(", ").join([*pinned, *_lifted(unlimited, scope), catalog_first(scope)])
    # A standby knows no serializable transactions, even if they are its default.
    begin, end = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED"), sql.SQL("COMMIT")
    connection.execute(sql.SQL("; ").join([begin, sql.SQL("SELECT {}").format(pins), end]))


def lift_limits(connection: Connection) -> None:
    """Let a transaction that was begun take as long as it likes."""
    lifted = sql.SQL(", ").join(_lifted(UNLIMITED, sql.SQL("true")))
    connection.execute(sql.SQL("SELECT {}").format(lifted))


def _lifted(limits: Iterable[str], is_local: sql.Composable) -> list[sql.Composed]:
    return [
        sql.SQL(
            "CASE WHEN pg_catalog.current_setting({0}, true) IS NOT NULL"
            " THEN pg_catalog.set_config({0}, '0', {1}) END"
        ).format(name, is_local)
        for name in limits
    ]


def describe(dsn: str) -> str:
    """Where a DSN leads, without its secrets."""
    parts = conninfo_to_dict(dsn)
    if service := parts.get("service"):
        return f"service={service}"
    host, port = parts.get("host") or "local socket", parts.get("port") or "5432"
    return f"{parts.get('user') or 'default user'}@{host}:{port}/{parts.get('dbname') or ''}"


_ABSENT = re.compile('database ".*" does not exist$')
_FULL = ("too many clients", "too many connections", "connection slots are reserved")


def not_reachable(dsn: str, error: psycopg.Error) -> Unreachable:
    """The error for a server that refused us, with what the server said."""
    # Lines that are indented comment on the one before.
    said = [line for line in str(error).strip().splitlines() if not line[:1].isspace()]
    reason = said[-1] if said else type(error).__name__
    if (password := conninfo_to_dict(dsn).get("password")) and str(password) in reason:
        reason = reason.replace(str(password), "********")
    hint = "check that the server runs, and host, port, user, password and pg_hba.conf"
    if any(words in reason for words in _FULL):
        hint = (
            "none of its connections is free, or none that this role may have: end some, or raise "
            "max_connections or the limit of the role or database; then run the same command again"
        )
    elif _ABSENT.search(reason):
        hint = (
            "create the database, or let the DSN name another; "
            "`dbsplit prepare PLAN --create` makes those of services"
        )
    return Unreachable(f"cannot connect to {describe(dsn)}: {reason}", hint=hint)
