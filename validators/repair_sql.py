"""A repair as a psql script, for those who want to read it before it runs.

Each statement changes a row only if it still is as the comparison saw it, and only if
the stream has not changed it since.  What the script cannot see is a change that is
under way in the stream; so it is for now and not for next week, and `--repair`, which
reads the leader again for each row, is the better way where both can be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc.connect import PINNED_SETTINGS
from cdc.flow import Flow
from plans.catalog import Table
from plans.names import APPLIER_SETTING
from validators.canonical import text_of, trusted
from validators.results import Difference
from validators.sides import Pair

STATEMENTS_PER_TRANSACTION = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Writes the statements of one route's repair."""

    pair: Pair
    flow: Flow
    follower: Table
    since: str  # the leader's position at which the comparison began
    masked: frozenset[str]  # the pair's columns whose values the script must not hold

    def statements(self, differences: Sequence[Difference]) -> Iterator[str]:
        """A statement, or a comment, for each difference."""
        for one in differences:
            yield self._statement(one)

    def _statement(self, one: Difference) -> str:
        if not one.columns:
            return "-- a row that has changed since it was compared is left out"
        hidden = [c.column for c in one.columns if c.column in self.masked]
        if hidden or set(self.pair.key) & self.masked:
            return (
                f"-- {one.how}: the values of masked columns are not written to a file;"
                " `dbsplit validate --repair` repairs this row"
            )
        if not self.pair.key:
            return self._copies(one)
        write = {"missing": self._insert, "extra": self._delete, "different": self._update}
        return write[one.how](one).as_string(None) + ";"

    def _insert(self, one: Difference) -> sql.Composed:
        return sql.SQL(
            "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"
            " WHERE NOT EXISTS (SELECT FROM {table} WHERE {same}) AND {untouched}"
        ).format(
            table=self.follower.name.identifier,
            names=sql.SQL(", ").join(sql.Identifier(self._name(c.column)) for c in one.columns),
            values=sql.SQL(", ").join(self._literal(c.column, c.leader) for c in one.columns),
            same=self._same_key(one),
            untouched=self._untouched(one),
        )

    def _update(self, one: Difference) -> sql.Composed:
        pairs = [
            sql.SQL("{} = {}").format(
                sql.Identifier(self._name(c.column)), self._literal(c.column, c.leader)
            )
            for c in one.columns
        ]
        return sql.SQL(
            "UPDATE {table} SET {pairs} WHERE {same} AND {before} AND {untouched}"
        ).format(
            table=self.follower.name.identifier,
            pairs=sql.SQL(", ").join(pairs),
            same=self._same_key(one),
            before=self._as_before(one),
            untouched=self._untouched(one),
        )

    def _delete(self, one: Difference) -> sql.Composed:
        return sql.SQL("DELETE FROM {table} WHERE {same} AND {before} AND {untouched}").format(
            table=self.follower.name.identifier,
            same=self._same_key(one),
            before=self._as_before(one),
            untouched=self._untouched(one),
        )

    def _copies(self, one: Difference) -> str:
        """Without a key: as many more or fewer copies, if there are as many as there were."""
        table, _, there = self.follower.name.identifier, *one.copies
        values = [(c.column, c.leader if one.how == "missing" else c.follower) for c in one.columns]
        alike = sql.SQL(" AND ").join(self._holds(name, text) for name, text in values)
        as_many = sql.SQL("(SELECT count(*) FROM {} WHERE {}) = {}").format(
            table, alike, sql.Literal(there)
        )
        if one.how == "missing":
            composed = sql.SQL(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}"
                " FROM generate_series(1, {}) WHERE {} AND {}"
            ).format(
                table,
                sql.SQL(", ").join(sql.Identifier(self._name(name)) for name, _ in values),
                sql.SQL(", ").join(self._literal(name, text) for name, text in values),
                sql.Literal(one.rows),
                as_many,
                self._untouched(one),
            )
        else:
            composed = sql.SQL(
                "DELETE FROM {table} WHERE (tableoid, ctid) IN (SELECT tableoid, ctid FROM {table}"
                " WHERE {alike} LIMIT {rows}) AND {as_many} AND {untouched}"
            ).format(
                table=table,
                alike=alike,
                rows=sql.Literal(one.rows),
                as_many=as_many,
                untouched=self._untouched(one),
            )
        return composed.as_string(None) + ";"

    def _same_key(self, one: Difference) -> sql.Composed:
        terms: list[sql.Composable] = []
        for column, text in zip(self.pair.follower.key, one.key, strict=True):
            if text is None:
                terms.append(sql.SQL("{} IS NULL").format(column.searched))
                continue
            terms.append(
                sql.SQL("{} = {}::{}").format(
                    column.searched, sql.Literal(text), trusted(column.type)
                )
            )
            terms.append(
                sql.SQL('{} COLLATE "C" = {}').format(text_of(column.value), sql.Literal(text))
            )
        terms.append(self.pair.follower.where)
        return sql.SQL(" AND ").join(terms)

    def _as_before(self, one: Difference) -> sql.Composed:
        return sql.SQL(" AND ").join(self._holds(c.column, c.follower) for c in one.columns)

    def _holds(self, column: str, text: str | None) -> sql.Composed:
        """Whether the follower's column has this very text."""
        value = self.pair.follower.columns[self.pair.columns.index(column)]
        if text is None:
            return sql.SQL("pg_catalog.num_nulls({}) = 1").format(value)
        return sql.SQL('{} COLLATE "C" = {}').format(text_of(value), sql.Literal(text))

    def _untouched(self, one: Difference) -> sql.Composed:
        """Whether the stream has not changed the row since the comparison began.

        Once a later comparison has proven the table equal, that is not known any more.
        """
        key = json.dumps(list(one.key))
        return sql.SQL(
            "NOT EXISTS (SELECT FROM dbsplit.dirty WHERE route = {route} AND key = {key}::jsonb"
            " AND lsn >= {since}::pg_lsn) AND NOT EXISTS (SELECT FROM dbsplit.tracked"
            " WHERE route = {route} AND forgotten > {since}::pg_lsn)"
        ).format(
            route=sql.Literal(self.pair.route),
            key=sql.Literal(key),
            since=sql.Literal(self.since),
        )

    def _literal(self, column: str, text: str | None) -> sql.Composed:
        type_ = self.follower.column(self._name(column)).type
        return sql.SQL("{}::{}").format(sql.Literal(text), trusted(type_))

    def _name(self, column: str) -> str:
        """What the follower calls a column of the pair."""
        return self.flow.columns[self.pair.columns.index(column)].name


def head(split: str) -> str:
    """What a script begins with."""
    return _HEAD.replace("{split}", _comment(split))


_HEAD = """\
-- Written by `dbsplit validate --repair-sql` for split {split}.
--
-- Run it soon, once for each database that has a part in it:
--     psql -X -f THIS_FILE "$DBSPLIT_…_DSN"
-- Each part runs in its own database only.  A statement changes its row only if it is
-- as it was, and if the stream has not changed it since; then psql says UPDATE 1, else
-- UPDATE 0.  Running it twice does no harm.  Run `dbsplit validate` afterwards.
\\set ON_ERROR_STOP on
\\set QUIET on
\\encoding UTF8
"""


def part_head(split: str, service: str, stream: str, schemas: Sequence[str]) -> str:
    """What the part for one database begins with: it is skipped anywhere else."""
    pins = [
        sql.SQL("SET {} TO {};").format(sql.Identifier(name), sql.Literal(setting)).as_string(None)
        for name, setting in PINNED_SETTINGS.items()
    ]
    path = sql.SQL(", ").join(map(sql.Identifier, ("pg_catalog", *schemas)))
    # The stream's name is in the database that it feeds, and nowhere else.
    found = sql.SQL("SELECT count(*) = 1 AS is_here FROM dbsplit.progress WHERE stream = {} \\gset")
    lines = [
        f"\n-- Service {_comment(service)}",
        "SELECT to_regclass('dbsplit.progress') IS NOT NULL AS is_here \\gset",
        "\\if :is_here",
        found.format(sql.Literal(stream)).as_string(None),
        "\\endif",
        "\\if :is_here",
        "SET client_min_messages = warning;",
        *pins,
        sql.SQL("SET search_path TO {};").format(path).as_string(None),
        "SET lock_timeout = '2s';",
        "SET session_replication_role = replica;",
        sql.SQL("SELECT set_config({}, {}, false) \\g /dev/null")
        .format(sql.Literal(APPLIER_SETTING), sql.Literal(split))
        .as_string(None),
        "\\set QUIET off",
    ]
    return "\n".join(lines) + "\n"


def origin_setup(origin: str) -> str:
    """What keeps the script's writes from coming back as echo."""
    composed = sql.SQL(
        "SELECT pg_replication_origin_create({name}) WHERE NOT EXISTS"
        " (SELECT FROM pg_replication_origin WHERE roname = {name}) \\g /dev/null\n"
        "SELECT pg_replication_origin_session_setup({name}) \\g /dev/null\n"
    )
    return composed.format(name=sql.Literal(origin)).as_string(None)


def part_end() -> str:
    """What the part for one database ends with."""
    # A new session has no origin: resetting it would take one more privilege.
    return "\\set QUIET on\n\\connect\n\\endif\n"


def _comment(text: str) -> str:
    return " ".join(text.split())
