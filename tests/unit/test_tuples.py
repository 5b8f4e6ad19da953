"""Tuples that numpy walks and copies against a decoder that goes from byte to byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.messages import INSERT, UPDATE, Messages
from cdc.row_messages import Walked, walk
from cdc.rows import NULL, UNCHANGED, value
from cdc.tuples import LONG, Tuples

RELATION = b"\0\1\2\3"


@dataclass(frozen=True)
class Shape:
    """How often values of rows are what."""

    name: str
    absent: float
    unchanged: float
    long: float
    width: int
    rows: int


SHAPES = [
    Shape("complete", 0, 0, 0, 7, 40),
    Shape("rarely a NULL", 0.01, 0.01, 0, 30, 40),
    Shape("mostly NULL", 0.8, 0.1, 0, 30, 40),
    Shape("long values", 0, 0, 0.3, 6, 20),
    Shape("NULL beside long values", 0.3, 0.3, 0.3, 8, 30),
    Shape("mostly NULL, and a long value", 0.55, 0.4, 0.02, 60, 30),
    Shape("nothing but NULL", 1, 0, 0, 9, 12),
    Shape("nothing but what is unchanged", 0, 1, 0, 17, 12),
    Shape("no columns", 0, 0, 0, 0, 5),
    Shape("very wide", 0.1, 0.05, 0.001, 1_600, 3),
]

LOOKALIKES = [NULL, UNCHANGED, b"", b"n", b"u" * 9, b"b\0\0\0\4", b"\0\0\0\1t", b"\xff" * 5]


def invented(shape: Shape, chance: Random, kind: bytes) -> list[bytes]:
    """A tuple as the protocol has it."""
    found = []
    for _ in range(shape.width):
        dice = chance.random()
        if dice < shape.absent:
            found.append(b"n")
        elif dice < shape.absent + shape.unchanged:
            found.append(b"u")
        elif dice < shape.absent + shape.unchanged + shape.long:
            size = chance.choice([*range(LONG - 8, LONG + 3), 70_000])
            found.append(kind + value(chance.choice([b"l", b"\xff", b"\0"]) * size))
        else:
            data = chance.choice([*LOOKALIKES, chance.randbytes(chance.randrange(24))])
            found.append(kind + value(data))
    return found


def encoded(some: Sequence[bytes]) -> bytes:
    return len(some).to_bytes(2, "big") + b"".join(some)


def message(new: Sequence[bytes], old: Sequence[bytes] | None) -> bytes:
    if old is None:
        return bytes([INSERT]) + RELATION + b"N" + encoded(new)
    return bytes([UPDATE]) + RELATION + b"O" + encoded(old) + b"N" + encoded(new)


def decoded(some: Sequence[bytes], unchanged: bytes) -> list[bytes]:
    """The values without their kinds, as COPY has them."""
    stand_in = {b"n": NULL, b"u": unchanged}
    return [stand_in.get(one) or one[1:] for one in some]


def require(found: Tuples, sent: Sequence[Sequence[bytes]], key: Sequence[int]) -> None:
    """Everything that is told of tuples is what was sent."""
    assert len(found) == len(sent)
    for unchanged in NULL, UNCHANGED:
        rows = [len(one).to_bytes(2, "big") + b"".join(decoded(one, unchanged)) for one in sent]
        copied, cuts = found.copied(unchanged)
        assert copied == b"".join(rows)
        places = cuts.tolist()
        assert [copied[a:b] for a, b in pairwise(places)] == rows
    rows = [b"".join(decoded(one, UNCHANGED)) for one in sent]
    assert found.rows() == rows
    assert [found.row(place) for place in range(len(sent))] == rows
    assert found.keys(key) == [b"".join(decoded([one[n] for n in key], UNCHANGED)) for one in sent]
    lacking = [tuple(n for n, sent in enumerate(one) if sent == b"u") for one in sent]
    assert found.partial() == {place: one for place, one in enumerate(lacking) if one}
    assert found.has_unchanged == any(lacking)


def walked(news: Sequence[Sequence[bytes]], olds: Sequence[Sequence[bytes] | None]) -> Walked:
    some = [message(new, old) for new, old in zip(news, olds, strict=True)]
    return walk(Messages.of(some), len(news[0]))


@pytest.mark.parametrize("old", ["none", "each", "some"])
@pytest.mark.parametrize("kind", [b"b", b"t"], ids=["binary", "text"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_tuples_are_what_was_sent(shape: Shape, kind: bytes, old: str) -> None:
    chance = Random(7)  # noqa: S311
    told = Shape("told", shape.absent, 0, shape.long, shape.width, 0)
    news = [invented(shape, chance, kind) for _ in range(shape.rows)]
    olds = [
        invented(told, chance, kind) if old == "each" or (old == "some" and n % 3 == 1) else None
        for n in range(shape.rows)
    ]
    key = chance.sample(range(shape.width), min(shape.width, 2))
    found = walked(news, olds)
    firsts = [new if old is None else old for new, old in zip(news, olds, strict=True)]
    require(found.first, firsts, key)
    assert found.renewed.tolist() == [n for n, old in enumerate(olds) if old is not None]
    if found.second is not None:
        require(found.second, [news[n] for n in found.renewed.tolist()], key)


sent_value = st.one_of(
    st.sampled_from([b"n", b"u", b"n", b"u"]),
    st.sampled_from([*LOOKALIKES, b"x" * (LONG - 4), b"x" * LONG, b"y" * (4 * LONG)]).map(
        lambda data: b"b" + value(data)
    ),
    st.binary(max_size=9).map(lambda data: b"t" + value(data)),
)


@given(st.integers(0, 12), st.data())
def test_any_few_tuples_are_what_was_sent(width: int, more: st.DataObject) -> None:
    row = st.lists(sent_value, min_size=width, max_size=width)
    news = more.draw(st.lists(row, min_size=1, max_size=8))
    key = more.draw(st.lists(st.integers(0, width - 1), unique=True, max_size=3)) if width else []
    require(walked(news, [None] * len(news)).first, news, key)


@pytest.mark.parametrize("sizes", [(2,), (4,), (8,), (16,), (16, 2), (4, 4, 8)], ids=str)
def test_keys_are_the_same_numbers_if_they_are_the_same_bytes(sizes: tuple[int, ...]) -> None:
    """Each byte counts, wherever the key stands."""
    first = [b"b" + value(b"\x80" * size) for size in sizes]
    others = [
        [
            one[:byte] + b"\x7f" + one[byte + 1 :] if n == place else one
            for n, one in enumerate(first)
        ]
        for place, size in enumerate(sizes)
        for byte in range(5, 5 + size)
    ]
    rows = [[b"n", *one, b"u"] for one in (first, *others, first)]
    key = [1 + n for n in range(len(sizes))]
    numbers = walked(rows, [None] * len(rows)).first.numbers(key)
    assert numbers is not None
    told = list(zip(*(one.tolist() for one in numbers), strict=True))
    assert told[0] == told[-1]
    assert len(set(told)) == len(rows) - 1


@pytest.mark.parametrize(
    "other", [b"n", b"u", b"t" + value(b"1234"), b"b" + value(b"12"), b"b" + value(b"123")]
)
@pytest.mark.parametrize("place", [0, 1])
def test_other_keys_are_no_numbers(other: bytes, place: int) -> None:
    rows = [[b"b" + value(b"1234"), b"n"]] * 2
    assert walked(rows, [None] * 2).first.numbers([0]) is not None
    rows[place] = [other, b"n"]
    assert walked(rows, [None] * 2).first.numbers([0]) is None


def test_a_value_may_be_as_long_as_its_length_says() -> None:
    rows = [[b"b" + value(b"x" * (1 << 24 | 0x3)), b"n"], [b"b" + value(b"y"), b"u"]]
    assert walked(rows, [None] * 2).first.row(1) == b"".join(decoded(rows[1], UNCHANGED))
    assert len(walked(rows, [None] * 2).first.row(0)) == (1 << 24 | 0x3) + 4 + 4
