"""What has become of a table, told from its shape and by which numbers the server knows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plans.catalog import Catalog, Column, Table, TableName
from plans.evolution import (
    Change,
    ColumnNumbers,
    Kind,
    Numbers,
    changes,
    labels_changed,
    widens,
)
from plans.revision import (
    Edit,
    GoneColumn,
    GoneEntry,
    NewColumn,
    NewEntry,
    RenamedColumn,
    RenamedEntry,
    revise,
)

NAME = TableName("public", "t")
INT, TEXT = 23, 25


def column(name: str, type_: str = "integer", *, not_null: bool = False) -> Column:
    return Column(name=name, type=type_, is_portable=True, not_null=not_null)


def numbers(
    number: int, oid: int = INT, *, missing: bool = False, default: bool = False
) -> ColumnNumbers:
    return ColumnNumbers(
        number=number, type_oid=oid, type_mod=-1, missing=missing, has_default=default
    )


SHAPES = {
    "public.t": {
        "columns": {"id": ["integer", True, None], "v": ["text", False, None]},
        "key": ["id"],
    }
}
BEFORE = Numbers(oid=1, columns={"id": numbers(1), "v": numbers(2, TEXT)}, files={"public.t": 5})
TABLE = Table(
    name=NAME,
    kind="r",
    columns=(column("id", not_null=True), column("v", "text")),
    primary_key=("id",),
)


def found(table: Table | None, now: Numbers, name: str = "public.t") -> list[Change]:
    tables = {} if table is None else {table.name: table}
    catalog = Catalog(
        server_version=180000, database="d", schemas=("public",),
        tables=tables,
    )  # fmt: skip
    return list(changes(SHAPES, {"public.t": BEFORE}, catalog, {name: now}))


def test_the_same_is_no_change() -> None:
    assert found(TABLE, BEFORE) == []


@pytest.mark.parametrize(
    ("numbered", "files", "in_place"),
    [
        (numbers(3, missing=True, default=True), 5, True),
        (numbers(3), 5, True),
        (numbers(3, default=True), 5, False),  # written anew, or set afterwards
        (numbers(3), 6, False),  # written anew, and its default dropped
    ],
)
def test_an_added_column_needs_a_copy_unless_its_rows_are_known(
    numbered: ColumnNumbers,
    files: int,
    in_place: bool,  # noqa: FBT001
) -> None:
    table = replace(TABLE, columns=(*TABLE.columns, column("x")))
    now = replace(BEFORE, columns={**BEFORE.columns, "x": numbered}, files={"public.t": files})
    (change,) = found(table, now)
    assert (change.kind, change.object) == (Kind.ADDED_COLUMN, "x")
    assert change.in_place is in_place


def test_a_renamed_column_is_not_one_that_went_while_another_came() -> None:
    table = replace(TABLE, columns=(TABLE.columns[0], column("w", "text")))
    renamed = replace(BEFORE, columns={"id": numbers(1), "w": numbers(2, TEXT)})
    (change,) = found(table, renamed)
    assert (change.kind, change.was, change.object) == (Kind.RENAMED_COLUMN, "v", "w")
    other = replace(BEFORE, columns={"id": numbers(1), "w": numbers(3, TEXT)})
    assert {one.kind for one in found(table, other)} == {Kind.DROPPED_COLUMN, Kind.ADDED_COLUMN}


def test_a_column_that_has_another_s_name_needs_a_copy() -> None:
    """Nobody may rename it in place: the other is still called so in the target."""
    exchanged = replace(BEFORE, columns={"id": numbers(2, TEXT), "v": numbers(1)})
    some = found(TABLE, exchanged)
    assert {(c.was, c.object) for c in some if c.kind is Kind.EXCHANGED_COLUMN} == {
        ("id", "v"), ("v", "id"),
    }  # fmt: skip
    assert not all(change.in_place for change in some)
    taken = replace(BEFORE, columns={"v": numbers(1)})
    some = found(replace(TABLE, columns=(column("v"),)), taken)
    assert {(c.kind, c.object) for c in some} >= {
        (Kind.EXCHANGED_COLUMN, "v"), (Kind.DROPPED_COLUMN, "v"),
    }  # fmt: skip


def test_a_column_that_was_dropped_and_made_anew_is_noticed() -> None:
    now = replace(BEFORE, columns={"id": numbers(1), "v": numbers(3, TEXT)})
    (change,) = found(TABLE, now)
    assert change.kind is Kind.REMADE_COLUMN
    assert not change.in_place


def test_a_renamed_table_is_told_from_one_that_is_gone() -> None:
    moved = replace(TABLE, name=TableName("public", "u"))
    (change,) = found(moved, BEFORE, "public.u")
    assert (change.kind, change.now) == (Kind.RENAMED_TABLE, "public.u")
    (change,) = found(None, replace(BEFORE, oid=2), "public.u")
    assert change.kind is Kind.GONE_TABLE


def test_a_partition_that_had_rows_before_needs_a_copy() -> None:
    now = replace(BEFORE, leaves={"public.made": False, "public.had": True})
    had, made = found(TABLE, now)
    assert (had.kind, had.in_place) == (Kind.ATTACHED_PARTITION, False)
    assert (made.kind, made.in_place) == (Kind.NEW_PARTITION, True)


@pytest.mark.parametrize(
    ("was", "now", "wider"),
    [
        ("character varying(5)", "character varying(9)", True),
        ("character varying(5)", "text", True),
        ("character varying", "text", True),
        ("character varying(9)", "character varying(5)", False),
        ("character varying", "character varying(9)", False),
        ("integer", "bigint", False),
    ],
)
def test_only_longer_text_is_the_same_bytes(was: str, now: str, wider: bool) -> None:  # noqa: FBT001
    assert widens(was, now) is wider


TEXT_OF_PLAN = """\
split: x   # its name
tables:
  # of nobody else
  leads: crm
  people:
    split_columns:
      crm: [id, name]  # names
      shop: [id, mail]
    drop: [old]
  gone: shop
limits: {lag_bytes_max: 5}
"""


@pytest.mark.parametrize(
    ("edit", "says", "says_not"),
    [
        (NewEntry("fresh", "crm"), "fresh: crm", "drop: [old, x]"),
        (GoneEntry("gone"), "leads: crm", "gone"),
        (RenamedEntry("leads", "chances"), "# of nobody else\n  chances: crm", "leads"),
        (NewColumn("people", "fax", "shop"), "shop: [id, mail, fax]", "fax: "),
        (NewColumn("people", "fax", "drop"), "drop: [old, fax]", "mail, fax"),
        (NewColumn("leads", "fax", "crm"), "leads: crm", "fax"),
        (NewColumn("leads", "fax", "drop"), "drop: [fax]", "leads: crm"),
        (RenamedColumn("people", "name", "called"), "crm: [id, called]", "[id, name]"),
        (GoneColumn("people", "old"), "shop: [id, mail]", "drop"),
    ],
)
def test_an_edit_keeps_what_it_does_not_concern(edit: Edit, says: str, says_not: str) -> None:
    revised = revise(TEXT_OF_PLAN, [edit])
    assert says in revised
    assert says_not not in revised
    assert "split: x   # its name" in revised
    assert "# names" in revised
    assert "limits: {lag_bytes_max: 5}" in revised


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("a b c", "a b c", []),
        ("a x b", "a b", ["type public.t has a new value 'x'"]),
        ("a x c", "a b c", ["type public.t has the value 'b' renamed to 'x'"]),
        ("x y c", "a b c", ["type public.t has the value 'a' renamed to 'x'",
                            "type public.t has the value 'b' renamed to 'y'"]),
        ("a b", "a b own", []),
        ("x b y", "a b", ["type public.t has the value 'a' renamed to 'x'",
                          "type public.t has a new value 'y'"]),
    ],
)  # fmt: skip
def test_a_renamed_value_is_told_from_a_new_one(ours: str, theirs: str, said: list[str]) -> None:
    found, unclear = labels_changed(NAME, ours.split(), theirs.split())
    assert [str(change) for change in found] == said
    assert not unclear


@pytest.mark.parametrize(("ours", "theirs"), [("a x y c", "a b c"), ("a x", "a b own")])
def test_which_value_was_renamed_is_not_guessed(ours: str, theirs: str) -> None:
    found, unclear = labels_changed(NAME, ours.split(), theirs.split())
    assert found == []
    assert "cannot be told" in unclear
