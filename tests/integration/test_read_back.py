"""Rows that are read from the leader, whose commits its sessions do not see yet."""

from __future__ import annotations

import time
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.following import following
from tests.unseen import a_commit_that_waits
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

UNSEEN_S = 2.0
ARRIVES_S_MAX = 30.0


def test_a_row_whose_new_key_nobody_sees_yet_is_not_lost(
    pg_version: str, target_server: Server, tmp_path: Path
) -> None:
    with (
        running_server(version=pg_version) as source,
        following(source, target_server, tmp_path, tables="moved: a\n") as databases,
    ):
        databases.execute(
            "CREATE SCHEMA odd",
            "CREATE TABLE moved (id int PRIMARY KEY, body text)",
            "ALTER TABLE moved ALTER body SET STORAGE EXTERNAL",
            "INSERT INTO moved SELECT n, repeat(md5(n::text), 200) FROM generate_series(1, 3) n",
        )
        # What else writes there must not wait.
        name = conninfo_to_dict(databases.source)["dbname"]
        databases.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = local')
        databases.prepare()
        databases.copy()
        databases.stream()
        with databases.live():
            with a_commit_that_waits(databases.source, "UPDATE moved SET id = 101 WHERE id = 1"):
                time.sleep(UNSEEN_S)
            databases.execute("INSERT INTO moved VALUES (4, 'last')")
            assert wait_until(
                lambda: databases.rows("a", "SELECT FROM moved WHERE id = 4") != [],
                timeout_s=ARRIVES_S_MAX,
            )
            everything = "SELECT id, md5(body) FROM moved ORDER BY id"
            assert databases.rows("a", everything) == databases.rows("source", everything)
