"""One bigint of a row, from hashes of its columns that need no text.

Writing a row as text costs PostgreSQL two to four times what hashing it does.  So each
column is hashed by its type, and only what has no sound hash of its own goes by text:

* `hash_record_extended`, `jsonb_hash_extended`, `interval_hash_extended`: equal for
  values that differ (NaN and NULL, 1.0 and 1.00, 30 days and a month).
* `hash_numeric_extended` leaves out the sign, and mixes the weight in after hashing.
* `hashint8extended` and with it the timestamps' hashes fold 64 bits into 32: a timestamp is
  hashed as the seconds since 1900, a float8 that until 2172 no two of them share.  Of those
  that may share it, further away, the folded bits are hashed, too: see `_FROM`.
* `hashfloat8extended` takes -0 for 0, and of 0 gives back the seed.

The columns come together in one of two ways.  Hashes of columns that may be NULL are
XORed; the sum is the first seed of a chain, in which the hash of each column that is
never NULL takes the one before as its seed.  The chain is what makes the whole not
linear: swapping values between rows changes the sum of the rows' hashes.  Which columns
are never NULL is a hint, by their declarations or the tables' statistics: if a column of
the chain is NULL after all, the row is hashed by its text.

What goes by a text that is never empty has the empty one for NULL, and is of the chain
whether it may be NULL or not.  Where such texts have no comma either, those of many columns
are one link: written by one call and hashed by another, a numeric takes three quarters of
the time.

Functions that take values of any type are named with their schema: one of the user's that
is for just these types would be taken before pg_catalog's, wherever it lies in the path.

All of it holds between servers that hash alike; `validators.session` asks them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from types import MappingProxyType

from psycopg import sql

CHAIN_MAX = 64
"""Each link is a function call within the next: the parser's stack is not endless."""
JOINED_MAX = 64  # a function takes 100 arguments

HashText = Callable[[sql.Composable, sql.Composable], sql.Composed]
"""The hash of a text with a seed."""

# A timestamp is microseconds since 2000 in 64 bits, and infinity the largest of them.  The
# seconds between two are their float8s' difference by a million.  Up to 2**33 s the difference
# is exact, and what a microsecond adds is more than a float8's step, so each has one of its own.
# Further away those that share one lie within 2**12 microseconds of each other.  Such two differ
# in their lower halves only, or the one's upper half is the other's and one more; then their
# lower halves differ in the upper 20 bits, all of them, which those of two upper halves never do.
# So they do not share it if the upper half is XORed to the lower one, as timestamp_hash_extended()
# does: src/backend/access/hash/hashfunc.c.
_FROM = datetime(1900, 1, 1, tzinfo=UTC)
_TO = _FROM + timedelta(seconds=2**33)
_SECONDS = MappingProxyType(
    {
        "timestamp without time zone": "tsrange_subdiff",
        "timestamp with time zone": "tstzrange_subdiff",
    }
)
"""The functions that say how many seconds lie between two timestamps."""
_BY_CAST = frozenset({"numeric", "interval", "json", "jsonb", "bytea", "time without time zone"})
"""Whose text is ``::text``, and never '' under the settings that are pinned.

A cast of a builtin type that somebody redefined is not for us.
"""

_JOINED = frozenset({"numeric", "interval", "time without time zone"})
"""Whose text has no comma, so that several can be one text."""

_LINKS = MappingProxyType(
    {
        "smallint": "hashint4extended({v}::int4, {seed})",
        "integer": "hashint4extended({v}, {seed})",
        "bigint": "hashtextextended('' COLLATE \"C\", {v} # {seed})",
        "uuid": "uuid_hash_extended({v}, {seed})",
    }
)
_TEXTS = frozenset({"text", "character varying", "bpchar"})  # bpchar comes as text


@dataclass(frozen=True, slots=True)
class Value:
    """A column's canonical value, and what both servers know of it."""

    value: sql.Composable
    type: str  # its type without length, '' if it has to go by text
    never_null: bool = False  # a hint: a NULL that is there all the same is hashed rightly


def row_hash(
    values: Sequence[Value], seed: int, hash_text: HashText, by_text: sql.Composed
) -> sql.Composed:
    """SQL of a bigint that two rows share only if they are equal.

    It is `by_text` of a row in which a column is NULL against the hint.  Two rows that
    differ share it once in about 2**64 / len(values).
    """
    joined = _joined(values)
    links: list[Value] = []
    others: list[tuple[int, Value]] = []
    for number, value in enumerate(values):
        if joined and value.type in _JOINED:
            continue
        if _is_link_for_sure(value) and len(links) < CHAIN_MAX:
            links.append(value)
        else:
            others.append((number, value))
    hashed = _xor([sql.Literal(seed), *_terms(others, hash_text)])
    for text in joined:
        hashed = hash_text(text, hashed)
    for link in links:
        hashed = _link(link, hashed, hash_text)
    if not (joined or links):  # without it the whole would be linear
        return sql.SQL("hashtextextended('' COLLATE \"C\", {})").format(hashed)
    if all(link.type in _BY_CAST for link in links):
        return hashed
    # To plan a statement of a hundred columns takes as long as to read hundreds of rows: what
    # is hardly ever needed is short, though slow.
    return sql.SQL("coalesce({}, {})").format(hashed, by_text)


def text_of(value: Value) -> sql.Composed:
    """The value's text, NULL for NULL; not by a cast that may have been redefined."""
    if value.type in _TEXTS:
        return sql.SQL("{}").format(value.value)
    if value.type in _BY_CAST:
        return sql.SQL("({})::text").format(value.value)
    return sql.SQL(
        "CASE WHEN pg_catalog.num_nulls({v}) = 0 THEN pg_catalog.format('%s', {v}) END"
    ).format(v=value.value)


def _joined(values: Sequence[Value]) -> list[sql.Composed]:
    """The texts of what can be written together, many at a time; none if it is one column."""
    # One type after the other: format() looks a type up where it is another than before.
    some = sorted((one for one in values if one.type in _JOINED), key=lambda one: one.type)
    if len(some) == 1:
        return []
    return [_one_text(some[at : at + JOINED_MAX]) for at in range(0, len(some), JOINED_MAX)]


def _one_text(some: Sequence[Value]) -> sql.Composed:
    """The texts with a comma between, of NULL the empty one."""
    # concat_ws() leaves NULLs out with their commas, and is the faster one.
    return sql.SQL(
        "CASE WHEN pg_catalog.num_nulls({some}) = 0 THEN pg_catalog.concat_ws(',', {some})"
        " ELSE pg_catalog.format({all}, {some}) END"
    ).format(
        some=sql.SQL(", ").join(one.value for one in some),
        all=sql.Literal(",".join(["%s"] * len(some))),
    )


def _is_link_for_sure(value: Value) -> bool:
    return value.type in _BY_CAST or (value.never_null and _is_link(value))


def _is_link(value: Value) -> bool:
    return value.type in _LINKS or value.type in _TEXTS or value.type in _BY_CAST


def _link(value: Value, seed: sql.Composable, hash_text: HashText) -> sql.Composed:
    if form := _LINKS.get(value.type):
        return sql.SQL(form).format(v=value.value, seed=seed)
    text = text_of(value)
    if value.type in _BY_CAST:
        text = sql.SQL("coalesce({}, '')").format(text)
    return hash_text(text, seed)


def _terms(values: Sequence[tuple[int, Value]], hash_text: HashText) -> Iterator[sql.Composed]:
    for number, value in values:
        if value.type not in _SECONDS:
            yield _term(value, number, hash_text)
    # One NULL spoils it for all, so those that may be NULL are by themselves.
    for kind in product(_SECONDS, (True, False)):
        times = [(n, value) for n, value in values if (value.type, value.never_null) == kind]
        for start in range(0, len(times), CHAIN_MAX):
            yield _times(times[start : start + CHAIN_MAX], hash_text)


def _term(value: Value, number: int, hash_text: HashText) -> sql.Composed:
    """A hash of the column that is never NULL."""
    seed, null, yes, no = (sql.Literal(_constant(number, use)) for use in range(4))
    if value.type == "boolean":
        return sql.SQL("CASE WHEN {v} THEN {yes} WHEN NOT {v} THEN {no} ELSE {null} END").format(
            v=value.value, yes=yes, no=no, null=null
        )
    if value.type in _BY_CAST:
        return _link(value, seed, hash_text)
    by_text = hash_text(text_of(value), seed)
    return sql.SQL("coalesce({}, {})").format(_by_type(value, seed, by_text, hash_text), null)


def _by_type(
    value: Value, seed: sql.Composable, by_text: sql.Composed, hash_text: HashText
) -> sql.Composed:
    if _is_link(value):
        return _link(value, seed, hash_text)
    if value.type in _SECONDS:
        return _timestamp(value, seed)
    if value.type == "date":
        return sql.SQL(
            "CASE WHEN isfinite({v}) THEN hashint4extended({v} - '2000-01-01'::date, {seed})"
            " ELSE {text} END"
        ).format(v=value.value, seed=seed, text=by_text)
    if value.type in ("real", "double precision"):
        hashed = "hashfloat8extended" if value.type != "real" else "hashfloat4extended"
        return sql.SQL("CASE WHEN {v} <> 0 THEN {hash}({v}, {seed}) ELSE {text} END").format(
            v=value.value, hash=sql.SQL(hashed), seed=seed, text=by_text
        )
    return by_text


def _times(some: Sequence[tuple[int, Value]], hash_text: HashText) -> sql.Composed:
    """A hash of several timestamps of one type that is never NULL."""
    apart = [_term(value, number, hash_text) for number, value in some]
    if len(apart) == 1:
        return apart[0]
    # One after the other, which is NULL if one of them is, and one look at all of them.
    chain: sql.Composable = sql.Literal(_constant(some[0][0], 4))
    for _, value in some:
        chain = _seconds(value, chain)
    # Not the very first, whose 0 s would leave the seed as it is.
    return sql.SQL(
        "coalesce(CASE WHEN least({all}) > {first} AND greatest({all}) < {last} THEN {chain} END,"
        " {apart})"
    ).format(
        all=sql.SQL(", ").join(value.value for _, value in some),
        first=_time(_FROM, some[0][1].type),
        last=_time(_TO, some[0][1].type),
        chain=chain,
        apart=_xor(apart),
    )


def _timestamp(value: Value, seed: sql.Composable) -> sql.Composed:
    """A hash of any timestamp."""
    # Neither the session's time zone nor a table of zones is looked at.
    utc = "{}" if value.type == "timestamp without time zone" else "timezone('0 s'::interval, {})"
    return sql.SQL("timestamp_hash_extended({utc}, {seconds})").format(
        utc=sql.SQL(utc).format(value.value), seconds=_seconds(value, seed)
    )


def _seconds(value: Value, seed: sql.Composable) -> sql.Composed:
    """A hash of a timestamp that is after `_FROM` and before `_TO`."""
    return sql.SQL("hashfloat8extended({since}({v}, {start}), {seed})").format(
        since=sql.SQL(_SECONDS[value.type]),
        v=value.value,
        start=_time(_FROM, value.type),
        seed=seed,
    )


def _time(time: datetime, type_: str) -> sql.Composed:
    # The zone is for the type that has one, and ignored by the other.
    return sql.SQL("{}::{}").format(sql.Literal(str(time)), sql.SQL(type_))


def _xor(terms: Sequence[sql.Composable]) -> sql.Composed:
    # Halved, or a table of 1,600 columns would be an expression 1,600 levels deep.
    if len(terms) == 1:
        return sql.SQL("({})").format(terms[0])
    half = len(terms) // 2
    return sql.SQL("({} # {})").format(_xor(terms[:half]), _xor(terms[half:]))


def _constant(number: int, use: int) -> int:
    """A bigint that looks random, and is the same on both sides and in every version."""
    digest = hashlib.blake2b(f"dbsplit {number} {use}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
