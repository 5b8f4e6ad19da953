"""Rows against messages built by the protocol's definition (manual, chapter 54.9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.messages import DELETE, INSERT, UPDATE, Messages
from cdc.row_messages import RowChanges, read_rows, rearranged, walk
from cdc.rows import NULL, UNCHANGED, Value, fill, has_unchanged, key_of, take, value, values

RELATION = pack("!I", 70_000)

Values = list[Value]


@dataclass(frozen=True)
class Said:
    """What one message says."""

    kind: int
    old: Values | None
    new: Values | None

    @property
    def message(self) -> bytes:
        head = bytes([self.kind]) + RELATION
        old = b"" if self.old is None else b"O" + encoded(self.old)
        return head + old + (b"" if self.new is None else b"N" + encoded(self.new))


def encoded(some: Values) -> bytes:
    return pack("!h", len(some)) + b"".join(map(encoded_value, some))


def encoded_value(one: Value) -> bytes:
    if one in (NULL, UNCHANGED):
        return b"n" if one == NULL else b"u"
    return (b"t" if len(one) % 2 else b"b") + one


data = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", NULL, UNCHANGED, b"b\0\0\0\1x", b"\0\0\0\2", b"x" * 300]),
).map(value)
some_value = st.one_of(data, data, st.just(NULL), st.just(UNCHANGED))


@st.composite
def said(draw: st.DrawFn) -> tuple[int, list[Said]]:
    width = draw(st.integers(1, 5))
    row = st.lists(some_value, min_size=width, max_size=width)
    old = st.lists(st.one_of(data, st.just(NULL)), min_size=width, max_size=width)
    one = st.one_of(
        st.builds(Said, st.just(INSERT), st.none(), row),
        st.builds(Said, st.just(UPDATE), st.none() | old, row),
        st.builds(Said, st.just(DELETE), old, st.none()),
    )
    return width, draw(st.lists(one, min_size=1, max_size=12))


def decode_rows(messages: Sequence[bytes], width: int, key: Sequence[int]) -> RowChanges:
    """What is read of messages that lie apart, as they came."""
    apart = Messages.of([b"head" + message for message in messages], 4)
    return read_rows(walk(Messages.joined([apart]), width), key)


@given(said(), st.data())
def test_rows_come_out_as_they_went_in(some: tuple[int, list[Said]], more: st.DataObject) -> None:
    width, messages = some
    key = more.draw(st.lists(st.integers(0, width - 1), unique=True))
    read = decode_rows([one.message for one in messages], width, key)
    assert read.kinds == [one.kind for one in messages]
    for place, one in enumerate(messages):
        row = b"".join(one.old or [] if one.new is None else one.new)
        assert read.rows[place] == row
        assert values(row) == (one.old if one.new is None else one.new)
        lacking = tuple(n for n, sent in enumerate(one.new or []) if sent == UNCHANGED)
        assert read.partial.get(place, ()) == lacking
        if one.new is not None and one.old is not None:
            old = b"".join(one.old)
            assert read.old[place] == (key_of(old, key), old)
            assert read.keys[place] == key_of(fill(row, old), key)
        else:
            assert place not in read.old
            assert read.keys[place] == key_of(row, key)


@given(said(), st.data())
def test_a_spoilt_message_is_never_read(some: tuple[int, list[Said]], more: st.DataObject) -> None:
    width, messages = some
    texts = [one.message for one in messages]
    place = more.draw(st.integers(0, len(texts) - 1))
    cut = more.draw(st.integers(7, len(texts[place])))
    texts[place] = texts[place][: cut - 1] if more.draw(st.booleans()) else texts[place] + b"n"
    with pytest.raises(ValueError, match=r"row|value"):
        decode_rows(texts, width, [0])


BY_HAND = {
    "insert": ("49 00004000 4e 0002 74 00000001 31 6e", (INSERT, None, "0000000131 ffffffff")),
    "insert, binary": ("49 00004000 4e 0001 62 00000002 0001", (INSERT, None, "000000020001")),
    "update that leaves a large value alone": (
        "55 00004000 4e 0002 74 00000001 31 75",
        (UPDATE, None, "0000000131 fffffffe"),
    ),
    "update of the key": (
        "55 00004000 4b 0002 74 00000001 31 6e 4e 0002 74 00000001 32 74 00000000",
        (UPDATE, "0000000131 ffffffff", "0000000132 00000000"),
    ),
    "update with the old row": (
        "55 00004000 4f 0001 74 00000001 31 4e 0001 74 00000001 32",
        (UPDATE, "0000000131", "0000000132"),
    ),
    "delete by key": (
        "44 00004000 4b 0002 74 00000001 31 6e",
        (DELETE, None, "0000000131 ffffffff"),
    ),
    "delete with the old row": ("44 00004000 4f 0001 74 00000001 31", (DELETE, None, "0000000131")),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_kind_of_row_message(name: str) -> None:
    text, (kind, old, row) = BY_HAND[name]
    message = bytes.fromhex(text)
    read = decode_rows([message, message], 1 + row.count(" "), [0])
    assert read.kinds == [kind, kind]
    assert read.rows == [bytes.fromhex(row)] * 2
    assert read.keys == [bytes.fromhex(row)[:5]] * 2 or name == "insert, binary"
    assert dict(read.old) == (
        {} if old is None else dict.fromkeys([0, 1], (bytes.fromhex(old)[:5], bytes.fromhex(old)))
    )


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="does not have 2 values"):
        decode_rows([Said(INSERT, None, [NULL]).message], 2, [0])


def test_an_unknown_kind_of_value_is_refused() -> None:
    message = Said(INSERT, None, [NULL]).message.replace(b"n", b"x")
    with pytest.raises(ValueError, match="unknown kinds of values: b'x'"):
        decode_rows([message], 1, [0])


@given(said(), st.data())
def test_values_in_another_order(some: tuple[int, list[Said]], more: st.DataObject) -> None:
    """As where a partition's columns lie in another order, or it has some that nobody wants."""
    width, messages = some
    order = more.draw(st.lists(st.integers(0, width - 1), unique=True))
    for one in messages:
        old, new = (None if row is None else [row[n] for n in order] for row in (one.old, one.new))
        assert rearranged(one.message, order) == Said(one.kind, old, new).message


def test_what_is_filled_and_what_is_taken() -> None:
    a, b, c = value(b"a"), value(b"b"), value(b"")
    row = b"".join([a, UNCHANGED, UNCHANGED])
    assert has_unchanged(row)
    assert not has_unchanged(value(UNCHANGED))  # a value of such bytes
    assert fill(row, None) == row
    assert values(fill(row, b"".join([c, b, NULL]))) == [a, b, UNCHANGED]
    assert values(take(row, b"".join([c, b, NULL]))) == [a, b, NULL]
