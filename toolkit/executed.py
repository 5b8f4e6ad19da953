"""Since when no statement has crossed the boundary, by the source's own statistics.

pg_stat_statements counts calls since its last reset, without a time for each.  So
the counts of the crossing statements are noted again and again: a count that has
grown says that one was executed in between.  What the statistics may have lost, by
a reset or because rarely used statements were evicted, counts as one that crossed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from psycopg import sql

from cdc.connect import Connection
from plans.boundary import Boundary
from plans.catalog import Catalog
from plans.load import Plan
from plans.queries.allowed import Allowed, allowed_of
from plans.queries.crossing import Verdict, judge
from plans.routes import Route
from plans.statements.read import read_statements
from plans.statements.scope import Scope, read_scope
from plans.usage.model import Actor, Executed
from plans.usage.search_paths import Paths, path_of, role_paths
from plans.usage.statistics import HIDDEN, NAME
from plans.usage.statistics_sql import EXTENSION
from toolkit.stored import stored

_CROSSING = (Verdict.CROSSES, Verdict.ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the statistics say at a moment."""

    at: datetime
    reset_at: datetime
    evicted: int  # times that statements were evicted since the reset
    calls: Mapping[str, int]  # of each crossing statement since the reset
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clean:
    """Since when nothing is known to have crossed, and what it was known from."""

    since: datetime
    counts: Counts
    last: str = ""  # what ended the time before

    def days(self, now: datetime) -> float:
        """How long it has been."""
        return max(0.0, (now - self.since).total_seconds() / 86_400)


def advance(before: Clean | None, now: Counts) -> Clean:
    """What is known after one more look."""
    if before is None:
        if now.calls:
            return Clean(now.at, now, _last(now, now.calls))
        if now.evicted:
            return Clean(now.at, now, "statements were evicted before the first look")
        return Clean(now.reset_at, now)
    then = before.counts
    was_reset = now.reset_at != then.reset_at
    known = {} if was_reset else then.calls
    grown = {key: calls for key, calls in now.calls.items() if calls > known.get(key, 0)}
    if grown:
        return Clean(now.at, now, _last(now, grown))
    if now.evicted > (0 if was_reset else then.evicted):
        return Clean(now.at, now, "statements were evicted; raise pg_stat_statements.max")
    if was_reset:
        return Clean(now.reset_at, now, "the statistics were reset")
    return Clean(before.since, now, before.last)


def _last(counts: Counts, grown: Mapping[str, int]) -> str:
    key = min(grown)
    return counts.texts.get(key, key)


class Unreadable(Exception):
    """The statistics cannot be read; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """What the statements of one look are held against."""

    scope: Scope
    boundary: Boundary
    allowed: Allowed
    today: date


@dataclass(slots=True)
class Watcher:
    """Looks at the source's statements; each is judged once in a watcher's life."""

    plan: Plan
    catalog: Catalog
    routes: Sequence[Route]
    _judged: dict[tuple[int, str], str | None] = field(default_factory=dict)
    _scope: Scope | None = None
    _paths: Paths = field(default_factory=dict)

    def look(self, source: Connection) -> Clean:
        """Look once more, and note what is known now.  Raises Unreadable."""
        self._scope = self._scope or read_scope(source, self.catalog)
        measure = _Measure(
            self._scope, Boundary.of(self.routes), allowed_of(self.plan.path), _today()
        )
        self._paths = self._paths or role_paths(source)
        with source.transaction():
            source.execute(
                "SELECT pg_advisory_xact_lock(hashtext('dbsplit boundary ' || %s))",
                [self.plan.split],
            )
            clean = advance(noted(source, self.plan.split), self._counts(source, measure))
            _note(source, self.plan.split, clean)
        return clean

    def _counts(self, source: Connection, measure: _Measure) -> Counts:
        schema = _schema(source)
        about = source.execute(
            sql.SQL("SELECT clock_timestamp(), stats_reset, dealloc FROM {}").format(
                sql.Identifier(schema, f"{NAME}_info")
            )
        ).fetchone()
        assert about is not None  # noqa: S101
        rows = source.execute(
            sql.SQL(
                "SELECT r.rolname, s.queryid, sum(s.calls)::bigint, min(s.query) FROM {} AS s"
                " JOIN pg_roles AS r ON r.oid = s.userid JOIN pg_database AS d ON d.oid = s.dbid"
                " WHERE d.datname = current_database() AND (r.rolname <> current_user"
                " OR r.rolname = ANY (%s)) GROUP BY 1, 2"
            ).format(sql.Identifier(schema, NAME)),
            [self._roles()],
        ).fetchall()
        calls, texts = {}, {}
        for role, queryid, count, text in rows:
            if text == HIDDEN:
                raise Unreadable("statements of other roles are hidden; GRANT pg_read_all_stats")
            if said := self._crosses(measure, queryid, role, text):
                key = f"{role}/{queryid}"
                calls[key], texts[key] = int(count), f"{role}: {said}"
        return Counts(about[0], about[1], int(about[2]), calls, texts)

    def _roles(self) -> list[str]:
        """The roles of applications; our own statements are none of theirs."""
        return [role for one in self.plan.services.values() for role in one.roles]

    def _crosses(self, measure: _Measure, queryid: int, role: str, text: str) -> str | None:
        if (queryid, role) not in self._judged:
            self._judged[queryid, role] = self._judge(measure, role, text)
        return self._judged[queryid, role]

    def _judge(self, measure: _Measure, role: str, text: str) -> str | None:
        service = next((s for s, one in self.plan.services.items() if role in one.roles), None)
        path = path_of(
            Executed(text=text, place=NAME, actor=Actor(role)),
            self._paths,
            self.catalog.schemas,
        )
        for statement in read_statements(text, measure.scope, search_path=path):
            judged = judge(statement, measure.boundary, service)
            held = measure.allowed.holds(judged, NAME, measure.today)
            if judged.verdict in _CROSSING and not held:
                return " ".join(statement.text.split())
        return None


def _schema(source: Connection) -> str:
    row = source.execute(EXTENSION, {}).fetchone()
    if row is None or not row[1]:
        raise Unreadable(
            f"the source has no {NAME}; put it into shared_preload_libraries, restart,"
            f" and CREATE EXTENSION {NAME}"
        )
    return str(row[0])


def noted(source: Connection, split: str) -> Clean | None:
    """What was known after the last look; None if there was none."""
    row = source.execute(
        "SELECT clean_since, observed_at, reset_at, evicted, calls, last FROM dbsplit.boundary"
        " WHERE split = %s",
        [split],
    ).fetchone()
    return Clean(row[0], Counts(row[1], row[2], row[3], row[4]), row[5]) if row else None


def _note(source: Connection, split: str, clean: Clean) -> None:
    counts = clean.counts
    values: list[Any] = [
        split, clean.since, counts.at, counts.reset_at, counts.evicted,
        stored(source, dict(counts.calls)), clean.last,
    ]  # fmt: skip
    source.execute(
        "INSERT INTO dbsplit.boundary"
        " (split, clean_since, observed_at, reset_at, evicted, calls, last)"
        " VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s) ON CONFLICT (split) DO UPDATE SET"
        " clean_since = excluded.clean_since, observed_at = excluded.observed_at,"
        " reset_at = excluded.reset_at, evicted = excluded.evicted, calls = excluded.calls,"
        " last = excluded.last",
        values,
    )


def _today() -> date:
    return datetime.now(UTC).date()
