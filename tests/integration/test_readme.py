"""The README's split, step by step as it stands there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.verbs import Verbs
from toolkit.servers import Server

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands() -> list[list[str]]:
    block = README.partition("```console\n")[2].partition("```")[0]
    return [line[2:].removesuffix("&").split() for line in block.splitlines() if line[:2] == "$ "]


def test_the_split_runs_as_it_is_told(
    tmp_path: Path, source_server: Server, source_db: str, target_server: Server
) -> None:
    pgbench = source_server.binaries.program("pgbench")
    made = subprocess.run([pgbench, "-i", "-q", source_db], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    plan = tmp_path / "plan.yaml"
    plan.write_text(README.partition("```yaml\n")[2].partition("```")[0])
    verbs = Verbs(
        plan,
        {
            "DBSPLIT_SOURCE_DSN": source_db,
            "DBSPLIT_ACCOUNTS_DSN": target_server.dsn("readme_accounts"),
            "DBSPLIT_DESK_DSN": target_server.dsn("readme_desk"),
        },
    )
    words = [command[1:] for command in commands() if command[0] == "dbsplit"]
    assert [w[0] for w in words] == [
        "plan", "prepare", "copy", "stream", "validate", "cutover", "rollback",
    ]  # fmt: skip
    before, after = words[:3], words[4:]
    for one in before:
        verbs(*[word for word in one if word != "plan.yaml"])
    with verbs.stream(source_db):
        for one in after:
            verbs(*[word for word in one if word != "plan.yaml"])
            if one[0] == "cutover":
                with (
                    psycopg.connect(source_db) as conn,
                    pytest.raises(
                        psycopg.errors.ReadOnlySqlTransaction, match="has moved to service accounts"
                    ),
                ):
                    conn.execute("UPDATE pgbench_accounts SET abalance = 0 WHERE aid = 1")
    with psycopg.connect(source_db) as conn:
        conn.execute("UPDATE pgbench_accounts SET abalance = 0 WHERE aid = 1")
    verbs("abort")
