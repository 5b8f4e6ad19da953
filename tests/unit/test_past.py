"""Rows of before a change, as the stream still brings them."""

from __future__ import annotations

from cdc.lsn import LSN
from cdc.past import NULL, Past, PastShape
from cdc.row_messages import rearranged
from plans.catalog import TableName

INT, TEXT = (23, -1), (25, -1)
TABLE = TableName("public", "t")
# Since then: n was renamed to m, `extra` came with a value, `old` went.
SHAPE = PastShape(
    table=TABLE,
    until=LSN(100),
    columns={"id": INT, "n": TEXT, "old": INT},
    values={"m": "n", "extra": b"t\0\0\0\x015"},
)
NOW = {"id": INT, "m": TEXT, "extra": INT}


def test_a_shape_that_was_noted_is_known() -> None:
    assert SHAPE.seen_in({"id": INT, "n": TEXT, "old": INT}, NOW) is SHAPE


def test_what_lies_between_then_and_now_is_known() -> None:
    renamed = SHAPE.seen_in({"id": INT, "m": TEXT, "old": INT}, NOW)
    assert renamed is not None
    assert renamed.values == {"id": "id", "m": "m", "extra": b"t\0\0\0\x015"}
    added = SHAPE.seen_in({"id": INT, "n": TEXT, "old": INT, "extra": INT}, NOW)
    assert added is not None
    assert added.values == {"id": "id", "m": "n", "extra": "extra"}


def test_a_column_that_may_be_any_other_is_not_guessed() -> None:
    """`x` may have become `extra`: then its value counts, and not that of before."""
    assert SHAPE.seen_in({"id": INT, "n": TEXT, "x": INT}, NOW) is None
    assert SHAPE.seen_in({"id": INT, "old": INT}, NOW) is None
    assert SHAPE.seen_in({"id": TEXT, "n": TEXT, "old": INT}, NOW) is None


def test_a_row_of_before_gets_the_value_that_all_had() -> None:
    row = b"I\0\0\0\x01N\0\x03t\0\0\0\x011t\0\0\0\x01an"
    now = rearranged(row, (0, 1, b"t\0\0\0\x015", NULL))
    assert now == b"I\0\0\0\x01N\0\x04t\0\0\0\x011t\0\0\0\x01at\0\0\0\x015n"


def test_what_was_noted_is_read_in_the_form_of_the_stream() -> None:
    noted = {
        "shapes": [
            {
                "table": ["public", "t"],
                "until": "0/64",
                "columns": {"id": [23, -1]},
                "renamed": {"m": "n"},
                "filled": {"extra": {"text": b"5".hex(), "binary": "00000005"}, "none": None},
            }
        ],
        "gone": [["public", "x", "0/9"]],
        "ignored": [["public", "t", ["y"]]],
    }
    text, binary = (Past.of(noted, binary=form) for form in (False, True))
    assert text.shapes[0].values == {"m": "n", "extra": b"t\0\0\0\x015", "none": b"n"}
    assert binary.shapes[0].values["extra"] == b"b\0\0\0\x04\0\0\0\x05"
    assert text.gone == {TableName("public", "x"): LSN(9)}
    assert text.ignored == {TABLE: frozenset({"y"})}
