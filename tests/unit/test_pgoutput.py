"""The decoder against messages built by the protocol's definition (manual, chapter 54.9)."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.lsn import LSN
from cdc.pgoutput import (
    BEGIN_FIELDS,
    COMMIT_FIELDS,
    Event,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Truncate,
    decode,
)

# ------------------------------------------------------- an encoder, by the manual


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def encode_column(column: RelationColumn) -> bytes:
    flags, types = pack("!b", column.in_key), pack("!Ii", column.type_oid, column.type_mod)
    return flags + string(column.name) + types


def encode(event: Event) -> bytes:
    match event:
        case Origin(name):
            return b"O" + pack("!Q", 7) + string(name)
        case Relation(oid, schema, name, identity, columns):
            head = pack("!I", oid) + string(schema) + string(name) + identity.encode()
            return b"R" + head + pack("!h", len(columns)) + b"".join(map(encode_column, columns))
        case Truncate(relations):
            head = pack("!ib", len(relations), 3)  # CASCADE and RESTART IDENTITY
            return b"T" + head + b"".join(pack("!I", oid) for oid in relations)
        case Message(transactional, lsn, prefix, content):
            head = pack("!bQ", transactional, lsn.value) + string(prefix)
            return b"M" + head + pack("!i", len(content)) + content


lsns = st.integers(0, 2**64 - 1).map(LSN)
oids = st.integers(0, 2**32 - 1)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
columns = st.builds(RelationColumn, names, oids, st.integers(-1, 2**31 - 1), st.booleans())
events = st.one_of(
    st.builds(Origin, names),
    # An empty schema is pg_catalog, so that one does not come back as it was.
    st.builds(
        Relation,
        oids,
        names.filter(bool),
        names,
        st.sampled_from("dnfi"),
        st.lists(columns, max_size=5).map(tuple),
    ),
    st.builds(Truncate, st.lists(oids, max_size=5).map(tuple)),
    st.builds(Message, st.booleans(), lsns, names, st.binary(max_size=40)),
)


@given(events)
def test_what_is_encoded_is_decoded(event: Event) -> None:
    assert decode(encode(event)) == event


# --------------------------------------------------------------- messages by hand

BY_HAND = {
    "origin": ("4f 0000000000000010 6e6f646500", Origin("node")),
    "relation": (
        "52 00004000 7075626c696300 7400 64 0002 01 696400 00000017 ffffffff"
        " 00 7600 00000413 0000000e",
        Relation(
            16384,
            "public",
            "t",
            "d",
            (
                RelationColumn("id", 23, -1, in_key=True),
                RelationColumn("v", 1043, 14, in_key=False),
            ),
        ),
    ),
    "relation of pg_catalog": (
        "52 00000001 00 7400 6e 0000",
        Relation(1, "pg_catalog", "t", "n", ()),
    ),
    "truncate": ("54 00000002 01 00004000 00004001", Truncate((16384, 16385))),
    "message": (
        "4d 01 0000000000000010 6400 00000002 0041",
        Message(transactional=True, lsn=LSN(16), prefix="d", content=b"\0A"),
    ),
    "message outside of transactions": (
        "4d 00 0000000000000010 00 00000000",
        Message(transactional=False, lsn=LSN(16), prefix="", content=b""),
    ),
    "the name of a type": ("59 00004002 7075626c696300 6d6f6f6400", None),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_each_kind_of_message(kind: str) -> None:
    hexadecimal, event = BY_HAND[kind]
    assert decode(bytes.fromhex(hexadecimal)) == event


def test_the_bounds_of_a_transaction() -> None:
    begin = bytes.fromhex("42 00000001b374d848 0002d5c1e3a4b5c6 000002f1")
    assert BEGIN_FIELDS.unpack_from(begin) == (LSN.parse("1/B374D848").value, 753)
    commit = bytes.fromhex("43 00 0000000000000010 0000000000000040 ffffffffffffffff")
    assert COMMIT_FIELDS.unpack_from(commit) == (0x10, 0x40, -1)


def test_an_unknown_kind_of_message_is_no_message_without_meaning() -> None:
    for kind in set(range(256)) - set(b"ORYTM"):
        with pytest.raises(ValueError, match="unknown pgoutput message"):
            decode(bytes([kind]) + bytes(40))
