"""What users' names and values say is shown, and never done: by rich, a terminal, or a runner."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from toolkit.cli.main import cli

HOSTILE = (
    "x[/b]",
    "[red]:smile:",
    "\x1b]0;owned\x07",
    "\n::error ::planted",
    "##[error]planted",
    "\u202egnitset\u2028",
)
LISTS = """\
lists:
  seen: {{on: source, query: {query}, reason: "::error ::r"}}
"""
IN_SCHEMA = ("::notice ::s", "t")


def tables() -> list[sql.Identifier]:
    return [*(sql.Identifier("public", name) for name in HOSTILE), sql.Identifier(*IN_SCHEMA)]


@pytest.fixture
def both(source_db: str, target_db: str) -> tuple[str, str]:
    for dsn in (source_db, target_db):
        with psycopg.connect(dsn) as connection:
            make(connection)
    return source_db, target_db


def make(connection: psycopg.Connection[object]) -> None:
    connection.execute('CREATE SCHEMA "::notice ::s"')
    for table in tables():
        connection.execute(
            sql.SQL("CREATE TABLE {} ({} text PRIMARY KEY, {} text)").format(
                table, sql.Identifier(HOSTILE[3]), sql.Identifier(HOSTILE[0])
            )
        )
        for key in HOSTILE:
            connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(table), [key, key])


def spoil(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for table in tables():
            connection.execute(sql.SQL("DELETE FROM {}").format(table))


def seems_harmless(said: str) -> None:
    assert "Traceback" not in said, said
    assert not [one for one in said if not (one.isprintable() or one == "\n")], ascii(said)
    for line in said.split("\n"):
        assert not line.lstrip().startswith("::"), said
        assert "##[" not in line, said


def run(*words: str, code: int | None = 0) -> str:
    ran = CliRunner().invoke(cli, words)
    assert code is None or ran.exit_code == code, ran.output
    return ran.output


def test_compare_shows_names_and_keys_as_they_are(both: tuple[str, str]) -> None:
    spoil(both[1])
    words = ["compare", *both, "--settle", "0", "--schema", "public", "--schema", IN_SCHEMA[0]]
    said = run(*words, code=5)
    seems_harmless(said)
    assert "x[/b]" in said
    assert "[red]:smile:" in said
    assert r"\x1b]0;owned\x07" in said
    run(*words, "--json", code=5)
    seems_harmless(run(*words, "--key", "\x1b]0;no", code=4))


def test_every_verb_shows_names_and_values_as_they_are(
    source_db: str, target_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(source_db) as connection:
        make(connection)
    monkeypatch.setenv("DBSPLIT_SOURCE_DSN", source_db)
    monkeypatch.setenv("DBSPLIT_ONE_DSN", target_db)
    plan = str(tmp_path / "plan.yaml")
    propose = ("plan", "propose", "--services", "one")
    seems_harmless(run(*propose, "-o", plan, code=None))
    query = sql.SQL("SELECT * FROM {}").format(tables()[3]).as_string()
    with Path(plan).open("a") as file:
        file.write(LISTS.format(query=json.dumps(query)))
    for words in (
        ("plan", "check"),
        ("plan", "explain"),
        ("doctor",),
        ("prepare",),
        ("copy",),
        ("stream", "--until-caught-up"),
        ("validate",),
        ("status",),
        ("cutover", "--dry-run"),
    ):
        seems_harmless(run(*words, plan, code=None))
    with psycopg.connect(target_db) as connection:
        connection.execute("SELECT set_config('dbsplit.applier', 'hostile', false)")
    spoil(target_db)
    said = run("validate", plan, "--github", code=5)
    ours = [line for line in said.split("\n") if line.startswith("::")]
    assert len(ours) == len(tables()), said
    seems_harmless("\n".join(line for line in said.split("\n") if line not in ours))
    assert not [c for line in ours for c in line if not c.isprintable()], ours
    run("validate", plan, "--json", code=5)
    seems_harmless(run("validate", plan, "--repair", "--yes"))
    seems_harmless(run("plan", "refresh", plan, "--dry-run"))
    seems_harmless(run("abort", plan, "--yes"))
