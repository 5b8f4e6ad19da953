"""Connects Alembic with the database of one service: the section that -n names.

Written by dbsplit; what is changed here is lost with the next rendering.
"""

from __future__ import annotations

import os
import re
from logging.config import fileConfig

import psycopg
from alembic import context
from alembic.util import CommandError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine, pool, text

config = context.config
service = config.config_ini_section
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT = "5s"

if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

version_table = config.get_main_option("version_table") or "alembic_version"


def dsn() -> str:
    """The section's DSN; each ${NAME} in it is taken from the environment."""
    written = config.get_main_option("dsn") or ""
    missing = [name for name in re.findall(r"\$\{([^}]*)\}", written) if not os.environ.get(name)]
    if missing:
        raise CommandError(f"the environment variable {', '.join(missing)} is not set")
    return re.sub(r"\$\{([^}]*)\}", lambda match: os.environ[match[1]], written)


def run_offline() -> None:
    """Write SQL; no database is asked."""
    # Named parameters keep SQLAlchemy from doubling percent signs.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table=version_table,
        version_table_schema="public",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run each revision in a transaction of its own."""
    conninfo = make_conninfo(
        "", **{"connect_timeout": CONNECT_TIMEOUT_S, **conninfo_to_dict(dsn())}
    )
    # psycopg reads URIs, conninfo strings and service=NAME; a SQLAlchemy URL is none of them.
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, client_encoding="UTF8"),
        poolclass=pool.NullPool,
    )
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('dbsplit.split')")) is not None:
            raise CommandError(
                f"dbsplit is moving {service} into this database, and creates its schema by itself;"
                f" after dbsplit complete: alembic -n {service} stamp head"
            )
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
        context.configure(
            connection=connection,
            version_table=version_table,
            version_table_schema="public",
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
