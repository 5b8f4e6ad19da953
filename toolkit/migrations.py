"""Running Alembic revisions, generated and hand-written, up and down.

The revision scripts are real ones; the environment around them is this module.
So nothing depends on an alembic.ini, no logger is configured, nothing is printed,
and nothing is written beside the scripts.

Alembic and SQLAlchemy take half a second to be imported, and most verbs run no
revision; so whoever runs one imports them.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from cdc.connect import connect
from plans.errors import NotReady

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"
HEADS = "heads"
BASE = "base"

LOCK_TIMEOUT_MS = 5_000
"""How long a statement waits for a lock: before the cutover a target is ours alone."""

# Two runs on one database wait for each other; any constant of 64 bits would do.
_ADVISORY_LOCK = 0x6462_7370_6C69_7401

# `alembic.op` and `alembic.context` are one per process, and threads prepare several targets.
_ONE_AT_A_TIME = threading.Lock()

_SHOWN_MAX = 200


def upgrade(
    dsn: str,
    directory: Path,
    revision: str = HEADS,
    *,
    version_table_schema: str,
    version_table: str = VERSION_TABLE,
) -> tuple[str, ...]:
    """Go up to `revision`, each revision in one transaction; returns where it stands then.

    The scripts lie in `directory` or in its ``versions``.  `version_table_schema`
    exists already.  Going where one stands does nothing.

    Raises NotReady if `directory` lacks `revision` or the one that the database
    is at, if another run is at work on it, and if a statement fails: the revision
    it belongs to is then undone, those before it are kept.
    """
    table = (version_table_schema, version_table)
    script = scripts(directory)
    with _connection(dsn) as connection:
        _run(script, connection, table, lambda heads, _: script._upgrade_revs(revision, heads))
        return _heads(connection, table)


def downgrade(
    dsn: str,
    directory: Path,
    revision: str = BASE,
    *,
    version_table_schema: str,
    version_table: str = VERSION_TABLE,
) -> tuple[str, ...]:
    """Go down to `revision`; otherwise as `upgrade`."""
    table = (version_table_schema, version_table)
    script = scripts(directory)
    with _connection(dsn) as connection:
        _run(script, connection, table, lambda heads, _: script._downgrade_revs(revision, heads))
        return _heads(connection, table)


def step(
    dsn: str,
    statements: Iterable[str],
    line: Sequence[str],
    *,
    version_table_schema: str,
    version_table: str = VERSION_TABLE,
) -> None:
    """Go from the first revision of a line to the second by its statements, as `upgrade` would.

    For who has the statements at hand: Alembic, which takes long to import, is not needed.
    From a later revision of the line nothing is done.

    Raises NotReady if the database is at no revision of the line, if another run is at
    work on it, and if a statement fails: then nothing was done.
    """
    table = sql.Identifier(version_table_schema, version_table)
    update = sql.SQL("UPDATE {} SET version_num = {} WHERE version_num = {}").format(
        table, sql.Literal(line[1]), sql.Literal(line[0])
    )
    with _alone(dsn) as connection:
        if connection.execute(update).rowcount:
            for statement in statements:
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    raise _refused(error, statement) from error
        rows = connection.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchall()
        if len(rows) != 1 or rows[0][0] not in line[1:]:
            raise NotReady(
                f"{_database(dsn)} is at revision {', '.join(row[0] for row in rows) or 'none'},"
                f" and not at one of {', '.join(line)}",
                hint="use the revisions that the database was made with",
            )


def as_sql(
    directory: Path, *, version_table_schema: str, version_table: str = VERSION_TABLE
) -> str:
    """What `upgrade` would run on a database that never was at any revision.

    Raises whatever a script raises that cannot do without a connection.
    """
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    script, text = scripts(directory), io.StringIO()
    with (
        _ONE_AT_A_TIME,
        without_bytecode(),
        EnvironmentContext(
            Config(), script, as_sql=True, fn=lambda heads, _: script._upgrade_revs(HEADS, heads)
        ) as environment,
    ):
        environment.configure(
            dialect_name="postgresql",
            dialect_opts={"paramstyle": "named"},  # the others double every percent sign
            output_buffer=text,
            version_table=version_table,
            version_table_schema=version_table_schema,
            transaction_per_migration=True,
        )
        with environment.begin_transaction():
            environment.run_migrations()
    return text.getvalue().strip()


def current(
    dsn: str, *, version_table_schema: str, version_table: str = VERSION_TABLE
) -> tuple[str, ...]:
    """The revisions that the database is at; () if it never was at any."""
    with _connection(dsn) as connection:
        return _heads(connection, (version_table_schema, version_table))


def scripts(directory: Path) -> ScriptDirectory:
    """The revisions in `directory` or in its ``versions``; NotReady if there is no such place."""
    from alembic.script import ScriptDirectory

    versions = directory / "versions"
    place = versions if versions.is_dir() else directory
    if not place.is_dir():
        raise NotReady(
            f"{directory} is not a directory of revisions", hint="name an existing directory"
        )
    return ScriptDirectory(place, version_locations=[place])


@contextmanager
def _connection(dsn: str) -> Iterator[Connection]:
    """The same for Alembic; what the server says comes as psycopg has it."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    with _alone(dsn) as raw:
        engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                yield connection
        except DBAPIError as error:  # also of the rollback that ends it
            raise (error.orig or error) from None


@contextmanager
def _alone(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection that nobody else migrates through, with a limit to every wait."""
    raw = connect(dsn, name="dbsplit migrations", autocommit=False)
    try:
        raw.execute("SELECT set_config('lock_timeout', %s, false)", [str(LOCK_TIMEOUT_MS)])
        raw.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
        raw.commit()
    except psycopg.errors.LockNotAvailable:
        raw.close()
        raise NotReady(
            f"another run is changing the schema of {_database(dsn)}",
            hint="wait for it to end, then try again",
        ) from None
    with raw:
        yield raw


def _database(dsn: str) -> str:
    """The database that a DSN leads to, without its secrets."""
    return str(conninfo.conninfo_to_dict(dsn).get("dbname", "the database"))


def _run(
    script: ScriptDirectory,
    connection: Connection,
    table: tuple[str, str],
    steps: Callable[[Any, MigrationContext], Any],
) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    schema, name = table
    try:
        with (
            _ONE_AT_A_TIME,
            without_bytecode(),
            EnvironmentContext(Config(), script) as environment,
        ):
            environment.configure(
                connection=connection,
                fn=steps,
                version_table=name,
                version_table_schema=schema,
                transaction_per_migration=True,
            )
            with environment.begin_transaction():
                environment.run_migrations()
        connection.commit()
    except CommandError as error:
        raise NotReady(
            f"the revisions of {script.dir} don't fit: {error}",
            hint="use the revisions that the database was made with",
        ) from None
    except DBAPIError as error:
        statement = (error.statement or "").replace("%%", "%")
        raise _refused(error.orig, statement) from error.orig


def _refused(error: BaseException | None, statement: str) -> NotReady:
    """What the server said, and to which statement."""
    said = str(error).partition("\n")[0]
    statement = " ".join(statement.split())
    return NotReady(
        f"a revision failed: {said} (in: {statement[:_SHOWN_MAX]})",
        hint="that revision was undone as a whole; remove the cause, then try again",
    )


def _heads(connection: Connection, table: tuple[str, str]) -> tuple[str, ...]:
    from alembic.runtime.migration import MigrationContext

    schema, name = table
    context = MigrationContext.configure(
        connection, opts={"version_table": name, "version_table_schema": schema}
    )
    return tuple(sorted(context.get_current_heads()))


@contextmanager
def without_bytecode() -> Iterator[None]:
    """Keep caches out of the user's directories.

    They would be wrong, too: a script that is rendered anew within the second,
    and happens to have the same length, would not be noticed.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
