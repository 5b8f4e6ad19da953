# ruff: noqa: S608 -- all of the SQL is the tests' own
"""A refresh that was begun and has not ended: with which a stream goes on, and with which not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plans.errors import NotReady, PlanInvalid, SplitError, StreamBroken
from tests.following import DEADLINE_S, Following, following
from toolkit import locks
from toolkit.evolving import follow, is_to_be_carried
from toolkit.prepared import RefreshBegun
from toolkit.refresh import refresh
from toolkit.refresh_edits import Answers
from toolkit.refresh_run import carry_out
from toolkit.servers import Server

TABLES = (
    "changed", "overtaken", "undone", "mine", "plain", "aged", "halved", "running",
    "asked", "besides", "again",
)  # fmt: skip
SCHEMA = "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, v text, w text); INSERT INTO {name} VALUES (1, 'v');"
    for name in TABLES
)
PLAN = (
    "".join(f"{name}: a\n" for name in TABLES if name != "halved")
    + "halved: {owner: a, drop: [w]}\n"
)
DDL = "ddl: {added_columns: carry, dropped_columns: stop}\n"


@pytest.fixture(scope="module")
def databases(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Following]:
    directory = tmp_path_factory.mktemp("by_itself")
    with following(source_server, target_server, directory, tables=PLAN) as one:
        one.execute("CREATE SCHEMA odd", SCHEMA)
        with one.path.open("a") as plan:
            plan.write(DDL)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def say(_step: str, _details: object) -> None:
    """Nobody listens."""


def followed(databases: Following) -> list[str]:
    """Follow until all is applied, as the verb does; what it has said."""
    said: list[str] = []
    stop = threading.Event()
    alarm = threading.Timer(DEADLINE_S, stop.set)
    alarm.start()
    try:
        follow(
            databases.path,
            stop=stop,
            until_caught_up=True,
            report=lambda _p: None,
            say=lambda step, _details: said.append(step),
        )
    finally:
        alarm.cancel()
    assert not stop.is_set()
    return said


@contextmanager
def dies(
    where: str = "toolkit.refresh.carry_out", error: type[SplitError] = NotReady
) -> Iterator[None]:
    """What was begun is noted, and goes no further."""

    def breaks(*_: Any, **__: Any) -> None:
        raise error("its process dies here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, breaks)
        with pytest.raises(SplitError, match="its process dies here"):
            yield


def begun_by_stream(databases: Following) -> None:
    with dies():
        followed(databases)
    assert is_begun(databases)


def is_begun(databases: Following) -> bool:
    query = "SELECT settings ? 'refreshing' FROM dbsplit.split"
    return databases.rows("source", query) == [(True,)]


def is_left_to_a_person(databases: Following) -> None:
    with pytest.raises(RefreshBegun, match="begun and has not ended") as caught:
        followed(databases)
    assert (caught.value.exit_code, "dbsplit plan refresh" in caught.value.hint) == (4, True)
    assert is_begun(databases)


def same(databases: Following, table: str) -> None:
    query = f"SELECT * FROM {table} ORDER BY 1"
    assert databases.rows("a", query) == databases.rows("source", query)


def edit(databases: Following, old: str, new: str) -> None:
    text = databases.path.read_text()
    assert old in text
    databases.path.write_text(text.replace(old, new))


def test_a_stream_goes_on_with_what_it_has_begun(databases: Following) -> None:
    databases.execute("ALTER TABLE changed ADD x int DEFAULT 1", "INSERT INTO changed VALUES (2)")
    begun_by_stream(databases)
    assert is_to_be_carried(databases.path), "prepare and copy would be in the way"
    assert "refresh goes on" in followed(databases)
    same(databases, "changed")
    assert not is_begun(databases)
    assert not is_to_be_carried(databases.path)


def test_the_plan_of_now_decides_and_not_that_of_the_beginning(databases: Following) -> None:
    databases.execute("ALTER TABLE changed ADD y int DEFAULT 2")
    begun_by_stream(databases)
    edit(databases, "added_columns: carry", "added_columns: stop")
    is_left_to_a_person(databases)
    edit(databases, "added_columns: stop", "added_columns: carry")
    followed(databases)
    same(databases, "changed")


def test_a_change_since_then_that_the_plan_stops_at_is_not_taken_in(databases: Following) -> None:
    databases.execute("ALTER TABLE overtaken ADD x int DEFAULT 1")
    begun_by_stream(databases)
    databases.execute("ALTER TABLE overtaken DROP w")
    with pytest.raises(StreamBroken, match="overtaken has lost column w") as caught:
        followed(databases)
    assert "With ddl.dropped_columns: carry the stream does so by itself" in caught.value.hint
    assert databases.rows("a", "SELECT count(w) FROM overtaken") == [(0,)], "it is there still"
    with dies():  # a person takes it in, and then it is the person's
        refresh(databases.path, Answers(), say)
    is_left_to_a_person(databases)
    done = refresh(databases.path, Answers(), say)
    assert "table public.overtaken has lost column w" in done.changes
    followed(databases)
    same(databases, "overtaken")


def test_a_change_since_then_that_is_undone_is_no_matter(databases: Following) -> None:
    databases.execute("ALTER TABLE undone ADD x int DEFAULT 1")
    begun_by_stream(databases)
    databases.execute("ALTER TABLE undone RENAME v TO u")
    with pytest.raises(StreamBroken, match="column v renamed to u"):
        followed(databases)
    databases.execute("ALTER TABLE undone RENAME u TO v", "UPDATE undone SET v = 'again'")
    followed(databases)
    same(databases, "undone")


def test_a_change_while_the_stream_carries_another_is_asked_for_too(databases: Following) -> None:
    """It comes after the stream has looked, and before the refresh does."""
    databases.execute("ALTER TABLE running ADD x int DEFAULT 1")
    seen: list[Callable[..., Any]] = []

    def late(*words: Any, **options: Any) -> object:
        if not seen:
            seen.append(refresh)
            databases.execute("ALTER TABLE running DROP w")
        return refresh(*words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.evolving.refresh", late)
        with pytest.raises(StreamBroken, match="running has lost column w"):
            followed(databases)
    assert not is_begun(databases)
    assert refresh(databases.path, Answers(), say).copied == ()
    followed(databases)
    same(databases, "running")


@pytest.mark.parametrize(("at", "row"), [("schema", 71), ("standing", 72), ("copied", 73)])
def test_a_change_that_the_refresh_itself_meets_is_carried_with_it(
    databases: Following, at: str, row: int
) -> None:
    """As the same change is if the stream meets it."""
    databases.execute(f"ALTER TABLE again ADD {at}_1 float DEFAULT random()")
    seen: list[str] = []

    def late(path: Path, answers: Answers, tell: Callable[..., None], **options: Any) -> object:
        def told(step: str, details: dict[str, Any]) -> None:
            if step == at and step not in seen:
                seen.append(step)
                databases.execute(
                    f"ALTER TABLE plain ADD {at}_2 int; ALTER TABLE again ADD {at}_2 int",
                    f"INSERT INTO plain (id, {at}_2) VALUES ({row}, 1)",
                    f"INSERT INTO again (id, {at}_2) VALUES ({row}, 1)",
                )
            tell(step, details)

        return refresh(path, answers, told, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.evolving.refresh", late)
        followed(databases)
    assert seen == [at]
    same(databases, "plain")
    same(databases, "again")


def test_what_a_person_has_begun_and_the_plan_carries_the_stream_ends(databases: Following) -> None:
    databases.execute("ALTER TABLE plain ADD x int DEFAULT 1")
    with dies():
        refresh(databases.path, Answers(), say)
    followed(databases)
    same(databases, "plain")


@pytest.mark.parametrize(
    ("number", "answers"),
    [
        (1, Answers(anew=frozenset({"mine"}))),
        (2, Answers(owners={"new_2": "a"})),
        (3, Answers(columns={"mine.x_3": "a"})),
    ],
)
def test_a_person_s_answers_are_a_person_s(
    databases: Following, number: int, answers: Answers
) -> None:
    databases.execute(
        f"CREATE TABLE new_{number} (id int PRIMARY KEY)",
        f"ALTER TABLE mine ADD x_{number} int DEFAULT 1",
    )
    with dies():
        refresh(databases.path, answers, say)
    is_left_to_a_person(databases)
    refresh(databases.path, Answers(), say)
    followed(databases)
    same(databases, "mine")


def test_tables_that_are_named_later_are_copied_too(databases: Following) -> None:
    databases.execute("ALTER TABLE asked ADD x int DEFAULT 1")
    begun_by_stream(databases)
    with pytest.raises(PlanInvalid, match="no table 'nowhere' in the plan"):
        refresh(databases.path, Answers(anew=frozenset({"nowhere"})), say)
    databases.execute_on("a", "DELETE FROM besides")
    with dies():
        refresh(databases.path, Answers(anew=frozenset({"besides"})), say)
    is_left_to_a_person(databases)  # who may be told by `ddl.changed_columns`
    done = refresh(databases.path, Answers(), say)
    assert done.copied == ("a:public.besides",)
    assert "table public.asked has a new column x (integer)" in done.changes
    followed(databases)
    same(databases, "asked")
    same(databases, "besides")


def test_a_table_on_which_a_refresh_broke_is_copied_once_more_when_it_is_named(
    databases: Following,
) -> None:
    """What it cannot go on with may be behind the copy that it has made."""
    anew, steps = Answers(anew=frozenset({"besides"})), list[str]()

    def note(step: str, _details: object) -> None:
        steps.append(step)

    with dies("toolkit.refresh_run._catch_up"):
        refresh(databases.path, anew, note)
    with dies("toolkit.refresh_run._catch_up", StreamBroken):
        refresh(databases.path, anew, note)
    assert steps.count("copied") == 1, "the same command goes on after a crash"
    with dies("toolkit.refresh_run._catch_up"):
        refresh(databases.path, anew, note)
    assert steps.count("copied") == 2
    refresh(databases.path, anew, note)
    assert steps.count("copied") == 2
    followed(databases)
    same(databases, "besides")


@pytest.mark.parametrize(
    "others", [Answers(owners={"later": "b"}), Answers(columns={"asked.more": "drop"})]
)
def test_answers_that_a_refresh_cannot_take_up_any_more_are_refused(
    databases: Following, others: Answers
) -> None:
    databases.execute(
        "CREATE TABLE IF NOT EXISTS later (id int PRIMARY KEY)",
        "ALTER TABLE asked ADD IF NOT EXISTS more int DEFAULT 1",
    )
    answers = Answers(owners={"later": "a"}, columns={"asked.more": "a"})
    with dies():
        refresh(databases.path, answers, say)
    with pytest.raises(PlanInvalid, match="its plan does not say") as refused:
        refresh(databases.path, others, say)
    assert "dbsplit plan refresh" in refused.value.hint
    assert is_begun(databases)
    refresh(databases.path, answers, say)
    followed(databases)
    same(databases, "later")
    databases.execute("DROP TABLE later; ALTER TABLE asked DROP more")
    refresh(databases.path, Answers(), say)
    followed(databases)
    same(databases, "asked")


def test_a_table_that_a_person_has_written_into_the_plan_is_an_answer(databases: Following) -> None:
    databases.execute("CREATE TABLE written (id int PRIMARY KEY)")
    edit(databases, "  plain: a\n", "  plain: a\n  written: a\n")
    with dies():
        refresh(databases.path, Answers(), say)
    is_left_to_a_person(databases)
    refresh(databases.path, Answers(), say)
    followed(databases)
    same(databases, "written")


def test_what_an_older_version_has_begun_is_a_person_s(databases: Following) -> None:
    databases.execute("ALTER TABLE aged ADD x int DEFAULT 1")
    begun_by_stream(databases)
    databases.execute(
        "UPDATE dbsplit.split SET settings = settings #- '{refreshing,under}'"
        " #- '{refreshing,edits}' #- '{refreshing,edited}'"
    )
    is_left_to_a_person(databases)
    assert refresh(databases.path, Answers(), say).changes
    followed(databases)
    same(databases, "aged")


def test_a_plan_that_was_not_written_any_more_is_written_then(databases: Following) -> None:
    edit(databases, "dropped_columns: stop", "dropped_columns: carry")
    before = databases.path.read_text()
    databases.execute("ALTER TABLE halved DROP w", "INSERT INTO halved VALUES (7, 'v')")
    with dies("toolkit.refresh.as_begun"):
        followed(databases)
    assert databases.path.read_text() == before
    would = refresh(databases.path, Answers(), say, dry_run=True)
    assert would.edits == ("halved.w is taken out",)
    assert databases.path.read_text() == before
    followed(databases)
    assert "halved: {owner: a}\n" in databases.path.read_text()
    same(databases, "halved")
    edit(databases, "dropped_columns: carry", "dropped_columns: stop")


def test_a_refresh_that_runs_is_not_taken_away_from_whoever_runs_it(databases: Following) -> None:
    databases.execute("ALTER TABLE plain ADD running int DEFAULT 1")
    begun_by_stream(databases)
    with (
        locks.sole_runner(databases.source, "traps", locks.SETUP),
        pytest.raises(NotReady, match="is running already"),
    ):
        followed(databases)
    followed(databases)
    same(databases, "plain")


def test_a_refresh_that_ends_while_the_stream_looks_is_no_matter(databases: Following) -> None:
    databases.execute("ALTER TABLE plain ADD ended int DEFAULT 1")
    begun_by_stream(databases)
    told: list[RefreshBegun] = []
    real = RefreshBegun.of

    def ended(plan: Any) -> RefreshBegun:
        told.append(real(plan))
        refresh(databases.path, Answers(), say)
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RefreshBegun, "of", ended)
        followed(databases)
    assert len(told) == 1
    same(databases, "plain")


def test_a_connection_that_breaks_meanwhile_is_made_again(databases: Following) -> None:
    databases.execute("ALTER TABLE plain ADD cut int DEFAULT 1")
    begun_by_stream(databases)
    began: list[bool] = []

    def cut_at_first(path: Path, work: Any, tell: Any) -> None:
        began.append(True)
        tell("schema", {})
        if len(began) == 1:
            databases.rows("source", "SELECT pg_terminate_backend(pg_backend_pid())")
        carry_out(path, work, tell)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.refresh.carry_out", cut_at_first)
        assert "reconnecting" in followed(databases)
    assert len(began) == 2
    same(databases, "plain")
