"""Rows in COPY's text format, read back by its definition (manual, COPY, "Text Format")."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from cdc.pgoutput import UNCHANGED, Tuple, Value
from cdc.stage import Stage, escape
from plans.catalog import Column, Table, TableName

SPECIAL = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def unescape(field: bytes) -> bytes | None:
    if field == b"\\N":
        return None
    return re.sub(rb"\\(.)", lambda match: SPECIAL.get(match[1], match[1]), field, flags=re.DOTALL)


def stage(*names: str, generated: str = "") -> Stage:
    columns = [Column(name=name, type="text", type_is_builtin=True) for name in names]
    if generated:
        columns.append(
            Column(name=generated, type="odd.t", type_is_builtin=False, generated="odd.f(x)")
        )
    table = Table(name=TableName("public", "t"), kind="r", columns=tuple(columns))
    return Stage(sql.Identifier("stage"), table, {"text": "dbsplit.text"})


def fields(one: Stage, row: Tuple, op: bytes = b"u", count: bytes = b"\\N") -> list[bytes]:
    line = one.line(row, op, count)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert b"\r" not in line
    return line[:-1].split(b"\t")


def elements(array: bytes) -> list[str]:
    """The elements of an array whose elements are all quoted (manual, 8.15.6)."""
    assert array[:1] + array[-1:] == b"{}"
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', array[1:-1].decode(), flags=re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", one, flags=re.DOTALL) for one in found]


def test_every_byte() -> None:
    for byte in range(1, 256):
        for value in (bytes([byte]), bytes([byte]) * 2, b"x" + bytes([byte]) + b"."):
            assert unescape(escape(value)) == value


@given(st.lists(st.none() | st.just(UNCHANGED) | st.binary(), min_size=3, max_size=3).map(tuple))
def test_a_row_comes_out_as_it_went_in(row: tuple[Value, ...]) -> None:
    *values, op, count, unchanged = fields(stage("a", "b", "c"), row)
    assert [unescape(value) for value in values] == [
        None if value is UNCHANGED else value for value in row
    ]
    assert (op, count) == (b"u", b"\\N")
    names = [name for name, value in zip("abc", row, strict=True) if value is UNCHANGED]
    assert unescape(unchanged) == (
        None if not names else b"{" + b",".join(f'"{n}"'.encode() for n in names) + b"}"
    )


def test_null_is_not_empty_and_not_its_own_escape() -> None:
    assert fields(stage("a", "b", "c"), (None, b"", b"\\N"))[:3] == [b"\\N", b"", b"\\\\N"]


def test_the_end_of_copy_is_a_value_like_others() -> None:
    assert stage("a").line((b"\\.",), b"u") == b"\\\\.\tu\t\\N\t\\N\n"


def test_a_count() -> None:
    assert fields(stage("a"), (b"x",), b"g", b"-3") == [b"x", b"g", b"-3", b"\\N"]


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_names_of_values_that_were_not_sent(names: list[str]) -> None:
    line = fields(stage(*names), tuple(UNCHANGED for _ in names))
    array = unescape(line[-1])
    assert array is not None
    assert elements(array) == names


def test_generated_columns_are_not_staged() -> None:
    one = stage("a", "b", generated="c")
    assert one.columns == ("a", "b")
    assert one.create().as_string() == (
        'CREATE TEMPORARY TABLE "stage" ("a" dbsplit.text, "b" dbsplit.text, "_dbsplit_op" "char"'
        ' NOT NULL, "_dbsplit_count" int, "_dbsplit_unchanged" text[])'
    )
