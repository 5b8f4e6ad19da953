"""Staged rows in COPY's binary format, read back by its definition (manual, COPY)."""

from __future__ import annotations

from dataclasses import replace
from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.rows import NULL, UNCHANGED, Value, value, values
from cdc.stage import Stage, carries_binary, plain_writer
from plans.catalog import Column, Table, TableName


def stage(*names: str, generated: str = "", binary: bool = True) -> Stage:
    columns = [Column(name=name, type="text", is_portable=True) for name in names]
    if generated:
        columns.append(
            Column(name=generated, type="odd.t", is_portable=False, generated="odd.f(x)")
        )
    table = Table(name=TableName("public", "t"), kind="r", columns=tuple(columns))
    return Stage(0, table, {"text": "dbsplit.text"}, binary)


def fields(line: bytes) -> list[bytes | None]:
    """The fields of one tuple: their number, and each behind its length, -1 for NULL."""
    (count,) = unpack_from("!h", line)
    at, found = 2, []
    for _ in range(count):
        (length,) = unpack_from("!i", line, at)
        at += 4
        found.append(None if length == -1 else line[at : at + length])
        at += max(length, 0)
    assert at == len(line)
    return found


def elements(array: bytes) -> list[str]:
    """The elements of a text[] (array_send in PostgreSQL's arrayfuncs.c)."""
    dimensions, flags, element, size, lower = unpack_from("!iiIii", array)
    assert (dimensions, flags, element, lower) == (1, 0, 25, 1)
    at, found = 20, []
    for _ in range(size):
        (length,) = unpack_from("!i", array, at)
        found.append(array[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert at == len(array)
    return found


some_value = st.one_of(st.binary().map(value), st.just(NULL))


@given(st.lists(some_value, min_size=3, max_size=3))
def test_a_row_comes_out_as_it_went_in(row: list[Value]) -> None:
    one = stage("a", "b", "c")
    expected = [None if each == NULL else each[4:] for each in row]
    for writer in (one.writer(b"u"), one.partial_writer(b"u")):
        assert fields(writer(b"".join(row))) == [*expected, b"u", None, None]
    assert fields(plain_writer(3)(b"".join(row))) == expected
    assert values(b"".join(row)) == row


@given(st.lists(some_value | st.just(UNCHANGED), min_size=3, max_size=3))
def test_what_was_not_sent_is_null_and_named(row: list[Value]) -> None:
    line = stage("a", "b", "c").partial_writer(b"u")(b"".join(row))
    *sent, op, count, unchanged = fields(line)
    assert sent == [None if each in (NULL, UNCHANGED) else each[4:] for each in row]
    assert (op, count) == (b"u", None)
    names = [name for name, each in zip("abc", row, strict=True) if each == UNCHANGED]
    assert (unchanged is None) == (not names)
    if unchanged is not None:
        assert elements(unchanged) == names


@given(st.lists(some_value | st.just(UNCHANGED) | st.just(value(b"x" + UNCHANGED)), min_size=3))
def test_what_was_not_sent_is_null_under_a_number(row: list[Value]) -> None:
    unchanged = tuple(n for n, each in enumerate(row) if each == UNCHANGED)
    names = [f"c{n}" for n in range(len(row))]
    line = stage(*names).blank_writer(b"p", 7, unchanged)(b"".join(row))
    *sent, op, count, named = fields(line)
    assert sent == [None if each in (NULL, UNCHANGED) else each[4:] for each in row]
    assert (op, count, named) == (b"p", pack("!i", 7), None)


def test_null_is_not_empty() -> None:
    assert fields(stage("a", "b").writer(b"u")(NULL + value(b"")))[:2] == [None, b""]


@pytest.mark.parametrize("count", [0, 3, -3])
def test_a_count(count: int) -> None:
    for writer in (stage("a").writer(b"g", count), stage("a").partial_writer(b"g", count)):
        told = count.to_bytes(4, "big", signed=True)
        assert fields(writer(value(b"x"))) == [b"x", b"g", told, None]


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_names_of_values_that_were_not_sent(names: list[str]) -> None:
    line = stage(*names).partial_writer(b"u")(UNCHANGED * len(names))
    array = fields(line)[-1]
    assert array is not None
    assert elements(array) == names


def test_generated_columns_are_not_staged() -> None:
    one = stage("a", "b", generated="c")
    assert one.columns == ("a", "b")
    (create,) = one.create()
    assert create.as_string() == (
        'CREATE TEMPORARY TABLE "dbsplit_stage_0" ("a" dbsplit.text, "b" dbsplit.text,'
        ' "_dbsplit_op" "char" NOT NULL, "_dbsplit_count" int, "_dbsplit_unchanged" text[])'
    )


def test_rows_that_come_as_text_are_cast_by_a_view() -> None:
    table, view = stage("a", binary=False).create()
    assert table.as_string() == (
        'CREATE TEMPORARY TABLE "dbsplit_text_0" ("a" text,'
        ' "_dbsplit_op" "char" NOT NULL, "_dbsplit_count" int, "_dbsplit_unchanged" text[])'
    )
    assert view.as_string() == (
        'CREATE TEMPORARY VIEW "dbsplit_stage_0" AS SELECT "a"::dbsplit.text AS "a",'
        ' "_dbsplit_op", "_dbsplit_count", "_dbsplit_unchanged" FROM "dbsplit_text_0"'
    )


def test_which_rows_may_come_in_binary_form() -> None:
    plain = Column(name="a", type="integer", is_portable=True)
    table = Table(name=TableName("public", "t"), kind="r", columns=(plain,))
    odd = replace(plain, name="b", type="odd.pair", is_portable=False)
    assert carries_binary([table])
    assert not carries_binary([table, replace(table, columns=(plain, odd))])
    assert carries_binary([replace(table, columns=(plain, replace(odd, generated="a")))])
