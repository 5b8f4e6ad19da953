"""Changes netted side by side against the same changes netted one by one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.compaction import NetChanges
from cdc.messages import DELETE, INSERT, UPDATE, Messages
from cdc.net import Net, net
from cdc.row_messages import read_rows, walk
from cdc.rows import NULL, UNCHANGED, Row, Value, blank, value

TEXTS = 2  # that a row has
HEAD = 2  # of a row in COPY's format: how many values it has


@dataclass
class Leader:
    """A table of a key, of parts of so many bytes, and a value; and what is said of it."""

    sizes: tuple[int, ...]
    full: bool  # REPLICA IDENTITY
    messages: list[bytes]
    rows: dict[int, list[Value]]

    def insert(self, key: int, *texts: Value) -> None:
        if key not in self.rows:
            self.rows[key] = [*self._key(key), *texts]
            self.messages.append(said(INSERT, b"N", self.rows[key]))

    def update(self, key: int, *texts: Value) -> None:
        """UNCHANGED may be said of what is not NULL."""
        if key in self.rows:
            before = self.rows[key][-len(texts) :]
            told = [
                new if new != UNCHANGED or old != NULL else value(b"y")
                for new, old in zip(texts, before, strict=True)
            ]
            kept = [old if new == UNCHANGED else new for new, old in zip(told, before, strict=True)]
            self.rows[key] = [*self._key(key), *kept]
            self.messages.append(said(UPDATE, b"N", [*self._key(key), *told]))

    def delete(self, key: int) -> None:
        if key in self.rows:
            row = self.rows.pop(key)
            old = row if self.full else [*row[:-TEXTS], *[NULL] * TEXTS]
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
    kinds = {NULL: b"n", UNCHANGED: b"u"}
    sent = b"".join(kinds.get(one) or b"b" + one for one in row)
    return bytes([kind]) + pack("!I", 70_000) + tag + pack("!h", len(row)) + sent


# Some look like others' lengths, some are long enough to be cut out.
given_values = [value(b"x"), value(b""), value(b"xyz" * 50), value(UNCHANGED), value(b"l" * 3000)]
texts = st.sampled_from([*given_values, NULL])
told = st.sampled_from([*given_values, NULL, UNCHANGED, UNCHANGED, UNCHANGED])
insert = st.tuples(st.just("i"), st.integers(-3, 3), st.tuples(texts, texts))
others = st.tuples(st.sampled_from("ud"), st.integers(-3, 3), st.tuples(told, told))
steps = st.lists(insert | others, max_size=30)


@given(
    st.sampled_from([(2,), (4,), (8,), (16,), (4, 4), (8, 16, 2)]),
    st.sampled_from("ko"),
    st.sets(st.integers(-3, 3)),
    steps,
)
def test_rows_netted_side_by_side_are_those_netted_one_by_one(
    sizes: tuple[int, ...],
    identity: str,
    there: set[int],
    some: list[tuple[str, int, tuple[Value, Value]]],
) -> None:
    leader = Leader(sizes, identity == "o", [], {})
    for key in there:
        leader.insert(key, value(b"before"), value(b"l" * 2000))
    leader.messages.clear()
    for what, key, texts in some:
        if what == "i":
            leader.insert(key, *texts)
        elif what == "u":
            leader.update(key, *texts)
        else:
            leader.delete(key)
    if leader.messages:
        require_the_same(leader)


@pytest.mark.parametrize("sizes", [(4,), (8, 2)], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["by key", "in full"])
def test_many_changes_of_few_rows_are_netted_likewise(
    sizes: tuple[int, ...], *, full: bool
) -> None:
    """Rows that go and come again, and whose values are told in turn, each by another change."""
    chance = Random(5)  # noqa: S311
    values, kept = [*given_values, NULL], [*given_values, *[UNCHANGED] * 8]
    for _ in range(60):
        leader = Leader(sizes, full, [], {})
        for key in range(3):
            leader.insert(key, *chance.choices(values, k=TEXTS))
        leader.messages.clear()
        for _ in range(chance.randint(4, 24)):
            key = chance.randrange(6)
            if key not in leader.rows:
                leader.insert(key, *chance.choices(values, k=TEXTS))
            elif chance.random() < 0.2:
                leader.delete(key)
            else:
                leader.update(key, *chance.choices(kept, k=TEXTS))
        require_the_same(leader)


def require_the_same(leader: Leader) -> None:
    """What is found of its messages side by side is what is found one by one."""
    sizes = leader.sizes
    walked = walk(Messages.of(leader.messages), len(sizes) + TEXTS)
    key_places = range(len(sizes))
    changes = NetChanges()
    changes.take_in(read_rows(walked, key_places))
    found = net(walked, key_places)
    assert found is not None
    appear, change = changes.coming()
    assert sorted(found.appear()) == sorted(appear)
    assert {lacking: sorted(rows) for lacking, rows in found.change.items()} == {
        lacking: sorted(blank(row, lacking) for row in rows) for lacking, rows in change.items()
    }
    assert keys([*found.gone], sizes) == keys([*changes.gone()], sizes)
    assert keys([*found.passed], sizes) == sorted(changes.passed())
    assert found.appearing == len(appear)
    assert copied(found, len(sizes) + TEXTS) == sorted(appear)


def keys(rows: list[Row], sizes: tuple[int, ...]) -> list[bytes]:
    end = sum(sizes) + 4 * len(sizes)
    return sorted(row[:end] for row in rows)


def copied(found: Net, width: int) -> list[Row]:
    """The rows in COPY's format, taken apart."""
    text, at, rows = found.copied, 0, []
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
        bytes([UPDATE]) + said(UPDATE, b"K", [value(b"\0\0\0\1"), NULL])[1:] + WHOLE[5:],
        said(INSERT, b"N", [NULL, NULL]),
    ],
    ids=["a text", "in text form", "an old row", "no key"],
)
def test_what_is_netted_one_by_one(message: bytes) -> None:
    assert net(walk(Messages.of([WHOLE]), 2), [0]) is not None
    assert net(walk(Messages.of([WHOLE, message]), 2), [0]) is None


def test_without_a_key_nothing_is_netted_by_it() -> None:
    assert net(walk(Messages.of([WHOLE]), 2), []) is None


def test_an_inserted_row_of_which_a_value_is_missing_is_not_copied() -> None:
    lacking = said(UPDATE, b"N", [value(b"\0\0\0\1"), UNCHANGED])
    assert net(walk(Messages.of([WHOLE, lacking]), 2), [0]) is not None
    null = said(INSERT, b"N", [value(b"\0\0\0\1"), NULL])
    never_sent = said(INSERT, b"N", [value(b"\0\0\0\2"), UNCHANGED])
    assert net(walk(Messages.of([WHOLE, never_sent]), 2), [0]) is None
    assert net(walk(Messages.of([null, lacking]), 2), [0]) is None
