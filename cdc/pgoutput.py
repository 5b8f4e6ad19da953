"""Reading the messages of PostgreSQL's logical decoding plugin pgoutput.

Protocol version 1 with ``messages``: PostgreSQL manual, chapter 54.9 "Logical
Replication Message Formats".  Rows are read many at once: `cdc.row_messages`.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from cdc.lsn import LSN


class Origin(NamedTuple):
    """The transaction was written by a session with this replication origin."""

    name: str


class RelationColumn(NamedTuple):
    """A column as the stream announces it."""

    name: str
    type_oid: int
    type_mod: int  # such as varchar's length; -1 is none
    in_key: bool  # part of the replica identity


class Relation(NamedTuple):
    """What the rows that follow look like; sent again whenever it has changed."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


class Truncate(NamedTuple):
    """Tables emptied by one command."""

    relations: tuple[int, ...]


class Message(NamedTuple):
    """A message written by ``pg_logical_emit_message``."""

    transactional: bool
    lsn: LSN
    prefix: str
    content: bytes


Event = Origin | Relation | Truncate | Message

BEGIN_FIELDS = Struct("!xQ8xI")
"""Of the message that begins a transaction: where its commit record starts, and its number."""
COMMIT_FIELDS = Struct("!xxQQq")
"""Of the one that completes it: the same place, where the record ends, and when that was, in
microseconds since 2000-01-01 UTC."""

_INT16 = Struct("!h")
_INT32 = Struct("!i")
_UINT32 = Struct("!I")
_TYPE = Struct("!Ii")


def decode(data: bytes) -> Event | None:
    """The event that a message holds, None for one without meaning here.

    Not of a row, nor of a transaction's bounds: of those only some fields are wanted.

    Raises ValueError for a message that this protocol version does not know:
    guessing on would mean guessing rows.
    """
    match data[:1]:
        case b"R":
            return _relation(data)
        case b"O":
            return Origin(_text(data, 9)[0])
        case b"T":
            count = _INT32.unpack_from(data, 1)[0]
            return Truncate(tuple(_UINT32.unpack_from(data, 6 + 4 * n)[0] for n in range(count)))
        case b"M":
            lsn = int.from_bytes(data[2:10], "big")
            prefix, position = _text(data, 10)
            size = _INT32.unpack_from(data, position)[0]
            content = data[position + 4 : position + 4 + size]
            return Message(bool(data[1] & 1), LSN(lsn), prefix, content)
        case b"Y":  # names of types: values are text, so that they do not matter
            return None
        case other:
            raise ValueError(f"unknown pgoutput message {other!r}")


def _relation(data: bytes) -> Relation:
    oid = _UINT32.unpack_from(data, 1)[0]
    schema, position = _text(data, 5)
    name, position = _text(data, position)
    identity = chr(data[position])
    count = _INT16.unpack_from(data, position + 1)[0]
    position += 3
    columns = []
    for _ in range(count):
        in_key = bool(data[position] & 1)
        column, position = _text(data, position + 1)
        type_oid, type_mod = _TYPE.unpack_from(data, position)
        columns.append(RelationColumn(column, type_oid, type_mod, in_key))
        position += 8
    # An empty schema stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _text(data: bytes, start: int) -> tuple[str, int]:
    end = data.index(b"\0", start)
    return data[start:end].decode(), end + 1
