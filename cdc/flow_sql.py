"""The SQL that carries a batch of one flow from the stage into the follower's table.

The applier stages the leader's raw rows in the follower's session, in a
temporary table with the leader's columns, and the statements here carry them
over as sets.  For the whole batch, everything that removes rows runs before
anything that adds some: keys and unique values that change hands are free then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import sql

from cdc.flow import Flow
from plans.catalog import TableName
from plans.routes import RouteColumn

OP = sql.Identifier("_dbsplit_op")
"""'u' is a row that is present, 'n' one that was not before, 'p' a present one that came in part,
'g' one that is gone, 'b' a present one as it was before, 'k' one as it was before it got another
key."""

COUNT = sql.Identifier("_dbsplit_count")
"""In a multiset: how many copies to add, or below zero to remove.  Else the same number
with a 'k' row and the present one that it has become; with 'p' rows, which values they lack."""

UNCHANGED_NAMES = sql.Identifier("_dbsplit_unchanged")
"""The columns whose value was not sent, NULL if all were."""

_PRESENT = sql.SQL("{} IN ('u', 'n')").format(OP)
_NEW = sql.SQL("{} = 'n'").format(OP)
_CHANGED = sql.SQL("{} = 'u'").format(OP)
_GONE = sql.SQL("{} = 'g'").format(OP)
_GONE_FROM_ITS_KEY = sql.SQL("{} IN ('g', 'k')").format(OP)
_OLD = sql.SQL("{} IN ('g', 'b', 'k')").format(OP)
_WHOLE = sql.SQL("{} IS NULL").format(UNCHANGED_NAMES)


@dataclass(frozen=True, slots=True)
class FlowSQL:
    """The statements of one flow, for rows staged in `stage`."""

    flow: Flow
    stage: sql.Identifier

    # ------------------------------------------------------------ removing rows

    @property
    def delete_gone(self) -> sql.Composed:
        """Delete what is gone, unless another row has taken its key since.

        Where a key alone does not tell whose row it is, what did not flow before
        has nothing to delete.
        """
        if self.flow.identifies:
            gone = self._keys(_GONE_FROM_ITS_KEY)
        else:
            # EXCEPT and not NOT EXISTS, which would be a nested loop: hash joins are off.
            gone = sql.SQL("{} EXCEPT {}").format(
                self._keys(_and(_OLD, self._where())), self._keys(self._present())
            )
        return sql.SQL("DELETE FROM {follower} AS f USING ({gone}) AS g WHERE {same}").format(
            follower=self.flow.follower.identifier, gone=gone, same=self._same_key("f", "g")
        )

    @property
    def delete_only_gone(self) -> sql.Composed:
        """Delete what is gone, and not what only has another key now."""
        return sql.SQL("DELETE FROM {follower} AS f USING ({gone}) AS g WHERE {same}").format(
            follower=self.flow.follower.identifier,
            gone=self._keys(_GONE),
            same=self._same_key("f", "g"),
        )

    def rename(self, number: int) -> sql.Composed:
        """Give one row its new key, and leave all else of it as it is."""
        pair = sql.SQL("{} = {}").format(COUNT, sql.Literal(number))
        pairs = sql.SQL(", ").join(
            sql.SQL("{c} = n.{c}").format(c=sql.Identifier(name)) for name in self.flow.key
        )
        return sql.SQL(
            "UPDATE {follower} AS f SET {pairs} FROM ({old}) AS o, ({new}) AS n WHERE {same}"
        ).format(
            follower=self.flow.follower.identifier,
            pairs=pairs,
            old=self._keys(_and(sql.SQL("{} = 'k'").format(OP), pair)),
            new=self._keys(_and(_PRESENT, pair)),
            same=self._same_key("f", "o"),
        )

    @property
    def delete_left(self) -> sql.Composed | None:
        """Delete rows that do not fulfil the route's condition any more.

        None where `delete_gone` does it, by the rows as they were before.
        """
        if self.flow.where is None or not self.flow.identifies:
            return None
        return sql.SQL("DELETE FROM {follower} AS f USING ({rows}) AS s WHERE {same}").format(
            follower=self.flow.follower.identifier,
            rows=self._keys(_and(_PRESENT, sql.SQL("{} IS NOT TRUE").format(self._where()))),
            same=self._same_key("f", "s"),
        )

    @property
    def remove_rows(self) -> sql.Composed:
        """Without a key: remove as many rows that look the same as went.

        Rows are compared by their text, which tells apart what equality does not
        (1.0 and 1.00) and exists for every type.
        """
        whole = sql.SQL('ROW({})::text COLLATE "C"')
        names = [sql.Identifier(column.name) for column in self.flow.columns]
        return sql.SQL(
            "DELETE FROM {follower} AS f USING (SELECT t.tableoid AS relation, t.ctid AS place,"
            " row_number() OVER (PARTITION BY s.image) AS nth, s.count FROM {follower} AS t"
            " JOIN (SELECT image, -sum({count}) AS count FROM (SELECT {staged} AS image, {count}"
            " FROM ({rows}) AS r) AS i GROUP BY image) AS s ON s.image = {stored}) AS o"
            " WHERE f.ctid = o.place AND f.tableoid = o.relation AND o.nth <= o.count"
        ).format(
            follower=self.flow.follower.identifier,
            count=COUNT,
            staged=whole.format(sql.SQL(", ").join(names)),
            stored=whole.format(sql.SQL(", ").join(sql.SQL("t.") + name for name in names)),
            rows=self._rows(_and(sql.SQL("{} < 0").format(COUNT), self._where()), COUNT),
        )

    @property
    def empty(self) -> sql.Composed:
        """Delete everything that flowed."""
        return self.empty_of(self.flow.follower)

    def empty_of(self, part: TableName) -> sql.Composed:
        """Delete everything that flowed into a partition of the follower, or into all of it."""
        conditions = [sql.SQL(text) for text in self.flow.extent]
        return sql.SQL("DELETE FROM {} WHERE {}").format(part.identifier, _and(*conditions))

    # -------------------------------------------------------------- adding rows

    @property
    def upsert(self) -> sql.Composed:
        """Insert the complete present rows, or update them where they exist."""
        return sql.SQL("{insert} ON CONFLICT ({key}) DO {action}").format(
            insert=self._insert(self._complete()),
            key=_names(self.flow.key),
            action=self._set_excluded(),
        )

    @property
    def add_missing(self) -> sql.Composed:
        """Insert the complete present rows that do not exist; leave the others alone."""
        return self._insert_missing(self._complete())

    @property
    def add_new(self) -> sql.Composed:
        """The same, of those only that were not there before.

        One that was, and is not here, was deleted by the other part of the row, whose
        deletion is on its way.
        """
        return self._insert_missing(_and(_NEW, self._complete()))

    def _insert_missing(self, rows: sql.Composable) -> sql.Composed:
        # ON CONFLICT would not do: it checks NOT NULL before it looks for the row, and
        # columns that do not flow are not given here.
        names = _names(column.name for column in self.flow.columns)
        return sql.SQL(
            "INSERT INTO {follower} ({names}) OVERRIDING SYSTEM VALUE SELECT {names}"
            " FROM ({rows}) AS s WHERE NOT EXISTS (SELECT FROM {follower} AS f WHERE {same})"
        ).format(
            follower=self.flow.follower.identifier,
            names=names,
            rows=self._rows(rows),
            same=self._same_key("f", "s"),
        )

    @property
    def update(self) -> sql.Composed | None:
        """Update the present rows that exist; None if there is nothing but the key."""
        return self._update(self._present())

    @property
    def update_whole(self) -> sql.Composed | None:
        """Update the rows that were present, all complete; None if there is only the key."""
        return self._update(_CHANGED, partial=False)

    @property
    def insert_new(self) -> sql.Composed:
        """Insert the rows that were not there before, all complete."""
        return self._insert(_NEW)

    def update_some(self, columns: Collection[str], number: int) -> sql.Composed | None:
        """Update these columns of the leader's in the rows with this number; for plain flows.

        None if there is nothing but the key.
        """
        chosen = [column for column in self.flow.columns if column.plain in columns]
        rows = sql.SQL("{} = 'p' AND {} = {}").format(OP, COUNT, sql.Literal(number))
        return self._update(rows, partial=False, columns=chosen)

    @property
    def update_partial(self) -> sql.Composed | None:
        """Update the rows that came in part; None if there is nothing but the key."""
        return self._update(_and(self._present(), sql.SQL("NOT ({})").format(_WHOLE)))

    @property
    def incomplete(self) -> sql.Composed:
        """How many rows cannot be updated in part since they do not exist."""
        partial = _and(self._present(), sql.SQL("NOT ({})").format(_WHOLE))
        return sql.SQL(
            "SELECT count(*) FROM ({rows}) AS s"
            " WHERE NOT EXISTS (SELECT FROM {follower} AS f WHERE {same})"
        ).format(
            rows=self._keys(partial),
            follower=self.flow.follower.identifier,
            same=self._same_key("f", "s"),
        )

    def rewrite(self, *, part: bool = False) -> tuple[sql.Composable, ...]:
        """Delete the present rows and insert them anew, with the values that do not flow.

        Of a part of a row, what is not here is added only if it is new, as by `add_new`.

        Set-wise updates check a unique constraint row by row; deleting first and
        inserting then does not meet the values that other rows are about to leave.
        """
        target = self.flow.follower.identifier
        ours = [column.name for column in self.flow.columns]
        kept = [name for name in self.flow.follower_columns if name not in set(ours)]
        values = [self._sent_or_stored(column, "o") for column in self.flow.columns]
        values += [sql.SQL("o.{}").format(sql.Identifier(name)) for name in kept]
        return (
            sql.SQL(
                "CREATE TEMPORARY TABLE dbsplit_old ON COMMIT DROP AS SELECT f.* FROM {} AS f"
                " JOIN ({}) AS s ON {}"
            ).format(target, self._keys(self._present()), self._same_key("f", "s")),
            sql.SQL("DELETE FROM {} AS f USING dbsplit_old AS o WHERE {}").format(
                target, self._same_key("f", "o")
            ),
            sql.SQL("SET LOCAL enable_hashjoin = on"),  # the rest touches the batch alone
            sql.SQL(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ({}) AS s"
                " JOIN dbsplit_old AS o ON {}"
            ).format(
                target,
                _names([*ours, *kept]),
                sql.SQL(", ").join(values),
                self._rows(self._present(), UNCHANGED_NAMES),
                self._same_key("s", "o"),
            ),
            sql.SQL(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ({}) AS s"
                " WHERE NOT EXISTS (SELECT FROM dbsplit_old AS o WHERE {})"
            ).format(
                target,
                _names(ours),
                _names(ours),
                self._rows(_and(_NEW, self._complete()) if part else self._complete()),
                self._same_key("s", "o"),
            ),
            sql.SQL("SET LOCAL enable_hashjoin = off"),
            sql.SQL("DROP TABLE dbsplit_old"),
        )

    @property
    def add_rows(self) -> sql.Composed:
        """Without a key: add each row as often as it came."""
        copies = sql.SQL(" CROSS JOIN LATERAL generate_series(1, {}) AS _dbsplit (_dbsplit_nth)")
        return self._insert(
            _and(sql.SQL("{} > 0").format(COUNT), self._where()), copies.format(COUNT)
        )

    # ----------------------------------------------------------- keeping account

    @property
    def remember_dirty(self) -> sql.Composed:
        """Note the keys that changed, up to ``dbsplit.lsn``, since they were proven equal."""
        key: sql.Composable = sql.SQL("'[]'::jsonb")
        source: sql.Composable = self.stage
        if self.flow.key:
            texts = [sql.SQL("k.{}::text").format(sql.Identifier(name)) for name in self.flow.key]
            key = sql.SQL("jsonb_build_array({})").format(sql.SQL(", ").join(texts))
            source = sql.SQL("({}) AS k").format(self._keys(sql.SQL("true")))
        return sql.SQL(
            "INSERT INTO dbsplit.dirty (route, key, lsn)"
            " SELECT DISTINCT {route}, {key}, current_setting('dbsplit.lsn')::pg_lsn FROM {source}"
            " ON CONFLICT (route, key) DO UPDATE SET lsn = excluded.lsn"
        ).format(route=sql.Literal(self.flow.route), key=key, source=source)

    # ------------------------------------------------------------------- pieces

    def _insert(self, rows: sql.Composable, more: sql.Composable | None = None) -> sql.Composed:
        return sql.SQL(
            "INSERT INTO {follower} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"
            " FROM {stage}{more} WHERE {rows}"
        ).format(
            follower=self.flow.follower.identifier,
            names=_names(column.name for column in self.flow.columns),
            values=sql.SQL(", ").join(map(_value, self.flow.columns)),
            stage=self.stage,
            more=more or sql.SQL(""),
            rows=rows,
        )

    def _update(
        self,
        rows: sql.Composable,
        *,
        partial: bool = True,
        columns: Iterable[RouteColumn] | None = None,
    ) -> sql.Composed | None:
        pairs = [
            sql.SQL("{} = {}").format(
                sql.Identifier(c.name),
                self._sent_or_stored(c, "f") if partial else sql.Identifier("s", c.name),
            )
            for c in (self.flow.columns if columns is None else columns)
            if c.name not in self.flow.key
        ]
        if not pairs:
            return None
        return sql.SQL("UPDATE {follower} AS f SET {pairs} FROM ({rows}) AS s WHERE {same}").format(
            follower=self.flow.follower.identifier,
            pairs=sql.SQL(", ").join(pairs),
            rows=self._rows(rows, UNCHANGED_NAMES),
            same=self._same_key("f", "s"),
        )

    def _sent_or_stored(self, column: RouteColumn, stored: str) -> sql.Composed:
        """A staged column of ``s``, or what the follower has if it was not sent."""
        name = sql.Identifier(column.name)
        if column.plain is None:
            return sql.SQL("s.{}").format(name)
        return sql.SQL(
            "CASE WHEN {leader} = ANY (s.{unchanged}) THEN {stored}.{name} ELSE s.{name} END"
        ).format(
            leader=sql.Literal(column.plain),
            unchanged=UNCHANGED_NAMES,
            stored=sql.Identifier(stored),
            name=name,
        )

    def _rows(self, condition: sql.Composable, *more: sql.Composable) -> sql.Composed:
        """The staged rows, as the follower's columns."""
        values = [
            sql.SQL("{} AS {}").format(_value(column), sql.Identifier(column.name))
            for column in self.flow.columns
        ]
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join([*values, *more]), self.stage, condition
        )

    def _keys(self, condition: sql.Composable) -> sql.Composed:
        values = [
            sql.SQL("{} AS {}").format(_value(self.flow.column(name)), sql.Identifier(name))
            for name in self.flow.key
        ]
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(values), self.stage, condition
        )

    def _complete(self) -> sql.Composed:
        return _and(_PRESENT, _WHOLE, self._where())

    def _present(self) -> sql.Composed:
        return _and(_PRESENT, self._where())

    def _where(self) -> sql.Composable:
        if self.flow.where is None:
            return sql.SQL("true")
        return sql.SQL("({})").format(sql.SQL(self.flow.where))

    def _set_excluded(self) -> sql.Composable:
        rest = [column.name for column in self.flow.columns if column.name not in self.flow.key]
        if not rest:
            return sql.SQL("NOTHING")
        pairs = [sql.SQL("{c} = excluded.{c}").format(c=sql.Identifier(name)) for name in rest]
        return sql.SQL("UPDATE SET ") + sql.SQL(", ").join(pairs)

    def _same_key(self, one: str, other: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{}.{} = {}.{}").format(
                sql.Identifier(one),
                sql.Identifier(name),
                sql.Identifier(other),
                sql.Identifier(name),
            )
            for name in self.flow.key
        )


def _value(column: RouteColumn) -> sql.Composed:
    if not column.type:
        return sql.SQL("({})").format(sql.SQL(column.expression))
    return sql.SQL("({})::{}").format(sql.SQL(column.expression), sql.SQL(column.type))


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _and(*conditions: sql.Composable) -> sql.Composed:
    return sql.SQL(" AND ").join(conditions or [sql.SQL("true")])
