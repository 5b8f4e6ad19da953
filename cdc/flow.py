"""Flows: a route in one of its two directions, and the SQL that applies a batch of it.

Forward, the source leads and a target follows; back, a target leads and the
source follows.  The applier stages the leader's raw rows in the follower's
session, in a temporary table with the leader's columns, and the statements here
carry them into the follower's table as sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from plans.catalog import Table, TableName
from plans.routes import Kind, Route, RouteColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What one leader table gives to one follower table."""

    route: str
    kind: Kind
    leader: Table
    follower: TableName
    columns: tuple[RouteColumn, ...]  # of the follower
    key: tuple[str, ...]  # of the follower
    where: str | None
    where_reads: frozenset[str]
    follower_columns: tuple[str, ...]  # all that can be written
    fixed: tuple[tuple[str, str], ...] = ()

    @property
    def whole_rows(self) -> bool:
        """Whether the follower's rows hold nothing else than what flows."""
        return {column.name for column in self.columns} == set(self.follower_columns)

    @property
    def key_within_leaders(self) -> bool:
        """Whether the leader's key alone tells which follower row is meant."""
        reads = frozenset[str]().union(*(self._column(name).reads for name in self.key))
        return reads <= set(self.leader.key)

    @property
    def needs_complete_rows(self) -> frozenset[str]:
        """Leader columns without whose value an update cannot be carried over."""
        computed = [column.reads for column in self.columns if column.plain is None]
        keys = [self._column(name).reads for name in self.key]
        reads = frozenset[str]().union(self.where_reads, *computed, *keys)
        return frozenset(c.name for c in self.leader.columns if c.toastable and c.name in reads)

    def _column(self, name: str) -> RouteColumn:
        return next(column for column in self.columns if column.name == name)


def forward(route: Route, target: Table) -> Flow:
    """The route as the source's changes take it; `target` is its table there."""
    return Flow(
        route=route.id,
        kind=route.kind,
        leader=route.source,
        follower=route.target,
        columns=route.columns,
        key=route.key,
        where=route.where,
        where_reads=route.where_reads,
        follower_columns=writable(target),
        fixed=route.fixed,
    )


def back(route: Route, target: Table) -> Flow:
    """The route as the target's changes take it; for owned routes, which are reversible."""
    if not route.kind.owned:
        raise ValueError(f"route {route.id} is {route.kind.value}: nothing flows back")
    columns = []
    for column in route.columns:
        if column.plain is None:
            raise ValueError(f"column {column.name} of route {route.id} has no inverse")
        source = route.source.column(column.plain)
        columns.append(
            RouteColumn(
                name=column.plain,
                expression=quoted(column.name),
                reads=frozenset({column.name}),
                type=source.type,
                plain=column.name,
                binary=column.binary,
            )
        )
    plain = {column.name: column.plain or "" for column in route.columns}
    return Flow(
        route=route.id,
        kind=route.kind,
        leader=target,
        follower=route.source.name,
        columns=tuple(columns),
        key=tuple(plain[name] for name in route.key),
        where=None,
        where_reads=frozenset(),
        follower_columns=writable(route.source),
    )


def writable(table: Table) -> tuple[str, ...]:
    """The columns of a table that an INSERT may give."""
    return tuple(column.name for column in table.columns if column.generated is None)


def quoted(name: str) -> str:
    """A column's name as an expression."""
    return sql.Identifier(name).as_string(None)


@dataclass(frozen=True, slots=True)
class FlowSQL:
    """The statements of one flow, for rows staged in `stage`.

    The stage has the leader's columns and three more: ``_op`` ('u' present, 'g'
    gone, 'b' as it was before), ``_count`` (without a key: copies to add or to remove) and ``_unchanged`` (an
    array of the columns whose value was not sent).
    """

    flow: Flow
    stage: sql.Identifier

    @property
    def upsert(self) -> sql.Composed:
        """Insert the complete present rows, or update them where they exist."""
        return sql.SQL("{insert} ON CONFLICT ({key}) DO {action}").format(
            insert=self._insert(self._complete()), key=self._key(), action=self._set_excluded()
        )

    @property
    def add_missing(self) -> sql.Composed:
        """Insert the complete present rows that do not exist; leave the others alone.

        ON CONFLICT would not do: it checks NOT NULL before it looks for the row,
        and columns that do not flow are not given here.
        """
        names = _names(column.name for column in self.flow.columns)
        return sql.SQL(
            "INSERT INTO {follower} ({names}) OVERRIDING SYSTEM VALUE SELECT {names}"
            " FROM ({rows}) AS s WHERE NOT EXISTS (SELECT FROM {follower} AS f WHERE {same})"
        ).format(
            follower=self.flow.follower.identifier,
            names=names,
            rows=self._rows(self._complete()),
            same=self._same_key("f", "s"),
        )

    @property
    def update(self) -> sql.Composed | None:
        """Update the present rows that exist, keeping the values that were not sent.

        None if there is nothing but the key.
        """
        pairs = [
            sql.SQL(
                "{c} = CASE WHEN {leader} = ANY (s._unchanged) THEN f.{c} ELSE s.{c} END"
            ).format(c=sql.Identifier(c.name), leader=sql.Literal(c.plain))
            if c.plain is not None
            else sql.SQL("{c} = s.{c}").format(c=sql.Identifier(c.name))
            for c in self.flow.columns
            if c.name not in self.flow.key
        ]
        if not pairs:
            return None
        return sql.SQL("UPDATE {follower} AS f SET {pairs} FROM ({rows}) AS s WHERE {same}").format(
            follower=self.flow.follower.identifier,
            pairs=sql.SQL(", ").join(pairs),
            rows=self._rows(self._present()),
            same=self._same_key("f", "s"),
        )

    @property
    def incomplete(self) -> sql.Composed:
        """How many rows cannot be updated in part since they do not exist."""
        return sql.SQL(
            "SELECT count(*) FROM ({rows}) AS s"
            " WHERE NOT EXISTS (SELECT FROM {follower} AS f WHERE {same})"
        ).format(
            rows=self._keys(sql.SQL("{} AND _unchanged IS NOT NULL").format(self._present())),
            follower=self.flow.follower.identifier,
            same=self._same_key("f", "s"),
        )

    @property
    def delete_gone(self) -> sql.Composed:
        """Delete what is gone, unless another row has taken its key since."""
        delete = sql.SQL("DELETE FROM {follower} AS f USING ({gone}) AS g WHERE {same}").format(
            follower=self.flow.follower.identifier,
            gone=self._keys(
                sql.SQL("_op = 'g'" if self.flow.key_within_leaders else "_op IN ('g', 'b')")
            ),
            same=self._same_key("f", "g"),
        )
        if self.flow.key_within_leaders:
            return delete  # one key is not both gone and present
        return sql.SQL("{} AND NOT EXISTS (SELECT FROM ({}) AS s WHERE {})").format(
            delete, self._keys(self._present()), self._same_key("s", "g")
        )

    @property
    def delete_left(self) -> sql.Composed | None:
        """Delete rows that do not fulfil the route's condition any more."""
        if self.flow.where is None:
            return None
        return sql.SQL("DELETE FROM {follower} AS f USING ({rows}) AS s WHERE {same}").format(
            follower=self.flow.follower.identifier,
            rows=self._keys(
                sql.SQL("_op = 'u' AND (({}) IS NOT TRUE)").format(_text(self.flow.where))
            ),
            same=self._same_key("f", "s"),
        )

    @property
    def rewrite(self) -> tuple[sql.Composed | sql.SQL, ...]:
        """The same as `upsert`, for rows that exchange unique values among themselves.

        Set-wise updates check a unique constraint row by row; deleting first and
        inserting then does not meet the values that other rows are about to leave.
        """
        ours = {column.name for column in self.flow.columns}
        kept = [name for name in self.flow.follower_columns if name not in ours]
        every = [column.name for column in self.flow.columns] + kept
        values = [sql.SQL("s.{}").format(sql.Identifier(c.name)) for c in self.flow.columns]
        values += [sql.SQL("o.{}").format(sql.Identifier(name)) for name in kept]
        joined = sql.SQL("({}) AS s JOIN dbsplit_old AS o ON {}").format(
            self._rows(self._complete()), self._same_key("s", "o")
        )
        target = self.flow.follower.identifier
        return (
            sql.SQL(
                "CREATE TEMPORARY TABLE dbsplit_old ON COMMIT DROP AS SELECT f.* FROM {} AS f"
                " JOIN ({}) AS s ON {}"
            ).format(target, self._keys(self._complete()), self._same_key("f", "s")),
            sql.SQL("DELETE FROM {} AS f USING dbsplit_old AS o WHERE {}").format(
                target, self._same_key("f", "o")
            ),
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
                target, _names(every), sql.SQL(", ").join(values), joined
            ),
            sql.SQL(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ({}) AS s"
                " WHERE NOT EXISTS (SELECT FROM dbsplit_old AS o WHERE {})"
            ).format(
                target,
                _names(c.name for c in self.flow.columns),
                _names(c.name for c in self.flow.columns),
                self._rows(self._complete()),
                self._same_key("s", "o"),
            ),
            sql.SQL("DROP TABLE dbsplit_old"),
        )

    @property
    def add_rows(self) -> sql.Composed:
        """Without a key: add each row as often as it came."""
        copies = sql.SQL(", generate_series(1, _count)")
        return self._insert(sql.SQL("_count > 0 AND {}").format(self._where()), copies)

    @property
    def remove_rows(self) -> sql.Composed:
        """Without a key: remove as many rows that look the same as went.

        Rows are compared by their text, which tells apart what equality does not
        (1.0 and 1.00) and exists for every type.
        """
        whole = sql.SQL('ROW({})::text COLLATE "C"')
        names = [sql.Identifier(c.name) for c in self.flow.columns]
        staged = whole.format(sql.SQL(", ").join(names))
        stored = whole.format(sql.SQL(", ").join(sql.SQL("t.") + name for name in names))
        return sql.SQL(
            "DELETE FROM {follower} AS f USING (SELECT t.tableoid AS relation, t.ctid AS place,"
            " {stored} AS image, row_number() OVER (PARTITION BY {stored}) AS nth"
            " FROM {follower} AS t) AS o JOIN (SELECT {staged} AS image, sum(_count) AS count"
            " FROM ({rows}) AS r GROUP BY 1) AS s ON s.image = o.image AND o.nth <= -s.count"
            " WHERE f.ctid = o.place AND f.tableoid = o.relation"
        ).format(
            follower=self.flow.follower.identifier,
            stored=stored,
            staged=staged,
            rows=self._rows(
                sql.SQL("_count < 0 AND {}").format(self._where()), sql.SQL(", _count")
            ),
        )

    @property
    def empty(self) -> sql.Composed:
        """Delete everything that flowed."""
        fixed = [
            sql.SQL("{} = ({})").format(sql.Identifier(name), _text(value))
            for name, value in self.flow.fixed
        ]
        condition = sql.SQL(" AND ").join(fixed) if fixed else sql.SQL("true")
        return sql.SQL("DELETE FROM {} WHERE {}").format(self.flow.follower.identifier, condition)

    @property
    def remember_dirty(self) -> sql.Composed:
        """Note the keys that changed, up to ``dbsplit.lsn``, since they were proven equal."""
        if not self.flow.key:
            key = sql.SQL("{}::jsonb").format("[]")
            source = sql.SQL("{}").format(self.stage)
        else:
            texts = [sql.SQL("k.{}::text").format(sql.Identifier(name)) for name in self.flow.key]
            key = sql.SQL("jsonb_build_array({})").format(sql.SQL(", ").join(texts))
            source = sql.SQL("({}) AS k").format(self._keys(sql.SQL("true")))
        return sql.SQL(
            "INSERT INTO dbsplit.dirty (route, key, lsn)"
            " SELECT DISTINCT {route}, {key}, current_setting('dbsplit.lsn')::pg_lsn FROM {source}"
            " ON CONFLICT (route, key) DO UPDATE SET lsn = excluded.lsn"
        ).format(route=sql.Literal(self.flow.route), key=key, source=source)

    def _insert(self, rows: sql.Composable, more: sql.Composable | None = None) -> sql.Composed:
        names = _names(column.name for column in self.flow.columns)
        from_ = sql.SQL("{}{}").format(self.stage, more or sql.SQL(""))
        return sql.SQL(
            "INSERT INTO {follower} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {from_}"
            " WHERE {rows}"
        ).format(
            follower=self.flow.follower.identifier,
            names=names,
            values=sql.SQL(", ").join(map(_value, self.flow.columns)),
            from_=from_,
            rows=rows,
        )

    def _rows(self, condition: sql.Composable, more: sql.Composable | None = None) -> sql.Composed:
        """The staged rows, as the follower's columns."""
        values = [
            sql.SQL("{} AS {}").format(_value(column), sql.Identifier(column.name))
            for column in self.flow.columns
        ]
        extra = more or sql.SQL(", _unchanged")
        return sql.SQL("SELECT {}{} FROM {} WHERE {}").format(
            sql.SQL(", ").join(values), extra, self.stage, condition
        )

    def _keys(self, condition: sql.Composable) -> sql.Composed:
        columns = {column.name: column for column in self.flow.columns}
        values = [
            sql.SQL("{} AS {}").format(_value(columns[name]), sql.Identifier(name))
            for name in self.flow.key
        ]
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(values), self.stage, condition
        )

    def _complete(self) -> sql.Composed:
        return sql.SQL("_op = 'u' AND _unchanged IS NULL AND {}").format(self._where())

    def _present(self) -> sql.Composed:
        return sql.SQL("_op = 'u' AND {}").format(self._where())

    def _where(self) -> sql.Composable:
        if self.flow.where is None:
            return sql.SQL("true")
        return sql.SQL("({})").format(_text(self.flow.where))

    def _key(self) -> sql.Composed:
        return _names(self.flow.key)

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
        return sql.SQL("({})").format(_text(column.expression))
    return sql.SQL("({})::{}").format(_text(column.expression), _text(column.type))


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _text(text: str) -> sql.SQL:
    """SQL text that stands in the plan or comes from the catalog."""
    return sql.SQL(text)
