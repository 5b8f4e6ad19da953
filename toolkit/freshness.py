"""When each table was last compared, when it was last proven equal, and as of which position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cdc.connect import Connection
from plans.routes import Route
from toolkit.state import Phase, direction_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What is known of one route in the direction in which it flows now."""

    route: str
    service: str
    table: str
    state: str = "never"  # of the last comparison: equal, different, unverified
    at: datetime | None = None
    age_s: float | None = None
    equal_at: datetime | None = None
    """When it was proven equal last, which may be before it differed."""
    equal_age_s: float | None = None
    as_of: str = ""
    """The leader's position that the last proof stands for: what changed later is dirty."""
    proof: str = ""  # live, or position
    differing: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "service": self.service,
            "table": self.table,
            "route": self.route,
            "state": self.state,
            "at": self.at and self.at.isoformat(),
            "age_s": self.age_s,
            "equal_at": self.equal_at and self.equal_at.isoformat(),
            "equal_age_s": self.equal_age_s,
            "as_of": self.as_of,
            "proof": self.proof,
            "differing": self.differing,
        }


def read_freshness(
    source: Connection, split: str, routes: Iterable[Route], now: Mapping[str, Phase]
) -> list[Freshness]:
    """All of these routes, as the control schema has them."""
    rows = source.execute(
        "SELECT route, direction, state, at, extract(epoch FROM clock_timestamp() - at)::float8,"
        " equal_at, extract(epoch FROM clock_timestamp() - equal_at)::float8, equal_since::text,"
        " proof, missing + extra + different FROM dbsplit.validated WHERE split = %s",
        [split],
    ).fetchall()
    known = {(route, direction): told for route, direction, *told in rows}
    return [_of(route, known.get((route.id, direction_of(route, now).value))) for route in routes]


def _of(route: Route, told: Sequence[Any] | None) -> Freshness:
    table = str(route.target)
    if told is None:
        return Freshness(route=route.id, service=route.service, table=table)
    state, at, age_s, equal_at, equal_age_s, as_of, proof, differing = told
    return Freshness(
        route=route.id,
        service=route.service,
        table=table,
        state=state,
        at=at,
        age_s=round(age_s, 1),
        equal_at=equal_at,
        equal_age_s=None if equal_age_s is None else round(equal_age_s, 1),
        as_of=as_of or "",
        proof=proof,
        differing=int(differing),
    )
