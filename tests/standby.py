"""A standby of a test's server, which takes over its slots (PostgreSQL 17 and later)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from toolkit.accounts import choose_account, give, spawn
from toolkit.servers import Server, start_server

SLOT = "standby"
COPY_S_MAX = 120.0


@contextmanager
def standby_of(primary: Server, *, synchronized: bool) -> Iterator[Server]:
    """A hot standby that synchronizes slots; with `synchronized` the primary waits for it.

    Commits wait, too: what the primary acknowledged, the standby has.
    """
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("SELECT pg_create_physical_replication_slot(%s, true)", [SLOT])
    standby = start_server(version=primary.version)
    try:
        standby.stop()
        _copy(primary, standby)
        standby.start()
        settings = {"synchronous_standby_names": SLOT}
        if synchronized:
            settings["synchronized_standby_slots"] = SLOT
        with psycopg.connect(primary.dsn(), autocommit=True) as admin:
            for name, value in settings.items():
                alter = sql.SQL("ALTER SYSTEM SET {} = {}")
                admin.execute(alter.format(sql.Identifier(name), value))
            admin.execute("SELECT pg_reload_conf()")
        yield standby
    finally:
        # Whatever commits there afterwards would wait for a standby that is gone.
        (primary.data_dir / "postgresql.auto.conf").write_text("")
        if primary.running:
            with psycopg.connect(primary.dsn(), autocommit=True) as admin:
                admin.execute("SELECT pg_reload_conf()")
        standby.discard()


def _copy(primary: Server, standby: Server) -> None:
    account = choose_account()
    shutil.rmtree(standby.data_dir)
    standby.data_dir.mkdir(mode=0o700)
    give(standby.data_dir, account)
    program = standby._programs.program("pg_basebackup")
    copying = spawn(
        [str(program), "-D", str(standby.data_dir), "-d", primary.dsn(), "-S", SLOT, "-R",
         "-X", "stream", "-c", "fast"],
        cwd=standby.root, account=account,
    )  # fmt: skip
    assert copying.wait(COPY_S_MAX) == 0
    conninfo = make_conninfo(primary.dsn(), application_name=SLOT)
    with (standby.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write(  # the last of several counts
            f"primary_conninfo = '{conninfo}'\nprimary_slot_name = '{SLOT}'\n"
            "hot_standby_feedback = on\nsync_replication_slots = on\n"
        )
