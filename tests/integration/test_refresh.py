# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The source's schema changes while the split follows it, and the split goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdc.watch
from cdc.connect import connect
from plans.errors import NotReady, PlanInvalid, StreamBroken
from tests.following import DEADLINE_S, Following, following
from tests.verbs import Verbs
from toolkit import locks
from toolkit.abort import abort
from toolkit.evolving import follow
from toolkit.gates import Gate
from toolkit.opened import open_split
from toolkit.refresh import Refreshed, refresh
from toolkit.refresh_edits import Answers
from toolkit.refresh_run import carry_out
from toolkit.refresh_work import Work
from toolkit.say import Say
from toolkit.servers import Server
from toolkit.status import read_status

TABLES = (
    "added", "volatile", "dropped", "renamed", "widened", "retyped", "rekeyed", "nulls",
    "manual", "chained", "remade", "doomed", "moved", "ignored", "plain",
)  # fmt: skip
SCHEMA = "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, v varchar(9), n int NOT NULL DEFAULT 1);"
    f"INSERT INTO {name} VALUES (1, 'one'), (2, 'two'), (3, 'three');"
    for name in TABLES
)
MORE = """
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'calm');
CREATE TYPE temper AS ENUM ('mild', 'hot');
CREATE TABLE tempers (id int PRIMARY KEY, t temper);
INSERT INTO tempers VALUES (1, 'mild'), (2, 'mild');
CREATE TYPE hue AS ENUM ('red', 'blue');
CREATE TABLE hues (id int PRIMARY KEY, h hue NOT NULL);
INSERT INTO hues VALUES (1, 'red'), (2, 'blue');
CREATE TYPE tint AS ENUM ('pale', 'dark');
CREATE TABLE tints (id int PRIMARY KEY, t tint NOT NULL);
INSERT INTO tints VALUES (1, 'pale'), (2, 'dark');
CREATE TYPE spot AS (x int, y int);
CREATE TYPE span AS (a spot, b spot);
CREATE TABLE spots (id int PRIMARY KEY, s spot, more span[]);
INSERT INTO spots VALUES (1, (1, 2), NULL), (2, (3, 4), ARRAY[((5, 6), (7, 8))]::span[]);
CREATE DOMAIN short AS text CONSTRAINT short_check CHECK (length(VALUE) < 5);
CREATE TABLE hung (id int PRIMARY KEY, s short, n int DEFAULT 4 CONSTRAINT positive CHECK (n > 0),
    code int CONSTRAINT one_code UNIQUE, CONSTRAINT bounded CHECK (n < 500));
CREATE INDEX hung_n ON hung (n);
INSERT INTO hung VALUES (1, 'one', 1, 1);
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
INSERT INTO parted SELECT n, 'v' FROM generate_series(1, 19) n;
CREATE TABLE halves (id int PRIMARY KEY, one text, two text);
INSERT INTO halves VALUES (1, 'left', 'right');
CREATE TABLE traded (id int PRIMARY KEY, one text, two text);
INSERT INTO traded VALUES (1, 'left', 'right'), (2, 'l', 'r');
CREATE TABLE wandering (id int PRIMARY KEY);
CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
INSERT INTO parents VALUES (1, 'a'), (2, 'b');
INSERT INTO children VALUES (1, 1), (2, 2);
"""
PLAN = (
    "".join(f"{name}: a  # of a\n" for name in TABLES)
    + """\
moods: a
wandering: a
tempers: a
hues:
  split_rows:
    a: "h = 'red'"
    b: "h <> 'red'"
tints:
  split_rows:
    a: "t::text = 'pale'"
    b: "t::text <> 'pale'"
hung: a
spots: {owner: a, reference_in: [b]}
parted: a
halves:
  split_columns:
    a: [id, one]
    b: [id, two]  # the right one
traded:
  split_columns:
    a: [id, one]
    b: [id, two]
parents: {owner: a, reference_in: [b]}
children: a
"""
)


@pytest.fixture(scope="module")
def databases(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Following]:
    with (
        pytest.MonkeyPatch.context() as patch,
        following(
            source_server, target_server, tmp_path_factory.mktemp("refresh"), tables=PLAN
        ) as one,
    ):
        patch.setattr(cdc.watch, "CHECK_S", 0.2)
        one.execute("CREATE SCHEMA odd", SCHEMA, MORE)
        one.prepare()
        one.copy()
        one.stream()
        yield one


def say(_step: str, _details: object) -> None:
    """Nobody listens."""


def refreshed(databases: Following, answers: Answers | None = None) -> Refreshed:
    return refresh(databases.path, answers or Answers(), say)


def followed(databases: Following) -> None:
    """Follow until all is applied, as the verb does, carrying what the plan says."""
    stop = threading.Event()
    alarm = threading.Timer(DEADLINE_S, stop.set)
    alarm.start()
    try:
        follow(databases.path, stop=stop, until_caught_up=True, report=lambda _p: None, say=say)
    finally:
        alarm.cancel()
    assert not stop.is_set()


def stops(databases: Following, *says: str) -> StreamBroken:
    with pytest.raises(StreamBroken) as caught:
        followed(databases)
    for one in says:
        assert one in str(caught.value)
    assert "dbsplit plan refresh" in caught.value.hint
    return caught.value


def same(databases: Following, table: str, place: str = "a", columns: str = "*") -> None:
    query = f"SELECT {columns} FROM {table} ORDER BY 1"
    assert databases.rows(place, query) == databases.rows("source", query)


def proven(databases: Following) -> None:
    with databases.live():
        results = databases.validated()
    assert {result.state for result in results.values()} == {"equal"}, results


def test_an_added_column_stops_the_stream_and_a_refresh_carries_it(databases: Following) -> None:
    databases.execute(
        "UPDATE added SET v = 'before' WHERE id = 1; INSERT INTO added VALUES (4, 'before')",
        "ALTER TABLE added ADD extra numeric(6, 2) NOT NULL DEFAULT 1.5",
        "ALTER TABLE added ALTER extra SET DEFAULT 7",
        """ALTER TABLE added ADD words text[] NOT NULL DEFAULT '{a,"b c",NULL}',
               ADD felt mood[] NOT NULL DEFAULT '{calm}', ADD span span DEFAULT ((1, 2), NULL)""",
        "INSERT INTO added VALUES (5, 'after'); UPDATE added SET extra = 3 WHERE id = 2",
    )
    error = stops(databases, "table public.added has a new column extra")
    assert "ddl.added_columns: carry" in error.hint
    assert databases.rows("a", "SELECT count(*) FROM added WHERE id = 5") == [(0,)]
    done = refreshed(databases)
    assert done.changes == tuple(
        f"table public.added has a new column {one}"
        for one in ("extra (numeric(6,2))", "words (text[])", "felt (public.mood[])",
                    "span (public.span)")
    )  # fmt: skip
    assert done.copied == ()
    followed(databases)
    same(databases, "added")
    # A row of before, that came after the target's column was there, has what rows had then.
    (found,) = databases.rows("a", "SELECT extra, words, felt::text FROM added WHERE id = 4")
    assert found == (1.5, ["a", "b c", None], "{calm}")
    databases.execute_on("a", "BEGIN; INSERT INTO added VALUES (9, 'own'); ROLLBACK")
    assert refreshed(databases) == Refreshed(statements={"a": [], "b": [], "hub": []})


def test_no_refresh_begins_while_a_move_is_under_way(databases: Following) -> None:
    """The move goes by the tables as they were, and proves keys that nobody would note."""
    before = databases.path.read_text()
    with (
        locks.sole_runner(databases.source, "traps", locks.CUTOVER),
        pytest.raises(NotReady, match="`dbsplit cutover`, `rollback` or repair of split traps"),
    ):
        refreshed(databases, Answers(anew=frozenset({"plain"})))
    assert databases.path.read_text() == before
    assert databases.rows("source", "SELECT settings ? 'refreshing' FROM dbsplit.split") == [
        (False,)
    ]


def test_what_the_rows_of_before_hold_is_unknown_so_the_table_is_copied(
    databases: Following,
) -> None:
    databases.execute(
        "ALTER TABLE volatile ADD extra double precision DEFAULT random()",
        "INSERT INTO volatile VALUES (4, 'after')",
        "INSERT INTO plain VALUES (4, 'meanwhile')",
    )
    stops(databases, "table public.volatile has a new column extra")
    done = refreshed(databases)
    assert done.copied == ("a:public.volatile",)
    followed(databases)
    same(databases, "volatile")
    same(databases, "plain")


def test_a_dropped_column_is_dropped(databases: Following) -> None:
    databases.execute(
        "INSERT INTO dropped VALUES (4, 'before', 2)",
        "ALTER TABLE dropped DROP n",
        "INSERT INTO dropped VALUES (5, 'after'); DELETE FROM dropped WHERE id = 1",
    )
    stops(databases, "public.dropped has lost column n")
    assert refreshed(databases).copied == ()
    followed(databases)
    same(databases, "dropped")


def test_a_renamed_column_is_renamed_and_not_copied(databases: Following) -> None:
    databases.execute(
        "INSERT INTO renamed VALUES (4, 'before')",
        "ALTER TABLE renamed RENAME v TO w",
        "UPDATE renamed SET w = 'after' WHERE id = 4",
    )
    stops(databases, "public.renamed has column v renamed to w")
    assert refreshed(databases).copied == ()
    followed(databases)
    same(databases, "renamed")


def test_a_renamed_key_column_still_tells_rows_apart(databases: Following) -> None:
    databases.execute(
        "UPDATE moods SET m = 'wild'",
        "ALTER TABLE moods RENAME id TO key",
        "INSERT INTO moods VALUES (2, 'calm'); UPDATE moods SET m = 'calm' WHERE key = 1",
    )
    stops(databases, "public.moods has column id renamed to key")
    assert refreshed(databases).copied == ()
    followed(databases)
    same(databases, "moods")


def test_a_wider_text_is_no_new_copy(databases: Following) -> None:
    databases.execute(
        "UPDATE widened SET v = 'before'",
        "ALTER TABLE widened ALTER v TYPE varchar(40)",
        "INSERT INTO widened VALUES (4, 'a value of more than nine')",
    )
    stops(databases, "public.widened has column v as character varying(40)")
    assert refreshed(databases).copied == ()
    followed(databases)
    same(databases, "widened")


def test_another_type_is_a_new_copy_of_that_table(databases: Following) -> None:
    databases.execute(
        "UPDATE retyped SET n = 5",
        "ALTER TABLE retyped ALTER n TYPE text USING 'n' || n",
        "UPDATE retyped SET n = 'after' WHERE id = 2",
    )
    stops(databases, "public.retyped has column n as text instead of integer")
    assert refreshed(databases).copied == ("a:public.retyped",)
    followed(databases)
    same(databases, "retyped")


@pytest.mark.long
def test_a_wider_type_with_other_values_is_a_new_copy(databases: Following) -> None:
    """And its copy waits as long as an operator wants it to."""
    databases.execute("ALTER TABLE retyped ALTER v TYPE text USING v || '!'")
    stops(databases, "public.retyped has column v as text")
    verbs = Verbs(databases.path, {})
    verbs("throttle", "--pause")
    done: list[Refreshed] = []
    refreshing = threading.Thread(target=lambda: done.append(refreshed(databases)))
    refreshing.start()
    try:
        refreshing.join(5)
        assert not done
    finally:
        verbs("throttle", "--resume")
        refreshing.join(DEADLINE_S)
    assert done[0].copied == ("a:public.retyped",)
    followed(databases)
    same(databases, "retyped")


def test_a_column_that_only_a_service_has_closes_a_gate(databases: Following) -> None:
    databases.execute_on("a", "ALTER TABLE nulls ADD own int")
    gate = {gate.gate: gate for gate in status_gates(databases)}["schema"]
    databases.execute_on("a", "ALTER TABLE nulls DROP own")
    assert not gate.ok
    assert "a:public.nulls.own is not on the source" in gate.observed


def test_a_column_that_came_and_went_again_is_passed_over(databases: Following) -> None:
    """The log has rows with it; undoing DDL is a way out by itself."""
    databases.execute(
        "ALTER TABLE widened ADD brief int DEFAULT 1",
        "INSERT INTO widened VALUES (20, 'x', 1, 2); UPDATE widened SET brief = 3 WHERE id = 1",
    )
    stops(databases, "public.widened has a new column brief")
    databases.execute("ALTER TABLE widened DROP brief", "INSERT INTO widened VALUES (21, 'y')")
    followed(databases)
    same(databases, "widened")


def test_another_key_is_a_new_copy_of_that_table(databases: Following) -> None:
    databases.execute(
        "INSERT INTO rekeyed VALUES (4, 'before', 4)",
        "UPDATE rekeyed SET n = id",
        "ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (n)",
        "UPDATE rekeyed SET id = 7 WHERE n = 1",
    )
    stops(databases, "public.rekeyed has the key (n) instead of (id)")
    assert refreshed(databases).copied == ("a:public.rekeyed",)
    followed(databases)
    same(databases, "rekeyed", columns="n, id, v")


def test_not_null_comes_when_the_rows_of_before_are_gone(databases: Following) -> None:
    databases.execute(
        "INSERT INTO nulls VALUES (4, NULL); ALTER TABLE nulls ALTER n DROP NOT NULL",
        "UPDATE nulls SET v = 'something'; ALTER TABLE nulls ALTER v SET NOT NULL",
        "INSERT INTO nulls VALUES (5, 'five', NULL)",
    )
    stops(databases, "public.nulls has column v NOT NULL", "column n without NOT NULL")
    assert refreshed(databases).copied == ()
    followed(databases)
    same(databases, "nulls")


def test_what_was_done_by_hand_on_both_sides_is_accepted(databases: Following) -> None:
    databases.execute("ALTER TABLE manual ADD hand int", "INSERT INTO manual VALUES (4, 'x', 1, 4)")
    databases.execute_on("a", "ALTER TABLE manual ADD hand int")
    stops(databases, "public.manual has a new column hand")
    done = refreshed(databases)
    assert done.statements["a"] == []
    followed(databases)
    same(databases, "manual")


def test_one_change_after_another_is_followed_through(databases: Following) -> None:
    """The log holds rows of three shapes, and the target has the last one already."""
    databases.execute(
        "INSERT INTO chained VALUES (4, 'first', 4)",
        "ALTER TABLE chained ADD x int DEFAULT 8",
        "INSERT INTO chained VALUES (5, 'second', 5, 5)",
    )
    refreshed(databases)
    databases.execute(
        "ALTER TABLE chained RENAME x TO y; ALTER TABLE chained DROP n;"
        " ALTER TABLE chained ADD z text DEFAULT 'zz'",
        "INSERT INTO chained VALUES (6, 'third', 6, 'own')",
    )
    refreshed(databases)
    followed(databases)
    same(databases, "chained")


def test_a_new_partition_is_made_in_the_target_by_itself(databases: Following) -> None:
    databases.execute(
        "CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        "INSERT INTO parted SELECT n, 'new' FROM generate_series(20, 29) n",
    )
    followed(databases)
    same(databases, "parted")
    same(databases, "parted_3")


def test_an_attached_table_brings_its_rows(databases: Following) -> None:
    databases.execute(
        "CREATE TABLE parted_4 (id int NOT NULL, v text)",
        "INSERT INTO parted_4 SELECT n, 'old' FROM generate_series(30, 39) n",
        "ALTER TABLE parted ATTACH PARTITION parted_4 FOR VALUES FROM (30) TO (40)",
        "UPDATE parted SET v = 'after' WHERE id IN (1, 30)",
    )
    followed(databases)
    same(databases, "parted")


@pytest.mark.parametrize(
    ("before", "at_once"),
    [
        ("SELECT", "CREATE TABLE {made}; ALTER TABLE {name} DROP junk; {filled}"),
        ("CREATE TABLE {made}; {filled}", "ALTER TABLE {name} DROP junk"),
        ("CREATE TABLE {made}; {filled}", "ALTER TABLE {name} DROP junk; {renamed}"),
    ],
    ids=["made", "there", "renamed"],
)
def test_a_column_dropped_as_a_table_is_attached_hides_none_of_its_rows(
    databases: Following, request: pytest.FixtureRequest, before: str, at_once: str
) -> None:
    number = ["made", "there", "renamed"].index(request.node.callspec.id)
    name, low = f"junk_{number}", 900 + 10 * number
    texts = {
        "name": name,
        "made": f"{name} (junk int, id int NOT NULL, v text)",
        "filled": f"INSERT INTO {name} (id, v) SELECT n, 'old' FROM"
        f" generate_series({low}, {low + 9}) n",
        "renamed": f"ALTER TABLE {name} RENAME TO {name}_now",
    }
    now = f"{name}_now" if "renamed" in at_once else name
    databases.execute(before.format(**texts))
    databases.execute(
        f"{at_once.format(**texts)}; ALTER TABLE parted ATTACH PARTITION {now}"
        f" FOR VALUES FROM ({low}) TO ({low + 10})",
        f"UPDATE parted SET v = 'after' WHERE id = {low}",
    )
    followed(databases)
    same(databases, "parted")


def test_rows_that_go_to_a_partition_made_and_attached_at_once_are_copied(
    databases: Following,
) -> None:
    """As pg_partman divides a default partition: the log tells that they went, and no more."""
    databases.execute("CREATE TABLE parted_rest PARTITION OF parted DEFAULT")
    databases.execute("INSERT INTO parted SELECT n, 'rest' FROM generate_series(40, 49) n")
    followed(databases)
    databases.execute(
        "CREATE TABLE parted_5 (LIKE parted INCLUDING ALL);"
        " WITH gone AS (DELETE FROM parted_rest WHERE id BETWEEN 40 AND 49 RETURNING *)"
        " INSERT INTO parted_5 SELECT * FROM gone;"
        " ALTER TABLE parted ATTACH PARTITION parted_5 FOR VALUES FROM (40) TO (50)",
        "UPDATE parted SET v = 'after' WHERE id IN (1, 40)",
    )
    followed(databases)
    assert databases.rows("a", "SELECT count(*) FROM parted_5") == [(10,)]
    same(databases, "parted")


def test_a_stream_that_runs_sees_a_table_attached(databases: Following) -> None:
    databases.execute(
        "CREATE TABLE parted_6 (LIKE parted INCLUDING ALL) PARTITION BY RANGE (id);"
        " CREATE TABLE parted_60 PARTITION OF parted_6 FOR VALUES FROM (50) TO (60);"
        " INSERT INTO parted_6 SELECT n, 'old' FROM generate_series(50, 59) n"
    )
    with databases.live() as live:
        databases.execute(
            "ALTER TABLE parted ATTACH PARTITION parted_6 FOR VALUES FROM (50) TO (60)"
        )
        assert "partition public.parted_60, which had rows before" in str(live.broken())
    followed(databases)
    assert databases.rows("a", "SELECT count(*) FROM parted_60") == [(10,)]
    same(databases, "parted")
    with databases.live():
        pass  # it is not what has been carried that is seen


def test_the_rows_of_a_partition_that_was_elsewhere_for_a_moment_are_copied(
    databases: Following,
) -> None:
    """What is written to it meanwhile is in no log that the stream reads."""
    databases.execute(
        "ALTER TABLE parted DETACH PARTITION parted_1; UPDATE parted_1 SET v = 'elsewhere';"
        " ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (0) TO (10)"
    )
    followed(databases)
    assert databases.rows("a", "SELECT DISTINCT v FROM parted_1") == [("elsewhere",)]
    same(databases, "parted")


def test_a_detached_partition_stops_and_a_refresh_drops_it(databases: Following) -> None:
    databases.execute(
        "UPDATE parted SET v = 'last' WHERE id = 12",
        "ALTER TABLE parted DETACH PARTITION parted_2; DROP TABLE parted_2",
        "UPDATE parted SET v = 'on' WHERE id = 3",
    )
    stops(databases, "public.parted has lost partition public.parted_2")
    refreshed(databases)
    followed(databases)
    same(databases, "parted")


def test_a_new_value_of_an_enum_is_carried(databases: Following) -> None:
    databases.execute(
        "ALTER TYPE mood ADD VALUE 'gay' BEFORE 'wild'",
        "INSERT INTO moods VALUES (7, 'gay')",
    )
    followed(databases)
    same(databases, "moods")
    assert databases.rows("a", "SELECT enum_range(NULL::mood)::text") == [("{calm,gay,wild}",)]


def test_a_renamed_value_of_an_enum_is_a_new_copy_of_its_tables(databases: Following) -> None:
    databases.execute(
        "UPDATE tempers SET t = 'hot' WHERE id = 2",
        "ALTER TYPE temper RENAME VALUE 'hot' TO 'fierce'",
        "INSERT INTO tempers VALUES (8, 'fierce')",
    )
    stops(databases, "type public.temper has the value 'hot' renamed to 'fierce'")
    assert refreshed(databases).copied == ("a:public.tempers",)
    followed(databases)
    same(databases, "tempers")
    assert databases.rows("a", "SELECT enum_range(NULL::temper)::text") == [("{mild,fierce}",)]


def test_an_expression_that_the_source_takes_no_more_is_told_before_anything_is_done(
    databases: Following,
) -> None:
    plan = databases.path.read_text()
    databases.execute(
        "ALTER TYPE hue RENAME VALUE 'red' TO 'crimson'", "INSERT INTO hues VALUES (3, 'crimson')"
    )
    stops(databases, "type public.hue has the value 'red' renamed to 'crimson'")
    with pytest.raises(PlanInvalid, match=r'plan\.yaml:\d+:\d+: .*invalid input value .* "red"'):
        refreshed(databases)
    databases.path.write_text(plan.replace("'red'", "'crimson'"))  # nothing was begun
    assert refreshed(databases).copied == ("a:public.hues", "b:public.hues")
    followed(databases)
    assert databases.rows("a", "SELECT * FROM hues ORDER BY 1") == [(1, "crimson"), (3, "crimson")]
    assert databases.rows("b", "SELECT * FROM hues") == [(2, "blue")]


def test_a_text_that_was_a_value_s_name_is_told_before_its_rows_change_their_owner(
    databases: Following,
) -> None:
    plan = databases.path.read_text()
    databases.execute("ALTER TYPE tint RENAME VALUE 'pale' TO 'light'")
    stops(databases, "type public.tint has the value 'pale' renamed to 'light'")
    with pytest.raises(PlanInvalid, match=r"plan\.yaml:\d+:\d+: .*'pale', which is called 'light'"):
        refreshed(databases)
    assert databases.rows("a", "SELECT id FROM tints") == [(1,)], "nothing was begun"
    databases.path.write_text(plan.replace("t::text = 'pale'", "t::text IN ('pale', 'light')"))
    with pytest.raises(PlanInvalid, match=r"b:public\.tints"):
        refreshed(databases)
    databases.path.write_text(plan.replace("'pale'", "'light'"))
    assert refreshed(databases).copied == ("a:public.tints", "b:public.tints")
    followed(databases)
    assert databases.rows("a", "SELECT * FROM tints") == [(1, "light")]
    assert databases.rows("b", "SELECT * FROM tints") == [(2, "dark")]


def test_the_verb_goes_on_when_its_connection_breaks(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases.execute("ALTER TABLE plain ADD cut_at int")
    began: list[bool] = []

    def cut_at_first(path: Path, work: Work, say: Say) -> None:
        began.append(True)
        say("schema", {})
        if len(began) == 1:
            databases.rows("source", "SELECT pg_terminate_backend(pg_backend_pid())")
        carry_out(path, work, say)

    monkeypatch.setattr("toolkit.refresh.carry_out", cut_at_first)
    done = Verbs(databases.path, {}).json("plan", "refresh")
    assert done["outcome"] == "refreshed"
    assert "public.plain" in done["changes"][0]
    assert len(began) == 2
    followed(databases)
    same(databases, "plain")


@pytest.mark.long
def test_a_refresh_that_cannot_catch_up_in_time_is_not_done(databases: Following) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdc.follow.REACH_S_MAX", -1.0)
        with pytest.raises(NotReady, match="has not come to"):
            refreshed(databases, Answers(anew=frozenset({"plain"})))
    assert refreshed(databases).copied == ("a:public.plain",)
    followed(databases)
    same(databases, "plain")


def test_a_plan_that_was_edited_while_a_refresh_is_under_way_is_not_gone_on_with(
    databases: Following,
) -> None:
    """What was begun with one text, and ended with another, no later refresh would take."""
    databases.execute("ALTER TABLE plain ADD latest int")
    plan = databases.path.read_text()
    with pytest.MonkeyPatch.context() as patch:

        def breaks(*_: object) -> None:
            raise NotReady("the server is away")

        patch.setattr("toolkit.refresh.carry_out", breaks)
        with pytest.raises(NotReady):
            refreshed(databases)
    begun = databases.path.read_text()
    databases.path.write_text(begun.replace("'crimson'", "'blue'").replace("<> 'blue'", "= 'red'"))
    with pytest.raises(PlanInvalid, match=r"when the refresh of split .* was begun"):
        refreshed(databases)
    databases.path.write_text(begun)
    assert "public.plain" in refreshed(databases).changes[0]
    assert begun == plan
    followed(databases)
    same(databases, "plain")


@pytest.mark.long
@pytest.mark.release
def test_a_composite_type_with_other_attributes_is_a_new_copy_of_its_tables(
    databases: Following,
) -> None:
    """A service's own table with the type keeps its rows."""
    databases.execute_on("a", "CREATE TABLE own (s spot); INSERT INTO own VALUES ((1, 2))")
    databases.execute(
        "UPDATE spots SET s.x = 9 WHERE id = 1",
        "ALTER TYPE spot ADD ATTRIBUTE z text",
        "INSERT INTO spots VALUES (3, (1, 2, 'z'), ARRAY[((5, 6, 'a'), NULL)]::span[])",
    )
    stops(databases, "type public.spot has the attributes (x integer, y integer, z text)")
    copied = {"a:public.spots", "b:public.spots:reference"}  # and others that have come to have it
    assert copied <= set(refreshed(databases).copied)
    databases.execute("UPDATE spots SET s.z = 'after' WHERE id = 2")
    followed(databases)
    same(databases, "spots")
    databases.execute("ALTER TYPE spot RENAME ATTRIBUTE x TO w")
    assert copied <= set(refreshed(databases).copied)
    databases.execute("INSERT INTO spots VALUES (4, (5, 6, 'last'), NULL)")
    followed(databases)
    for place in ("a", "b"):
        same(databases, "spots", place)
        same(databases, "spots", place, "id, (s).w, (s).z")
    assert databases.rows("a", "SELECT (s).w, (s).z FROM own") == [(1, None)]
    databases.execute_on("a", "DROP TABLE own")
    assert refreshed(databases).changes == ()


@pytest.mark.long
def test_a_domain_and_what_hangs_on_tables_is_made_as_on_the_source(databases: Following) -> None:
    """What would refuse rows of the source is dropped first, what is new comes last."""
    databases.execute(
        "ALTER DOMAIN short DROP CONSTRAINT short_check;"
        " ALTER DOMAIN short ADD CONSTRAINT other CHECK (VALUE <> 'bad')",
        "ALTER TABLE hung DROP CONSTRAINT positive; ALTER TABLE hung DROP CONSTRAINT one_code;"
        " ALTER TABLE hung ADD CONSTRAINT small CHECK (n < 100); DROP INDEX hung_n;"
        " CREATE INDEX hung_s ON hung (s); ALTER TABLE hung ALTER n SET DEFAULT 5;"
        " ALTER TABLE hung DROP CONSTRAINT bounded;"
        " ALTER TABLE hung ADD CONSTRAINT bounded CHECK (n < 1000)",
        "INSERT INTO hung VALUES (2, 'a longer one', -7, 1), (3, 's', 9, 1)",
    )
    stops(databases, "type public.short has other constraints, or another default")
    done = refreshed(databases)
    assert done.copied == ()
    assert done.kept == {"a": ["DROP INDEX IF EXISTS public.hung_n"]}
    followed(databases)
    same(databases, "hung")
    for query in (CONSTRAINTS, "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef"
                  " WHERE adrelid = 'hung'::regclass ORDER BY 1"):  # fmt: skip
        assert databases.rows("a", query) == databases.rows("source", query)
    assert databases.rows("a", "SELECT to_regclass('hung_s')::text") == [("hung_s",)]
    again = refreshed(databases)
    assert again == Refreshed(statements={"a": [], "b": [], "hub": []})
    databases.execute(  # nothing else is written: no savepoint may be set then
        "ALTER DOMAIN short DROP CONSTRAINT other;"
        " ALTER DOMAIN short ADD CONSTRAINT third CHECK (VALUE <> 'worse')"
    )
    assert refreshed(databases).copied == ()
    assert databases.rows("a", CONSTRAINTS) == databases.rows("source", CONSTRAINTS)


CONSTRAINTS = (
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('c', 'u', 'p')"
    " AND (conrelid = 'hung'::regclass OR contypid = 'short'::regtype) ORDER BY 1"
)


def test_a_new_table_is_ignored_until_somebody_owns_it(databases: Following) -> None:
    databases.execute(
        "CREATE TABLE newcomer (id int PRIMARY KEY, plain int REFERENCES plain)",
        "INSERT INTO newcomer VALUES (1, 1)",
        "UPDATE plain SET v = 'goes on'",
    )
    followed(databases)
    same(databases, "plain")
    gates = {gate.gate: gate for gate in status_gates(databases)}
    assert not gates["schema"].ok
    assert "public.newcomer is new" in gates["schema"].observed
    assert "--owner public.newcomer=SERVICE" in gates["schema"].remedy
    assert refreshed(databases).unassigned == ("public.newcomer",)
    done = refreshed(databases, Answers(owners={"newcomer": "a"}))
    assert done.edits == ("newcomer: a",)
    assert done.copied == ("a:public.newcomer",)
    assert "newcomer: a\n" in databases.path.read_text()
    assert "added: a  # of a" in databases.path.read_text(), "comments are kept"
    databases.execute("INSERT INTO newcomer VALUES (2, 2)")
    followed(databases)
    same(databases, "newcomer")
    assert databases.rows(
        "a", "SELECT count(*) FROM pg_constraint WHERE conrelid = 'newcomer'::regclass"
        " AND contype = 'f'",
    ) == [(1,)]  # fmt: skip


def test_with_stop_a_new_table_ends_the_stream_with_the_remedy(databases: Following) -> None:
    text = databases.path.read_text()
    databases.path.write_text(text + "ddl: {new_tables: stop}\n")
    with databases.live() as live:
        databases.execute("CREATE TABLE stranger (id int PRIMARY KEY)")
        assert "table public.stranger is new" in str(live.broken())
    verbs = Verbs(databases.path, {})
    hint = "--owner public.stranger=SERVICE"
    says = "table public.stranger is new and has no owner"
    verbs.refused("stream", "--until-caught-up", code=7, says=says, hint=hint)
    verbs.refused("validate", code=3, says=says, hint=hint)
    verbs("plan", "refresh", "--owner", "public.stranger=drop")
    verbs("stream", "--until-caught-up")
    databases.path.write_text(databases.path.read_text().replace("ddl: {new_tables: stop}\n", ""))


def status_gates(databases: Following) -> tuple[Gate, ...]:
    return read_status(open_split(databases.path, tolerant=True)).gates


def test_a_dropped_table_goes_with_its_entry(databases: Following) -> None:
    databases.execute("UPDATE doomed SET v = 'last'", "DROP TABLE doomed")
    stops(databases, "table public.doomed is gone")
    refreshed(databases)
    followed(databases)
    assert "doomed" not in databases.path.read_text()
    assert databases.rows("a", "SELECT to_regclass('doomed')") == [(None,)]


@pytest.mark.long
def test_a_table_that_was_made_again_is_copied_and_published(databases: Following) -> None:
    databases.execute(
        "UPDATE remade SET v = 'before'",
        "DROP TABLE remade; CREATE TABLE remade (id int PRIMARY KEY, v varchar(9), n int)",
        "INSERT INTO remade VALUES (7, 'other', 7)",
    )
    stops(databases, "table public.remade was dropped and created again")
    assert refreshed(databases).copied == ("a:public.remade",)
    databases.execute("INSERT INTO remade VALUES (8, 'more', 8)")
    followed(databases)
    same(databases, "remade")


@pytest.mark.long
def test_a_renamed_table_is_copied_under_its_new_name(databases: Following) -> None:
    databases.execute(
        "UPDATE moved SET v = 'before'",
        "ALTER TABLE moved RENAME TO arrived",
        "UPDATE arrived SET v = 'after' WHERE id = 1",
    )
    stops(databases, "table public.moved is renamed to public.arrived")
    assert refreshed(databases).copied == ("a:public.arrived",)
    followed(databases)
    same(databases, "arrived")
    assert databases.rows("a", "SELECT to_regclass('moved')") == [(None,)]


def test_a_table_that_goes_to_another_schema_is_followed_there(databases: Following) -> None:
    databases.execute("CREATE SCHEMA far", "ALTER TABLE wandering SET SCHEMA far")
    stops(databases, "table public.wandering is far.wandering now, in a schema that the plan does")
    with pytest.raises(PlanInvalid, match=r"add far to source\.schemas, or move it back"):
        refreshed(databases)
    databases.execute(
        "ALTER TABLE far.wandering SET SCHEMA odd", "INSERT INTO odd.wandering VALUES (4)"
    )
    stops(databases, "table public.wandering is renamed to odd.wandering")
    assert refreshed(databases).copied == ("a:odd.wandering",)
    databases.execute("INSERT INTO odd.wandering VALUES (5)")
    followed(databases)
    same(databases, "odd.wandering")


def test_a_table_that_others_refer_to_is_made_anew(databases: Following) -> None:
    databases.execute(
        "ALTER TABLE parents ALTER code TYPE int USING ascii(code)",
        "DELETE FROM children WHERE id = 2; DELETE FROM parents WHERE id = 2",
        "INSERT INTO parents VALUES (3, 3); INSERT INTO children VALUES (3, 3)",
    )
    stops(databases, "public.parents has column code as integer instead of text")
    done = refreshed(databases)
    assert set(done.copied) == {"a:public.parents", "b:public.parents:reference"}
    followed(databases)
    same(databases, "parents")
    same(databases, "parents", "b")
    same(databases, "children")
    kinds = (
        "SELECT conname, contype FROM pg_constraint WHERE contype IN ('p', 'u', 'f')"
        " AND conrelid IN ('parents'::regclass, 'children'::regclass) ORDER BY 1"
    )
    assert databases.rows("a", kinds) == databases.rows("source", kinds)


def test_a_column_of_a_split_table_needs_an_owner(databases: Following) -> None:
    databases.execute(
        "ALTER TABLE halves ADD three text DEFAULT 'three'",
        "INSERT INTO halves VALUES (2, 'l', 'r', 't')",
    )
    with pytest.raises(PlanInvalid, match=r"column three of public\.halves is new"):
        refreshed(databases)
    refreshed(databases, Answers(columns={"halves.three": "b"}))
    assert "b: [id, two, three]" in databases.path.read_text()
    assert "# the right one" in databases.path.read_text(), "comments are kept"
    followed(databases)
    same(databases, "halves", "a", "id, one")
    same(databases, "halves", "b", "id, two, three")


def test_columns_that_take_names_of_others_stop_the_stream_and_need_a_copy(
    databases: Following,
) -> None:
    """The names and types are those of before, and the rows are not."""
    databases.execute(
        "ALTER TABLE traded RENAME one TO x; ALTER TABLE traded RENAME two TO one;"
        " ALTER TABLE traded RENAME x TO two",
        "UPDATE traded SET one = 'after' WHERE id = 1",
    )
    stops(databases, "column one renamed to two, which was another's name")
    done = refreshed(databases)
    assert set(done.copied) == {"a:public.traded", "b:public.traded"}
    text = databases.path.read_text()
    assert ("a: [id, two]" in text, "b: [id, one]" in text) == (True, True)
    followed(databases)
    same(databases, "traded", "a", "id, two")
    same(databases, "traded", "b", "id, one")


def test_a_column_that_is_made_anew_stops_a_stream_that_runs(databases: Following) -> None:
    with databases.live() as live:
        databases.execute("ALTER TABLE widened DROP n; ALTER TABLE widened ADD n int DEFAULT 5")
        assert "has another column n than before" in str(live.broken())
    refreshed(databases)
    followed(databases)
    same(databases, "widened")


def test_an_ignored_column_stays_behind_until_it_is_carried(databases: Following) -> None:
    text = databases.path.read_text()
    databases.path.write_text(text + "ddl: {added_columns: ignore}\n")
    databases.execute(
        "ALTER TABLE ignored ADD extra int",
        "INSERT INTO ignored VALUES (4, 'four', 4, 4)",
    )
    followed(databases)
    same(databases, "ignored", columns="id, v, n")
    assert not {gate.gate: gate for gate in status_gates(databases)}["schema"].ok
    databases.execute("UPDATE ignored SET extra = 5 WHERE id = 1")
    followed(databases)
    databases.path.write_text(text + "ddl: {added_columns: carry}\n")
    followed(databases)  # what is ignored is no change that a stream meets
    assert refreshed(databases).copied == ("a:public.ignored",)
    followed(databases)
    same(databases, "ignored")
    databases.path.write_text(text)


def test_with_carry_the_stream_goes_on_by_itself(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if somebody ends its sessions while it carries."""
    text = databases.path.read_text()
    passed = []

    def end_sessions(at: str) -> None:
        passed.append(at)
        if at == "refresh.decided" and passed.count(at) == 1:
            databases.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'dbsplit%'"
            )

    monkeypatch.setattr("toolkit.refresh_run.crash_point", end_sessions)
    databases.path.write_text(
        text + "ddl: {added_columns: carry, dropped_columns: carry, changed_columns: carry}\n"
    )
    databases.execute(
        "INSERT INTO plain VALUES (10, 'before')",
        "ALTER TABLE plain ADD a int DEFAULT 3, DROP n",
        "INSERT INTO plain VALUES (11, 'after', 4)",
        "ALTER TABLE plain RENAME a TO b",
        "INSERT INTO plain VALUES (12, 'more', 5)",
    )
    Verbs(databases.path, {})("stream", "--until-caught-up")
    assert "refresh.decided" in passed
    same(databases, "plain")
    databases.path.write_text(text)


def test_everything_is_proven_equal_and_abort_leaves_nothing(databases: Following) -> None:
    proven(databases)
    databases.copy()  # nothing is left to do
    gates = {gate.gate: gate for gate in status_gates(databases)}
    assert gates["schema"].ok, gates["schema"]
    split = open_split(databases.path, tolerant=True)
    abort(split, dry_run=False, say=say)
    with connect(databases.targets["a"]) as target:
        rows = target.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
        ).fetchall()
    assert rows == []
