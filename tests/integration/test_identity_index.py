"""A replica identity whose index was dropped: the log tells rows of it by nothing."""

from __future__ import annotations

from pathlib import Path

from tests.following import following
from toolkit.abort import abort
from toolkit.servers import Server

SCHEMA = """
CREATE SCHEMA odd;
CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL, v text);
CREATE UNIQUE INDEX t_code ON t (code);
ALTER TABLE t REPLICA IDENTITY USING INDEX t_code;
INSERT INTO t SELECT n, n, 'as it was' FROM generate_series(1, 10) n;
DROP INDEX t_code
"""
IDENTITY = "SELECT relreplident::text FROM pg_class WHERE relname = 't' AND relkind = 'r'"


def test_an_index_that_is_gone_hurts_nobody(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with following(source_server, target_server, tmp_path, tables="t: a\n") as databases:
        databases.execute(SCHEMA)
        databases.prepare()
        assert databases.rows("source", IDENTITY) == [("f",)]
        databases.copy()
        databases.execute("UPDATE t SET v = 'changed' WHERE id = 3", "DELETE FROM t WHERE id = 4")
        databases.stream()
        rows = "SELECT id, code, v FROM t ORDER BY id"
        assert databases.rows("a", rows) == databases.rows("source", rows)
        abort(databases.open(), dry_run=False, say=lambda _kind, _step: None)
        assert databases.rows("source", IDENTITY) == [("n",)]
