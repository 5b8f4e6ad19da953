from __future__ import annotations

import logging
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection

from plans.errors import NotReady
from plans.schema.ddl import Statement, TargetSchema
from toolkit import migrations
from toolkit.migrations import current, downgrade, upgrade
from toolkit.revisions import render, revision_ids

DIGEST = "0123abcd"

# Everything that SQLAlchemy, the driver or a Python literal could take for its own.
NASTY_TEXTS = (
    ":name ::int a:b:c :1 \\:x \\\\:y :\\ ':' ::::",
    "100% %s %(name)s %% %%s %1",
    "$1 $$ $tag$ {0} {name} {{}}",
    'quotes \' " """ \'\'\' \\" \\',
    "lines\n\ttab\r\nreturn \x0b end",
    "ünïcödé 🐘 \u2028 \\u0041 \\N{DASH}",
    'ends with a quote\n"',
    '"begins with a quote\nand ends \\',
)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _schema() -> TargetSchema:
    rows = [
        Statement(f"INSERT INTO kept VALUES ({n}, {_literal(text)})")  # noqa: S608
        for n, text in enumerate(NASTY_TEXTS)
    ]
    body = "\nbegin\n  -- 50% : done\n  return ':x'::text || '%s';\nend\n"
    return TargetSchema(
        (Statement("CREATE TABLE kept (n int, text text)", "DROP TABLE kept"), *rows),
        (
            Statement(
                f"CREATE FUNCTION speak() RETURNS text LANGUAGE plpgsql AS $f${body}$f$",
                "DROP FUNCTION speak()",
            ),
            Statement("CREATE INDEX kept_n ON kept (n) WHERE text <> ':%'", "DROP INDEX kept_n"),
        ),
    )


@pytest.fixture
def ready_db(target_db: str) -> str:
    with psycopg.connect(target_db) as conn:
        conn.execute("CREATE SCHEMA dbsplit")
    return target_db


def _up(dsn: str, directory: Path, revision: str = migrations.HEADS) -> tuple[str, ...]:
    return upgrade(dsn, directory, revision, version_table_schema="dbsplit")


def _down(dsn: str, directory: Path, revision: str = migrations.BASE) -> tuple[str, ...]:
    return downgrade(dsn, directory, revision, version_table_schema="dbsplit")


def test_every_text_arrives_as_it_was(ready_db: str, tmp_path: Path) -> None:
    render("shop", _schema(), DIGEST, tmp_path)
    _up(ready_db, tmp_path)
    with psycopg.connect(ready_db) as conn:
        rows = conn.execute("SELECT text FROM kept ORDER BY n").fetchall()
        assert [text for (text,) in rows] == list(NASTY_TEXTS)
        assert conn.execute("SELECT speak()").fetchone() == (":x%s",)
        source = conn.execute("SELECT prosrc FROM pg_proc WHERE proname = 'speak'").fetchone()
        assert source == ("\nbegin\n  -- 50% : done\n  return ':x'::text || '%s';\nend\n",)


def test_up_and_down_in_two_steps(ready_db: str, tmp_path: Path) -> None:
    before, after = render("shop", _schema(), DIGEST, tmp_path)
    assert current(ready_db, version_table_schema="dbsplit") == ()
    assert _up(ready_db, tmp_path, before) == (before,)
    assert _relations(ready_db) == {"kept", "dbsplit.alembic_version"}
    assert _up(ready_db, tmp_path) == (after,)
    assert _up(ready_db, tmp_path) == (after,)
    assert current(ready_db, version_table_schema="dbsplit") == (after,)
    assert _down(ready_db, tmp_path, before) == (before,)
    assert _down(ready_db, tmp_path) == ()
    assert _relations(ready_db) == {"dbsplit.alembic_version"}


def test_a_step_by_its_statements_is_the_step_that_the_revision_makes(
    ready_db: str, tmp_path: Path
) -> None:
    line = render("shop", _schema(), DIGEST, tmp_path)
    after = [one.create for one in _schema().after_data]

    def step(statements: list[str], *line: str) -> None:
        migrations.step(ready_db, statements, line, version_table_schema="dbsplit")

    _up(ready_db, tmp_path, line[0])
    with pytest.raises(NotReady, match=r"a revision failed: .* \(in: SELECT no_such"):
        step([*after, "SELECT no_such"], *line)
    assert current(ready_db, version_table_schema="dbsplit") == line[:1]
    with pytest.raises(NotReady, match=f"at revision {line[0]}, and not at one of x, y"):
        step(after, "x", "y")
    step(after, *line)
    assert _up(ready_db, tmp_path) == line[1:]
    with psycopg.connect(ready_db) as conn:
        assert conn.execute("SELECT speak()").fetchone() == (":x%s",)
    step(after, *line)  # nothing is left to do
    step(after, "before", line[0], line[1])  # nor is where one stands at a later one
    _down(ready_db, tmp_path)
    assert current(ready_db, version_table_schema="dbsplit") == ()


def test_the_same_plan_renders_the_same_files(tmp_path: Path) -> None:
    render("shop", _schema(), DIGEST, tmp_path / "one")
    render("shop", _schema(), "of an older plan", tmp_path / "two")
    render("shop", _schema(), DIGEST, tmp_path / "two")
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 2
    ids = {revision_ids(service, digest) for service in ("shop", "crm") for digest in ("a", "b")}
    assert len(ids) == 4


def test_revisions_of_somebody_else_are_not_removed(tmp_path: Path) -> None:
    render("shop", _schema(), DIGEST, tmp_path)
    (tmp_path / "mine.py").write_text("revision = 'mine'\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NotReady, match=r"mine\.py was not written by dbsplit"):
        render("shop", _schema(), "new", tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_hand_written_revisions_have_a_version_table_of_their_own(
    ready_db: str, tmp_path: Path
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    for number, down in ((1, None), (2, "r1")):
        (versions / f"r{number}.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            f"revision = 'r{number}'\ndown_revision = {down!r}\n"
            f"def upgrade():\n    op.create_table('t{number}', sa.Column('id', sa.Integer))\n"
            f"def downgrade():\n    op.drop_table('t{number}')\n"
        )
    render("orchestrator", _schema(), DIGEST, tmp_path / "generated")
    _up(ready_db, tmp_path / "generated")
    assert upgrade(ready_db, tmp_path, version_table_schema="public") == ("r2",)
    assert _relations(ready_db) >= {"t1", "t2", "alembic_version", "dbsplit.alembic_version"}
    assert downgrade(ready_db, versions, "r1", version_table_schema="public") == ("r1",)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_revision_that_fails_is_undone_and_says_where(ready_db: str, tmp_path: Path) -> None:
    schema = TargetSchema(
        (Statement("CREATE TABLE one (id int)", "DROP TABLE one"),),
        (Statement("CREATE TABLE two (id int)"), Statement("CREATE TABLE three (x no_such)")),
    )
    before, _ = render("shop", schema, DIGEST, tmp_path)
    with pytest.raises(NotReady, match=r'type "no_such" does not exist \(in: CREATE TABLE three'):
        _up(ready_db, tmp_path)
    assert current(ready_db, version_table_schema="dbsplit") == (before,)
    assert _relations(ready_db) == {"one", "dbsplit.alembic_version"}


def test_a_server_that_goes_away_at_the_end_is_no_bug(
    ready_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor at the rollback that ends the connection."""

    def heads(connection: Connection, _table: object) -> tuple[str, ...]:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with psycopg.connect(ready_db, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        return ()

    render("shop", _schema(), DIGEST, tmp_path)
    monkeypatch.setattr(migrations, "_heads", heads)
    with pytest.raises(psycopg.OperationalError):
        _up(ready_db, tmp_path)


def test_a_database_that_was_made_by_other_revisions_is_refused(
    ready_db: str, tmp_path: Path
) -> None:
    render("shop", _schema(), DIGEST, tmp_path)
    _up(ready_db, tmp_path)
    render("shop", _schema(), "the plan has changed", tmp_path)
    with pytest.raises(NotReady, match="don't fit"):
        _up(ready_db, tmp_path)


def test_a_lock_is_not_waited_for_without_end(
    ready_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 100)
    render("shop", _schema(), DIGEST, tmp_path)
    before, _ = revision_ids("shop", DIGEST)
    _up(ready_db, tmp_path, before)
    with psycopg.connect(ready_db) as conn:
        conn.execute("LOCK TABLE kept")
        begun = time.monotonic()
        with pytest.raises(NotReady, match="lock timeout"):
            _up(ready_db, tmp_path)
        assert time.monotonic() - begun < 5
    with psycopg.connect(ready_db) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [migrations._ADVISORY_LOCK])
        with pytest.raises(NotReady, match="another run"):
            _up(ready_db, tmp_path)


def test_nothing_is_printed_and_no_logger_is_touched(
    ready_db: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (root.level, tuple(root.handlers), logging.getLogger("alembic").level)
    render("shop", _schema(), DIGEST, tmp_path)
    _up(ready_db, tmp_path)
    assert (root.level, tuple(root.handlers), logging.getLogger("alembic").level) == before
    assert capfd.readouterr() == ("", "")


def _relations(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT oid::regclass::text FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace,"
            " 'dbsplit'::regnamespace)"
        )
        return {name for (name,) in rows}
