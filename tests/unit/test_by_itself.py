"""Which refresh a stream begins by itself, and with which it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plans.catalog import TableName
from plans.errors import StreamBroken
from plans.evolution import Change, Kind
from plans.load import Plan, load_plan
from plans.revision import (
    Edit,
    GoneColumn,
    GoneEntry,
    NewColumn,
    NewEntry,
    RenamedColumn,
    RenamedEntry,
    edit_as_dict,
    edit_of,
)
from toolkit.by_itself import joined, keys_of, may_go_on, require_carried, require_may_go_on
from toolkit.prepared import RefreshBegun
from toolkit.refresh_edits import Answers
from toolkit.refresh_plan import pending
from toolkit.refresh_work import Work
from toolkit.state import Phase

T = TableName("public", "t")
ADDED = Change(Kind.ADDED_COLUMN, T, "more", now="text")
DROPPED = Change(Kind.DROPPED_COLUMN, T, "less")
RETYPED = Change(Kind.RETYPED_COLUMN, T, "v", was="text", now="integer")
GONE = Change(Kind.GONE_TABLE, T)
BY_STREAM = Answers(by_itself=True)
WORK = Work(
    id="1",
    said=("table public.t has lost column less",),
    services={},
    digest="next",
    shapes={},
    numbers={},
    entries={},
    past={},
    publish=(),
    unpublish=(),
    until="0/1",
)
PLAN = """\
split: x
source: {dsn: "dbname=x"}
services:
  a: {dsn: "dbname=a"}
tables:
  t: a
ddl:
"""


def plan(directory: Path, **ddl: str) -> Plan:
    path = directory / "plan.yaml"
    said = {"added_columns": "stop", **ddl}
    path.write_text(PLAN + "".join(f"  {key}: {value}\n" for key, value in said.items()))
    return load_plan(path, {})


@pytest.mark.parametrize(
    ("changes", "answers", "keys"),
    [
        ([ADDED, DROPPED, ADDED], BY_STREAM, ("added_columns", "dropped_columns")),
        ([ADDED, DROPPED], Answers(), ("added_columns", "dropped_columns")),
        ([GONE], BY_STREAM, ("gone_tables",)),
        ([], BY_STREAM, ()),
        ([], Answers(anew=frozenset({"t"})), ("changed_columns",)),
        ([ADDED], replace(BY_STREAM, anew=frozenset({"t"})), ("added_columns", "changed_columns")),
        ([ADDED], Answers(owners={"new": "a"}), None),
        ([ADDED], Answers(columns={"t.more": "a"}), None),
    ],
)
def test_what_a_refresh_falls_under(
    changes: list[Change], answers: Answers, keys: tuple[str, ...] | None
) -> None:
    assert keys_of(changes, answers) == keys


def test_what_is_taken_in_later_is_asked_for_as_well() -> None:
    assert joined(("b",), ("a", "b")) == ("a", "b")
    assert joined(None, ("a",)) is None
    assert joined(("a",), None) is None


@pytest.mark.parametrize(
    ("under", "ddl", "phases", "goes_on"),
    [
        (("dropped_columns",), {"dropped_columns": "carry"}, {Phase.FOLLOWING}, True),
        (("dropped_columns",), {"dropped_columns": "carry"}, {Phase.FOLLOWING, Phase.MOVED}, True),
        (("dropped_columns",), {"dropped_columns": "carry"}, {Phase.DRAINING}, False),
        (("dropped_columns",), {"dropped_columns": "carry"}, {Phase.COPYING}, False),
        (("dropped_columns",), {"dropped_columns": "stop"}, {Phase.FOLLOWING}, False),
        (("dropped_columns",), {"added_columns": "carry"}, {Phase.FOLLOWING}, False),
        (("added_columns",), {"added_columns": "ignore"}, {Phase.FOLLOWING}, True),
        (
            ("added_columns", "dropped_columns"),
            {"dropped_columns": "carry"},
            {Phase.FOLLOWING},
            False,
        ),
        (("gone_tables",), {}, {Phase.FOLLOWING}, False),  # no key of `ddl:`: always a person's
        (("of a later version",), {}, {Phase.FOLLOWING}, False),
        ((), {}, {Phase.FOLLOWING}, True),
        (None, {"dropped_columns": "carry"}, {Phase.FOLLOWING}, False),
    ],
)
def test_a_stream_goes_on_with_what_the_plan_of_now_lets_it_carry(
    tmp_path: Path,
    under: tuple[str, ...] | None,
    ddl: dict[str, str],
    phases: set[Phase],
    goes_on: bool,  # noqa: FBT001
) -> None:
    work, content = replace(WORK, under=under), plan(tmp_path, **ddl)
    assert may_go_on(content, work, phases) is goes_on
    if not goes_on:
        with pytest.raises(RefreshBegun, match="a refresh of split x was begun") as caught:
            require_may_go_on(content, work, phases)
        assert f"`dbsplit plan refresh {content.path}`: it goes on" in caught.value.hint
        assert caught.value.exit_code == 4


def test_what_the_plan_stops_at_is_named(tmp_path: Path) -> None:
    content = plan(tmp_path, added_columns="ignore", changed_columns="carry")
    require_carried(content, [ADDED, RETYPED])
    with pytest.raises(StreamBroken, match=r"has lost column less$") as caught:
        require_carried(content, [ADDED, DROPPED, RETYPED])
    assert "With ddl.dropped_columns: carry the stream does so by itself" in caught.value.hint


def test_work_that_an_older_version_has_noted_is_a_person_s() -> None:
    noted = {
        name: value
        for name, value in WORK.as_dict().items()
        if name not in ("under", "edits", "edited")
    }
    assert Work.of(noted) == WORK
    assert Work.of(noted).under is None


@pytest.mark.parametrize(
    "edit",
    [
        NewEntry("t", "a"),
        RenamedEntry("t", "u"),
        GoneEntry("t"),
        NewColumn("t", "c", "a"),
        RenamedColumn("t", "c", "d"),
        GoneColumn("t", "c"),
    ],
)
def test_an_edit_of_the_plan_is_noted_until_the_plan_has_it(tmp_path: Path, edit: Edit) -> None:
    content = plan(tmp_path)
    work = replace(WORK, edits=(edit_as_dict(edit),), edited=content.digest)
    assert edit_of(edit_as_dict(edit)) == edit
    assert pending(content, work) == (edit,)
    assert pending(content, replace(work, edited="of another plan")) == ()


def test_what_was_begun_before_the_copy_had_ended_goes_on_before_that(tmp_path: Path) -> None:
    work, content = replace(WORK, under=(), uncopied=True), plan(tmp_path)
    assert may_go_on(content, work, {Phase.PREPARED, Phase.COPYING})
    assert not may_go_on(content, work, {Phase.FOLLOWING})
