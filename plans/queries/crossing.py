"""Whether a statement can still run once the plan is carried out, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import pgparse  # type: ignore[import-not-found]  # it has no stubs

from plans.boundary import Boundary, held_columns
from plans.catalog import TableName
from plans.routes import Kind, Route
from plans.statements.model import Statement, Touch


class Verdict(StrEnum):
    """What becomes of a statement."""

    INSIDE = "inside"  # one service has everything that it touches
    CROSSES = "crosses"  # no service has
    ELSEWHERE = "elsewhere"  # another service has, not the one whose statement it is
    PARTIAL = "partial"  # it runs, and sees or changes only a part of what it did
    SETS_OFF = "sets-off"  # it runs, and what a trigger or key did elsewhere no longer happens
    UNPROVEN = "unproven"  # what it touches could not be told


_SET_OFF = ("trigger ", "foreign key ", "rule ", "constraint ", "index ", "column ", "domain ")


@dataclass(frozen=True, slots=True)
class Use:
    """A table that a statement uses, and who can serve that."""

    table: TableName
    writes: bool
    columns: tuple[str, ...]
    via: tuple[str, ...]
    services: tuple[str, ...]  # those that can; none if the table is left behind

    @property
    def is_set_off(self) -> bool:
        """Whether not the statement does it, but what is made for the table that it writes."""
        return any(step.startswith(_SET_OFF) for step in self.via)


@dataclass(frozen=True, slots=True)
class Judged:
    """A statement with its verdict and the reasons."""

    statement: Statement
    verdict: Verdict
    uses: tuple[Use, ...]
    services: tuple[str, ...]  # where it can run as it is
    why: str

    @property
    def fingerprint(self) -> str:
        """The same for statements that differ in constants only; "" for what doesn't parse."""
        return fingerprint(self.statement.text)


def judge(statement: Statement, boundary: Boundary, service: str | None = None) -> Judged:
    """The verdict on a statement, of `service` if that is known.

    What could be told of an unproven statement still counts: it crosses if that
    much of it does.
    """
    uses = tuple(_use(touch, boundary) for touch in statement.touches)
    own = [use for use in uses if not use.is_set_off]
    able = _able(own, boundary)
    runs_on = able if service is None else able & {service}
    lost = [use for use in uses if use.is_set_off and not runs_on <= set(use.services)]
    if not able and own:
        verdict, why = Verdict.CROSSES, _why_crossing(own)
    elif service is not None and own and service not in able:
        verdict = Verdict.ELSEWHERE
        why = f"{service} doesn't have {_listed(u for u in own if service not in u.services)}"
    elif statement.unproven:
        verdict, why = Verdict.UNPROVEN, "; ".join(statement.unproven)
    elif lost:
        verdict, why = Verdict.SETS_OFF, f"no longer happens: {_listed(lost)}"
    elif partial := sorted({str(u.table) for u in uses if _is_partial(u, boundary)}):
        verdict, why = Verdict.PARTIAL, f"each service has only its part of {', '.join(partial)}"
    else:
        verdict, why = Verdict.INSIDE, ""
    return Judged(statement, verdict, uses, tuple(sorted(able)), why)


def fingerprint(text: str) -> str:
    """pg_query's fingerprint of a statement; "" if it doesn't parse."""
    try:
        return str(pgparse.fingerprint(text))
    except pgparse.PGQueryError:
        return ""


def _use(touch: Touch, boundary: Boundary) -> Use:
    services = {
        route.service for route in boundary.by_table.get(touch.table, ()) if _serves(route, touch)
    }
    return Use(
        touch.table,
        touch.writes,
        tuple(sorted(touch.columns)),
        touch.via,
        tuple(sorted(services)),
    )


def _serves(route: Route, touch: Touch) -> bool:
    may = route.kind.owned or not touch.writes
    return may and touch.columns <= held_columns(route)


def _able(uses: Iterable[Use], boundary: Boundary) -> frozenset[str]:
    able = frozenset(route.service for route in boundary.routes)
    for use in uses:
        able &= frozenset(use.services)
    return able


def _is_partial(use: Use, boundary: Boundary) -> bool:
    kinds = {route.kind for route in boundary.by_table.get(use.table, ())}
    return Kind.ROWS in kinds or (Kind.COLUMNS in kinds and not use.columns)


def _why_crossing(uses: Iterable[Use]) -> str:
    left = [use for use in uses if not use.services]
    if left:
        return f"no service has {_listed(left)} as it is used"
    return f"no service has {_listed(uses)} together"


def _listed(uses: Iterable[Use]) -> str:
    said: dict[str, str] = {}
    for use in uses:
        does = "written" if use.writes else "read"
        where = f"; {', '.join(use.services)}" if use.services else ""
        through = f" through {' → '.join(use.via)}" if use.via else ""
        said[f"{use.table} ({does}{through}{where})"] = ""
    return ", ".join(sorted(said))
