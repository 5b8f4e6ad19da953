"""A table that inherits from one that is followed: what a refresh asks for is what helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plans.errors import PlanInvalid
from tests.following import Following, following
from toolkit.cli.refresh import refreshed_text
from toolkit.prepared import NoOwner
from toolkit.refresh import Refreshed, refresh
from toolkit.refresh_edits import Answers
from toolkit.servers import Server
from toolkit.status import read_status

SCHEMA = """
CREATE TABLE base (id int PRIMARY KEY, v text);
INSERT INTO base VALUES (1, 'one');
CREATE TABLE behind (id int PRIMARY KEY);
"""
PLAN = "base: a\nbehind: drop\n"


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables=PLAN) as one:
        one.execute("CREATE SCHEMA odd", SCHEMA)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def refreshed(databases: Following, **owners: str) -> Refreshed:
    return refresh(databases.path, Answers(owners=owners), lambda _step, _details: None)


def test_an_heir_of_a_followed_table_is_taken_once_it_inherits_no_more(
    databases: Following,
) -> None:
    databases.execute(
        "CREATE TABLE heir () INHERITS (base)", "ALTER TABLE heir ADD PRIMARY KEY(id)"
    )
    before = databases.path.read_text()
    done = refreshed(databases)
    assert done.unassigned == ("public.heir",)
    said = refreshed_text("refreshed", done, databases.path)
    assert "NO INHERIT" in said
    assert "--owner" not in said
    gates = read_status(databases.open()).gates
    remedies = [one.remedy for one in gates if one.gate == "schema" and not one.ok]
    assert remedies
    assert all("NO INHERIT" in one and "--owner" not in one for one in remedies)
    with pytest.raises(PlanInvalid) as refused:
        refreshed(databases, heir="a")
    assert "NO INHERIT" in f"{refused.value} {refused.value.hint}"
    assert databases.path.read_text() == before
    databases.execute("INSERT INTO heir VALUES (2, 'two')", "ALTER TABLE heir NO INHERIT base")
    refreshed(databases, heir="a")
    databases.stream()
    assert databases.rows("a", "SELECT * FROM ONLY base") == [(1, "one")]
    assert databases.rows("a", "SELECT * FROM heir") == [(2, "two")]
    assert all(one.state == "equal" for one in databases.validated().values())


def test_whoever_asks_for_an_owner_says_that_an_heir_cannot_have_one(
    databases: Following,
) -> None:
    databases.execute("CREATE TABLE heir () INHERITS (base)")
    text = databases.path.read_text()
    databases.path.write_text(text + "ddl: {new_tables: stop}\n")
    with pytest.raises(NoOwner) as refused:
        databases.open()
    assert 'ALTER TABLE "public"."heir" NO INHERIT "public"."base"' in str(refused.value)
    assert "--owner" not in refused.value.hint
    assert "inherits from public.base" in str(refused.value)
    databases.execute("ALTER TABLE heir NO INHERIT base")
    with pytest.raises(NoOwner) as refused:
        databases.open()
    assert "NO INHERIT" not in str(refused.value)
    assert "--owner public.heir=SERVICE" in refused.value.hint


def test_an_heir_of_a_table_that_stays_behind_stays_behind(databases: Following) -> None:
    databases.execute("CREATE TABLE kid () INHERITS (behind)")
    refreshed(databases, kid="drop")
    assert "kid: drop" in databases.path.read_text()
    databases.stream()
