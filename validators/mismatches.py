"""Column by column, what differing rows hold on both sides.

Values are not shortened: whoever repairs a row, or looks into it, needs all of
it.  So rows are read in groups of a bounded size, and handed over group by group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import errors, sql

from cdc.connect import Connection
from validators.canonical import text_of
from validators.evidence import Counts
from validators.fingerprint import Extents
from validators.lookup import Lookup, found, matching
from validators.results import ColumnDifference, Difference, How
from validators.session import Ends
from validators.sides import Key, Pair, Side

KEYS_PER_GROUP = 500
CHARACTERS_PER_GROUP = 8 << 20  # of both sides together; one row may be larger than that


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of one side."""

    hashes: tuple[int | None, ...]  # of its columns
    texts: tuple[str | None, ...]
    count: int  # of such rows
    version: int  # xmin, the latest of theirs


def how_of(counts: Counts) -> How:
    """The one word for a key whose rows differ."""
    if counts.different:
        return "different"
    return "missing" if counts.missing else "extra"


def read_differences(
    ends: Ends,
    pair: Pair,
    extents: Extents,
    differing: Mapping[Key, Counts],
    *,
    characters_max: int | None = None,
) -> Iterator[tuple[Difference, ...]]:
    """The rows of these keys as they are now, in groups; equal columns are left out.

    A row that has changed since its key was settled may have no column that differs.
    Of a value no more than its first `characters_max` are read, and its length.
    """
    reader = _Reader(ends, pair, extents, characters_max)
    for keys in groups_that_fit(ends, pair, extents, list(differing)):
        leader, follower = reader.rows(keys)
        yield tuple(
            _difference(pair, key, differing[key], leader.get(key, []), follower.get(key, []))
            for key in keys
        )


def groups_that_fit(
    ends: Ends, pair: Pair, extents: Extents, keys: Sequence[Key]
) -> Iterator[Sequence[Key]]:
    """The keys in groups whose rows fit in memory."""
    reader = _Reader(ends, pair, extents)
    for start in range(0, len(keys), KEYS_PER_GROUP):
        some = keys[start : start + KEYS_PER_GROUP]
        sizes = reader.sizes(some)
        group: list[Key] = []
        held = 0
        for key in some:
            size = sizes.get(key, 0)
            if group and held + size > CHARACTERS_PER_GROUP:
                yield group
                group, held = [], 0
            group.append(key)
            held += size
        if group:
            yield group


@dataclass(frozen=True, slots=True)
class _Reader:
    ends: Ends
    pair: Pair
    extents: Extents
    characters_max: int | None = None  # of a value

    def rows(self, keys: Sequence[Key]) -> tuple[dict[Key, list[_Row]], dict[Key, list[_Row]]]:
        """What both sides have of the keys."""
        try:
            return self._rows(keys, shown=self._beginning)
        except errors.CharacterNotInRepertoire:  # bytes of no encoding, in SQL_ASCII
            return self._rows(keys, shown=lambda text: _escaped(self._beginning(text)))

    def _beginning(self, text: sql.Composable) -> sql.Composable:
        if self.characters_max is None:
            return text
        return sql.SQL(
            "CASE WHEN length({t}) > {most} THEN pg_catalog.format('%s... (%s characters)',"
            " left({t}, {most}), length({t})) ELSE {t} END"
        ).format(t=text, most=sql.Literal(self.characters_max))

    def _rows(
        self, keys: Sequence[Key], *, shown: Callable[[sql.Composable], sql.Composable]
    ) -> tuple[dict[Key, list[_Row]], dict[Key, list[_Row]]]:
        def read(connection: Connection, side: Side) -> dict[Key, list[_Row]]:
            texts = [text_of(value) for value in side.columns]
            hashes = [self.ends.hashing.of_text(text) for text in texts]
            wanted = {
                "d": _array(hashes, "int8"),
                "x": _array([shown(text) for text in texts], "text"),
                "v": sql.SQL("xmin::text::int8"),
            }
            rows: dict[Key, list[_Row]] = {}
            # A row without a key may have a million copies, which are one row here.
            selected = sql.SQL("k.n, r.d, r.x, count(*), max(r.v)")
            grouped = sql.SQL("GROUP BY 1, 2, 3")
            for key, hashed, text, count, version in self._find(
                connection, side, keys, wanted, selected, grouped
            ):
                row = _Row(tuple(hashed), tuple(text), count, version)
                rows.setdefault(key, []).append(row)
            return rows

        return self.ends.both(read, self.pair)

    def sizes(self, keys: Sequence[Key]) -> dict[Key, int]:
        """How many characters the rows of each key have, on both sides together."""

        def read(connection: Connection, side: Side) -> dict[Key, int]:
            lengths = [
                sql.SQL("coalesce(length({}), 0)").format(text_of(value)) for value in side.columns
            ]
            total = sql.SQL(" + ").join([sql.Literal(0), *lengths])
            wanted = {"s": sql.SQL("({})::int8").format(total)}
            selected, grouped = sql.SQL("k.n, max(r.s)"), sql.SQL("GROUP BY 1")
            return dict(self._find(connection, side, keys, wanted, selected, grouped))

        leader, follower = self.ends.both(read, self.pair)
        return {key: leader.get(key, 0) + follower.get(key, 0) for key in keys}

    def _find(
        self,
        connection: Connection,
        side: Side,
        keys: Sequence[Key],
        wanted: Mapping[str, sql.Composable],
        selected: sql.SQL,
        grouped: sql.SQL,
    ) -> Iterator[tuple[Any, ...]]:
        """Keys, and what is found of `r`, which has what is wanted; it begins with k.n."""
        how = Lookup(hashing=self.ends.hashing, same_text=True)
        extent = self.extents.of(self.pair, side)

        def query(some: Sequence[Key]) -> sql.Composed:
            return sql.SQL("SELECT {} FROM {} {}").format(
                selected, matching(side, extent, some, how, wanted), grouped
            )

        return found(connection, side, keys, query)


def _difference(
    pair: Pair, key: Key, counts: Counts, leader: Sequence[_Row], follower: Sequence[_Row]
) -> Difference:
    """The columns of the first row on each side that the other does not have."""
    ours, theirs = _first(leader, follower), _first(follower, leader)
    if not pair.key and ours and theirs:  # the same row, only more often on one side
        ours, theirs = (ours, None) if how_of(counts) == "missing" else (None, theirs)
    columns = tuple(
        _column(
            name, ours.texts[number] if ours else None, theirs.texts[number] if theirs else None
        )
        for number, name in enumerate(pair.columns)
        if ours is None or theirs is None or ours.hashes[number] != theirs.hashes[number]
    )
    return Difference(
        key=key if pair.key else (),
        how=how_of(counts),
        columns=columns if ours or theirs else (),
        rows=counts.missing + counts.extra + counts.different,
        copies=(sum(row.count for row in leader), sum(row.count for row in follower)),
        row_hash=None if pair.key else key[0],
        version=theirs.version if theirs else None,
    )


def _column(name: str, ours: str | None, theirs: str | None) -> ColumnDifference:
    if ours is not None and ours == theirs:  # where they differ was not read
        ours, theirs = f"{ours}, differs further on", f"{theirs}, differs further on"
    return ColumnDifference(name, ours, theirs)


def _first(rows: Sequence[_Row], others: Sequence[_Row]) -> _Row | None:
    known = {row.hashes for row in others}
    # For a table without a key the row may be there, only less often than here.
    return next((row for row in rows if row.hashes not in known), rows[0] if rows else None)


def _escaped(text: sql.Composable) -> sql.Composed:
    return sql.SQL("encode(convert_to({}, getdatabaseencoding()), 'escape')").format(text)


def _array(items: Sequence[sql.Composable], type_: str) -> sql.Composed:
    return sql.SQL("ARRAY[{}]::{}[]").format(sql.SQL(", ").join(items), sql.Identifier(type_))
