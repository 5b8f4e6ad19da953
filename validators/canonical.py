"""The values by which two servers compare a row.

Values are equal if their texts under pinned settings are: numeric 1.0 and 1.00
differ, as do -0 and 0.  `validators.typed` hashes them, mostly without writing
the texts.  Where the servers do not agree on those hashes, a row is hashed as
``ROW(value, …)::text``: its quoting tells NULL from an empty string and one column
from the next, enums are labels, and every type has it, whatever its OID.

Each value is first cast to the target's type, where both servers have it.  Two
casts are left out because they cut off data without a word, and would hide that
it was cut: the lengths of varchar and of bit strings.  char(n) loses its padding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from validators.typed import Value, row_hash

_PADDED = re.compile(r"(?:character\(\d+\)|bpchar)((?:\[\])*)")
_CUTTING = re.compile(r"(character varying|bit varying|bit)\(\d+\)((?:\[\])*)")
_LENGTH = re.compile(r"\(\d+(?:,-?\d+)?\)")
_ROW_SEED = 0x6462_7370_6C69_74  # any number will do; "dbsplit"
_BUCKET_SEED = _ROW_SEED + 1


_COMPARABLE = sql.SQL(
    "CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END"
)
"""Where a database says of no text what its bytes mean, they are taken as they are."""


def trusted(text: str) -> sql.SQL:
    """SQL text that stands in the plan or comes from the catalog."""
    return sql.SQL(text)


def is_builtin(type_: str) -> bool:
    """Whether every server has a type of this name: it needs no schema."""
    return bool(type_) and "." not in type_


def unlimited(type_: str) -> str:
    """The builtin type without length or scale, so that a cast to it changes nothing."""
    if not is_builtin(type_):
        return type_
    if padded := _PADDED.fullmatch(type_):
        return f"bpchar{padded[1]}"
    if (cutting := _CUTTING.fullmatch(type_)) and cutting[1] == "bit":
        return f"bit varying{cutting[2]}"  # plain bit would be bit(1)
    return _LENGTH.sub("", type_)


def value(expression: sql.Composable, type_: str) -> sql.Composed:
    """The expression, so that its text is the same on both servers.

    `type_` is the target column's type, '' if it is not known.
    """
    if not is_builtin(type_):
        return sql.SQL("({})").format(expression)
    if padded := _PADDED.fullmatch(type_):
        dims = trusted(padded[1])
        return sql.SQL("({})::bpchar{}::text{}").format(expression, dims, dims)
    if _CUTTING.fullmatch(type_):
        type_ = unlimited(type_)
    return sql.SQL("({})::{}").format(expression, trusted(type_))


def text_of(value_: sql.Composable) -> sql.Composed:
    """A value as its output function writes it; NULL stays NULL.

    Not ``::text``, which is a cast that may have been redefined for the type.  Of the
    collation "C", or the texts of two columns could neither be compared nor grouped
    where the columns' own collations are not the same.
    """
    return sql.SQL(
        "CASE WHEN pg_catalog.num_nulls({v}) = 0"
        " THEN pg_catalog.format('%s', {v}) COLLATE \"C\" END"
    ).format(v=value_)


@dataclass(frozen=True, slots=True)
class Hashing:
    """How both servers hash; the same for both of them."""

    by_bytes: bool = False
    """Hash UTF-8 bytes, because the databases' encodings differ."""
    typed: bool = True
    """Hash columns by their types: see `validators.typed`; otherwise the row's text."""

    def row(self, values: Sequence[Value]) -> sql.Composed:
        """A bigint that two rows share only if they are equal."""
        return self._row(values, _ROW_SEED)

    def bucket(self, values: Sequence[Value], buckets: int) -> sql.Composed:
        """The number, from 0, of the bucket that a key belongs to."""
        return bucket_of(self._row(values, _BUCKET_SEED), buckets)

    def of_text(self, text: sql.Composable) -> sql.Composed:
        """A bigint for a text, NULL for NULL."""
        return self._text(text, sql.Literal(_ROW_SEED))

    def _row(self, values: Sequence[Value], seed: int) -> sql.Composed:
        row = sql.SQL("ROW({})::text").format(sql.SQL(", ").join(v.value for v in values))
        by_text = self._text(row, sql.Literal(seed))
        return row_hash(values, seed, self._text, by_text) if self.typed else by_text

    def _text(self, text: sql.Composable, seed: sql.Composable) -> sql.Composed:
        if self.by_bytes:
            text = sql.SQL("encode(convert_to({}, {}), 'hex')").format(text, _COMPARABLE)
        return sql.SQL('hashtextextended(({}) COLLATE "C", {})').format(text, seed)


def bucket_of(hashed: sql.Composable, buckets: int) -> sql.Composed:
    """The bucket of a hash; `buckets` is a power of two."""
    return sql.SQL("({} & {})::int4").format(hashed, sql.Literal(buckets - 1))
