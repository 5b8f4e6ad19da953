"""The README's split, step by step as it stands there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.verbs import DBSPLIT, Verbs
from toolkit.servers import Server

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands(block: int = 1) -> list[list[str]]:
    text = README.split("```console\n")[block].partition("```")[0]
    lines = [line[2:].partition("  #")[0] for line in text.splitlines() if line[:2] == "$ "]
    return [line.removesuffix("&").split() for line in lines]


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


def test_the_plan_is_made_as_it_is_told(
    tmp_path: Path, source_server: Server, source_db: str, target_server: Server
) -> None:
    pgbench = source_server.binaries.program("pgbench")
    made = subprocess.run([pgbench, "-i", "-q", source_db], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    (tmp_path / "owners.yaml").write_text("pgbench_accounts: accounts\npgbench_tellers: desk\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/top.py").write_text(
        'Q = "SELECT * FROM pgbench_history JOIN pgbench_accounts USING (aid)"'
    )
    dsns = {
        "DBSPLIT_SOURCE_DSN": source_db,
        "DBSPLIT_ACCOUNTS_DSN": target_server.dsn("readme_accounts"),
        "DBSPLIT_DESK_DSN": target_server.dsn("readme_desk"),
    }
    for words in commands(block=2):
        done = subprocess.run(
            [
                DBSPLIT,
                *words[1:3],
                *[w.replace('"$DBSPLIT_SOURCE_DSN"', source_db) for w in words[3:]],
            ],
            cwd=tmp_path,
            env=os.environ | dsns,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
    assert "pgbench_tellers" in (tmp_path / "split.html").read_text()
    assert (tmp_path / "schemas/alembic.ini").exists()
