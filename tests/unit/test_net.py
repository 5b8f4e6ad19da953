"""Changes netted side by side against the same changes netted one by one."""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.compaction import NetChanges
from cdc.messages import DELETE, INSERT, UPDATE, Messages
from cdc.net import Net, net
from cdc.row_messages import read_rows, walk
from cdc.rows import NULL, Row, Value, value

HEAD = 2  # of a row in COPY's format: how many values it has


@dataclass
class Leader:
    """A table of a key, of parts of so many bytes, and a value; and what is said of it."""

    sizes: tuple[int, ...]
    full: bool  # REPLICA IDENTITY
    messages: list[bytes]
    rows: dict[int, list[Value]]

    def insert(self, key: int, text: Value) -> None:
        if key not in self.rows:
            self.rows[key] = [*self._key(key), text]
            self.messages.append(said(INSERT, b"N", self.rows[key]))

    def update(self, key: int, text: Value) -> None:
        if key in self.rows:
            self.rows[key] = [*self._key(key), text]
            self.messages.append(said(UPDATE, b"N", self.rows[key]))

    def delete(self, key: int) -> None:
        if key in self.rows:
            row = self.rows.pop(key)
            old = row if self.full else [*row[:-1], NULL]
            self.messages.append(said(DELETE, b"O" if self.full else b"K", old))

    def _key(self, key: int) -> list[Value]:
        # So that parts differ in turn, and some begin with the highest bit.
        return [
            value((key * 0x9E3779B97F4A7C15 * (n + 1) % 5).to_bytes(1, "big") * size)
            if n
            else value((-key).to_bytes(size, "big", signed=True))
            for n, size in enumerate(self.sizes)
        ]


def said(kind: int, tag: bytes, row: list[Value]) -> bytes:
    sent = b"".join(b"n" if one == NULL else b"b" + one for one in row)
    return bytes([kind]) + pack("!I", 70_000) + tag + pack("!h", len(row)) + sent


texts = st.sampled_from([value(b"x"), value(b""), value(b"xyz" * 50), NULL])
steps = st.lists(st.tuples(st.sampled_from("iud"), st.integers(-3, 3), texts), max_size=30)


@given(
    st.sampled_from([(2,), (4,), (8,), (16,), (4, 4), (8, 16, 2)]),
    st.sampled_from("ko"),
    st.sets(st.integers(-3, 3)),
    steps,
)
def test_rows_netted_side_by_side_are_those_netted_one_by_one(
    sizes: tuple[int, ...], identity: str, there: set[int], some: list[tuple[str, int, Value]]
) -> None:
    leader = Leader(sizes, identity == "o", [], {})
    for key in there:
        leader.insert(key, value(b"before"))
    leader.messages.clear()
    for what, key, text in some:
        if what == "i":
            leader.insert(key, text)
        elif what == "u":
            leader.update(key, text)
        else:
            leader.delete(key)
    if not leader.messages:
        return
    walked = walk(Messages.of(leader.messages), len(sizes) + 1)
    key_places = range(len(sizes))
    changes = NetChanges()
    changes.take_in(read_rows(walked, key_places))
    found = net(walked, key_places)
    assert found is not None
    appear, change = changes.coming()
    assert sorted(found.rows(found.appear)) == sorted(appear)
    assert sorted(found.rows(found.change)) == sorted(change.get((), []))
    assert keys(found.rows(found.gone), sizes) == keys([*changes.gone()], sizes)
    assert keys(found.rows(found.passed), sizes) == sorted(changes.passed())
    assert found.appearing == len(appear)
    assert copied(found, len(sizes) + 1) == sorted(appear)


def keys(rows: list[Row], sizes: tuple[int, ...]) -> list[bytes]:
    end = sum(sizes) + 4 * len(sizes)
    return sorted(row[:end] for row in rows)


def copied(found: Net, width: int) -> list[Row]:
    """The rows in COPY's format, taken apart."""
    text, at, rows = found.copied(), 0, []
    while at < len(text):
        assert int.from_bytes(text[at : at + HEAD], "big") == width
        begin = at = at + HEAD
        for _ in range(width):
            at += 4 + max(0, int.from_bytes(text[at : at + 4], "big", signed=True))
        rows.append(text[begin:at])
    return sorted(rows)


WHOLE = said(INSERT, b"N", [value(b"\0\0\0\1"), value(b"x")])


@pytest.mark.parametrize(
    "message",
    [
        said(INSERT, b"N", [value(b"abc"), NULL]),  # a key that is no number
        WHOLE.replace(b"b\0\0\0\4", b"t\0\0\0\4"),  # as text, whose bytes are of any number
        said(UPDATE, b"N", [value(b"\0\0\0\1")] * 2)[:-9] + b"u",
        bytes([UPDATE]) + said(UPDATE, b"K", [value(b"\0\0\0\1"), NULL])[1:] + WHOLE[5:],
        said(INSERT, b"N", [NULL, NULL]),
    ],
    ids=["a text", "in text form", "an unchanged value", "an old row", "no key"],
)
def test_what_is_netted_one_by_one(message: bytes) -> None:
    assert net(walk(Messages.of([WHOLE]), 2), [0]) is not None
    assert net(walk(Messages.of([WHOLE, message]), 2), [0]) is None


def test_without_a_key_nothing_is_netted_by_it() -> None:
    assert net(walk(Messages.of([WHOLE]), 2), []) is None
