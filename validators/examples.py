"""Column by column, what some of the differing rows hold on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from cdc.connect import Connection
from validators.candidates import Extents
from validators.canonical import text_of
from validators.lookup import Lookup, matching, parameters
from validators.results import ColumnDifference, Difference, How
from validators.session import Ends, pinned
from validators.sides import Key, Pair, Side

TEXT_MAX = 200  # characters shown of a value; what is compared is the hash of all of it

_Row = tuple[tuple[int | None, ...], tuple[str | None, ...]]  # hashes, texts


def read_examples(
    ends: Ends, pair: Pair, extents: Extents, differing: Sequence[tuple[Key, How]]
) -> tuple[Difference, ...]:
    """The rows of these keys; a column without a difference is left out."""
    keys = [key for key, _ in differing]
    if not keys:
        return ()

    def read(connection: Connection, side: Side) -> dict[Key, list[_Row]]:
        how = Lookup(hashing=ends.hashing, same_text=True)
        texts = [text_of(value) for value in side.columns]
        hashes = [ends.hashing.of_text(text) for text in texts]
        shown = [sql.SQL("left({}, {})").format(text, TEXT_MAX) for text in texts]
        wanted = {"d": _array(hashes, "int8"), "x": _array(shown, "text")}
        query = sql.SQL("SELECT k.n, r.d, r.x FROM {}").format(
            matching(side, extents.of(pair, side), keys, how, wanted)
        )
        rows: dict[Key, list[_Row]] = {}
        with pinned(connection, side.schemas) as cursor:
            for number, hashed, text in cursor.execute(query, parameters(keys)):
                rows.setdefault(keys[number - 1], []).append((tuple(hashed), tuple(text)))
        return rows

    leader, follower = ends.both(read, pair)
    return tuple(
        Difference(
            key if pair.key else (),
            how,
            _columns(pair, leader.get(key, []), follower.get(key, [])),
        )
        for key, how in differing
    )


def _columns(
    pair: Pair, leader: Sequence[_Row], follower: Sequence[_Row]
) -> tuple[ColumnDifference, ...]:
    """The columns of the first row on each side that the other does not have."""
    ours, theirs = _first(leader, follower), _first(follower, leader)
    nothing: _Row = ((None,) * len(pair.columns), (None,) * len(pair.columns))
    (our_hashes, our_texts), (their_hashes, their_texts) = ours or nothing, theirs or nothing
    return tuple(
        ColumnDifference(name, our_texts[number], their_texts[number])
        for number, name in enumerate(pair.columns)
        if ours is None or theirs is None or our_hashes[number] != their_hashes[number]
    )


def _first(rows: Sequence[_Row], others: Sequence[_Row]) -> _Row | None:
    known = {hashes for hashes, _ in others}
    # For a table without a key the row may be there, only less often than here.
    return next((row for row in rows if row[0] not in known), rows[0] if rows else None)


def _array(items: Sequence[sql.Composable], type_: str) -> sql.Composed:
    return sql.SQL("ARRAY[{}]::{}[]").format(sql.SQL(", ").join(items), sql.Identifier(type_))
